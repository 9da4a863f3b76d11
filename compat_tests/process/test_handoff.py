"""Programs that nothing can be preloaded into, started by `bpf-shim run` or by a program that
has the library: they are handed over at their exec, before their first instruction."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import (
    KERNEL,
    SHIM,
    SHIM_NO_PTRACE,
    Outcome,
    Session,
    Terminal,
    Way,
    run,
)
from compat_tests.guard import launch
from compat_tests.process import programs
from compat_tests.victims import build
from libbpf_shim.attach.door import agent_hello
from libbpf_shim.attach.execs import is_ahead

KINDS = ("glibc", "musl", "dynamic")
READY = ' BEGIN { printf("READY\\n"); }'


@pytest.fixture
def folder() -> Iterator[Path]:
    names = {f"alone-{how}": programs.alone(how) for how in (*KINDS, "ours")}
    place = build.private_copy(names)
    yield place
    shutil.rmtree(place)


def calls(way: Way, folder: Path, kind: str, by: str | None = "") -> Counter[str]:
    """Each system call by number, the exec, the exit and the opens of two runs of the program.

    by: what starts it, "": a shell; None: nobody else, it is the target itself."""
    name = f"alone-{kind}"
    own = f'/comm == "{name}"/'
    program = (
        f"tracepoint:raw_syscalls:sys_enter {own} {{ printf(\"enter %d.\\n\", args->id); }} "
        f"tracepoint:sched:sched_process_exec {own} "
        "{ printf(\"exec %s.\\n\", str(args->filename)); } "
        f"tracepoint:sched:sched_process_exit {own} {{ printf(\"end %s.\\n\", comm); }} "
        f"tracepoint:syscalls:sys_enter_open* {own} {{ printf(\"an open.\\n\"); }}" + READY)
    with Terminal(way.tool(["bpftrace", "-e", program])) as tool:
        tool.until(b"READY")
        if by is None:
            commands = [[f"{folder}/{name}"]] * 2
        else:
            commands = [["/bin/sh", "-c", f"{by} {folder}/{name}; test $? = 3 && "
                         f"exec env -i {by} {folder}/{name}"]]
        for command in commands:
            outcome = run(way.target(command))
            assert outcome.status == 3, outcome
        tool.until(b"end alone")
        tool.seen = tool.seen.replace(b"end alone", b"end  alone", 1)
        tool.until(b"end alone")
        out = tool.interrupt()
    return Counter(re.findall(r"^(?:enter|exec|end|an)  ?\S+\.[ \r]*$", out, re.M))


@pytest.mark.kernel
@pytest.mark.parametrize(("kind", "by"), [
    pytest.param("glibc", "", id="glibc"), pytest.param("glibc", None, id="glibc-itself"),
    pytest.param("musl", "", id="musl", marks=pytest.mark.long),
    pytest.param("musl", None, id="musl-itself")])
def test_every_call_from_the_first_instruction_on_is_told(
    kind: str, by: str | None, folder: Path
) -> None:  # fmt: skip
    ours, theirs = calls(SHIM, folder, kind, by), calls(KERNEL, folder, kind, by)
    assert all(n % 2 == 0 for line, n in ours.items() if "end" not in line), ours
    assert ours == theirs
    assert sum(ours.values()) >= 20, ours


@pytest.mark.skipif(not shutil.which("go"), reason="go: not installed")
@pytest.mark.parametrize("way", [
    pytest.param(SHIM, id="shim"),
    pytest.param(KERNEL, marks=[pytest.mark.kernel, pytest.mark.long], id="kernel")])
def test_every_call_of_what_a_go_program_starts_is_told(way: Way, folder: Path) -> None:
    """Its exec is an instruction of its own, in a child that shares its memory."""
    starter = shutil.copy(programs.starter(), folder / "starter")
    told = calls(way, folder, "musl", str(starter))
    # musl's first calls: arch_prctl, set_tid_address
    assert (told["enter 158."], told["enter 218."]) == (2, 2), told
    assert all(n % 2 == 0 for line, n in told.items() if "end" not in line), told
    assert sum(told.values()) >= 20, told


@pytest.mark.parametrize("kind", [
    pytest.param("glibc", marks=pytest.mark.long), "musl", "dynamic"])
def test_its_functions_are_counted(kind: str, folder: Path) -> None:
    counted = f"uprobe:{folder}/alone-{kind}:mark {{ @ = count(); }}" + READY
    with Terminal(SHIM.tool(["bpftrace", "-e", counted])) as tool:
        tool.until(b"READY")
        program = f"{folder}/alone-{kind}"
        shell = ["/bin/sh", "-c", f"{program}; exit $?"]
        for command in shell, shell, shell if kind == "dynamic" else [program]:
            outcome = run(SHIM.target(command))
            assert outcome.status == 3, outcome
            assert outcome.out == f"user {launch.UID}\n"
        out = tool.interrupt()
    assert re.search(r"^@: 15\s*$", out, re.M), out


class Ending:
    """A session that agents come to behind all others. It says nothing to one whose process is
    about to exec, like a backend that has enough to do with its end."""

    def __init__(self, folder: Path) -> None:
        for _ in range(100):  # the order is the file system's
            if os.listdir(folder.parent)[-1] == folder.name:
                break
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
            folder = folder.with_name(str(int(folder.name) + 1))
            folder.mkdir(mode=0o755)
        else:
            raise AssertionError(f"nothing comes last in {folder.parent}")
        self._folder = folder
        self._lock = (folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # so it is alive
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(folder / "sock"))
        (folder / "sock").chmod(0o777)
        self._listener.listen()
        self.met = 0  # how often it was told of something
        self._waiting: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # the end
                return
            with contextlib.suppress(ConnectionError):  # who has gone away
                hello = agent_hello(sock) or b""
                self.met += 1
                if is_ahead(hello):
                    self._waiting.append(sock)
                    continue
            sock.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for sock in (*self._waiting, self._listener):
            sock.close()
        shutil.rmtree(self._folder)
        self._lock.close()


@pytest.mark.skipif(os.getuid() != 0, reason="stands in for a backend: needs root")
def test_no_other_session_keeps_it_from_being_counted(folder: Path) -> None:
    """What it would be told comes when one has the process already."""
    program = f"{folder}/alone-dynamic"
    counted = f"uprobe:{program}:mark {{ @ = count(); }}" + READY
    with Terminal(SHIM.tool(["bpftrace", "-e", counted])) as tool:
        tool.until(b"READY")
        with contextlib.closing(Ending(launch.RUN_DIR / "sessions" / "1000000")) as other:
            outcome = run(SHIM.target(["/bin/sh", "-c", f"{program}; exit $?"]))
            assert outcome.status == 3, outcome
            assert other.met
        out = tool.interrupt()
    assert re.search(r"^@: 5\s*$", out, re.M), out


STARVED = """
import os, sys
os.sched_setaffinity(0, {0})
os.nice(19)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.long
def test_one_that_hardly_gets_a_cpu_is_counted(folder: Path) -> None:
    """From its last word on, beside four that take the CPU."""
    program = f"{folder}/alone-dynamic"
    counted = f"uprobe:{program}:mark {{ @ = count(); }}" + READY
    with Terminal(SHIM.tool(["bpftrace", "-e", counted])) as tool, contextlib.ExitStack() as busy:
        tool.until(b"READY")
        for _ in range(4):
            busy.enter_context(Session(["taskset", "-c", "0", "sh", "-c", "while :; do :; done"]))
        outcome = run(SHIM.target(["/usr/bin/python3", "-c", STARVED, program]))
        assert outcome.status == 3, outcome
        busy.close()
        out = tool.interrupt()
    assert re.search(r"^@: 5\s*$", out, re.M), out


