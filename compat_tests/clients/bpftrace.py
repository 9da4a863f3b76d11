"""Runs one case of cases.py in one way and gives its normalised lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from compat_tests.clients.cases import Case
from compat_tests.clients.tool import (
    KERNEL,
    NOT_RECORDED,
    Outcome,
    Session,
    Way,
    normal,
    recorded,
    run,
    start_victim,
)
from compat_tests.oracle import kernel

# From bpftrace 0.23 on the first count of a key is put where there is none: EEXIST if another
# thread's was first, and this one is lost, on the kernel too
MET = "helper: map_update_elem, retcode: -17"
EXPECTED = Path(__file__).with_name("expected.json")


def expected() -> dict[str, list[str]]:
    """Case name -> lines, as recorded."""
    table: dict[str, list[str]] = json.loads(EXPECTED.read_text())
    return table


def wanted(case: Case, folder: Path) -> list[str]:
    """What is recorded; where bpftrace is of another version, what the kernel answers now."""
    if recorded("bpftrace"):
        return expected()[case.name]
    if reason := kernel.why_not():
        pytest.skip(f"{NOT_RECORDED}, and the kernel's bpf(2): {reason}")
    # a root that may not raise its limits is warned of it, and the kernel does not mind
    return [line for line in lines(case, KERNEL, folder) if "RLIMIT_MEMLOCK" not in line]


def with_pid(case: Case, way: Way, folder: Path, program: str) -> Outcome:
    """The victim runs and waits, bpftrace attaches, says READY, and the victim goes on."""
    victim, pid = start_victim(way, folder, case.victim.replace("$V", str(folder)).split())
    with victim:
        argv = ["bpftrace", "-B", "line", "-p", str(pid), *case.options, "-e",
                'BEGIN { printf("READY\\n"); } ' + program,
                *(str(pid) if a == "PID" else a for a in case.arguments)]
        with Session(way.tool(argv)) as session:
            session.until(b"READY\n")
            victim.send(b"go\n")
            status = victim.end().status
            assert status == 0, f"the victim ended with {status}"
            return session.end()


def lines(case: Case, way: Way, folder: Path) -> list[str]:
    """Runs CASE, again where two threads met so that one was not counted; a tool that fails is an
    AssertionError with its output."""
    for _ in range(4):
        found = _lines(case, way, folder)
        if not any(MET in line for line in found):
            break
    return found


def _lines(case: Case, way: Way, folder: Path) -> list[str]:
    program = case.program.replace("$V", str(folder))
    if case.attach == "pid":
        outcome = with_pid(case, way, folder, program)
    else:
        argv = ["bpftrace", *case.options, "-e", program, *case.arguments]
        if case.attach == "child":
            victim = f"{folder}/calls {case.victim.replace('$V', str(folder))}"
            argv[1:1] = ["-c", victim]
        outcome = run(way.tool(argv))
    assert outcome.status == 0, f"exit status {outcome.status}\n{outcome.out}\n{outcome.err}"
    found = normal(outcome.out, folder, case.rules)
    if case.drop:
        found = [line for line in found if not re.search(case.drop, line)]
    return found
