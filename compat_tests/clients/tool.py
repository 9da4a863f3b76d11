"""Runs a tracing tool on the kernel or under guard and shim, and makes outputs comparable."""

from __future__ import annotations

import functools
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from compat_tests.guard import launch, sanitized
from compat_tests.oracle import kernel

LIMIT = 60.0  # seconds for one tool run
_RECORDED = {"bpftrace": ("--version", "0.17"), "bpftool": ("version", "7.1")}
NOT_RECORDED = "the answers are recorded of another version of the tool"
READY = b"READY"


@dataclass(frozen=True)
class Way:
    """How a tool is run: on the real kernel as root, or under the guard with the shim (preloaded,
    or as the libbpf.so.1 that the tool links)."""

    name: str
    no_ptrace: bool = False
    drop_in: bool = False
    sanitized: bool = False

    def tool(self, argv: list[str]) -> list[str]:
        if self.name == "kernel":
            return kernel.as_root(argv)
        if self.sanitized:
            return launch.guarded(argv, env=sanitized.environment())
        return launch.guarded(argv, preload=not self.drop_in, drop_in=self.drop_in,
                              no_ptrace=self.no_ptrace)

    def target(self, argv: list[str]) -> list[str]:
        """A process that is to be traced but is not the tool's child."""
        if self.name == "kernel":
            return argv
        return launch.shim_run(argv, no_ptrace=self.no_ptrace)


KERNEL = Way("kernel")
SHIM = Way("shim")
SHIM_NO_PTRACE = Way("shim", no_ptrace=True)
DROP_IN = Way("drop-in", drop_in=True)
SANITIZED = Way("sanitized", sanitized=True)


