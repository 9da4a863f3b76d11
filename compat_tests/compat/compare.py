"""Runs one row's tool beside its workload, on the kernel or under guard and shim."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

from compat_tests.clients.tool import LIMIT, Terminal, Way
from compat_tests.compat import workloads
from compat_tests.compat.rows import Row
from compat_tests.guard import launch
from compat_tests.victims import build

# epoll_wait, epoll_pwait, epoll_pwait2, poll, ppoll, nanosleep, clock_nanosleep, pause
_WAITS = frozenset((232, 281, 441, 7, 271, 35, 230, 34))
_ENDS = (0, 1, -2, 130)  # of tools that are interrupted


# Kind of a row -> its package and the version of it that was recorded
_RECORDED = {"libbpf-tools": ("libbpf-tools", "0.26."), "bpftrace": ("bpftrace", "0.17."),
             "bcc": ("bpfcc-tools", "0.26.")}
EXPECTED = Path(__file__).with_name("expected.json")


def expected() -> dict[str, list[str]]:
    """Row's id -> what the kernel showed, as recorded by tools/compatibility.py."""
    table: dict[str, list[str]] = json.loads(EXPECTED.read_text())
    return table


@functools.cache
def recorded(kind: str) -> bool:
    """The tools of that kind are those that expected.json is of: Debian 12's."""
    package, version = _RECORDED[kind]
    done = subprocess.run(["dpkg-query", "-W", "-f", "${source:Upstream-Version}", package],
                          capture_output=True, text=True)
    return done.stdout.startswith(version)


def missing(row: Row) -> str:
    """What must be installed for the row; empty: all is there."""
    needed = {"bcc": ["funccount-bpfcc"], "bpftrace": ["bpftrace"]}.get(row.kind, [row.argv[0]])
    if row.scene == "java":
        needed.append("java")
    lack = [n for n in needed if not shutil.which(n)]
    script = shutil.which(row.argv[-1]) if row.kind == "bcc" else None
    if script and b"\nfrom elftools" in Path(script).read_bytes() and subprocess.run(
            ["/usr/bin/python3", "-c", "import elftools"], capture_output=True).returncode:
        lack.append("python3-pyelftools")
    return ", ".join(lack)


def _relatives(text: str, family: set[int]) -> frozenset[int]:
    """With the children that a line shows beside their parent: `PID PPID`."""
    pairs = [(int(a), int(b)) for a, b in re.findall(r"\b(\d+) +(\d+)\b", text)]
    known = set(family)
    while more := {a for a, b in pairs if b in known and a not in known and a > 100}:
        known |= more
    return frozenset(known)


def waits(tool: Terminal, limit: float = LIMIT) -> None:
    """Until the tool sleeps for events. Some print their header before they open their rings."""
    end = time.monotonic() + limit
    while True:
        call = Path(f"/proc/{tool.child.pid}/syscall").read_text().split()
        if call and call[0].isdigit() and int(call[0]) in _WAITS:
            return
        assert time.monotonic() < end, f"{tool.argv}: does not come to wait: {call}"
        tool.read(0.005)


def _seen(tool: Terminal, pattern: str, limit: float = LIMIT / 2) -> None:
    """Reads until the pattern is there."""
    compiled = re.compile(pattern.encode(), re.S)
    end = time.monotonic() + limit
    while not compiled.search(tool.seen.replace(b"\r", b"")):
        assert time.monotonic() < end, f"{tool.argv}: no {pattern!r}: {tool.seen!r}"
        tool.read(0.2)


def comparable(row: Row, way: Way) -> list[str]:
    """What the tool shows of the scene; AssertionError with its output if it fails."""
    found = _played(row, way)
    if row.chance and any(line.startswith(row.chance) for line in found):
        found = _played(row, way)
    return found


def _played(row: Row, way: Way) -> list[str]:
    folder = build.private_copy(workloads.files())
    try:
        with workloads.start(way, folder, row.scene) as playing:
            argv = [a.replace("$PID", str(playing.pid)).replace("$V", str(folder))
                    for a in row.argv]
            with Terminal(way.tool(argv)) as tool:
                tool.until(row.ready.encode())
                waits(tool)
                playing.play(row.scene)
                if row.last:
                    _seen(tool, row.last)
                    waits(tool)
                text = tool.interrupt()
                assert tool.child.returncode in _ENDS, text
            text = re.sub(rf"\b{launch.UID}\b", "UID", text)
            found = row.read(text, _relatives(text, playing.family))
    finally:
        shutil.rmtree(folder)
    return found if row.ordered else sorted(found)
