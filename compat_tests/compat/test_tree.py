"""A tree of processes (tree.sh), in one run seen by the kernel's tools and by the same tools under
the shim: opens, execs and system calls are equal, process by process and number by number, less
what the agent does itself.

What that is a program on the kernel counts in the same run (own.py), with what comes before the
agent's start: LD_PRELOAD begins behind the dynamic linker. The static program, and what it
executes itself, are met from their first instruction on.
"""

from __future__ import annotations

import re
import select
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from compat_tests.clients.tool import (
    KERNEL,
    LIMIT,
    Session,
    Terminal,
    bpftrace_misreads,
    read_some,
)
from compat_tests.compat import compare, own, workloads
from compat_tests.faults import survivors
from compat_tests.guard import launch
from compat_tests.victims import build
from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite.callcache import plan_calls

HERE = Path(__file__).resolve().parent
pytestmark = pytest.mark.timeout(300)  # a run again where the kernel's tools lose events
_TRIES = 5
_ROOM = {"BPFTRACE_MAP_KEYS_MAX": "65536", "BPFTRACE_STRLEN": "128"}
# one compiler, for a session of the tree's own: a process is stopped to be given the other's code,
# and a call that waits there begins again, which the kernel's tools count
_ONCE = {"LIBBPF_SHIM_TIER": "1"}
_PATH = 127  # characters of a path that bpftrace keeps
_FIRST = ("nice", "-n", "-15")  # of two that see all, the one that must not lose any
_KILL = 62
_MOST = 8192  # processes that syscount counts
_LINKER = "/lib64/ld-linux-x86-64.so.2"
CALLS = (f"tracepoint:raw_syscalls:sys_exit /uid == {launch.UID}/ "
         "{ @[pid, args->id] = count(); } BEGIN { printf(\"READY\\n\"); }")
TOOLS = (  # and what each says when it is ready
    (("opensnoop", "-u", str(launch.UID)), b"PID "),
    (("execsnoop", "-x", "-u", str(launch.UID)), b"PCOMM"),
    (("syscount", "-P", "-T", "100000"), b"Tracing"),
    (("bpftrace", "-e", CALLS), b"READY"))


@dataclass(frozen=True, slots=True)
class Tree:
    """What the tools showed, by name, on the kernel and under the shim; what is to be left out;
    places of calls whose end is not seen (`unseen`)."""

    theirs: dict[str, str]
    ours: dict[str, str]
    seen: own.Seen
    unseen: set[int]

    @property
    def processes(self) -> set[int]:
        return set(self.seen.own)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    still = build.make("still", [HERE / "still.c"], [*build.WARN, "-O2", "-static"])
    place = build.private_copy(
        {**workloads.files(), "still": still, "tree.sh": HERE / "tree.sh"})
    root = place / "root.sh"  # has been another program under its number
    root.write_text(f"#!/bin/sh\n{place}/tree.sh {place}\nexit $?\n")
    root.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def tree(folder: Path) -> Tree:
    """One run of the tree beside all tools at once."""
    if reason := bpftrace_misreads():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ROOM.items():
            patch.setenv(name, value)
        return watch(folder)


def grow(folder: Path, *tools: Terminal) -> None:
    """Plays the tree, and reads what the tools write meanwhile: one that waits for its reader
    loses events."""
    with Session(launch.shim_run([str(folder / "root.sh")])) as tree:
        by_fd = {tool.master: tool for tool in tools}
        while tree.child.poll() is None:
            for fd in select.select(list(by_fd), [], [], 0.05)[0]:
                by_fd[fd].read(0)
        outcome = tree.end()
    assert (outcome.status, outcome.out) == (0, "tree done\n"), outcome


def finish(tool: Terminal) -> str:
    """SIGINT, and all that it writes then; again where it has not slept yet."""
    end = time.monotonic() + LIMIT
    tool.child.send_signal(signal.SIGINT)
    while time.monotonic() < end:
        if not select.select([tool.master], [], [], 5)[0]:
            tool.child.send_signal(signal.SIGINT)
        elif piece := read_some(tool.master):
            tool.seen += piece
        else:
            return tool.seen.decode(errors="replace").replace("\r", "")
    raise AssertionError(f"{tool.argv}: still there after SIGINT: {tool.seen[-500:]!r}")


def watch(folder: Path) -> Tree:
    """What the tools show; another run where one of the kernel's says that it lost events, since
    it sees everybody's."""
    for _ in range(_TRIES):
        survivors.wait_for("a session is left", lambda: not survivors.shim_processes("backend"))
        found = _watch(folder)
        if not any(re.search(r"[Ll]ost \d+", text) for text in found.theirs.values()):
            return found
    raise AssertionError("the kernel's tools lose events")


