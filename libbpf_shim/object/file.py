"""Files whose last close is seen: how an object lives as long as somebody holds a descriptor.

MemFile: a memfd. What is handed out is a description of its own (reopened through /proc) with a
shared flock; ours has none, so that taking the lock tells that all others are gone. inotify says
when to look. SocketFile: one end of a pair is handed out; its last close is our end's EOF.
Both hold for dup, fork, a mapping alone, and kill -9.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable

from libbpf_shim.errors import ShimError

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
PAGE = 4096


def _refused(what: str, err: OSError) -> ShimError:
    full = (errno.ENOSPC, errno.EFBIG, errno.ENOMEM)
    code = errno.ENOMEM if err.errno in full else err.errno or errno.EIO
    return ShimError("OB0001", code, f"{what}: {err.strerror}")


def sealed_memfd(name: str, size: int, front: int | None = None) -> int:
    """A memfd that nobody can resize: a mapping of it never ends in SIGBUS. front: so many bytes
    of it and the last page have memory from the start, the rest when it is first used; None: all
    of it. ENOMEM, EMFILE, ENFILE."""
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as err:
        raise _refused(name, err) from err
    try:
        os.ftruncate(fd, size)
        os.posix_fallocate(fd, 0, size if front is None else max(front, 1))
        os.posix_fallocate(fd, size - PAGE, PAGE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as err:
        os.close(fd)
        raise _refused(f"{name} of {size} bytes", err) from err
    return fd


class MemFile:
    """A sealed_memfd of `size` bytes, `name` as readlink shows it. Owns its descriptor."""

    def __init__(self, name: str, size: int, *, front: int | None = None) -> None:
        self.name = name
        self.size = -(-size // PAGE) * PAGE
        self.fd = sealed_memfd(name, self.size, front)
        stat = os.fstat(self.fd)
        self.key = (stat.st_dev, stat.st_ino)

    def hand_out(self, mode: int = os.O_RDWR) -> int:
        """A descriptor for a client, which the caller closes once it is sent. mode: what it may
        do. EMFILE, ENFILE."""
        try:
            fd = os.open(f"/proc/self/fd/{self.fd}", mode | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_SH)
        except OSError as err:
            raise _refused(self.name, err) from err
        return fd

    def held(self) -> bool:
        """Somebody else has it open or mapped."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return False

    def close(self) -> None:
        os.close(self.fd)


class SocketFile:
    """Pairs of sockets: one end of each stays here, the other is handed out. opened, closed: told
    of each end of ours and the identity of its other end."""

    def __init__(self) -> None:
        self.opened: Callable[[socket.socket, tuple[int, int]], None] = lambda sock, key: None
        self.closed: Callable[[socket.socket, tuple[int, int]], None] = lambda sock, key: None
        self.ends: dict[tuple[int, int], socket.socket] = {}
        self._theirs: socket.socket | None = self._pair()
        self.key = next(iter(self.ends))  # of the first that is handed out

    def _pair(self) -> socket.socket:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as err:
            raise _refused("socket pair", err) from err
        ours.setblocking(False)
        stat = os.fstat(theirs.fileno())
        self.ends[stat.st_dev, stat.st_ino] = ours
        self.opened(ours, (stat.st_dev, stat.st_ino))
        return theirs

    def hand_out(self) -> int:
        """Another end, which the caller closes once it is sent. EMFILE, ENFILE."""
        theirs, self._theirs = self._theirs or self._pair(), None
        return theirs.detach()

    def held(self) -> bool:
        """Some end is still open somewhere; those that are not are closed here too."""
        for key, sock in list(self.ends.items()):
            if not _open_at_other_end(sock):
                self._drop(key)
        return bool(self.ends)

    def _drop(self, key: tuple[int, int]) -> None:
        sock = self.ends.pop(key)
        self.closed(sock, key)
        sock.close()

    def close(self) -> None:
        for key in list(self.ends):
            self._drop(key)


def _open_at_other_end(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
