"""Verdicts and images kept in files: a program that was judged before is not judged again.

The key is a digest of everything that a verdict depends on: the whole Program (instructions with
the descriptors of their maps, contents of frozen maps, BTF and records, types, flags, licence, log
level), the kernel whose BTF is used, the CPU's features, this Python and this code. A file is its
owner's alone, and bears a keyed digest of what is in it: one that another made, changed or cut is
as if it was not there. Least recently used files go when there are too many bytes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import marshal
import os
import stat
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from libbpf_shim.btf.lazy import SYNTHETIC, LazyBtf
from libbpf_shim.jit import tiers
from libbpf_shim.jit.build import Built
from libbpf_shim.jit.image import Image, Reloc, RelocKind
from libbpf_shim.verifier.facts import Facts, Stats, Verdict
from libbpf_shim.verifier.program import Program

_PACKAGE = Path(__file__).resolve().parent.parent
_CODE = ("btf", "isa", "jit", "uapi", "verifier")  # packages that a verdict or image comes from
_DIGEST = 32
_LARGEST = 4 << 20  # bytes of a file
_ALL = 64 << 20  # bytes of all files
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_FORMAT = 1


@functools.cache
def _here() -> bytes:
    """This code, this interpreter, this machine."""
    rows: list[object] = [_FORMAT, sys.version, *os.uname()]
    for folder in _CODE:
        for found in sorted((_PACKAGE / folder).rglob("*")):
            if found.suffix in (".py", ".so"):
                seen = found.stat()
                rows += [str(found.relative_to(_PACKAGE)), seen.st_size, seen.st_mtime_ns]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        rows += [next((line for line in file if line.startswith("flags")), "")]
    return hashlib.blake2b(repr(rows).encode()).digest()


def _plain(value: object) -> Any:
    """The value in what marshal knows. TypeError: it knows no such thing, so nothing is left out
    of a key."""
    if value is None or isinstance(value, bool | int | str | bytes):
        return value
    if isinstance(value, LazyBtf):  # the machine's goes by its kernel's name, which _here() has
        return "synthetic" if value is SYNTHETIC else "machine"
    if is_dataclass(value):
        return tuple(_plain(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, tuple | list):
        return tuple(_plain(one) for one in value)
    if isinstance(value, dict):
        return tuple(sorted((_plain(k), _plain(v)) for k, v in value.items()))
    raise TypeError(f"{type(value).__name__} in a key")


def key(program: Program, tier: int = 1) -> str:
    """What a program's file is called. tier: what compiles it."""
    rows = _plain(program), tiers.name(tier)
    digest = hashlib.blake2b(marshal.dumps(rows), digest_size=_DIGEST, key=_here())
    return digest.hexdigest()


def _pack(built: Built) -> bytes:
    verdict, image, facts = built.verdict, built.image, built.verdict.facts
    row: tuple[Any, ...] = (
        verdict.errno, verdict.log, _values(verdict.stats), facts and _values(facts),
        image and (image.text, [(r.offset, r.kind.value, r.symbol, r.addend)
                                for r in image.relocs], *_values(image)[2:]),
    )
    return marshal.dumps(row)


def _values(value: Stats | Facts | Image) -> tuple[Any, ...]:
    return tuple(getattr(value, field.name) for field in fields(value))


def _unpack(data: bytes) -> Built:
    code, log, stats, facts, image = marshal.loads(data)
    verdict = Verdict(code, log, Stats(*stats), Facts(*facts) if facts else None)
    if not image:
        return Built(verdict, None, 0)
    text, relocs, *rest = image
    found = tuple(Reloc(at, RelocKind(kind), name, add) for at, kind, name, add in relocs)
    return Built(verdict, Image(text, found, *rest), 0)


class Kept:
    """The files of one folder, which is its owner's alone. What cannot be read or written is not
    kept: a full disk or a strange file is nobody's error."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written = _ALL  # so that the first file is a reason to look how many there are
        self._secret = b""

    def get(self, name: str) -> Built | None:
        """What was put there; None: nothing, or nothing that can be trusted."""
        data = self._read(name)
        if data is None:
            return None
        digest, content = data[:_DIGEST], data[_DIGEST:]
        if not hmac.compare_digest(digest, self._sign(name, content)):
            return None
        with contextlib.suppress(OSError):
            os.utime(self._folder / name)
        return _unpack(content)

    def put(self, name: str, built: Built) -> None:
        content = _pack(built)
        if len(content) > _LARGEST:
            return
        aside = self._folder / f"{name}.{os.getpid()}"
        try:
            self._write(aside, self._sign(name, content) + content)
            os.rename(aside, self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            return
        self._written += len(content)
        if self._written > _ALL // 8:
            self._make_room()

    def _read(self, name: str) -> bytes | None:
        try:
            fd = os.open(self._folder / name, _READ)
        except OSError:
            return None
        with open(fd, "rb") as file:
            seen = os.fstat(fd)
            mine = seen.st_uid == os.geteuid() and not seen.st_mode & 0o077
            if not mine or not stat.S_ISREG(seen.st_mode) or seen.st_size > 2 * _LARGEST:
                return None
            return file.read()

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        with open(os.open(path, _MAKE, 0o600), "wb") as file:
            file.write(data)

    def _sign(self, name: str, content: bytes) -> bytes:
        if not self._secret:
            self._secret = self._take_secret()
        digest = hashlib.blake2b(name.encode(), digest_size=_DIGEST, key=self._secret)
        digest.update(content)
        return digest.digest()

    def _take_secret(self) -> bytes:
        """The folder's, made by whoever comes first; where it cannot be had, one of this process:
        then nothing that others wrote is believed."""
        for _ in range(2):
            found = self._read("secret")
            if found and len(found) == _DIGEST:
                return found
            made = os.urandom(_DIGEST)
            aside = self._folder / f"secret.{os.getpid()}"
            with contextlib.suppress(OSError):
                self._write(aside, made)
                try:
                    os.link(aside, self._folder / "secret")
                finally:
                    os.unlink(aside)
        return os.urandom(_DIGEST)

    def _make_room(self) -> None:
        self._written = 0
        with contextlib.suppress(OSError):
            files = [(seen.st_mtime, seen.st_size, found.path) for found in
                     os.scandir(self._folder) if len(found.name) >= 2 * _DIGEST
                     and (seen := found.stat(follow_symlinks=False))]
            left = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if left <= _ALL:
                    return
                os.unlink(path)
                left -= size
