"""An audit log: JSON lines of who asked for what, with what verdict, and what was missing.

The file is its user's alone. It is opened for each line, so that it may be renamed away; a line is
one write at the end of it. What cannot be written is not granted.

What is refused costs who asks next to nothing, so there are limits: of refusals one after the
other BURST are written, then one in EVERY seconds, with a line before it that counts those
left out. Every line of what is granted is written. A log that has come to MOST bytes becomes
`NAME.1`, in the place of the one that was there.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from libbpf_shim.errors import ShimError
from libbpf_shim.token.keys import private

_APPEND: Final = (os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                  | os.O_NONBLOCK)
_LONGEST: Final = 256  # letters of one text
BURST: Final = 400  # refusals
EVERY: Final = 10.0  # seconds until one more is written
MOST: Final = 64 << 20  # bytes
REFUSED, LEFT = "refused", "left out"


def comm(pid: int) -> str:
    """The name of a process; "": it has none any more."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def _cut(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value


class Refusals:
    """How many more may be written now, and how many were not. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._room, self._since = clock, float(BURST), clock()
        self.left = 0

    def one(self) -> bool:
        """One more: it may be written; else it is counted."""
        now = self._clock()
        self._room = min(BURST, self._room + (now - self._since) / EVERY)
        self._since = now
        if self._room < 1:
            self.left += 1
            return False
        self._room -= 1
        return True


class Audit:
    """One log. ShimError if it cannot be had: EPERM, or errors of open(2). most: bytes of it."""

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.monotonic, most: int = MOST
    ) -> None:
        self._path, self._most = path, most
        self._refusals = Refusals(clock)
        self._kept = False
        self._append(b"")

    def write(self, verdict: str, **said: Any) -> None:
        """A line: when, the verdict, and what is said. ShimError EIO: it cannot be written, and
        nothing may be granted."""
        if verdict == REFUSED and not self._refusals.one():
            if not self._kept:
                self._kept = True
                atexit.register(self.end)
            return
        self._append(self._counted() + _line(verdict, said))
        self._refusals.left = 0

    def _counted(self) -> bytes:
        left = self._refusals.left
        return _line(LEFT, {"op": REFUSED, "count": left}) if left else b""

    def check(self) -> None:
        """A line can be written now; ShimError EIO."""
        self._append(b"")

    def end(self) -> None:
        """What was left out is counted, if it can be."""
        if line := self._counted():
            with contextlib.suppress(ShimError):
                self._append(line)
                self._refusals.left = 0

    def _append(self, lines: bytes) -> None:
        try:
            fd = private(self._path, _APPEND)
            try:
                if lines and os.fstat(fd).st_size + len(lines) > self._most:
                    fd = self._turned(fd)
                done = os.write(fd, lines)
            finally:
                os.close(fd)
        except OSError as error:
            raise ShimError("TK0004", errno.EIO, f"{self._path}: {error.strerror}") from error
        if done != len(lines):
            raise ShimError("TK0004", errno.EIO, f"{self._path}: no room for a line")

    def _turned(self, fd: int) -> int:
        """The full log out of the way, once, whoever of those that write it comes first; the
        descriptor of the next one."""
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            there, full = os.lstat(self._path), os.fstat(fd)
            if (there.st_dev, there.st_ino) == (full.st_dev, full.st_ino):
                os.rename(self._path, f"{self._path}.1")
        new = private(self._path, _APPEND)
        os.close(fd)
        return new


def _line(verdict: str, said: dict[str, Any]) -> bytes:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    row = {"time": now, "verdict": verdict} | {name: _cut(v) for name, v in said.items()}
    return json.dumps(row).encode() + b"\n"
