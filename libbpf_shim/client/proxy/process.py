"""The thread that waits: its memory and its descriptors, from outside.

Source: proc(5), pidfd_getfd(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import Final

_SYS_PIDFD_GETFD: Final = 438
_CHUNK: Final = 4096
_libc = ctypes.CDLL(None, use_errno=True)


def _number(tid: int, name: str) -> int:
    with open(f"/proc/{tid}/status", "rb") as file:
        for line in file:
            if line.startswith(name.encode()):
                return int(line.split()[1])
    raise OSError(errno.ESRCH, "no such thread")


class Waiting:
    """A thread in a system call, to be closed. Raises OSError: EFAULT where its memory cannot be
    had, EBADF, ESRCH."""

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.pid = _number(tid, "Tgid:")
        self._mem = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.close(self._mem)
            raise

    def close(self) -> None:
        os.close(self._mem)
        os.close(self._pidfd)

    def read(self, at: int, size: int) -> bytes:
        """All of it, or EFAULT."""
        try:
            data = os.pread(self._mem, size, at) if size else b""
        except (OSError, OverflowError):
            data = b""
        if len(data) != size:
            raise OSError(errno.EFAULT, "memory")
        return data

    def string(self, at: int, most: int) -> bytes:
        """With its NUL; cut where it is longer. EFAULT."""
        found = b""
        while len(found) < most:
            here = at + len(found)
            piece = self.read(here, min(most - len(found), _CHUNK - here % _CHUNK))
            found += piece
            if b"\0" in piece:
                return found[: found.index(b"\0") + 1]
        return found

    def write(self, at: int, data: bytes) -> None:
        """All of it, or EFAULT."""
        try:
            done = os.pwrite(self._mem, data, at) if data else 0
        except (OSError, OverflowError):
            done = -1
        if done != len(data):
            raise OSError(errno.EFAULT, "memory")

    def signals(self) -> tuple[int, int]:
        """Those that wait for the thread, for its process, and are not blocked; a bit each."""
        found = {"SigPnd": 0, "ShdPnd": 0, "SigBlk": 0}
        with contextlib.suppress(OSError), open(f"/proc/{self.tid}/status") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name in found:
                    found[name] = int(value, 16)
        own, shared, blocked = found.values()
        return own & ~blocked, shared & ~blocked

    def fd(self, number: int) -> int:
        """A descriptor of ours for the same description. EBADF."""
        got = int(_libc.syscall(ctypes.c_long(_SYS_PIDFD_GETFD), ctypes.c_long(self._pidfd),
                                ctypes.c_long(number), ctypes.c_long(0)))
        if got < 0:
            raise OSError(ctypes.get_errno(), "descriptor")
        return got

    def identity(self, number: int) -> tuple[int, int]:
        """(st_dev, st_ino) of a descriptor; (0, 0): it is not open."""
        try:
            found = os.stat(f"/proc/{self.tid}/fd/{number}")
        except OSError:
            return 0, 0
        return found.st_dev, found.st_ino

    def name(self, number: int) -> str:
        """What readlink says of a descriptor; "": it is not open."""
        try:
            return os.readlink(f"/proc/{self.tid}/fd/{number}")
        except OSError:
            return ""


class Here(Waiting):
    """This process, whose memory can be looked at as that of the other one."""

    def __init__(self) -> None:
        super().__init__(os.getpid())