def _watch(folder: Path) -> Tree:
    with ExitStack() as stack:
        def start(argv: list[str], ready: bytes) -> Terminal:
            tool = stack.enter_context(Terminal(argv))
            tool.until(ready)
            compare.waits(tool)
            return tool

        kernel = start(
            KERNEL.tool([*_FIRST, "bpftrace", "-e", own.program(folder / "root.sh")]), b"READY")
        ours = {argv[0]: start(launch.guarded([*argv], preload=True, env=_ROOM | _ONCE), ready)
                for argv, ready in TOOLS}
        theirs = {argv[0]: start(KERNEL.tool([*_FIRST, *argv]), ready) for argv, ready in TOOLS}
        grow(folder, kernel, *theirs.values(), *ours.values())
        for tool in (*theirs.values(), *ours.values()):
            compare.waits(tool)
        return Tree({name: finish(tool) for name, tool in theirs.items()},
                    {name: finish(tool) for name, tool in ours.items()},
                    own.parse(finish(kernel)), unseen(folder))


def opened(text: str, tree: set[int]) -> Counter[tuple[int, int, str]]:
    """(process, errno, path)"""
    rows = re.findall(r"^(\d+) +\S+ +-?\d+ +(\d+) ?(.*?)\s*$", text, re.M)
    return Counter((int(pid), int(err), path[:_PATH]) for pid, err, path in rows
                   if int(pid) in tree)


@pytest.mark.kernel
def test_opens_are_those_of_the_kernel(tree: Tree) -> None:
    wanted, found = (opened(text["opensnoop"], tree.processes)
                     for text in (tree.theirs, tree.ours))
    assert not tree.seen.opens - wanted  # all of them are there
    wanted -= tree.seen.opens
    # a kernel's program does not read a path whose page the process has not touched yet
    unread, read = wanted - found, found - wanted
    assert not [row for row in unread if row[2]]
    assert Counter(row[:2] for row in unread.elements()) == \
        Counter(row[:2] for row in read.elements())
    assert sum(wanted.values()) > 50


def executed(text: str, processes: set[int]) -> Counter[tuple[str, str, str, str]]:
    """(name, process, result, arguments)"""
    rows = re.findall(r"^(\S+) +(\d+) +\d+ +(-?\d+) +(\S.*?)\s*$", text, re.M)
    return Counter(row for row in rows if int(row[1]) in processes)


@pytest.mark.kernel
def test_execs_are_those_of_the_kernel(tree: Tree) -> None:
    wanted, found = (executed(text["execsnoop"], tree.processes)
                     for text in (tree.theirs, tree.ours))
    assert found == wanted
    assert sum(1 for row in wanted if "from still" in row[3]) == 2, wanted
    assert sum(wanted.values()) > 25, wanted


def per_process(text: str) -> Counter[int]:
    return Counter({int(pid): int(count)
                    for pid, count in re.findall(r"^(\d+) +\S.*? +(\d+)\s*$", text, re.M)})


def unseen(folder: Path) -> set[int]:
    """Places, in their pages, of the calls whose end has no room for a jump, as the plans of the
    static program, libc and ld.so say (Process.calls)."""
    found = set[int]()
    for path in (folder / "still", "/lib/x86_64-linux-gnu/libc.so.6", _LINKER):
        plan = plan_calls(Module(str(path)), folder)
        found |= {(s.vaddr + 2) % 4096 for s in plan.sites if s.why and not s.after}
    return found


@pytest.mark.kernel
def test_calls_are_as_many_as_the_kernel_counts(tree: Tree) -> None:
    """By process and number; and syscount's, by process. Less the ends of kill(2) by which a
    process ends itself, and of calls that have no room for it: docs/parity.md."""
    found = Counter({(int(pid), int(nr)): int(count) for pid, nr, count
                     in re.findall(r"^@\[(\d+), (\d+)\]: (\d+)\s*$", tree.ours["bpftrace"], re.M)
                     if int(pid) in tree.processes})
    wanted, left = Counter[tuple[int, int]](), Counter[int]()
    for (pid, nr, place), count in tree.seen.calls.items():
        if nr == _KILL or place in tree.unseen:
            left[pid] += count
        else:
            wanted[pid, nr] += count
    assert {key: (found[key], wanted[key]) for key in found.keys() | wanted.keys()
            if found[key] != wanted[key]} == {}
    totals, kernels = (per_process(text["syscount"]) for text in (tree.ours, tree.theirs))
    for pid in tree.processes:
        calls = sum(n for (process, _), n in wanted.items() if process == pid)
        assert totals[pid] == calls, pid
        # the kernel's syscount sees everybody, and has room for so many
        assert kernels[pid] - tree.seen.own[pid] - left[pid] == calls or len(kernels) >= _MOST, pid
    assert len(tree.processes) > 30 and sum(found.values()) > 2000 and sum(left.values()) < 10
