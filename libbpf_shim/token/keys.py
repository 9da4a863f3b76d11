"""Files of a key: 32 random bytes, and beside them the list of what is revoked.

Both belong to the user that reads them, are his alone (0600) and no links. `KEY.revoked` holds one
name of a token a line, in hexadecimal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

from libbpf_shim.errors import ShimError
from libbpf_shim.token.chain import ID_SIZE, KEY_SIZE
from libbpf_shim.token.error import wrong

_MAX_LIST: Final = 1 << 20  # bytes
_LINE = re.compile(rb"[0-9a-f]{%d}\Z" % (2 * ID_SIZE))
# no waiting for the other end of a pipe
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def _bad(path: Path, why: str, code: int = errno.EPERM) -> ShimError:
    return ShimError("TK0003", code, f"{path}: {why}")


def make(path: Path) -> None:
    """A new key; ShimError EEXIST and others of open(2). Its folder is written too."""
    try:
        fd = os.open(path, _NEW | os.O_EXCL, 0o600)
    except OSError as error:
        raise wrong(f"{path}: {error.strerror}", error.errno or errno.EIO) from error
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(os.urandom(KEY_SIZE))
        file.flush()
        os.fsync(fd)


def private(path: Path, flags: int = _READ) -> int:
    """A descriptor of a regular file that is this user's alone. OSError as open(2); ShimError
    EPERM: it is not."""
    fd = os.open(path, flags, 0o600)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise _bad(path, "not a file of this user")
        if found.st_mode & 0o077:
            raise _bad(path, "others may use it: chmod 600")
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(path: Path) -> bytes:
    """The key; ShimError: errors of open(2), EPERM (not this user's alone), EINVAL (no key)."""
    try:
        with open(private(path), "rb") as file:
            key = file.read(KEY_SIZE + 1)
    except OSError as error:
        raise _bad(path, error.strerror or "", error.errno or errno.EIO) from error
    if len(key) != KEY_SIZE:
        raise _bad(path, "not a key", errno.EINVAL)
    return key


def list_of(key: Path) -> Path:
    """Where the revocations of a key stand."""
    return key.with_name(key.name + ".revoked")


def revoke(key: Path, name: bytes) -> bool:
    """Nothing that has this name, or comes of it, is accepted any more. False: it was so before.
    ShimError."""
    read(key)  # only who could mint
    with contextlib.suppress(FileNotFoundError):
        if name in _names(list_of(key)):
            return False
    try:
        with open(private(list_of(key), _NEW | os.O_APPEND), "ab") as file:
            file.write(name.hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _bad(list_of(key), error.strerror or "", error.errno or errno.EIO) from error
    return True


def _names(path: Path) -> frozenset[bytes]:
    with open(private(path), "rb") as file:
        data = file.read(_MAX_LIST + 1)
    lines = data.splitlines()
    if len(data) > _MAX_LIST or not all(_LINE.match(line) for line in lines):
        raise _bad(path, "not a list of revocations")
    return frozenset(bytes.fromhex(line.decode()) for line in lines)


class Revoked:
    """The list of a key, read again when it has changed."""

    def __init__(self, key: Path) -> None:
        self._path = list_of(key)
        self._seen: tuple[int, ...] = ()
        self._names: frozenset[bytes] = frozenset()

    def now(self) -> frozenset[bytes]:
        """What is revoked. ShimError: the list cannot be read, or is none: then nothing may be
        accepted."""
        try:
            found = os.lstat(self._path)
        except FileNotFoundError:
            if self._seen:
                raise _bad(self._path, "it was there, and is gone") from None
            return self._names
        except OSError as error:
            raise _bad(self._path, error.strerror or "") from error
        is_ = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        if is_ != self._seen:
            try:
                self._names = _names(self._path)
            except OSError as error:
                raise _bad(self._path, error.strerror or "") from error
            self._seen = is_
        return self._names
