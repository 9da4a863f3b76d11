"""sched_process_exec and sched_process_exit: what the kernel's tracepoints tell of a workload
whose own wait(2) says how each process ended."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Terminal, Way, bpftrace_misreads, run
from compat_tests.process import programs
from compat_tests.victims import build

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]
CASES = ("true", "false", "exit7", "die:15", "die:11", "die:6", "kill:9", "kill:15", "threads",
         "worker", "fork3", "vfork2", "leader", "crash", "trap", "crash", "true")
NAMES = {"true": "true", "false": "false", "exit7": "sh"}
EXEC = ("tracepoint:sched:sched_process_exec { printf(\"exec %d %d %d %s %s.\\n\", "
        "((struct task_struct*)curtask)->real_parent->tgid, pid, args->pid, comm, "
        "str(args->filename)); } BEGIN { printf(\"READY\\n\"); }")


@dataclass(frozen=True)
class Child:
    case: str
    pid: int
    status: int


@pytest.fixture
def program() -> Iterator[Path]:
    place = build.private_copy({"workload": programs.workload()})
    yield place / "workload"
    shutil.rmtree(place)


def work(way: Way, program: Path, cases: tuple[str, ...]) -> tuple[int, int, list[Child]]:
    """Its number, its parent's, and its children."""
    outcome = run(way.target([str(program), *cases]))
    assert outcome.status == 0, outcome
    first, *rest = outcome.out.splitlines()
    _, pid, parent = first.split()
    rows = [line.split() for line in rest]
    return int(pid), int(parent), [Child(row[0], int(row[1]), int(row[2])) for row in rows]


def how(text: str) -> int:
    """exitsnoop's last column as wait(2)'s status."""
    if found := re.match(r"code (\d+)", text):
        return int(found[1]) << 8
    if found := re.match(r"signal (\d+)", text):
        return int(found[1])
    return 0


@pytest.mark.parametrize("way", WAYS)
def test_exitsnoop_shows_how_each_process_ended(way: Way, program: Path) -> None:
    with Terminal(way.tool(["exitsnoop"])) as tool:
        tool.until(b"EXIT_CODE")
        pid, parent, children = work(way, program, CASES)
        tool.until(f"{'workload':<16} {pid:<7} ".encode())  # its own row: the last
        for child in children:  # but for those that were killed: the backend tells of them
            tool.until(f" {child.pid:<7} {pid:<7} {child.pid:<7} ".encode())
        out = tool.interrupt()
    rows = re.findall(r"^(\S+) +(\d+) +(\d+) +(\d+) +([\d.]+) +(\S.*?)\s*$", out, re.M)
    seen = [(row[0], int(row[1]), int(row[2]), int(row[3]), how(row[5]))
            for row in rows if int(row[2]) == pid or int(row[1]) == pid]
    wanted = [("workload", pid, parent, pid, 0)]
    for c in children:
        # the first thread's own end: another one ended the process later
        status = 0 if c.case == "leader" else c.status
        wanted.append((NAMES.get(c.case, "workload"), c.pid, pid, c.pid, status))
    assert sorted(seen) == sorted(wanted), out


STRINGS = pytest.mark.skipif(bool(bpftrace_misreads()), reason=bpftrace_misreads())


@STRINGS
@pytest.mark.parametrize("way", WAYS)
def test_each_exec_is_told_in_the_new_image(way: Way, program: Path) -> None:
    with Terminal(way.tool(["bpftrace", "-e", EXEC])) as tool:
        tool.until(b"READY")
        pid, parent, children = work(way, program, CASES)
        tool.until(f" {children[-1].pid} ".encode())
        out = tool.interrupt()
    rows = re.findall(r"^exec (\d+) (\d+) (\d+) (\S+) (\S+)\.\s*$", out, re.M)
    seen = [row[1:] for row in rows if int(row[0]) == pid or int(row[1]) == pid]
    files = {"true": "/bin/true", "false": "/bin/false", "exit7": "/bin/sh"}
    wanted = [(str(pid), str(pid), "workload", str(program))]
    for child in children:
        if child.case in ("fork3", "vfork2", "crash", "trap"):
            continue
        file = files.get(child.case, str(program))
        wanted.append((str(child.pid), str(child.pid), file.rpartition("/")[2], file))
    assert sorted(seen) == sorted(wanted), out  # each CPU has a ring of its own


FORK = ("tracepoint:sched:sched_process_fork { printf(\"fork %d %d %s %s %d %d.\\n\", "
        "args->parent_pid, args->child_pid, str(args->parent_comm), str(args->child_comm), "
        "pid, tid); } BEGIN { printf(\"READY\\n\"); }")


@STRINGS
@pytest.mark.parametrize("way", WAYS)
def test_each_fork_is_told_by_the_parent(way: Way, program: Path) -> None:
    """Processes and threads."""
    cases = ("true", "fork3", "vfork2", "threads", "true")
    with Terminal(way.tool(["bpftrace", "-e", FORK])) as tool:
        tool.until(b"READY")
        pid, _, children = work(way, program, cases)
        tool.until(f"fork {pid} {children[-1].pid} ".encode())
        out = tool.interrupt()
    rows = re.findall(r"^fork (\d+) (\d+) (\S+) (\S+) (\d+) (\d+)\.\s*$", out, re.M)
    names = {row[2:4] for row in rows if int(row[0]) in (pid, children[3].pid)}
    assert names == {("workload", "workload")}, out
    mine = sorted((int(row[1]), int(row[4]), int(row[5])) for row in rows if int(row[0]) == pid)
    assert mine == [(c.pid, pid, pid) for c in children], out
    threads = children[3].pid
    made = [int(row[1]) for row in rows if int(row[0]) == threads]
    assert len(made) == 3 and threads not in made, out


THREAD_EXITS = ("tracepoint:sched:sched_process_exit { printf(\"end %d %d %d %s %d %d.\\n\", pid, "
                "tid, args->pid, args->comm, args->prio, "
                "((struct task_struct*)curtask)->exit_code); } "
                "BEGIN { printf(\"READY\\n\"); }")


@pytest.mark.parametrize("way", WAYS)
def test_each_thread_of_a_group_that_ends_is_told_of(way: Way, program: Path) -> None:
    with Terminal(way.tool(["bpftrace", "-e", THREAD_EXITS])) as tool:
        tool.until(b"READY")
        pid, _, children = work(way, program, ("threads", "worker", "leader"))
        tool.until(f"end {pid} {pid} ".encode())
        out = tool.interrupt()
    rows = re.findall(r"^end (\d+) (\d+) (\d+) (\S+) (\d+) (\d+)\.\s*$", out, re.M)
    assert all(row[1] == row[2] for row in rows), out
    for child, count, codes in zip(children, (4, 4, 2), ({9 << 8}, {6 << 8}, {0, 4 << 8}),
                                   strict=True):
        mine = [row for row in rows if int(row[0]) == child.pid]
        assert len({row[1] for row in mine}) == len(mine) == count, (child, out)
        assert {int(row[5]) for row in mine} == codes, (child, out)
        assert {(row[3], row[4]) for row in mine} == {("workload", "120")}, (child, out)
