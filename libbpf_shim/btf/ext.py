"""The .BTF.ext section: function, line and CO-RE records by section (linux/btf.h, btf_ext of
libbpf 1.1). It names sections and types by the strings and ids of the .BTF beside it."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from libbpf_shim.btf import kinds
from libbpf_shim.btf.core_relo import Relo
from libbpf_shim.btf.parse import Btf
from libbpf_shim.errors import ShimError

_HEADER = struct.Struct("<HBBI")
_INFO = struct.Struct("<II")
_RELO = struct.Struct("<IIII")
_FUNC_MIN, _LINE_MIN, _RELO_MIN = 8, 16, 16  # bytes of bpf_func_info, bpf_line_info


@dataclass(frozen=True, slots=True)
class Info:
    """Records of one kind. size: bytes of each; sections: (name, records end to end)."""

    size: int = 0
    sections: tuple[tuple[str, bytes], ...] = ()

    def of(self, section: str) -> list[bytes]:
        """Each part that belongs to a section."""
        return [data for name, data in self.sections if name == section]


def refuse(why: str) -> ShimError:
    return ShimError("BT0003", errno.EINVAL, f"BTF.ext: malformed: {why}")


class BtfExt:
    """func, line: raw records; relos: section name and its CO-RE relocations, as they come."""

    def __init__(self, blob: bytes, btf: Btf) -> None:
        self._blob, self._btf = blob, btf
        if len(blob) < 24:
            raise refuse(f"{len(blob)} bytes")
        magic, version, flags, self._start = _HEADER.unpack_from(blob)
        if magic != kinds.MAGIC or version != kinds.VERSION or flags:
            raise refuse(f"magic {magic:#x}, version {version}, flags {flags}")
        if not 24 <= self._start <= len(blob):
            raise refuse(f"header of {self._start} bytes")
        self.func = self._info(8, _FUNC_MIN)
        self.line = self._info(16, _LINE_MIN)
        core = self._info(24, _RELO_MIN) if self._start >= 32 else Info()
        self.relos = [(name, [self._relo(core.size, data, at)
                              for at in range(0, len(data), core.size)])
                      for name, data in core.sections]

    def _relo(self, size: int, data: bytes, at: int) -> Relo:
        insn, type_id, access, kind = _RELO.unpack_from(data, at)
        return Relo(insn, type_id, self._string(access), kind)

    def _string(self, offset: int) -> str:
        if offset >= self._btf.end_string:
            raise refuse(f"string {offset} is not there")
        return self._btf.string(offset)

    def _info(self, header: int, least: int) -> Info:
        offset, size = _INFO.unpack_from(self._blob, header)
        if not size:
            return Info()
        start = self._start + offset
        data = self._blob[start : start + size]
        if len(data) < size or size < 4:
            raise refuse(f"{size} bytes at {start} of {len(self._blob)}")
        record = struct.unpack_from("<I", data)[0]
        if record < least or record & 3:
            raise refuse(f"records of {record} bytes")
        found, at = [], 4
        while at < size:
            if at + 8 > size:
                raise refuse("a section is cut off")
            name, count = struct.unpack_from("<II", data, at)
            end = at + 8 + count * record
            if not count or end > size:
                raise refuse(f"{count} records of {record} bytes in {size}")
            found.append((self._string(name), data[at + 8 : end]))
            at = end
        return Info(record, tuple(found))