@pytest.mark.parametrize("kind", [
    "musl", pytest.param("glibc", marks=pytest.mark.long), "dynamic", "ours"])
def test_a_command_of_a_preloaded_tool_is_counted(kind: str, folder: Path) -> None:
    """Without `bpf-shim run` too, also where an environment lacks the library. The child that
    execs it was there before any session."""
    program = f"{folder}/alone-{kind}"
    counted = f"uprobe:{program}:mark {{ @ = count(); }}"
    env = "/usr/bin/env"
    for command in program, f"{env} PATH={folder} alone-{kind}", f"{env} -i {program}":
        argv = ["bpftrace", "-e", counted, "-c", command]
        outcome = run(launch.guarded(argv, preload=True))
        assert re.search(r"^@: 5\s*$", outcome.out, re.M), outcome
        assert f"user {launch.UID}\n" in outcome.out, outcome


def test_where_ptrace_is_refused_a_static_program_runs_as_it_is(folder: Path) -> None:
    """Nobody can stop it to put an agent there: docs/parity.md."""
    own = '/comm == "alone-musl"/'
    counted = f"tracepoint:raw_syscalls:sys_enter {own} {{ @ = count(); }}" + READY
    with Terminal(SHIM_NO_PTRACE.tool(["bpftrace", "-e", counted])) as tool:
        tool.until(b"READY")
        outcome = run(SHIM_NO_PTRACE.target([str(folder / "alone-musl")]))
        assert outcome == Outcome(3, f"user {launch.UID}\n", "")
        out = tool.interrupt()
    assert not re.search(r"^@: [1-9]", out, re.M), out


def test_an_exec_that_fails_leaves_the_program_as_it_was(folder: Path) -> None:
    """Of a file that may be read, and not run."""
    (folder / "alone-glibc").chmod(0o644)
    counted = f"uprobe:{folder}/alone-ours:mark {{ @ = count(); }}" + READY
    with Terminal(SHIM.tool(["bpftrace", "-e", counted])) as tool:
        tool.until(b"READY")
        argv = [str(folder / "alone-ours"), "-x", str(folder / "alone-glibc")]
        outcome = run(SHIM.target(argv))
        assert outcome.status == 3 and outcome.out == f"user {launch.UID}\n", outcome
        out = tool.interrupt()
    assert re.search(r"^@: 5\s*$", out, re.M), out


@pytest.mark.skipif(os.getuid() != 0, reason="makes a setuid file: needs root")
@pytest.mark.parametrize("kind", ["glibc", pytest.param("ours", marks=pytest.mark.long)])
def test_a_setuid_program_keeps_what_its_file_gives(kind: str, folder: Path) -> None:
    """A tracer would take it away, so it is left alone."""
    program = folder / f"alone-{kind}"
    os.chown(program, 61999, 61999)
    program.chmod(0o4755)
    counted = f"uprobe:{program}:mark {{ @ = count(); }}" + READY
    with Terminal(SHIM.tool(["bpftrace", "-e", counted])) as tool:
        tool.until(b"READY")
        outcome = run(SHIM.target(["/bin/sh", "-c", f"{program}; exit $?"]))
        assert outcome.status == 3 and outcome.out == "user 61999\n", outcome
        out = tool.interrupt()
    assert not re.search(r"^@: [1-9]", out, re.M), out
