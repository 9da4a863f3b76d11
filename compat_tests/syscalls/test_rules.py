"""Whom the program of a tracepoint's event runs for: the kernel asks neither the event's process,
nor its CPU, nor whether it is disabled (kernel/trace/trace_event_perf.c, trace_syscalls.c)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent
RUNS = "set 0, counted 10, again 17, disabled 10, enabled 10, closed 0"
EVERYWHERE = ("this cpu", "another cpu", "this process", "this process, called 0",
              "this process on another cpu", "another process", "this cpu, disabled",
              "this process, disabled", "an exit")
OTHERS = """nobody anywhere: open 22
no process: open 3
no tracepoint: open 22
a kprobe's program: set 22, counted 0, again 22, disabled 0, enabled 0, closed 0
no program: set 9, counted 0, again 9, disabled 0, enabled 0, closed 0
a map: set 22, counted 0, again 22, disabled 0, enabled 0, closed 0
"""


@pytest.fixture
def program() -> Iterator[Path]:
    made = build.make("rules", [HERE / "rules.c"], [*build.WARN, "-O2"], ["-lbpf"])
    place = build.private_copy({"rules": made})
    yield place / "rules"
    shutil.rmtree(place)


@pytest.mark.parametrize("way", [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
                                 pytest.param(SHIM, id="shim")])
def test_an_event_says_nothing_of_who_comes_by(way: Way, program: Path) -> None:
    outcome = run(way.tool([str(program)]))
    assert outcome.status == 0, outcome
    assert outcome.out == "".join(f"{name}: {RUNS}\n" for name in EVERYWHERE) + OTHERS
