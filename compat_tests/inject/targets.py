"""Programs that know nothing of the shim, as living processes: glibc, musl, static, Go, Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import pytest

from compat_tests.clients.tool import ended
from compat_tests.guard import launch
from compat_tests.victims import build

T = TypeVar("T")
HERE = Path(__file__).resolve().parent
LIMIT = 20.0  # seconds for a target to answer
FLAGS = [*build.WARN, "-O1", "-pthread", "-rdynamic"]
# the kinds of threads of a process that fights back: 16 of them
HOSTILE = ["heap", "heap", "heap", "load", "load", "nap", "nap", "ping", "pong", "fork", "vfork",
           "spin", "come", "deaf", "told", "wait"]
QUIET = ["nap", "tick", "pong", "deaf", "told", "wait"]
PYTHON = """
import sys, threading
done = 0
def work():
    global done
    while True:
        done += len([str(i) for i in range(100)])
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
print("ready", flush=True)
while sys.stdin.buffer.raw.read(1):
    print(0, done, flush=True)
"""


def busy(*flags: str, compiler: str = "gcc") -> Path:
    """busy.c as the compiler makes it; a skip names the compiler that is missing."""
    if not shutil.which(compiler):
        pytest.skip(f"{compiler}: not installed")
    name = "-".join(["busy", compiler, *(f.strip("-") for f in flags)])
    return build.make(name, [HERE / "busy.c"], [*FLAGS, *flags], compiler=compiler)


def go_program(name: str) -> Path:
    """NAME.go as a static executable; a skip where there is no Go."""
    if not shutil.which("go"):
        pytest.skip("go: not installed")
    out = build.CACHE / "go" / name
    source = HERE / f"{name}.go"
    if not out.exists() or out.stat().st_mtime < source.stat().st_mtime:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(source, folder)
            subprocess.run(
                ["go", "build", "-o", str(out), copy], check=True, timeout=300, cwd=folder,
                env={**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "off",
                     "GOCACHE": str(build.CACHE / "go" / "cache"), "GOFLAGS": "-p=1"})
        out.chmod(0o755)
    return out


def go_server() -> Path:
    """server.go."""
    return go_program("server")


COMMANDS: dict[str, Callable[[], list[str]]] = {
    "glibc": lambda: [str(busy()), *QUIET],
    "hostile": lambda: [str(busy()), *HOSTILE],
    "spinner": lambda: [str(busy()), "spin"],
    "zombie leader": lambda: [str(busy()), "late", "nap"],
    "static glibc": lambda: [str(busy("-static", "-DNO_DLOPEN")), *QUIET],
    "musl": lambda: [str(busy("-DNO_DLOPEN", compiler="musl-gcc")), *QUIET],
    "static musl": lambda: [str(busy("-static", "-DNO_DLOPEN", compiler="musl-gcc")), *QUIET],
    "go": lambda: [str(go_server())],
    "locked go": lambda: [str(go_program("locked"))],
    "python": lambda: [shutil.which("python3") or "python3", "-c", PYTHON],
}


class Target:
    """One of them, running; `guarded`: as the guard's user."""

    def __init__(self, command: list[str], guarded: bool = False) -> None:
        argv = launch.guarded(command) if guarded else command
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid = self.process.pid
        self.asked = 0  # how often it was, since its start
        try:
            first = self._line()
            assert first[0] == "ready", first
            self.words = first[1:]
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()

    def _line(self) -> list[str]:
        assert self.process.stdout
        line = self.process.stdout.readline().decode()
        assert line, f"the target ended with {self.process.wait(LIMIT)}"
        return line.split()

    def works(self) -> None:
        """It goes on, and nothing that it has checked since was wrong."""
        end = time.monotonic() + LIMIT
        while not self._ask(b"x") and "late" not in self.words:
            assert time.monotonic() < end, "the target does nothing"

    def stands(self) -> None:
        """Its threads stand between two steps, until it `works` again (busy.c)."""
        self._ask(b"s")

    def _ask(self, byte: bytes) -> int:
        """How much has been done since it was asked last."""
        assert self.process.stdin
        self.process.stdin.write(byte)
        self.process.stdin.flush()
        self.asked += 1
        wrong, work = self._line()
        assert wrong == "0", f"{wrong} checks of the target failed"
        return int(work)

    def _of_a_thread(self, read: Callable[[str], T]) -> T | None:
        """What the first of its threads shows that shows something: a leader that has ended
        does not, and others end meanwhile."""
        for task in sorted(os.listdir(f"/proc/{self.pid}/task"), key=int):
            try:
                if found := read(f"/proc/{self.pid}/task/{task}"):
                    return found
            except OSError:
                continue
        return None

    def _maps(self) -> list[list[str]]:
        """The fields of each of its mappings."""
        text = self._of_a_thread(lambda task: Path(task, "maps").read_text())
        return [line.split() for line in (text or "").splitlines()]

    def fds(self) -> list[str]:
        """Its descriptors."""
        def read(task: str) -> list[str]:
            names = {fd: _link(f"{task}/fd/{fd}") for fd in os.listdir(f"{task}/fd")}
            return sorted(f"{fd} {name}" for fd, name in names.items() if name)

        return self._of_a_thread(read) or []

    def ours(self) -> list[str]:
        """Mappings of an agent or a session."""
        return [line for line in map(" ".join, self._maps()) if "memfd:bpf-" in line]

    def size(self) -> int:
        """Address space, bytes."""
        pages = self._of_a_thread(lambda task: int(Path(task, "statm").read_text().split()[0]))
        return (pages or 0) * 4096

    def executable(self) -> int:
        """Bytes of anonymous executable memory: trampolines."""
        found = [f[0].split("-") for f in self._maps() if "x" in f[1] and len(f) == 5]
        return sum(int(hi, 16) - int(lo, 16) for lo, hi in found)

    def end(self) -> None:
        """At the end of its input it ends by itself, in good order."""
        assert self.process.stdin
        self.process.stdin.close()
        assert ended(self.process, LIMIT) == 0


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # closed since
        return ""
