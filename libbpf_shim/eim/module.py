"""An interface as loaders find it: the BTF of a module, split on the session's own.

It has a FUNC of each host function and a VAR of each variable, under the names that programs use,
and the types that those lead to; nothing else of the application's, so that no extern is anything
else. libbpf resolves `__ksym` externs by it as it does by the BTF of the kernel's modules.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
from libbpf_shim.eim.interface import Interface

_WORD = struct.Struct("<I")
# Kinds whose third word is a type.
_REFERS = frozenset((kinds.PTR, kinds.TYPEDEF, kinds.VOLATILE, kinds.CONST, kinds.RESTRICT,
                     kinds.FUNC, kinds.FUNC_PROTO, kinds.VAR, kinds.DECL_TAG, kinds.TYPE_TAG))


@dataclass(frozen=True, slots=True)
class Module:
    """blob: split BTF. known: of its functions and variables, the id in the interface's own."""

    blob: bytes
    known: dict[int, int] = field(default_factory=dict)


def of(interface: Interface, base: Btf) -> Module:
    """The module of an interface on that base."""
    return _Module(interface.btf, base).make(_roots(interface))


def _roots(interface: Interface) -> dict[int, int]:
    """What programs may name, by id in the interface's BTF; and by what id a class has it, which
    is the first of the name. A function's last is the one that the interface itself declares."""
    btf, found = interface.btf, {}
    for name in interface.functions:
        ids = [i for i in btf.ids(name) if btf.type(i).kind == kinds.FUNC]
        found[ids[-1]] = ids[0]
    for name in interface.state:
        variable = btf.find(name, kinds.VAR)
        assert variable
        found[variable.id] = variable.id
    return found


def _words(kind: int, vlen: int) -> tuple[list[int], list[int]]:
    """Offsets of the names and of the type ids behind a type's header."""
    each = kinds.EACH.get(kind, 0)
    starts = [kinds.TYPE_SIZE + each * n for n in range(vlen)] if each else []
    if kind == kinds.ARRAY:
        return [], [kinds.TYPE_SIZE, kinds.TYPE_SIZE + 4]
    if kind in kinds.COMPOSITE or kind == kinds.FUNC_PROTO:
        return starts, [at + 4 for at in starts]
    if kind in (kinds.ENUM, kinds.ENUM64):
        return starts, []
    return [], starts if kind == kinds.DATASEC else []


class _Module:
    def __init__(self, btf: Btf, base: Btf) -> None:
        self._btf, self._base = btf, base
        self._ids: dict[int, int] = {}
        self._strings = bytearray(b"" if base.end_string else b"\0")
        self._offsets: dict[str, int] = {}

    def make(self, wanted: dict[int, int]) -> Module:
        reached: set[int] = set()
        left = list(wanted)
        while left:
            number = left.pop()
            if number and number not in reached:
                reached.add(number)
                left += self._refers(number)
        self._ids = {number: self._base.end_id + n for n, number in enumerate(sorted(reached))}
        types = b"".join(self._moved(number) for number in sorted(reached))
        blob = struct.pack("<HBBIIIII", kinds.MAGIC, kinds.VERSION, 0, kinds.HEADER_SIZE, 0,
                           len(types), len(types), len(self._strings)) + types
        return Module(blob + bytes(self._strings), {self._ids[n]: of for n, of in wanted.items()})

    def _raw(self, number: int) -> tuple[bytearray, int, int]:
        """The type's bytes, its kind and vlen."""
        at = self._btf.offset(number)
        info = _WORD.unpack_from(self._btf.blob, at + 4)[0]
        size = kinds.TYPE_SIZE + kinds.trailer_size(info)
        return (bytearray(self._btf.blob[at : at + size]), kinds.kind_of(info),
                kinds.vlen_of(info))

    def _places(self, kind: int, vlen: int) -> tuple[list[int], list[int]]:
        names, ids = _words(kind, vlen)
        return [0, *names], [8, *ids] if kind in _REFERS else ids

    def _refers(self, number: int) -> list[int]:
        raw, kind, vlen = self._raw(number)
        return [_WORD.unpack_from(raw, at)[0] for at in self._places(kind, vlen)[1]]

    def _moved(self, number: int) -> bytes:
        raw, kind, vlen = self._raw(number)
        names, ids = self._places(kind, vlen)
        for at in names:
            _WORD.pack_into(raw, at, self._string(_WORD.unpack_from(raw, at)[0]))
        for at in ids:
            if other := _WORD.unpack_from(raw, at)[0]:
                _WORD.pack_into(raw, at, self._ids[other])
        return bytes(raw)

    def _string(self, offset: int) -> int:
        text = self._btf.string(offset)
        if not text:
            return 0
        if text not in self._offsets:
            self._offsets[text] = self._base.end_string + len(self._strings)
            self._strings += text.encode() + b"\0"
        return self._offsets[text]
