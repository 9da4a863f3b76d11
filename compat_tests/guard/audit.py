"""The kernel's tracepoints count what bpf(2) and perf_event_open(2) answered, and to whom."""

from __future__ import annotations

import re
import signal

from compat_tests.clients.tool import KERNEL, Session
from compat_tests.guard import launch

PROGRAM = (
    'BEGIN { printf("READY\\n"); }'
    " tracepoint:syscalls:sys_exit_bpf { @bpf[uid == $1, args->ret >= 0] = count(); }"
    " tracepoint:syscalls:sys_exit_perf_event_open"
    " { @perf[uid == $1, args->ret >= 0] = count(); }"
)
Counts = dict[tuple[str, bool, bool], int]


class Audit(Session):
    """A bpftrace on the real kernel that counts calls by (guard's uid, success)."""

    def __init__(self) -> None:
        argv = ["bpftrace", "-B", "line", "-e", PROGRAM, str(launch.UID)]
        super().__init__(KERNEL.tool(argv))
        self.until(b"READY\n")

    def counts(self) -> Counts:
        """Ends the audit. Keys: call, made by the guard's user, succeeded."""
        out = self.stop(signal.SIGTERM).out
        found = re.findall(r"^@(bpf|perf)\[(\d), (\d)\]: (\d+)$", out, re.M)
        return {(what, uid == "1", good == "1"): int(n) for what, uid, good, n in found}


def successes(counts: Counts) -> int:
    """Calls of the guard's user that the kernel did not refuse."""
    return counts.get(("bpf", True, True), 0) + counts.get(("perf", True, True), 0)
