"""Files in which something is kept between backends: found again only as it was written.

A file is its owner's alone, and bears a keyed digest of what is in it: one that another made,
changed or cut is as if it was not there. Least recently used files go when there are too many
bytes. What cannot be read or written is not kept: a full disk or a strange file is nobody's error.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from libbpf_shim.compiled import PACKAGE

DIGEST = 32
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def sources(packages: Iterable[str]) -> list[object]:
    """What tells this code and this interpreter from others: of packages of ours, every file's
    size and time."""
    rows: list[object] = [sys.version]
    folders = [f"{PACKAGE}/{package}" for package in packages]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as found:
            for one in sorted(found, key=lambda entry: entry.name):
                if one.is_dir():
                    folders += [one.path] if one.name != "__pycache__" else []
                elif one.name.endswith((".py", ".so")):
                    seen = one.stat()
                    rows += [one.path, seen.st_size, seen.st_mtime_ns]
    return rows


class Files:
    """The files of one folder, which is its owner's alone. Names are digests in hexadecimal.
    largest, most: bytes of one file, of all."""

    def __init__(self, folder: Path, largest: int, most: int) -> None:
        self._folder, self._largest, self._most = folder, largest, most
        self._written = most  # so that the first file is a reason to look how many there are
        self._secret = b""

    def read(self, name: str) -> bytes | None:
        """What was put there; None: nothing, or nothing that can be trusted."""
        data = self._read(name)
        if data is None:
            return None
        digest, content = data[:DIGEST], data[DIGEST:]
        if not hmac.compare_digest(digest, self._sign(name, content)):
            return None
        with contextlib.suppress(OSError):
            os.utime(self._folder / name)
        return content

    def write(self, name: str, content: bytes) -> None:
        """In place of what was there, whole or not at all."""
        if len(content) > self._largest:
            return
        aside = self._folder / f"{name}.{os.getpid()}"
        try:
            self._make(aside, self._sign(name, content) + content)
            os.rename(aside, self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            return
        self._written += len(content)
        if self._written > self._most // 8:
            self._make_room()

    def _read(self, name: str) -> bytes | None:
        try:
            fd = os.open(self._folder / name, _READ)
        except OSError:
            return None
        with open(fd, "rb") as file:
            seen = os.fstat(fd)
            mine = seen.st_uid == os.geteuid() and not seen.st_mode & 0o077
            if not mine or not stat.S_ISREG(seen.st_mode) or seen.st_size > 2 * self._largest:
                return None
            return file.read()

    @staticmethod
    def _make(path: Path, data: bytes) -> None:
        with open(os.open(path, _MAKE, 0o600), "wb") as file:
            file.write(data)

    def _sign(self, name: str, content: bytes) -> bytes:
        if not self._secret:
            self._secret = self._take_secret()
        digest = hashlib.blake2b(name.encode(), digest_size=DIGEST, key=self._secret)
        digest.update(content)
        return digest.digest()

    def _take_secret(self) -> bytes:
        """The folder's, made by whoever comes first; where it cannot be had, one of this process:
        then nothing that others wrote is believed."""
        for _ in range(2):
            found = self._read("secret")
            if found and len(found) == DIGEST:
                return found
            made = os.urandom(DIGEST)
            aside = self._folder / f"secret.{os.getpid()}"
            with contextlib.suppress(OSError):
                self._make(aside, made)
                try:
                    os.link(aside, self._folder / "secret")
                finally:
                    os.unlink(aside)
        return os.urandom(DIGEST)

    def _make_room(self) -> None:
        self._written = 0
        with contextlib.suppress(OSError):
            files = [(seen.st_mtime, seen.st_size, found.path) for found in
                     os.scandir(self._folder) if len(found.name) >= 2 * DIGEST
                     and (seen := found.stat(follow_symlinks=False))]
            left = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if left <= self._most:
                    return
                os.unlink(path)
                left -= size
