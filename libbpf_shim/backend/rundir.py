"""The run directory of a user: sessions, and the counters that ids come from.

$XDG_RUNTIME_DIR/libbpf_shim, else /tmp/libbpf_shim-UID; 0700, owned by the user, no symlink.
A session's folder is alive while its file `lock` is locked; the next backend reaps the others.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

from libbpf_shim.errors import ShimError

_COUNTERS = ("session", "map", "prog", "btf", "link")
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_FIRST = {"btf": 1}  # 1 is the vmlinux BTF of every session


def _refused(path: Path, why: str, code: int) -> ShimError:
    return ShimError("BR0001", code, f"{path}: no run directory: {why}",
                     "set XDG_RUNTIME_DIR to a directory of your own")


def locate() -> Path:
    """Where the run directory of this user lies, made or not."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return Path(runtime) / "libbpf_shim"
    return Path(f"/tmp/libbpf_shim-{os.getuid()}")


def open_run_dir() -> Path:
    """The run directory, made if need be. Raises ShimError with mkdir's errno, or EPERM if it is
    not this user's alone."""
    path = locate()
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as err:
        raise _refused(path, err.strerror or "", err.errno or errno.EIO) from err
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise _refused(path, "not a directory of this user", errno.EPERM)
    if found.st_mode & 0o077:
        raise _refused(path, "others may enter it", errno.EPERM)
    try:
        for name in ("sessions", "agents", "cache", "verdicts"):
            (path / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as err:
        raise _refused(path, err.strerror or "", err.errno or errno.EIO) from err
    return path


class Counters:
    """Ids, ascending over all sessions of the user, as the kernel's are over the machine."""

    def __init__(self, run: Path) -> None:
        self._fd = os.open(run / "ids", _OPEN, 0o600)

    def next(self, what: str) -> int:
        """The next id of a session, map, prog, btf or link; never 0."""
        at = 4 * _COUNTERS.index(what)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            data = os.pread(self._fd, 4, at).ljust(4, b"\0")
            number = (max(struct.unpack("<I", data)[0], _FIRST.get(what, 0)) + 1) & 0x7FFFFFFF or 1
            os.pwrite(self._fd, struct.pack("<I", number), at)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        return int(number)

    def close(self) -> None:
        os.close(self._fd)


def _locked(path: Path) -> int | None:
    """A lock taken, as a descriptor; None: somebody has it."""
    fd = os.open(path, _OPEN, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def reap(run: Path) -> list[int]:
    """Removes sessions whose backend is gone and mailboxes of processes that are. The sessions'
    numbers."""
    gone = []
    for folder in (run / "sessions").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fd = _locked(folder / "lock")
            if fd is not None:
                import shutil

                shutil.rmtree(folder, ignore_errors=True)
                os.close(fd)
                gone.append(int(folder.name))
    for mailbox in (run / "agents").iterdir():
        if not os.path.exists(f"/proc/{mailbox.name}"):
            mailbox.unlink(missing_ok=True)
    return gone


class SessionDir:
    """One session's folder, its lock held for the life of this process."""

    def __init__(self, run: Path, number: int, nr_vcpus: int) -> None:
        self.path = run / "sessions" / str(number)
        # Built aside, so that nobody sees a folder whose lock is free.
        aside = run / f"new-{number}"
        aside.mkdir(mode=0o700)
        lock = _locked(aside / "lock")
        assert lock is not None
        self._lock = lock
        for name in ("cpu_possible", "cpu_online"):
            (aside / name).write_text(f"0-{nr_vcpus - 1}\n")
        (aside / "bpffs").mkdir(mode=0o700)
        aside.rename(self.path)
        self.bpffs = self.path / "bpffs"  # where nobody joins: this session's own pins

    def remove(self) -> None:
        import shutil

        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
