"""The kernel's own tracepoints say that it ran no BPF and opened no perf event for the guard.

compat_tests/clients/conftest.py holds this over a whole session of tests; here is one session
by itself, and the control that shows that the check can fail.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from compat_tests.clients import bpftrace
from compat_tests.clients.cases import CASES
from compat_tests.clients.tool import KERNEL, SHIM
from compat_tests.guard import launch
from compat_tests.guard.audit import Audit, successes

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

PICKED = ("count without a key", "stats of a return value", "printf of a string argument",
          "BEGIN prints and exits", "interval counts to three", "fork children are counted")


def test_whole_shim_sessions_make_no_call_that_succeeds(victim: Path) -> None:
    picked = [case for case in CASES if case.name in PICKED]
    wanted = [bpftrace.wanted(case, victim) for case in picked]  # before: of the kernel, maybe
    with Audit() as audit:
        assert [bpftrace.lines(case, SHIM, victim) for case in picked] == wanted
        assert successes(audit.counts()) == 0


def test_control_guarded_calls_are_seen_to_fail_and_roots_to_succeed(victim: Path) -> None:
    case = next(case for case in CASES if case.name == "count without a key")
    with Audit() as audit:
        script = "import ctypes; ctypes.CDLL(None).syscall(321, 0, 0, 0)"
        argv = launch.guarded(["/usr/bin/python3", "-c", script])
        assert subprocess.run(argv, timeout=30).returncode == 0
        bpftrace.lines(case, KERNEL, victim)
        counts = audit.counts()
    assert counts.get(("bpf", True, False), 0) >= 1
    assert successes(counts) == 0
    assert counts[("bpf", False, True)] >= 1
    assert counts[("perf", False, True)] >= 1
