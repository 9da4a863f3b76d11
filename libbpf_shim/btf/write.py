"""Writing BTF: types are appended in order, ids are handed out as the blob will have them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from . import kinds

SIGNED, BOOL = 1, 4  # BTF_INT_SIGNED, BTF_INT_BOOL


class Writer:
    """Collects types and strings. first_id, first_string: what a split blob continues."""

    def __init__(self, first_id: int = 1, first_string: int = 0) -> None:
        self._types = bytearray()
        self._strings = bytearray() if first_string else bytearray(b"\0")
        self._offsets: dict[str, int] = {}
        self._first_string = first_string
        self._next = first_id

    @property
    def next_id(self) -> int:
        """Id of the next type."""
        return self._next

    def string(self, text: str) -> int:
        """Offset of a string, added once."""
        if not text:
            return 0
        if text not in self._offsets:
            self._offsets[text] = self._first_string + len(self._strings)
            self._strings += text.encode() + b"\0"
        return self._offsets[text]

    def _add(self, name: str, kind: int, word: int, vlen: int = 0, trailer: bytes = b"") -> int:
        info = kind << 24 | vlen
        self._types += struct.pack("<III", self.string(name), info, word) + trailer
        self._next += 1
        return self._next - 1

    def integer(self, name: str, size: int, encoding: int = 0) -> int:
        """An integer of size bytes; encoding: SIGNED, BOOL or 0."""
        return self._add(
            name, kinds.INT, size, trailer=struct.pack("<I", encoding << 24 | size * 8)
        )

    def floating(self, name: str, size: int) -> int:
        """A floating-point number of size bytes."""
        return self._add(name, kinds.FLOAT, size)

    def fields(
        self, name: str, size: int, members: Sequence[tuple[str, int, int, int]], kind: int,
    ) -> int:
        """A STRUCT or UNION of size bytes; members: (name, type id, offset in bits, width of a
        bit field or 0)."""
        flag = any(width for _, _, _, width in members)
        trailer = b"".join(
            struct.pack("<III", self.string(n), t, width << 24 | at if flag else at)
            for n, t, at, width in members
        )
        return self._add(name, kind, size, len(members) | flag << 31, trailer=trailer)

    def variable(self, name: str, target: int, linkage: int = 1) -> int:
        """A variable; linkage: BTF_VAR_STATIC 0, GLOBAL_ALLOCATED 1, GLOBAL_EXTERN 2."""
        return self._add(name, kinds.VAR, target, trailer=struct.pack("<I", linkage))

    def ref(self, kind: int, target: int, name: str = "") -> int:
        """PTR, TYPEDEF, VOLATILE, CONST, RESTRICT or TYPE_TAG of another type (0: void)."""
        return self._add(name, kind, target)

    def array(self, element: int, index: int, nelems: int) -> int:
        """nelems elements, indexed by an integer type."""
        return self._add("", kinds.ARRAY, 0, trailer=struct.pack("<III", element, index, nelems))

    def struct(
        self,
        name: str,
        size: int,
        members: Sequence[tuple[str, int, int]],
        kind: int = kinds.STRUCT,
    ) -> int:
        """size in bytes; members: (name, type id, offset in bytes)."""
        trailer = b"".join(
            struct.pack("<III", self.string(n), t, offset * 8) for n, t, offset in members
        )
        return self._add(name, kind, size, len(members), trailer=trailer)

    def fwd(self, name: str) -> int:
        """struct name; without a body."""
        return self._add(name, kinds.FWD, 0)

    def enum(self, name: str, members: Sequence[tuple[str, int]], size: int = 4) -> int:
        """An enumeration of size bytes, signed if some member is below zero (kind_flag)."""
        trailer = b"".join(struct.pack("<II", self.string(n), v & 0xFFFFFFFF) for n, v in members)
        signed = any(v < 0 for _, v in members)
        return self._add(name, kinds.ENUM | signed << 7, size, len(members), trailer=trailer)

    def proto(self, result: int, params: Sequence[tuple[str, int]]) -> int:
        """A function type."""
        trailer = b"".join(struct.pack("<II", self.string(n), t) for n, t in params)
        return self._add("", kinds.FUNC_PROTO, result, len(params), trailer=trailer)

    def func(self, name: str, proto: int, linkage: int = 1) -> int:
        """A function; linkage: BTF_FUNC_STATIC 0, GLOBAL 1, EXTERN 2."""
        return self._add(name, kinds.FUNC, proto, linkage)

    def decl_tag(self, text: str, target: int, part: int = -1) -> int:
        """A tag of a type, or of the member or parameter of that number."""
        return self._add(text, kinds.DECL_TAG, target, trailer=struct.pack("<i", part))

    def blob(self) -> bytes:
        """The finished BTF."""
        header = struct.pack(
            "<HBBIIIII",
            kinds.MAGIC,
            kinds.VERSION,
            0,
            kinds.HEADER_SIZE,
            0,
            len(self._types),
            len(self._types),
            len(self._strings),
        )
        return header + bytes(self._types) + bytes(self._strings)
