"""Which of a file's descriptors is which, and whether it is still open.

Descriptors that are handed out name one file; each is given a lock of its own (an OFD lock, far
behind the file's end), which goes with its last dup. What the kernel does at the close of one
descriptor of a map is done when its lock is gone. A kernel without such locks (gVisor) tells none
from another: it is done when the map ends.
Source: fcntl(2), proc(5).
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import struct
from pathlib import Path

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of x86-64
_FIRST = 1 << 40  # above every size
_marks = itertools.count(1)


def mark(fd: int, mode: int) -> None:
    """Gives the description behind fd, opened with that mode, its own lock."""
    kind = fcntl.F_WRLCK if mode == os.O_WRONLY else fcntl.F_RDLCK
    lock = _FLOCK.pack(kind, os.SEEK_SET, _FIRST + next(_marks), 1, 0)
    _locking(fd, fcntl.F_OFD_SETLK, lock)


def mark_of(pid: int, fd: int) -> int:
    """The lock of a process's descriptor; 0: it has none, or cannot be looked at."""
    try:
        lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        words = line.split()
        if words[:1] == ["lock:"] and "OFDLCK" in words and int(words[-2]) > _FIRST:
            return int(words[-2]) - _FIRST
    return 0


def held(fd: int, mark: int) -> bool:
    """The descriptor with that lock is still open somewhere; fd: ours, without one. 0: whether any
    is."""
    start, length = (_FIRST + mark, 1) if mark else (_FIRST, 0)
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    answer = _locking(fd, fcntl.F_OFD_GETLK, asked)
    return answer is None or _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK


def _locking(fd: int, command: int, lock: bytes) -> bytes | None:
    """fcntl(2); None: there are no such locks."""
    try:
        return fcntl.fcntl(fd, command, lock)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None
