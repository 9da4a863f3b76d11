"""What must hold where the kernel itself answers otherwise each time: filters that err.

A check looks at one side's answers alone and gives (number of the op, what is wrong with its
answer), or None.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from compat_tests.maps.drive import Answer, Cmd, Sequence

Check = Callable[[Sequence, list[Answer]], tuple[int, str] | None]
# Results that depend on what is in a map; any other errno is of the arguments.
OF_ELEMENTS = {0, -errno.ENOENT}


def bloom(found: Sequence, answers: list[Answer]) -> tuple[int, str] | None:
    """What was put in is found."""
    known: set[int] = set()
    for number, (op, answer) in enumerate(zip(found.ops, answers, strict=True)):
        if op.cmd is Cmd.UPDATE and answer.ret == 0:
            known.add(op.value)
        if op.cmd is Cmd.LOOKUP and answer.ret == -errno.ENOENT and op.value in known:
            return number, "it was put in"
    return None
