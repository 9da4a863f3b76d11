"""A tree of processes (tree.sh), in one run seen by the kernel's tools and by the same tools under
the shim: opens, execs and system calls are equal, less what the agent and the shim's library do.

Programs of the tree are told by their names, which no process of the shim has. LD_PRELOAD begins
behind the dynamic linker, whose own calls are left out on both sides. The static program is met at
its exec (`bpf-shim run`); what it executes itself is not: docs/parity.md says so.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Session, Terminal
from compat_tests.compat import compare, workloads
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent
NAMES = frozenset(("make", "cc", "cc1", "as", "collect2", "ld", "cp", "two", "actor", "true",
                   "cat", "wc", "rm", "mktemp"))
# By the dynamic linker and the constructors of libraries (libselinux) before the agent starts.
_EARLY = r"/ld\.so\.(cache|preload)$|\.so(\.[\d.]+)?$|^/proc/filesystems$"
# By the agent, as it starts.
_AGENT = (r"libbpf_shim|^sessions$|^/proc/(self|thread-self|\d+)/(mem|stat|maps|task)|"
          r"^/proc/sys/kernel/yama/ptrace_scope$")
# By the agent, which looks at a program before it is executed.
_PROGRAMS = r"^/\S*/(cc1|as|collect2|ld|true|prog|sh|still|actor|cp|rm|cat|wc|echo|make|mktemp)$"
_LEFT_OUT = re.compile(f"{_EARLY}|{_AGENT}|{_PROGRAMS}")
_TRIES = 5
CALLS = ("tracepoint:raw_syscalls:sys_enter /uid == {}/ {{ @[comm, args->id] = count(); }} "
         "BEGIN {{ printf(\"READY\\n\"); }}")
# Calls that neither the dynamic linker nor an agent makes: numbers of x86-64.
COUNTED = {22: "pipe", 32: "dup", 33: "dup2", 57: "fork", 58: "vfork", 61: "wait4", 84: "rmdir",
           95: "umask", 109: "setpgid", 110: "getppid", 24: "sched_yield", 140: "getpriority",
           293: "pipe2", 247: "waitid", 80: "chdir", 82: "rename", 90: "chmod", 59: "execve"}


@pytest.fixture
def folder() -> Iterator[Path]:
    still = build.make("still", [HERE / "still.c"], [*build.WARN, "-O2", "-static"])
    place = build.private_copy(
        {**workloads.files(), "still": still, "tree.sh": HERE / "tree.sh"})
    yield place
    shutil.rmtree(place)


def grow(folder: Path, *tools: Terminal) -> None:
    """Plays the tree, and reads what the tools write meanwhile: one that waits for its reader
    loses events."""
    argv = launch.shim_run(["/bin/sh", str(folder / "tree.sh"), str(folder)])
    with Session(argv) as tree:
        while tree.child.poll() is None:
            for tool in tools:
                tool.read(0.01)
        outcome = tree.end()
    assert (outcome.status, outcome.out) == (0, "tree done\n"), outcome


def both(argv: list[str], ready: bytes, folder: Path) -> tuple[str, str]:
    """What the tool shows of the tree on the kernel and under the shim, in one run; another run
    where the kernel's says that it lost events, since it sees everybody's."""
    for _ in range(_TRIES):
        theirs, ours = _both(argv, ready, folder)
        if not re.search(r"[Ll]ost \d+", theirs):
            return theirs, ours
    raise AssertionError(f"the kernel's {argv[0]} loses events: {theirs[-500:]}")


def _both(argv: list[str], ready: bytes, folder: Path) -> tuple[str, str]:
    with Terminal(KERNEL.tool(argv)) as theirs, Terminal(SHIM.tool(argv)) as ours:
        for tool in (theirs, ours):
            tool.until(ready)
            compare.waits(tool)
        grow(folder, theirs, ours)
        for tool in (theirs, ours):
            compare.waits(tool)
        return theirs.interrupt(), ours.interrupt()


def opened(text: str) -> Counter[tuple[str, str, str]]:
    rows = re.findall(r"^\d+ +(\S+) +(-?\d+) +(\d+) ?(.*?)\s*$", text, re.M)
    return Counter((comm, err, path) for comm, _, err, path in rows
                   if comm in NAMES and not _LEFT_OUT.search(path))


@pytest.mark.kernel
def test_opens_are_those_of_the_kernel(folder: Path) -> None:
    theirs, ours = map(opened, both(["opensnoop", "-u", str(launch.UID)], b"PID ", folder))
    # a kernel's program does not read a path whose page the process has not touched yet
    unread, read = theirs - ours, ours - theirs
    assert not [row for row in unread if row[2]]
    assert Counter(row[:2] for row in unread.elements()) == \
        Counter(row[:2] for row in read.elements())
    assert sum(theirs.values()) > 50


def executed(text: str) -> Counter[tuple[str, str, str]]:
    rows = re.findall(r"^(\S+) +\d+ +\d+ +(-?\d+) +(\S.*?)\s*$", text, re.M)
    return Counter((comm, ret, args) for comm, ret, args in rows
                   if (comm in NAMES or comm == "still") and "from still" not in args)


@pytest.mark.kernel
def test_execs_are_those_of_the_kernel(folder: Path) -> None:
    theirs, ours = both(["execsnoop", "-x", "-u", str(launch.UID)], b"PCOMM", folder)
    assert executed(ours) == executed(theirs)
    assert sum(executed(theirs).values()) > 15, theirs


def called(text: str) -> dict[tuple[str, str], int]:
    rows = re.findall(r"^@\[(\S+), (\d+)\]: (\d+)\s*$", text, re.M)
    return {(comm, COUNTED[int(nr)]): int(count) for comm, nr, count in rows
            if comm in NAMES and int(nr) in COUNTED}


@pytest.mark.kernel
def test_calls_are_as_many_as_the_kernel_counts(folder: Path) -> None:
    argv = ["bpftrace", "-e", CALLS.format(launch.UID)]
    theirs, ours = both(argv, b"READY", folder)
    assert called(ours) == called(theirs)
    assert len(called(theirs)) > 15, theirs