@functools.cache
def bpftrace_version() -> tuple[int, int]:
    """(0, 0): it is not installed."""
    if not shutil.which("bpftrace"):
        return 0, 0
    said = subprocess.run(["bpftrace", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"v(\d+)\.(\d+)", said.stdout)
    assert found, said
    return int(found[1]), int(found[2])


@functools.cache
def recorded(tool: str) -> bool:
    """It is of the version whose answers are recorded, Debian 12's, or it is not there at all."""
    argument, version = _RECORDED[tool]
    if not (path := shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin")):
        return True
    said = subprocess.run([path, argument], capture_output=True, text=True, check=True)
    return f"{tool} v{version}." in said.stdout


def bpftrace_misreads() -> str:
    """Why it says of strings of tracepoints what no kernel does: it takes four times the offset
    that __data_loc says. "": it reads them."""
    if bpftrace_version() != (0, 23):
        return ""
    return "bpftrace 0.23 reads strings of tracepoints elsewhere than they are, on the kernel too"


class EndedError(AssertionError):
    """A program has ended by itself."""


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str


def ended(child: subprocess.Popen[Any], seconds: float) -> int:
    """The status of a child, as soon as it ends: Popen.wait() looks after 1, 3, 7, ... ms, then
    each 50. TimeoutExpired: it does not within that time."""
    end = time.monotonic() + seconds
    if child.poll() is None:
        fd = os.pidfd_open(child.pid)
        try:
            select.select([fd], [], [], max(seconds, 0))
        finally:
            os.close(fd)
    return child.wait(max(0, end - time.monotonic()))  # who traces it is told first


def kill(child: subprocess.Popen[Any]) -> None:
    """The end of a child that leads a session, if it is still there, and of its children."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def run(argv: list[str], limit: float = LIMIT) -> Outcome:
    """Runs ARGV to its end; a run over LIMIT seconds is killed, with what it started, and is an
    error.

    Output goes through files, since a background process may inherit the pipes.
    """
    import tempfile

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with open(os.devnull) as null:
            child = subprocess.Popen(argv, stdin=null, stdout=out, stderr=err,
                                     start_new_session=True)
        try:
            status = ended(child, limit)
        except subprocess.TimeoutExpired:
            status = -1
        finally:
            kill(child)
        out.seek(0)
        err.seek(0)
        outcome = Outcome(status, out.read().decode(errors="replace"),
                          err.read().decode(errors="replace"))
    if status == -1:
        raise AssertionError(f"no end within {limit} s: {' '.join(argv)}\n{outcome}")
    return outcome


S = TypeVar("S", bound="Session")


def read_some(fd: int) -> bytes:
    """What is there; nothing at the end. A terminal's end is EIO."""
    try:
        return os.read(fd, 65536)
    except OSError:
        return b""


class Session:
    """A running process whose stdout is read up to a mark, with a deadline."""

    def __init__(self, argv: list[str], stdin: int = subprocess.DEVNULL) -> None:
        self.argv = argv
        self.seen = b""
        self.child = subprocess.Popen(
            argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *error: object) -> None:
        kill(self.child)
        assert self.child.stdout is not None
        self.child.stdout.close()
        if self.child.stdin is not None:
            self.child.stdin.close()

    def until(self, mark: bytes, limit: float = LIMIT) -> None:
        """Reads until MARK has been seen; its absence is an error with what was seen."""
        end = time.monotonic() + limit
        assert self.child.stdout is not None
        fd = self.child.stdout.fileno()
        while mark not in self.seen:
            left = end - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise AssertionError(f"no {mark!r} in {limit} s: {self.argv}: {self.seen!r}")
            piece = read_some(fd)
            if not piece:
                raise EndedError(f"ended before {mark!r}: {self.argv}: {self.seen!r}")
            self.seen += piece

    def again(self, mark: bytes) -> None:
        """Until MARK comes once more, behind what has been read."""
        before, self.seen = self.seen, b""
        try:
            self.until(mark)
        finally:
            self.seen = before + self.seen

    def send(self, text: bytes) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(text)
        self.child.stdin.flush()

    def end(self, limit: float = LIMIT) -> Outcome:
        """Waits for the end of the process and of its output."""
        end = time.monotonic() + limit
        assert self.child.stdout is not None
        fd = self.child.stdout.fileno()
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no end within {limit} s: {self.argv}: {self.seen!r}")
            if select.select([fd], [], [], min(left, 0.2))[0]:
                piece = read_some(fd)
                if not piece:
                    break
                self.seen += piece
            elif self.child.poll() is not None:
                break
        status = ended(self.child, max(0.1, end - time.monotonic()))
        return Outcome(status, self.seen.decode(errors="replace"), "")

    def stop(self, number: signal.Signals = signal.SIGINT) -> Outcome:
        """The signal, and the end. Again where nothing comes of it: bpftrace 0.17 may look for it
        just before it sleeps, and looks again only when a sleep is interrupted."""
        for _ in range(int(LIMIT / 5)):
            self.child.send_signal(number)
            try:
                return self.end(5)
            except (AssertionError, subprocess.TimeoutExpired):
                continue
        raise AssertionError(f"still there after {number.name}: {self.argv}: {self.seen!r}")


class Terminal(Session):
    """A session whose output (and input, if TYPED) is a terminal, so that tools write at once."""

    def __init__(self, argv: list[str], typed: bool = False) -> None:
        self.argv = argv
        self.seen = b""
        self.master, slave = pty.openpty()
        self.child = subprocess.Popen(
            argv, stdin=slave if typed else subprocess.DEVNULL, stdout=slave, stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.child.stdout = os.fdopen(self.master, "rb", 0)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def line(self) -> bytes:
        """More of its output, to the end of a line."""
        seen, self.seen = self.seen, b""
        try:
            self.until(b"\n")
            return self.seen
        finally:
            self.seen = seen

    def read(self, seconds: float) -> None:
        """What it writes within that time, at most one piece."""
        if select.select([self.master], [], [], seconds)[0]:
            self.seen += read_some(self.master)

    def interrupt(self) -> str:
        """SIGINT to the tool, and everything it wrote. Again after a while: bpftrace may look for
        it just before it sleeps, and bcc's callbacks swallow it."""
        for _ in range(6):
            self.child.send_signal(signal.SIGINT)
            try:
                ended(self.child, 5)
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            raise AssertionError(f"{self.argv}: still there after SIGINT: {self.seen!r}")
        try:
            while piece := os.read(self.master, 65536):
                self.seen += piece
        except OSError:  # EIO: the last writer is gone
            pass
        return self.seen.decode(errors="replace").replace("\r", "")


def start_victim(way: Way, folder: Path, arguments: list[str]) -> tuple[Session, int]:
    """A `calls` process that waits for a line on stdin; its pid is the second value."""
    argv = way.target([str(folder / "calls"), "-w", *arguments])
    session = Session(argv, stdin=subprocess.PIPE)
    session.until(b"\n")
    match = re.search(rb"pid (\d+)\n", session.seen)
    if not match:
        raise AssertionError(f"no pid from {argv}: {session.seen!r}")
    return session, int(match.group(1))


NOISE = re.compile(
    r"^(Attaching \d+ probes?\.\.\.|READY|pid \d+|ERROR: .*couldn't set RLIMIT_.*)$"
)


def normal(text: str, folder: Path, rules: tuple[tuple[str, str], ...] = ()) -> list[str]:
    """The lines of a tool's output that carry meaning, sorted.

    Bars of histograms and runs of blanks go, the victim's folder becomes $V, then each
    (pattern, replacement) of RULES is applied. Sorted, because events of one thread may come
    out of several rings and maps with equal values have no order.
    """
    lines = []
    for raw in text.replace(str(folder), "$V").splitlines():
        line = re.sub(r"\s+", " ", re.sub(r"\|[@ ]*\|$", "", raw.rstrip())).strip()
        if not line or NOISE.match(line):
            continue
        for pattern, replacement in rules:
            line = re.sub(pattern, replacement, line)
        lines.append(line)
    return sorted(lines)
