"""Programs that a process execs by system call instructions of its own, by posix_spawn, by a
descriptor, from a thread, each with an empty environment: by one that the library is preloaded into, and by static
ones. All are met from their first instruction on: their calls are as many as the kernel counts."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Terminal, Way, run
from compat_tests.process import programs
from compat_tests.victims import build

PARENTS = ("ours", "glibc", "musl")
WAYS = ("raw", "vfork", "at", "fd", "memfd", "fexecve", "libc", "spawn", "thread")
CHILDREN = ("glibc", "musl", "dynamic", "ours")
# The surface of a preloaded library gives these the library too, which begins behind the dynamic linker.
PRELOADED = ("fexecve", "libc", "spawn")
COUNTED = (
    'tracepoint:raw_syscalls:sys_enter /strncmp(comm, "~", 1) == 0 || '
    'strncmp(comm, "memfd:~", 7) == 0/ { @[comm, args->id] = count(); } '
    'tracepoint:sched:sched_process_exec /strncmp(comm, "~", 1) == 0 || '
    'strncmp(comm, "memfd:~", 7) == 0/ { @[comm, 1000] = count(); } '
    'BEGIN { printf("READY\\n"); }')


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({
        **{f"ways-{how}": programs.ways(how) for how in PARENTS},
        **{f"alone-{how}": programs.alone(how) for how in CHILDREN}})
    yield place
    shutil.rmtree(place)


def names(folder: Path, parent: str, ways: tuple[str, ...], child: str) -> dict[str, str]:
    """A program for each way, known by its name."""
    found = {}
    for number, way in enumerate(ways):
        name = f"~{number}{parent[0]}{child}"
        os.link(folder / f"alone-{child}", folder / name)
        found[way] = name
    return found


def counts(way: Way, folder: Path, script: str) -> dict[tuple[str, str], int]:
    """Each of the programs' calls and execs, by number."""
    with Terminal(way.tool(["bpftrace", "-e", COUNTED])) as tool:
        tool.until(b"READY")
        outcome = run(way.target(["/bin/sh", "-c", script]))
        assert outcome.status == 0, outcome
        out = tool.interrupt()
    return {(comm, nr): int(count)
            for comm, nr, count in re.findall(r"^@\[(\S+), (\d+)\]: (\d+)\s*$", out, re.M)}


@pytest.mark.kernel
@pytest.mark.parametrize("parent", PARENTS)
def test_each_way_to_exec_is_followed(parent: str, folder: Path) -> None:
    script = ""
    for child in CHILDREN:
        given = PRELOADED if (parent, child) == ("ours", "ours") else ()
        ways = tuple(way for way in WAYS if way not in given)
        for way, name in names(folder, parent, ways, child).items():
            script += f"{folder}/ways-{parent} {way} {folder}/{name}; test $? = 3 || exit 1\n"
    ours, theirs = counts(SHIM, folder, script), counts(KERNEL, folder, script)
    assert {k: (ours.get(k), theirs.get(k)) for k in ours.keys() | theirs.keys()
            if ours.get(k) != theirs.get(k)} == {}
    assert len({comm for comm, _ in theirs}) >= len(CHILDREN) * (len(WAYS) - len(PRELOADED))
