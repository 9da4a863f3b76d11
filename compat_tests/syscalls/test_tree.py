"""A tree of processes in one run, seen by bpftrace on the kernel and under the shim."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Session, Way
from compat_tests.guard import launch

# A shell, make, a compiler, fork, vfork, posix_spawn, threads, an interpreter.
WORK = r"""
cd "$1"
echo 'int main(void) { return 0; }' > one.c
cc -o one one.c && ./one
printf 'all:\n\t@echo made; true\n\t@cat /etc/hostname > /dev/null\n' > makefile
make
python3 -c 'import os, subprocess, threading
subprocess.run(["/bin/true"])
os.posix_spawn("/bin/true", ["true"], {**os.environ})
os.wait()
if not os.fork():
    os._exit(0)
os.wait()
t = [threading.Thread(target=lambda: open("/etc/passwd").close()) for _ in range(4)]
[x.start() for x in t]; [x.join() for x in t]'
"""
PROGRAM = """
tracepoint:raw_syscalls:sys_enter /uid == UID/ { @enter[pid, comm, args->id] = count(); }
tracepoint:raw_syscalls:sys_exit /uid == UID/ { @exit[pid, comm, args->id] = count(); }
tracepoint:syscalls:sys_enter_open,
tracepoint:syscalls:sys_enter_openat /uid == UID/ {
    @open[pid, comm, str(args->filename)] = count(); }
tracepoint:syscalls:sys_enter_execve /uid == UID/ {
    @exec[pid, comm, str(args->filename)] = count(); }
tracepoint:syscalls:sys_exit_execve /uid == UID/ { @left[pid, comm, args->ret] = count(); }
interval:ms:100 { @ticks++; if (@ticks == 1) { printf("READY\\n"); } }
"""
# What the dynamic linker calls before the agent starts, and what the agent calls itself: in the
# process's own name, so the kernel counts it. The rest is compared one by one.
OWN = frozenset((
    0, 2, 3, 5, 9, 10, 11, 12, 14, 17, 18, 21, 28, 39, 41, 42, 44, 47, 54, 55, 89, 101, 102, 104,
    107, 157, 158, 186, 202, 217, 218, 228, 257, 262, 273, 302, 310, 318, 334))  # fmt: skip
RT_SIGRETURN, NONE = 15, -1  # its entry is not seen; the kernel's name for its exit
BEFORE = re.compile(r"\.so(\.\d+)*$|/ld\.so\.cache$|^/tmp/libbpf_shim|^sessions$|^/proc/")
Counts = dict[str, Counter[tuple[str, str, str]]]


class Tracer(Session):
    """bpftrace, from the first tick on."""

    def __init__(self, way: Way) -> None:
        program = PROGRAM.replace("UID", str(launch.UID))
        argv = way.tool(["/usr/bin/env", "BPFTRACE_MAP_KEYS_MAX=65536", "bpftrace", "-e", program])
        super().__init__(argv)
        self.until(b"READY")

    def counts(self) -> Counts:
        self.child.send_signal(signal.SIGINT)
        found: Counts = {}
        for line in self.end().out.splitlines():
            if match := re.match(r"@(\w+)\[(\d+), ([^,]*), (.*)\]: (\d+)$", line.strip()):
                kind, pid, comm, what, count = match.groups()
                found.setdefault(kind, Counter())[pid, comm, what] += int(count)
        return found


def _of(counts: Counts, kind: str, pids: set[str]) -> Counter[tuple[str, str, str]]:
    """Of the workload's processes, less what numbers are not compared."""
    skip = {str(n) for n in (*OWN, RT_SIGRETURN, NONE)} if kind in ("enter", "exit") else set()
    return Counter({k: n for k, n in counts[kind].items() if k[0] in pids and k[2] not in skip})


@pytest.mark.kernel
def test_opens_execs_and_calls_are_the_kernels_from_the_agents_start_on() -> None:
    with tempfile.TemporaryDirectory() as folder, Tracer(KERNEL) as kernel, Tracer(SHIM) as shim:
        Path(folder).chmod(0o777)
        argv = launch.shim_run(["/bin/sh", "-c", WORK, "sh", folder])
        # one more shell, so that each process of the work is one that was traced when it began
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "made" in done.stdout, done
        ours, theirs = shim.counts(), kernel.counts()
    tools = {k[0] for k in ours["enter"] if k[1] == "bpftrace"}
    pids = {k[0] for k in ours["enter"]} - tools
    first = {k[0] for k in theirs["exec"] if k[2] == "/bin/sh" and k[1] == "python"}
    for kind in ("enter", "exit"):
        # never more than there were, and of what only the programs call, each one
        for key, count in ours[kind].items():
            if key[0] in pids:
                assert count <= theirs[kind][key], (kind, key)
        seen, there = _of(ours, kind, pids - first), _of(theirs, kind, pids - first)
        assert seen == there
    assert _of(ours, "exec", pids - first) == _of(theirs, "exec", pids - first)
    assert _of(ours, "left", pids - first) == _of(theirs, "left", pids - first)
    missing = _of(theirs, "open", pids) - _of(ours, "open", pids)
    # a name that is not in memory yet is "" to the kernel's program
    unread = sum(n for k, n in missing.items() if not k[2])
    files = {k[2] for k in theirs["exec"]}  # the agent looks at what is to be executed
    assert [k for k in missing if k[2] and k[2] not in files and not BEFORE.search(k[2])
            and k[1] != "python"] == []
    assert sum((_of(ours, "open", pids) - _of(theirs, "open", pids)).values()) <= unread
    assert sum(_of(ours, "open", pids).values()) > 100
