"""Programs that a process execs by system call instructions of its own, by posix_spawn, by a
descriptor, from a thread, each with an empty environment: by one that the library is preloaded
into, and by static ones. All are met from their first instruction on: their calls are as many as
the kernel counts."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, LIMIT, SHIM, Session, Terminal, Way, run
from compat_tests.guard import launch
from compat_tests.process import programs
from compat_tests.victims import build
from libbpf_shim.attach.connector import reason
from libbpf_shim.attach.target import look
from libbpf_shim.cli.sessions import ask

PARENTS = ("ours", "glibc", "musl")
EXIT_GROUP = "231"
WAYS = ("raw", "vfork", "at", "fd", "memfd", "fexecve", "libc", "spawn", "thread")
CHILDREN = ("glibc", "musl", "dynamic", "ours")
# Here the surface gives the program the library, which begins behind the dynamic linker.
PRELOADED = ("fexecve", "libc", "spawn")
COUNTED = (
    'tracepoint:raw_syscalls:sys_enter /strncmp(comm, "~", 1) == 0 || '
    'strncmp(comm, "memfd:~", 7) == 0/ { @[comm, args->id] = count(); } '
    'tracepoint:sched:sched_process_exec /strncmp(comm, "~", 1) == 0 || '
    'strncmp(comm, "memfd:~", 7) == 0/ { @[comm, 1000] = count(); } '
    'BEGIN { printf("READY\\n"); }')


SCRIPTS = {"script": "#!{}/alone-glibc\n",
           "linker": "#!/lib64/ld-linux-x86-64.so.2 {}/alone-ours\n"}


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({
        **{f"ways-{how}": programs.ways(how) for how in PARENTS},
        **{f"alone-{how}": programs.alone(how) for how in CHILDREN}})
    for name, text in SCRIPTS.items():
        (place / f"alone-{name}").write_text(text.format(place))
        (place / f"alone-{name}").chmod(0o755)
    yield place
    shutil.rmtree(place)


def counts(way: Way, script: str) -> dict[tuple[str, str], int]:
    """Each of the programs' calls and execs, by number."""
    with Terminal(way.tool(["bpftrace", "-e", COUNTED])) as tool:
        tool.until(b"READY")
        outcome = run(way.target(["/bin/sh", "-c", script]))
        assert outcome.status == 0, outcome
        return parsed(tool.interrupt())


def parsed(text: str) -> dict[tuple[str, str], int]:
    return {(comm, nr): int(count)
            for comm, nr, count in re.findall(r"^@\[(\S+), (\d+)\]: (\d+)\s*$", text, re.M)}


def compare(folder: Path, starts: list[tuple[str, str, str]]) -> None:
    """Of programs that are started: by which parent, which way, which program. Each has a name of
    its own."""
    lines = []
    for number, (parent, way, child) in enumerate(starts):
        name = folder / f"~{number}{way}"
        os.link(folder / f"alone-{child}", name)
        lines.append(f"{folder}/ways-{parent} {way} {name}; test $? = 3 || exit 1\n")
    ours, theirs = counts(SHIM, "".join(lines)), counts(KERNEL, "".join(lines))
    assert {key: (ours.get(key), theirs.get(key)) for key in ours.keys() | theirs.keys()
            if ours.get(key) != theirs.get(key)} == {}
    assert len({comm for comm, _ in theirs}) == len(starts)


def possible(parent: str, way: str, child: str) -> bool:
    """The kernel starts a script by its name alone, else it is called by a number; the surface's
    own functions give a program the library."""
    if child in SCRIPTS and way in ("fd", "memfd", "fexecve"):
        return False
    return (parent, way in PRELOADED, child in ("ours", "linker")) != ("ours", True, True)


@pytest.mark.kernel
def test_each_way_to_exec_is_followed(folder: Path) -> None:
    compare(folder, [
        ("ours", "raw", "glibc"), ("glibc", "vfork", "script"), ("musl", "at", "linker"),
        ("ours", "fd", "musl"), ("glibc", "memfd", "dynamic"), ("musl", "fexecve", "ours"),
        ("ours", "libc", "script"), ("glibc", "spawn", "musl"), ("ours", "spawn", "dynamic"),
        ("ours", "thread", "ours"), ("musl", "thread", "glibc")])


@pytest.mark.kernel
@pytest.mark.long
@pytest.mark.parametrize("parent", PARENTS)
def test_each_program_is_met_by_each_way(parent: str, folder: Path) -> None:
    compare(folder, [(parent, way, child) for way in WAYS for child in (*CHILDREN, *SCRIPTS)
                     if possible(parent, way, child)])


@pytest.mark.parametrize("parent", [
    "glibc", *(pytest.param(how, marks=pytest.mark.long) for how in ("ours", "musl"))])
