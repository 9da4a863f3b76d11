"""A BTF blob as a table of types, decoded on demand.

Ids, sizes and offsets as in the blob: ids count from 1 (0 is void), sizes are bytes, member
offsets bits. Split BTF continues the ids and strings of its base. Parsing assumes a blob that
`check` accepts; it does not judge.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from . import kinds


@dataclass(frozen=True, slots=True)
class Member:
    """A member, parameter, enumerator or section variable.

    type: its type id (0 for enumerators). offset: bits from the start (members), bytes (section
    variables). bits: width of a bit field, else 0. value: of an enumerator. size: section
    variables, bytes.
    """

    name: str
    type: int
    offset: int = 0
    bits: int = 0
    value: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Type:
    """One type. ref: the type it refers to (pointers, modifiers, FUNC, VAR, DECL_TAG, element of
    an ARRAY, result of a FUNC_PROTO). size: bytes where the kind has one. nelems: of an ARRAY.
    extra: INT encoding word, linkage of FUNC and VAR, component index of DECL_TAG, index type of
    ARRAY, 1 for a FWD of a union and for enumerators that are signed."""

    id: int
    kind: int
    name: str
    size: int = 0
    ref: int = 0
    nelems: int = 0
    extra: int = 0
    members: tuple[Member, ...] = ()


class Btf:
    """A parsed blob. base: for split BTF, what its ids and strings continue."""

    def __init__(self, blob: bytes, base: Btf | None = None) -> None:
        self.blob = blob
        self.base = base
        _, _, _, hdr_len, type_off, type_len, str_off, str_len = struct.unpack_from(
            "<HBBIIIII", blob
        )
        self._types = hdr_len + type_off
        self._end = self._types + type_len
        self.strings = blob[hdr_len + str_off : hdr_len + str_off + str_len]
        self.first_id = base.end_id if base else 1
        self.first_string = base.end_string if base else 0
        self._offsets = self._scan()
        self._by_name: dict[int, list[int]] | None = None
        self._known: dict[int, Type] = {}
        self._found: dict[str, list[int]] = {}

    @property
    def end_id(self) -> int:
        """One past the last id."""
        return self.first_id + len(self._offsets)

    @property
    def end_string(self) -> int:
        """String offset at which a split BTF on this one starts."""
        return self.first_string + len(self.strings)

    def _scan(self) -> list[int]:
        offsets = []
        at, end, unpack = self._types, self._end, struct.Struct("<I").unpack_from
        fixed = [kinds.FIXED.get(k, 0) for k in range(32)]
        each = [kinds.EACH.get(k, 0) for k in range(32)]
        while at < end:
            offsets.append(at)
            info: int = unpack(self.blob, at + 4)[0]
            kind = (info >> 24) & 0x1F
            at += 12 + fixed[kind] + each[kind] * (info & 0xFFFF)
        return offsets

    def string(self, offset: int) -> str:
        """The string at an offset of a type's name_off."""
        if offset < self.first_string and self.base:
            return self.base.string(offset)
        at = offset - self.first_string
        return self.strings[at : self.strings.index(0, at)].decode(errors="replace")

    def type(self, type_id: int) -> Type:
        """The type with an id. Raises KeyError for void and ids outside."""
        if type_id < self.first_id and self.base:
            return self.base.type(type_id)
        if (found := self._known.get(type_id)) is None:
            found = self._known[type_id] = self._decode(type_id, self.offset(type_id))
        return found

    def offset(self, type_id: int) -> int:
        """Where in the blob the type starts. Raises KeyError."""
        index = type_id - self.first_id
        if type_id == 0 or not 0 <= index < len(self._offsets):
            raise KeyError(type_id)
        return self._offsets[index]

    def _decode(self, type_id: int, at: int) -> Type:
        name_off, info, word = struct.unpack_from("<III", self.blob, at)
        kind, vlen, kflag = kinds.kind_of(info), kinds.vlen_of(info), kinds.kflag_of(info)
        name, at = self.string(name_off), at + kinds.TYPE_SIZE
        if kind in kinds.COMPOSITE:
            rows = self._fields(at, vlen, kflag)
            return Type(type_id, kind, name, size=word, extra=int(kflag), members=rows)
        if kind in (kinds.ENUM, kinds.ENUM64):
            rows = self._enum(at, kind, vlen, kflag)
            return Type(type_id, kind, name, size=word, extra=int(kflag), members=rows)
        if kind == kinds.ARRAY:
            element, index, nelems = struct.unpack_from("<III", self.blob, at)
            return Type(type_id, kind, name, ref=element, nelems=nelems, extra=index)
        if kind == kinds.FUNC_PROTO:
            pairs = struct.iter_unpack("<II", self.blob[at : at + 8 * vlen])
            params = tuple(Member(self.string(n), t) for n, t in pairs)
            return Type(type_id, kind, name, ref=word, members=params)
        if kind == kinds.DATASEC:
            placed = struct.iter_unpack("<III", self.blob[at : at + 12 * vlen])
            variables = tuple(Member("", t, offset=o, size=s) for t, o, s in placed)
            return Type(type_id, kind, name, size=word, members=variables)
        if kind in (kinds.INT, kinds.FLOAT):
            extra = struct.unpack_from("<I", self.blob, at)[0] if kind == kinds.INT else 0
            return Type(type_id, kind, name, size=word, extra=extra)
        if kind in (kinds.VAR, kinds.DECL_TAG):
            extra = struct.unpack_from("<i", self.blob, at)[0]
            return Type(type_id, kind, name, ref=word, extra=extra)
        if kind == kinds.FUNC:
            return Type(type_id, kind, name, ref=word, extra=vlen)
        if kind == kinds.FWD:
            return Type(type_id, kind, name, extra=int(kflag))
        return Type(type_id, kind, name, ref=word)

    def _fields(self, at: int, vlen: int, kflag: bool) -> tuple[Member, ...]:
        rows = struct.iter_unpack("<III", self.blob[at : at + 12 * vlen])
        if kflag:
            return tuple(Member(self.string(n), t, o & 0xFFFFFF, o >> 24) for n, t, o in rows)
        return tuple(Member(self.string(n), t, o) for n, t, o in rows)

    def _enum(self, at: int, kind: int, vlen: int, signed: bool) -> tuple[Member, ...]:
        if kind == kinds.ENUM:
            form = "<Ii" if signed else "<II"
            rows = struct.iter_unpack(form, self.blob[at : at + 8 * vlen])
            return tuple(Member(self.string(n), 0, value=v) for n, v in rows)
        wide = struct.iter_unpack("<Iq" if signed else "<IQ", self.blob[at : at + 12 * vlen])
        return tuple(Member(self.string(n), 0, value=v) for n, v in wide)

    def __iter__(self) -> Iterator[Type]:
        for index, at in enumerate(self._offsets):
            yield self._decode(self.first_id + index, at)

    def ids(self, name: str, flavors: bool = False) -> list[int]:
        """Ids of the types of that name, ascending, not those of the base. flavors: also NAME___x,
        as CO-RE calls variants of one type."""
        if self._by_name is None:
            self._by_name = {}
            unpack = struct.Struct("<I").unpack_from
            for type_id, at in enumerate(self._offsets, self.first_id):
                if offset := unpack(self.blob, at)[0]:
                    self._by_name.setdefault(offset, []).append(type_id)
        found: list[int] = []
        wanted = [name.encode() + b"\0"]
        if flavors:
            wanted.append(name.encode() + b"___")
        for text in wanted:
            at = self.strings.find(text)
            while at >= 0:
                found += self._by_name.get(at + self.first_string, ())
                at = self.strings.find(text, at + 1)
        return sorted(found)

    def find(self, name: str, *wanted: int) -> Type | None:
        """First type of that name and one of the kinds (any, if none is given), or None."""
        ids = self._found.get(name)
        if ids is None:
            ids = self._found[name] = self.ids(name)
        for type_id in ids:
            found = self.type(type_id)
            if not wanted or found.kind in wanted:
                return found
        return self.base.find(name, *wanted) if self.base else None

    def strip(self, type_id: int) -> Type | None:
        """The type behind typedefs and qualifiers; None for void. Raises KeyError."""
        while type_id:
            found = self.type(type_id)
            if found.kind not in kinds.MODIFIERS:
                return found
            type_id = found.ref
        return None

    def sizeof(self, type_id: int) -> int:
        """Size in bytes. Raises KeyError for void, functions and forward declarations."""
        found = self.strip(type_id)
        if found is None or found.kind in (kinds.FUNC, kinds.FUNC_PROTO, kinds.FWD):
            raise KeyError(type_id)
        if found.kind == kinds.PTR:
            return 8
        if found.kind == kinds.ARRAY:
            return found.nelems * self.sizeof(found.ref)
        if found.kind in (kinds.VAR, kinds.DECL_TAG):
            return self.sizeof(found.ref)
        return found.size
