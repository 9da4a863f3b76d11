"""Verdicts and images kept in files: a program that was judged before is not judged again.

The key is a digest of everything that a verdict depends on: the whole Program (instructions with
the descriptors of their maps, contents of frozen maps, BTF and records, types, flags, licence, log
level), the kernel whose BTF is used, the CPU's features, this Python and this code. How they are
trusted is libbpf_shim/keep.py's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import marshal
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from libbpf_shim.btf.lazy import SYNTHETIC, LazyBtf
from libbpf_shim.jit import tiers
from libbpf_shim.jit.build import Built
from libbpf_shim.jit.image import Image, Reloc, RelocKind
from libbpf_shim.keep import DIGEST, Files, sources
from libbpf_shim.verifier.facts import Facts, Stats, Verdict
from libbpf_shim.verifier.program import Program

_CODE = ("btf", "isa", "jit", "uapi", "verifier")  # packages that a verdict or image comes from
_LARGEST = 4 << 20  # bytes of a file
_ALL = 64 << 20  # bytes of all files
_FORMAT = 2
_ACCEPTED = marshal.dumps(())  # what is kept of BTF, and no verdict on a program


@functools.cache
def _here() -> bytes:
    """This code, this interpreter, this machine."""
    rows: list[object] = [_FORMAT, *os.uname(), *sources(_CODE)]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        rows += [next((line for line in file if line.startswith("flags")), "")]
    return hashlib.blake2b(repr(rows).encode()).digest()


_AS_IT_IS = frozenset((type(None), bool, int, str, bytes))


def _plain(value: object) -> Any:
    """The value in what marshal knows. TypeError: it knows no such thing, so nothing is left out
    of a key."""
    if type(value) in _AS_IT_IS or isinstance(value, bool | int | str | bytes):
        return value
    if isinstance(value, LazyBtf):  # the machine's goes by its kernel's name, which _here() has
        return "synthetic" if value is SYNTHETIC else "machine"
    if names := getattr(type(value), "__dataclass_fields__", None):
        return tuple([one if type(one := getattr(value, name)) in _AS_IT_IS else _plain(one)
                      for name in names])
    if isinstance(value, tuple | list):
        return tuple([one if type(one) in _AS_IT_IS else _plain(one) for one in value])
    if isinstance(value, dict):
        return tuple(sorted((_plain(k), _plain(v)) for k, v in value.items()))
    raise TypeError(f"{type(value).__name__} in a key")


def key(program: Program, tier: int = 1) -> str:
    """What a program's file is called. tier: what compiles it."""
    rows = _plain(program), tiers.name(tier)
    digest = hashlib.blake2b(marshal.dumps(rows), digest_size=DIGEST, key=_here())
    return digest.hexdigest()


def _types_key(blob: bytes) -> str:
    digest = hashlib.blake2b(blob, digest_size=DIGEST, key=_here(), person=b"BTF")
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
    """The files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._files = Files(folder, _LARGEST, _ALL)

    def get(self, name: str) -> Built | None:
        """What was put there; None: nothing, or nothing that can be trusted."""
        content = self._files.read(name)
        return None if content is None else _unpack(content)

    def put(self, name: str, built: Built) -> None:
        self._files.write(name, _pack(built))

    def accepts(self, blob: bytes) -> bool:
        """BTF that was accepted, which depends on nothing but itself."""
        return self._files.read(_types_key(blob)) is not None

    def accept(self, blob: bytes) -> None:
        self._files.write(_types_key(blob), _ACCEPTED)
