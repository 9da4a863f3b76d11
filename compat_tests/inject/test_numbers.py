"""Processes in namespaces of process numbers of their own, as those of containers: what programs
are told of them are the numbers that the tool sees, whoever they are: threads and children that
come later, children of vfork, threads by the dozen, a namespace below theirs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Session, Terminal
from compat_tests.guard import launch
from compat_tests.inject.targets import HERE, LIMIT
from compat_tests.inject.test_live import Reads
from compat_tests.inject.test_namespaces import UNSHARE, needs_users
from compat_tests.inject.test_refusals import plain
from compat_tests.inject.test_verbs import folder, verb
from compat_tests.victims import build

__all__ = ["folder"]
pytestmark = [pytest.mark.timeout(180), needs_users]
COUNTS = """
uprobe:{program}:met {{
  $task = (struct task_struct *)curtask;
  @met[arg0, pid, tid, arg1, arg2, $task->thread_pid->level] = count();
  @parent[arg0, pid, $task->real_parent->tgid] = count();
}}
BEGIN {{ printf("READY\\n"); }}
"""
EVENTS = """
tracepoint:sched:sched_process_fork /comm == "inside"/ {
  @fork[pid, tid, args->parent_pid, args->child_pid] = count();
}
tracepoint:sched:sched_process_exit /comm == "inside"/ {
  $parent = ((struct task_struct *)curtask)->real_parent->tgid;
  @exit[pid, tid, args->pid, args->prio, $parent] = count();
  @ends++; printf("ends %d.\\n", @ends);
}
tracepoint:signal:signal_generate /comm == "inside"/ {
  @signal[pid, tid, args->sig, args->pid, args->group, args->result] = count();
}
tracepoint:syscalls:sys_enter_unshare /comm == "inside"/ { @calls[pid, tid] = count(); }
BEGIN { printf("READY\\n"); }
"""


class Inside:
    """inside.c as the first process of a namespace; `pid` is its number here."""

    def __init__(self, folder: Path, *flags: str, preloaded: bool = False) -> None:
        made = build.make("inside", [HERE / "inside.c"], [*build.WARN, "-O1", "-pthread"])
        self.program = folder / "inside"
        shutil.copy(made, self.program)
        argv = (launch.shim_run if preloaded else plain)([UNSHARE, *flags, str(self.program)])
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._line() == "ready"
        self.pid = self.process.pid
        while os.readlink(f"/proc/{self.pid}/exe") != str(self.program):
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            self.pid = int(children.split()[0])

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *what: object) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(LIMIT)
        self.process.stdout.close()

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().decode().strip()

    def do(self, what: str) -> None:
        assert self.process.stdin
        for byte in what:
            self.process.stdin.write(byte.encode())
            self.process.stdin.flush()
            assert self._line() == "done"


def own(pid: int, tid: int) -> list[int]:
    """What the thread is to itself: process and thread."""
    def last(folder: str) -> int:
        text = Path(f"/proc/{folder}/status").read_text()
        found = re.search(r"^NSpid:.*\t(\d+)$", text, re.M)
        assert found
        return int(found[1])

    return [last(str(pid)), last(f"{pid}/task/{tid}")]


def hits(out: str) -> Iterator[tuple[str, int, int, list[int], int, int]]:
    """Kind, process, thread, both as they are to themselves, how far below, how often."""
    for row in re.findall(r"^@met\[([\d, ]+)\]: (\d+)$", out, re.M):
        kind, pid, tid, *both, level = map(int, row[0].split(", "))
        yield chr(kind), pid, tid, both, level, int(row[1])


LONG = pytest.mark.long
CONTAINERS = [
    (("-Urpf", "--mount-proc"), False), (("-Urpf",), True),
    (("-Ur",), False),  # its children begin one
    pytest.param(("-Urpf",), False, marks=LONG),
    pytest.param(("-Urpf", "-nium", "--mount-proc"), False, marks=LONG),
    pytest.param(("-Urpf", "--mount-proc"), True, marks=LONG),
    pytest.param(("-Ur",), True, marks=LONG),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "preloaded"), CONTAINERS)
def test_numbers_are_those_that_the_tool_sees(
    flags: tuple[str, ...], preloaded: bool, folder: Path
) -> None:
    with Inside(folder, *flags, preloaded=preloaded) as target:
        target.do("mt")  # before there is an agent, or its session
        text = COUNTS.format(program=target.program)
        with Terminal(SHIM.tool(["bpftrace", "-e", text])) as tool:
            tool.until(b"READY")
            target.do("mttfsvfnm")
            out = tool.interrupt()
        found = list(hits(out))
        for kind, pid, tid, both, level, _ in found:
            assert level == (flags[0] == "-Urpf") + (kind in "no"), (kind, level)
            if kind not in "sv":  # the others are there still
                assert own(pid, tid) == both, (kind, pid, tid, both)
        counted: Counter[str] = Counter()
        for kind, *_, count in found:
            counted[kind] += count
        assert counted == {"m": 2, "t": 2, "f": 2, "g": 2, "s": 160, "v": 1, "n": 1, "o": 1}, out
        assert {pid for kind, pid, *_ in found if kind in "mts"} == {target.pid}
        assert len({tid for kind, _, tid, *_ in found if kind == "s"}) == 32
        (vforked,) = [(pid, tid) for kind, pid, tid, *_ in found if kind == "v"]
        # a preloaded process that no system call is attached to is not told of its vfork()
        its_parents = preloaded and "-Ur" in flags
        assert its_parents or vforked[0] == vforked[1] != target.pid
        for kind, pid, parent in re.findall(r"@parent\[(\d+), (\d+), (\d+)\]", out):
            real = target.pid
            if chr(int(kind)) == "v" and its_parents:
                continue
            if int(pid) == target.pid:
                status = Path(f"/proc/{pid}/status").read_text()
                real = int(status.partition("PPid:")[2].split()[0])
            assert int(parent) == real, (kind, pid, parent)


def events(out: str, family: set[str]) -> set[str]:
    """Lines of maps; of signals those among a family."""
    lines = {line for line in out.splitlines() if line.startswith(("@fork", "@exit", "@calls"))}
    for line in out.splitlines():
        if line.startswith("@signal") and line.split(", ")[3] in family:
            lines.add(line)
    return lines


@pytest.mark.kernel
def test_events_there_are_the_kernels(folder: Path) -> None:
    with Inside(folder, "-Urpf", "--mount-proc") as target:
        target.do("t")
        done = verb("attach", str(target.pid))
        assert done.returncode == 0, done.stderr
        # the shim is the first, so that its own calls in the process are over
        with Terminal(SHIM.tool(["bpftrace", "-e", EVENTS])) as tool, \
                Terminal(KERNEL.tool(["bpftrace", "-e", EVENTS])) as kernel:
            tool.until(b"READY")
            kernel.until(b"READY")
            target.do("mttfvkfn")
            for each in (tool, kernel):
                each.until(b"ends 2.")  # of 'v' and 'k', who is killed
            theirs, ours = kernel.interrupt(), tool.interrupt()
        family = {pid for line in theirs.splitlines() if line.startswith("@fork")
                  for pid in re.findall(r"\d+", line)[:4]}
        assert len(events(theirs, family)) >= 14, theirs
        assert events(ours, family) == events(theirs, family), (ours, theirs)


def test_the_agent_is_put_there_and_taken_out_by_name(folder: Path) -> None:
    with Inside(folder, "-Urpf", "--mount-proc") as target:
        maps = Path(f"/proc/{target.pid}/maps")
        done = verb("attach", str(target.pid))
        assert done.returncode == 0 and "bpf-agent" in maps.read_text(), done.stderr
        target.do("mtf")
        done = verb("detach", str(target.pid))
        assert done.returncode == 0 and "bpf-agent" not in maps.read_text(), done.stderr
        target.do("mtf")


def test_helpers_know_a_thread_by_both_numbers(folder: Path) -> None:
    with Inside(folder, "-Urpf", "--mount-proc") as target:
        with Reads(target.program, "met", "numbers") as loader:
            target.do("mmttfsvfs")
            hits, threads = 2 + 2 + 2 * 2 + 2 * 160 + 1, 1 + 2 + 2 + 2 * 32 + 1
            assert loader.counters() == (hits, hits, threads, 0)
            loader.finish()


# the tool is started once there is a file "go" beside the program, and ends after it
TOGETHER = ('exec 3<&0; "$1" <&3 & target=$!; while [ ! -e "$1.go" ]; do sleep 0.05; done; '
            'LD_PRELOAD="$2" bpftrace -e "$0" & tool=$!; '
            "wait $target; kill -INT $tool; wait $tool")


@pytest.mark.long
def test_a_tool_outside_leaves_a_process_to_one_inside(folder: Path) -> None:
    """A process has one kind of numbers: the second tool is refused, the first one's are right."""
    program = folder / "inside"
    made = build.make("inside", [HERE / "inside.c"], [*build.WARN, "-O1", "-pthread"])
    shutil.copy(made, program)
    text = COUNTS.format(program=program)
    argv = plain([UNSHARE, "-Ucpf", "--mount-proc", "sh", "-c", TOGETHER, text, str(program),
                  str(launch.library())])  # fmt: skip
    with Session(argv, stdin=subprocess.PIPE) as inside:

        def do(what: str) -> None:
            for byte in what:
                inside.seen = b""
                inside.send(byte.encode())
                inside.until(b"done\n")

        inside.until(b"ready\n")
        (folder / "inside.go").touch()
        inside.until(b"READY\n")
        do("m")
        with Terminal(SHIM.tool(["bpftrace", "-e", text])) as outside:
            outside.until(b"READY")
            do("mt")
            out = outside.interrupt()
        do("m")
        assert inside.child.stdin
        inside.child.stdin.close()
        counts = inside.end().out
    assert "a tool of another namespace of process numbers is in it" in out
    assert list(hits(out)) == []
    assert sorted((kind, n) for kind, *_, n in hits(counts)) == [("m", 3), ("t", 1)], counts
    assert all([pid, tid] == both for _, pid, tid, both, *_ in hits(counts)), counts
