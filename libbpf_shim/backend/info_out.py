"""What OBJ_GET_INFO_BY_FD is given and answers: a structure whose pointers lead to more."""

from __future__ import annotations

import errno

from libbpf_shim.backend.wire import SEG_NESTED, BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr, Struct
from libbpf_shim.uapi.structs import Fields

_PAGE = 4096


class Given:
    """The caller's structure, to be filled in. out: what goes through its pointers. error: told
    although everything is filled in."""

    def __init__(self, request: BpfRequest, attr: Attr) -> None:
        self._request, self._attr = request, attr
        self._bytes = b""
        self.what = Struct({}, 0)
        self.out: list[tuple[int, int, bytes]] = []
        self.error: ShimError | None = None

    def begin(self, fields: Fields, size: int) -> None:
        """It is a structure of those fields. E2BIG: it has more in it, or is too large; EFAULT."""
        length = self._attr["info_len"]
        if length and length <= _PAGE:
            self._bytes = self._request.bytes_at(self._attr.offset("info"))
        if length > _PAGE or any(self._bytes[size:]):
            raise ShimError("BI0001", errno.E2BIG, "information: bytes behind what is known")
        self.what = Struct(fields, size, self._bytes)

    def through(self, pointer: str, data: bytes, room: int) -> None:
        """At most `room` bytes of data through a pointer; EFAULT if it is NULL."""
        cut = data[:room]
        if not cut:
            return
        where = self.what.fields[pointer][0] | SEG_NESTED
        if not self._request.room(where):
            raise ShimError("BI0004", errno.EFAULT, f"information: {pointer} is NULL")
        self.out.append((where, 0, cut))

    def reply(self) -> BpfReply:
        """The structure as far as the caller's reaches, its size, and the rest."""
        size = min(len(self._bytes), len(self.what.data))
        whole = [(self._attr.offset("info"), 0, bytes(self.what.data[:size]))] if size else []
        length = self._attr.offset("info_len"), size.to_bytes(4, "little")
        return BpfReply(out=whole + self.out, attr=length)
