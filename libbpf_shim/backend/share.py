"""The folder where loaders of one user meet (csrc/surface/share.c): `session`, a link to the
folder of the session that is shared; `bpffs`, its pins; `lock`, held while a session begins or
ends.

Beginning and ending exclude each other, so there is one shared session at most: a backend that
starts looks under the lock whether one serves already, and one that ends takes the link away
under the lock, after it has seen that nobody waits at its door. Who came by the link and finds
the door shut after all tries again (csrc/surface/rpc.c).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from libbpf_shim.errors import ShimError

_PATIENCE = 20.0  # seconds for another backend to start or end; less than the surface has
_ANSWER = 2.0  # seconds for a socket to take a connection
_REST = 86_400.0  # seconds until a folder where nobody meets goes
_LOCK = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_PLACE = len("share-") + 8  # of a folder's name: all but the build
_FNV_BASIS, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
# What connect(2) says where nobody listens; all else is a backend, though perhaps a busy one.
_NOBODY = (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR)


def name(home: Path, version: int) -> str:
    """The folder's name below the run directory, for a process that carries the library of `home`
    and speaks that version of the protocol: a hash of what two loaders must have in common, its
    second half of how the library is built."""
    build = b"%c" % (ord("0") + version) + _identity(home / "libbpf_shim.so", changes=True)
    text = os.fsencode(home) + b"\0"
    for kind in ("mnt", "pid"):
        text += _namespace(Path("/proc/self/ns", kind))
    text += _identity(Path("/"))
    if key := os.environb.get(b"LIBBPF_SHIM_TOKEN_KEY"):  # who must show tokens meets the like
        text += key + b"\0"
    if policy := os.environb.get(b"LIBBPF_SHIM_POLICY"):
        text += b"policy\0" + policy + b"\0"
    return f"share-{_mark(text):08x}{_mark(build):08x}"


def _mark(text: bytes) -> int:
    """32 bits of FNV-1a."""
    mark = _FNV_BASIS
    for byte in text:
        mark = (mark ^ byte) * _FNV_PRIME & (1 << 64) - 1
    return (mark ^ mark >> 32) & 0xFFFFFFFF


def _namespace(path: Path) -> bytes:
    """Where they are no files of their own file system (gVisor) each process has others."""
    try:
        told = path.stat().st_dev != os.stat("/proc").st_dev
    except OSError:
        told = False
    return _identity(path) if told else bytes(32)


def _identity(path: Path, changes: bool = False) -> bytes:
    """Which file it is; changes: and since when it is as it is."""
    try:
        stat = path.stat()
    except OSError:
        return bytes(32)
    since = divmod(stat.st_mtime_ns, 1_000_000_000) if changes else (0, 0)
    return struct.pack("<4Q", stat.st_dev, stat.st_ino, *since)


class Share:
    """One meeting place. Made by the surface, 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bpffs = path / "bpffs"
        self._link = path / "session"
        self._lock = -1

    def take(self) -> bool:
        """Waits for a backend that is starting or ending; True: nobody serves here, and this
        process is the one that starts now, until `publish`. ETIMEDOUT."""
        self._wait()
        if not self._served():
            return True
        self._release()
        return False

    def _wait(self) -> None:
        try:
            with _alarm(_PATIENCE):
                while not os.fstat(self._open()).st_nlink:  # it was cleared away
                    self._release()
        except OSError as err:
            raise ShimError("BH0001", err.errno or errno.EIO, f"{self.path}: {err}") from err

    def _open(self) -> int:
        self.path.mkdir(mode=0o700, exist_ok=True)  # whose loader found it has waited since
        self._lock = os.open(self.path / "lock", _LOCK, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self._lock

    def _served(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_ANSWER)
            try:  # by the link's text: what a socket was bound to is never too long
                path = os.path.join(os.readlink(self._link), "sock")
                return sock.connect_ex(path) not in _NOBODY
            except OSError:  # no link, or to where no socket can be
                return False

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
        self._lock = -1

    def publish(self, folder: Path) -> None:
        """Others join the session at `folder` from now on. Pins that a killed backend left go;
        folders stay."""
        self.bpffs.mkdir(mode=0o700, exist_ok=True)
        for where, _, names in os.walk(self.bpffs):
            for path in (os.path.join(where, name) for name in names):
                with contextlib.suppress(OSError):
                    if not os.path.islink(path):
                        os.unlink(path)
        aside = self.path / "session.new"
        aside.unlink(missing_ok=True)
        aside.symlink_to(folder)
        aside.rename(self._link)
        self._release()

    def clear(self) -> None:
        """Folders beside this one where nobody has met for a day go: of namespaces that are no
        more, of a library built anew."""
        before = time.time() - _REST
        with os.scandir(self.path.parent) as beside:  # glob() would compile a pattern
            for at in beside:
                with contextlib.suppress(OSError):
                    if at.name.startswith("share-") and at.stat().st_mtime < before:
                        Share(Path(at.path))._remove()

    def in_another_build(self, pin: str) -> Path | None:
        """The file of a pin, by its path in the bpffs, where loaders of a library meet that was
        built at another time and is otherwise the same; None: nobody serves such a one."""
        with contextlib.suppress(OSError), os.scandir(self.path.parent) as beside:
            for at in beside:
                place = Path(at.path, "bpffs", pin)
                if (at.name != self.path.name and at.name[:_PLACE] == self.path.name[:_PLACE]
                        and place.is_file() and Share(Path(at.path))._served()):
                    return place
        return None

    def _remove(self) -> None:
        with self._try_lock() as mine:
            if mine and not self._served():
                import shutil

                shutil.rmtree(self.path)

    def withdraw(self, folder: Path, listener: socket.socket) -> bool:
        """Nobody joins the session at `folder` any more. False: somebody is about to, or another
        backend looks at it; nothing has changed."""
        with self._try_lock() as mine:
            if not mine or select.select([listener], [], [], 0)[0]:
                return False
            self._forget(folder)
        return True

    def abandon(self, folder: Path, before: Callable[[], None]) -> None:
        """The same for a session that ends whoever waits. `before`: what must be done before
        another may begin."""
        with contextlib.suppress(ShimError):  # one that hangs in its start is not waited for
            self._wait()
        before()
        self._forget(folder)
        self._release()

    def _forget(self, folder: Path) -> None:
        with contextlib.suppress(OSError):
            if os.readlink(self._link) == str(folder):
                self._link.unlink()

    @contextlib.contextmanager
    def _try_lock(self) -> Iterator[bool]:
        fd = os.open(self.path / "lock", _LOCK, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(fd)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """A TimeoutError out of a system call that waits longer. Main thread only."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(errno.ETIMEDOUT, "another backend neither starts nor ends")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
