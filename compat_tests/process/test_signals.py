"""signal_generate: what the kernel tells of a workload's signals is told by its processes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Terminal, Way
from compat_tests.process import programs
from compat_tests.process.test_sched import work
from compat_tests.victims import build

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]
CASES = ("true", "die:15", "die:6", "die:11", "fault:4", "fault:8", "fault:11", "fault:13",
         "fault:25", "kill:9", "kill:10", "group", "ignored", "threads", "fork3", "leader",
         "false")  # fmt: skip
KINDS = ("fault:4", "fault:8", "fault:11")  # the kernel says of which kind a fault was
CODE = 4  # where a row has that
# not what others' processes bring about: single steps, which are so many that the kernel's tool
# loses what is looked for, and timers, whose sender is who runs at that moment
SIGNAL = ("tracepoint:signal:signal_generate /args->sig != 5 && args->code != -2/ { "
          "printf(\"sig %d %d %d %d %d %d %d %s %s.\\n\", pid, args->pid, args->sig, "
          "args->errno, args->code, args->group, args->result, comm, args->comm); } "
          "BEGIN { printf(\"READY\\n\"); }")
_ROW = re.compile(
    r"^sig (\d+) (\d+) (\d+) (-?\d+) (-?\d+) (\d+) (-?\d+) (\S+) (\S+)\.\s*$", re.M)


@pytest.fixture
def program() -> Iterator[Path]:
    place = build.private_copy({"workload": programs.workload()})
    yield place / "workload"
    shutil.rmtree(place)


def signals(way: Way, program: Path) -> list[tuple[str, ...]]:
    """Sender, receiver (by the cases that they are), signal, errno, code, group, result and both
    names, sorted. Not those of the group's child, which is killed as soon as it is there
    (docs/parity.md)."""
    with Terminal(way.tool(["bpftrace", "-e", SIGNAL])) as tool:
        tool.until(b"READY")
        pid, parent, children = work(way, program, CASES)
        tool.until(f"sig {pid} {parent} ".encode())
        for child in children:  # the backend tells of those that were killed a moment later
            tool.until(f"sig {child.pid} {pid} 17 ".encode())
        out = tool.interrupt()
    names = {pid: "workload", parent: "parent", **{c.pid: c.case for c in children}}
    found = []
    for row in _ROW.findall(out):
        sender, receiver = int(row[0]), int(row[1])
        if sender in names and sender != parent:
            found.append((names[sender], names.get(receiver, "grandchild"), *row[2:]))
    return sorted(found)


@pytest.mark.kernel
def test_each_signal_is_told_as_by_the_kernel(program: Path) -> None:
    ours, theirs = signals(SHIM, program), signals(KERNEL, program)
    assert [told(row) for row in ours] == [told(row) for row in theirs]
    assert {row[2] for row in ours} == {
        "17", "15", "6", "9", "10", "12", "28", "4", "8", "11", "13", "25"}
    assert {row[CODE] for row in ours if row[0] == row[1] and row[0] in KINDS} == {"128"}


def told(row: tuple[str, ...]) -> tuple[str, ...]:
    """The row without what kind of fault it was, which a dead process does not show."""
    return (*row[:CODE], "", *row[CODE + 1 :]) if row[0] == row[1] and row[0] in KINDS else row


@pytest.mark.parametrize("way", WAYS)
def test_sigsnoop_shows_who_sends_what(way: Way, program: Path) -> None:
    with Terminal(way.tool(["sigsnoop"])) as tool:
        tool.until(b"RESULT")
        pid, parent, children = work(way, program, ("die:15", "kill:9", "true"))
        tool.until(f"{pid:<7} {'workload':<16} {17:<9} {parent:<7} ".encode())  # the last
        out = tool.interrupt()
    rows = re.findall(r"^\S+ +(\d+) +(\S+) +(\d+) +(\d+) +(-?\d+)\s*$", out, re.M)
    seen = {(int(a), name, int(sig), int(b)) for a, name, sig, b, _ in rows}
    die, kill, true = children
    assert {(die.pid, "workload", 15, die.pid), (die.pid, "workload", 17, pid),
            (pid, "workload", 9, kill.pid), (kill.pid, "workload", 17, pid),
            (true.pid, "true", 17, pid)} <= seen, out


@pytest.mark.parametrize("way", [
    pytest.param(KERNEL, marks=[pytest.mark.kernel, pytest.mark.long], id="kernel"), WAYS[1]])
def test_pidpersec_counts_forks(way: Way, program: Path) -> None:
    """The tool's own script. The kernel counts everybody's."""
    with Terminal(way.tool(["pidpersec.bt"])) as tool:
        tool.until(b"Hit Ctrl-C")
        tool.until(b"PIDs/sec")
        _, _, children = work(way, program, ("fork3",) * 20)
        for _ in range(2):
            tool.seen = tool.seen.replace(b"PIDs/sec", b"P/s")
            tool.until(b"PIDs/sec")
        out = tool.interrupt()
    total = sum(int(n) for n in re.findall(r"@: (\d+)", out))
    assert len(children) == 20
    # there the tool's own thread, for its interval, is the only other one
    assert total >= 20 if way is KERNEL else 20 <= total <= 21, out
