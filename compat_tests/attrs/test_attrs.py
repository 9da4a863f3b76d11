"""bpf(2) with right and wrong attrs of every command: the errno is the kernel's."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest

from compat_tests.attrs import ask
from compat_tests.attrs.cases import CASES
from compat_tests.attrs.differences import ROWS
from compat_tests.clients.tool import KERNEL, SHIM


def code(answer: Any) -> int:
    """The errno of an answer."""
    return int(answer[0] if isinstance(answer, list) else answer)


def test_every_command_is_asked_wrongly_in_many_ways() -> None:
    expected = ask.expected()
    assert set(expected) == set(CASES)
    refused = {name for name, answer in expected.items() if code(answer)}
    assert len(refused) >= 200
    assert {CASES[name]["cmd"] for name in refused} >= set(range(38)) - {24, 25, 26, 27}


@pytest.mark.kernel
def test_the_kernel_answers_as_recorded() -> None:
    expected, found = ask.expected(), ask.answers(KERNEL)
    assert {n: found[n] for n in found if found[n] != expected[n]} == {}


def test_every_answer_is_the_kernels_but_for_a_closed_list() -> None:
    expected, found = ask.expected(), ask.answers(SHIM)
    unused = set(ROWS)
    wrong = {}
    for name in CASES:
        if found[name] == expected[name]:
            continue
        rows = [r for r in ROWS if fnmatchcase(name, r[0]) and code(found[name]) == r[1]]
        unused -= set(rows)
        if not rows:
            wrong[name] = (expected[name], found[name])
    assert wrong == {}
    assert unused == set()
