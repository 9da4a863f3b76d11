"""Runs one case of cases.py in one way and gives its normalised lines."""

from __future__ import annotations

import json
import re
from pathlib import Path

from compat_tests.clients.cases import Case
from compat_tests.clients.tool import Outcome, Session, Way, normal, run, start_victim

EXPECTED = Path(__file__).with_name("expected.json")


def expected() -> dict[str, list[str]]:
    """Case name -> lines, as recorded."""
    table: dict[str, list[str]] = json.loads(EXPECTED.read_text())
    return table


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
    """Runs CASE; a tool that fails is an AssertionError with its output."""
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
