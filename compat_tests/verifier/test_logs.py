"""The verifier's log, whole, beside logs that Linux 6.18 wrote (log_cases.py records them).

Addresses, what pads them, times and the kernel's notes on live stack are left out.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import pytest

from compat_tests.verifier import log_cases
from libbpf_shim.verifier import verify

CASES = log_cases.cases()
# Where a line differs, and why.
_PEAK = "peak_states counts a path that is kept until its loop is explored"
_ROUND = "what a callback's helper was given is followed on into the round before"
_COUNTED, _STOPS = "callback: ten rounds that count", "callback: a callback that may stop"
OTHERWISE: dict[tuple[str, int], str] = {
    **{(name, level): _PEAK for name in (_COUNTED, _STOPS) for level in (1, 4)},
    **{(f"callback: {name}", 2): _ROUND for name in (
        "ten rounds that count", "a callback that may stop", "the count as an offset",
        "a callback that returns what it counted",
        "stack that the second round finds overwritten",
    )},
    ("function: NULL for the pointer", 2): "a NULL that a function is given decides something",
}  # fmt: skip


@functools.cache
def recorded() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(log_cases.FILE.read_text())
    return found


def ours(name: str, level: int) -> str:
    return log_cases.plain(verify(replace(CASES[name], log_level=level)).log)


def marked(level: int) -> list[object]:
    names = [name for name in CASES if str(level) in recorded()[name]]
    return [pytest.param(name, level, id=f"{level}: {name}", marks=(
        [pytest.mark.xfail(strict=True, reason=OTHERWISE[name, level])]
        if (name, level) in OTHERWISE else [])) for name in names]


@pytest.mark.parametrize(("name", "level"), [p for n in log_cases.LEVELS for p in marked(n)])
def test_log(name: str, level: int) -> None:
    assert ours(name, level) == recorded()[name][str(level)]


def test_there_are_enough() -> None:
    assert len(recorded()) >= 50 and set(recorded()) == set(CASES)


@pytest.mark.kernel
@pytest.mark.parametrize("name", CASES)
def test_recorded_as_the_kernel_writes_it(name: str) -> None:
    for level, log in recorded()[name].items():
        assert log_cases.plain(log_cases.asked(CASES[name], int(level))) == log


def test_without_a_level_nothing_is_written() -> None:
    assert all(not verify(replace(program, log_level=0)).log for program in CASES.values())


def test_a_state_begins_at_column_forty_or_eight_times_further() -> None:
    lines = verify(replace(CASES["an atomic on the stack"], log_level=2)).log.split("\n")
    assert "1: (b7) r1 = 1                        ; R1=1" in lines
    assert all(";" not in line or line.index(";") % 8 == 6 for line in lines)
