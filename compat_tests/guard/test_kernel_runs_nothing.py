"""The kernel's own tracepoints say that it ran no BPF and opened no perf event for the guard."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from compat_tests.clients import bpftrace
from compat_tests.clients.cases import CASES
from compat_tests.clients.tool import KERNEL, SHIM, Session
from compat_tests.guard import launch

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

AUDIT = (
    'BEGIN { printf("READY\\n"); }'
    " tracepoint:syscalls:sys_exit_bpf { @bpf[uid == $1, args->ret >= 0] = count(); }"
    " tracepoint:syscalls:sys_exit_perf_event_open"
    " { @perf[uid == $1, args->ret >= 0] = count(); }"
)
PICKED = ("count without a key", "stats of a return value", "printf of a string argument",
          "BEGIN prints and exits", "interval counts to three", "fork children are counted")


class Audit(Session):
    """A bpftrace on the real kernel that counts (guard's uid, success) of both calls."""

    def __init__(self) -> None:
        program = ["bpftrace", "-B", "line", "-e", AUDIT, str(launch.UID)]
        super().__init__(KERNEL.tool(program))
        self.until(b"READY\n")

    def counts(self) -> dict[tuple[str, bool, bool], int]:
        self.child.terminate()
        found = re.findall(r"^@(bpf|perf)\[(\d), (\d)\]: (\d+)$", self.end().out, re.M)
        return {(what, uid == "1", good == "1"): int(n) for what, uid, good, n in found}


def test_whole_shim_sessions_make_no_call_that_succeeds(victim: Path) -> None:
    expected = bpftrace.expected()
    with Audit() as audit:
        for case in CASES:
            if case.name in PICKED:
                assert bpftrace.lines(case, SHIM, victim) == expected[case.name]
        counts = audit.counts()
    assert counts.get(("bpf", True, True), 0) == 0
    assert counts.get(("perf", True, True), 0) == 0


def test_control_guarded_calls_are_seen_to_fail_and_roots_to_succeed(victim: Path) -> None:
    case = next(case for case in CASES if case.name == "count without a key")
    with Audit() as audit:
        script = "import ctypes; ctypes.CDLL(None).syscall(321, 0, 0, 0)"
        argv = launch.guarded(["/usr/bin/python3", "-c", script])
        assert subprocess.run(argv, timeout=30).returncode == 0
        bpftrace.lines(case, KERNEL, victim)
        counts = audit.counts()
    assert counts.get(("bpf", True, False), 0) >= 1
    assert counts.get(("bpf", True, True), 0) == 0
    assert counts[("bpf", False, True)] >= 1
    assert counts[("perf", False, True)] >= 1
