"""Pointers to bytes whose number another field of the same structure has: `bytes` of an interface.

    bytes:
    - {type: struct text, pointer: data, length: len, most: 4096}

Wherever an object holds a structure of that type, what the pointer leads to may be read, as far
as the length says when that is done, and never further than `most`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.eim import ctype
from libbpf_shim.eim.ctype import NUMBER, POINTER

MOST = (1 << 24) - 1  # bytes: what the run-time check is told in 24 bits
FAR = 1 << 16  # offsets below that, in 16
WAY = 3  # pointers between the entry's argument and the object


@dataclass(frozen=True, slots=True)
class Declared:
    """type_id: of the structure. pointer, length: offsets in it; size, signed: of the length, in
    bytes."""

    type_id: int
    pointer: int
    length: int
    size: int
    signed: bool
    most: int
    length_name: str


def declared(row: dict[str, Any], btf: Btf) -> Declared:
    """One row of `bytes`. ValueError: what is wrong with it."""
    type, name = ctype.declared(row["type"], btf, True)
    found = btf.strip(type.id) if type.id and not name else None
    if found is None or found.kind != kinds.STRUCT:
        raise ValueError(f"{row['type']} is no structure")
    at, what = _field(btf, found, row["pointer"])
    if what.kind != POINTER or _bytes_behind(btf, what) != 1:
        raise ValueError(f"{row['pointer']}: {what.words} is no pointer to bytes (char)")
    length, number = _field(btf, found, row["length"])
    if number.kind != NUMBER or number.size not in (1, 2, 4, 8):
        raise ValueError(f"{row['length']}: {number.words} is no number")
    if row["most"] > MOST:
        raise ValueError(f"most: {row['most']}, {MOST} at most")
    return Declared(found.id, at, length, number.size, number.signed, row["most"], row["length"])


def _bytes_behind(btf: Btf, pointer: ctype.CType) -> int:
    """Of the number that it points to; 0: it is none."""
    leads = ctype.of(btf, pointer.target) if pointer.target else ctype.VOID_TYPE
    return leads.size if leads.kind == NUMBER else 0


def _field(btf: Btf, found: Type, path: str) -> tuple[int, ctype.CType]:
    """Offset in bytes and type of FIELD.FIELD. ValueError."""
    off, inside = 0, found
    type = ctype.VOID_TYPE
    for part in path.split("."):
        row = next((m for m in inside.members if m.name == part), None)
        if inside.kind not in kinds.COMPOSITE or row is None:
            raise ValueError(f"{path}: {ctype.words(btf, inside.id)} has no field {part}")
        if row.bits:
            raise ValueError(f"{path}: a bit field")
        off, type = off + row.offset // 8, ctype.of(btf, row.type)
        inside = btf.strip(row.type) or inside
    return off, type


def enclosing(btf: Btf, type_id: int, off: int, base: int = 0) -> Iterator[tuple[int, int]]:
    """Structures that the byte at off of a type lies in: (type, offset of its beginning), from the
    outermost on."""
    found = btf.strip(type_id)
    if found is None:
        return
    if found.kind == kinds.ARRAY:
        each = ctype.sized(btf, found.ref)
        if each and off - base < each * found.nelems:
            yield from enclosing(btf, found.ref, off, base + (off - base) // each * each)
    elif found.kind in kinds.COMPOSITE:
        yield found.id, base
        for row in found.members:
            start = base + row.offset // 8
            if not row.bits and start <= off < start + ctype.sized(btf, row.type):
                yield from enclosing(btf, row.type, off, start)
