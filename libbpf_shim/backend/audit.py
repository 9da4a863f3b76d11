"""An audit log: JSON lines of who asked for what, with what verdict, and what was missing.

The file is its user's alone. It is opened for each line, so that it may be renamed away; a line is
one write at the end of it. What cannot be written is not granted.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
from pathlib import Path
from typing import Any, Final

from libbpf_shim.errors import ShimError
from libbpf_shim.token.keys import private

_APPEND: Final = (os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                  | os.O_NONBLOCK)
_LONGEST: Final = 256  # letters of one text


def comm(pid: int) -> str:
    """The name of a process; "": it has none any more."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""


def _cut(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value


class Audit:
    """One log. ShimError if it cannot be had: EPERM, or errors of open(2)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._append(b"")

    def write(self, verdict: str, **said: Any) -> None:
        """A line: when, the verdict, and what is said. ShimError EIO: it cannot be written, and
        nothing may be granted."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        row = {"time": now, "verdict": verdict} | {name: _cut(v) for name, v in said.items()}
        self._append(json.dumps(row).encode() + b"\n")

    def check(self) -> None:
        """A line can be written now; ShimError EIO."""
        self._append(b"")

    def _append(self, line: bytes) -> None:
        try:
            fd = private(self._path, _APPEND)
            try:
                done = os.write(fd, line)
            finally:
                os.close(fd)
        except OSError as error:
            raise ShimError("TK0004", errno.EIO, f"{self._path}: {error.strerror}") from error
        if done != len(line):
            raise ShimError("TK0004", errno.EIO, f"{self._path}: no room for a line")