def test_programs_that_threads_start_at_once_are_all_met(parent: str, folder: Path) -> None:
    """They are handed over one after the other; whose turn it is not waits for it."""
    name = folder / "~together"
    os.link(folder / "alone-glibc", name)
    script = f"{folder}/ways-{parent} together {name}; test $? = 3"
    seen = counts(SHIM, script)
    assert (seen[name.name, "1000"], seen[name.name, EXIT_GROUP]) == (12, 12), seen


@pytest.mark.parametrize("interpreter", ["", "/lib64/ld-linux-x86-64.so.2 "])
def test_functions_are_counted_once(interpreter: str, folder: Path) -> None:
    """Also where the dynamic linker is started by hand, which loads the library too."""
    counted = (f"uprobe:{folder}/alone-ours:mark {{ @ = count(); }} "
               "BEGIN { printf(\"READY\\n\"); }")
    with Terminal(SHIM.tool(["bpftrace", "-e", counted])) as tool:
        tool.until(b"READY")
        command = f"{interpreter}{folder}/alone-ours"
        script = f"{command}; test $? = 3 || exit 1; env -i {command}; test $? = 3"
        outcome = run(SHIM.target(["/bin/sh", "-c", script]))
        assert outcome.status == 0, outcome
        out = tool.interrupt()
    assert re.search(r"^@: 10\s*$", out, re.M), out


def backends() -> list[int]:
    """Of the guard's user."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == launch.UID and \
                    b"libbpf_shim.backend" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def in_conversation(parent: int) -> int:
    """The parent's child, which has a socket: only an agent's conversation has one there."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
                links = [os.readlink(fd) for fd in Path(f"/proc/{child}/fd").iterdir()]
                if any(link.startswith("socket:") for link in links):
                    return int(child)
    raise AssertionError(f"process {parent}: no child of it talks to a backend")


@pytest.mark.parametrize("parent", ["ours", pytest.param("musl", marks=pytest.mark.long)])
def test_a_child_of_vfork_that_is_killed_on_its_way_keeps_nothing(
    parent: str, folder: Path
) -> None:  # fmt: skip
    """It shares its parent's memory, and dies with the lock of the agent there."""
    os.link(folder / "alone-glibc", folder / "~killed")
    with Terminal(SHIM.tool(["bpftrace", "-e", COUNTED])) as tool:
        tool.until(b"READY")
        command = f"exec {folder}/ways-{parent} vfork {folder}/~killed asked"
        argv = SHIM.target(["/bin/sh", "-c", command])
        with Session(argv, stdin=subprocess.PIPE) as ways:
            ways.until(b"\n")
            match = re.search(rb"pid (\d+)\n", ways.seen)
            assert match, ways.seen
            until_attached(int(match[1]))  # the backend has done with it
            stopped = backends()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                ways.send(b"\n")
                os.kill(in_conversation(int(match[1])), signal.SIGKILL)
                ways.until(b"status 123\n")
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            for _ in range(2):
                ways.seen = b""
                ways.send(b"\n")
                ways.until(b"status 3\n")
        found = parsed(tool.interrupt())
    assert found["~killed", "1000"] == 2
    assert all(count % 2 == 0 for count in found.values()) and len(found) > 15, found


@pytest.mark.skipif(not shutil.which("go"), reason="go: not installed")
@pytest.mark.skipif(bool(reason()), reason=f"process connector: {reason()}")
def test_what_a_go_program_starts_gets_an_agent_at_its_exec(folder: Path) -> None:
    """By the word of the child that execs it, else by the kernel's."""
    os.link(folder / "alone-musl", folder / "~later")
    shutil.copy(programs.starter(), folder / "starter")
    with Terminal(SHIM.tool(["bpftrace", "-e", COUNTED])) as tool:
        tool.until(b"READY")
        command = f"exec {folder}/starter {folder}/ways-glibc vfork {folder}/~later asked"
        argv = SHIM.target(["/bin/sh", "-c", command])
        with Session(argv, stdin=subprocess.PIPE) as ways:
            ways.until(b"\n")
            match = re.search(rb"pid (\d+)\n", ways.seen)
            assert match, ways.seen
            until_attached(int(match[1]))
            for _ in range(2):
                ways.seen = b""
                ways.send(b"\n")
                ways.until(b"status 3\n")
        found = parsed(tool.interrupt())
    assert found["~later", "1000"] == 2
    assert all(count % 2 == 0 for count in found.values()) and len(found) > 5, found


def until_attached(pid: int) -> None:
    end = time.monotonic() + LIMIT
    while not attached_to(pid):
        assert time.monotonic() < end, f"no agent came: {look(pid)}"
        time.sleep(0.02)  # between two looks, under the deadline above


def attached_to(pid: int) -> bool:
    """A session says that the process has links."""
    for sock in (launch.RUN_DIR / "sessions").glob("*/sock"):
        with contextlib.suppress(OSError, ValueError):
            if any(p["pid"] == pid and p["links"] for p in ask(sock)["processes"]):
                return True
    return False
