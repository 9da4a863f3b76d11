"""Element commands that need no system call answer as those that do: quick.c, kernel and shim."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.clients import tool
from compat_tests.victims import build

SOURCE = Path(__file__).with_name("quick.c")
NAMES = ["descriptors", "pointers", "attrs", "walks", "threads", "stopped",
         "processes", "signals"]


def output(way: tool.Way, name: str) -> list[str]:
    program = build.make("quick", [SOURCE], [*build.WARN, "-O2", "-pthread"])
    outcome = tool.run(way.tool([str(program), name]))
    assert outcome.status == 0, outcome
    return outcome.out.splitlines()


@pytest.mark.kernel
@pytest.mark.parametrize("name", NAMES)
def test_a_quick_answer_is_the_kernels(name: str) -> None:
    assert output(tool.SHIM, name) == output(tool.KERNEL, name)
