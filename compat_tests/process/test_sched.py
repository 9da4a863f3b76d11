"""sched_process_exec and sched_process_exit: what the kernel's tracepoints tell of a workload
whose own wait(2) says how each process ended."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Terminal, Way, run
from compat_tests.process import programs
from compat_tests.victims import build

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]
CASES = ("true", "false", "exit7", "die:15", "die:11", "die:6", "kill:9", "kill:15", "true")
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
        out = tool.interrupt()
    rows = re.findall(r"^(\S+) +(\d+) +(\d+) +(\d+) +([\d.]+) +(\S.*?)\s*$", out, re.M)
    seen = {int(row[1]): (row[0], int(row[2]), int(row[3]), how(row[5]))
            for row in rows if int(row[2]) == pid or int(row[1]) == pid}
    names = {"true": "true", "false": "false", "exit7": "sh"}
    assert seen == {
        pid: ("workload", parent, pid, 0),
        **{c.pid: (names.get(c.case, "workload"), pid, c.pid, c.status) for c in children},
    }, out


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
        file = files.get(child.case, str(program))
        wanted.append((str(child.pid), str(child.pid), file.rpartition("/")[2], file))
    assert sorted(seen) == sorted(wanted), out  # each CPU has a ring of its own
