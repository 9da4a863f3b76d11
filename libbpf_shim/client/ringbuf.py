"""Reading a BPF ring buffer: records straight from the map's memory (kernel/bpf/ringbuf.c)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any, Final

from libbpf_shim.client.map import BaseMap
from libbpf_shim.client.values import Codec
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import bpf_map_type

_PAGE: Final = 4096
_HDR: Final = 8  # bytes: BPF_RINGBUF_HDR_SZ
_BUSY, _DISCARD = 1 << 31, 1 << 30


class RingBuffer:
    """The reader of a RINGBUF map; a map has one. codec: how records are read, bytes without one.

    Iterating waits for records without end; `poll` gives those that are there. ShimError EINVAL:
    the map is none.
    """

    def __init__(self, ring: BaseMap, codec: Codec | None = None) -> None:
        from libbpf_shim._native import ffi

        if ring.type != bpf_map_type.BPF_MAP_TYPE_RINGBUF:
            raise ShimError("CE0002", errno.EINVAL, f"map {ring.name}: no ring buffer")
        self._map, self._codec, self._ffi = ring, codec, ffi
        self._size = ring.max_entries
        base = ring.memory.base
        self._consumer: Any = ffi.cast("u64 *", base)
        self._producer: Any = ffi.cast("u64 *", base + _PAGE)
        self._data: Any = base + 2 * _PAGE

    def ready(self) -> bool:
        """Some record, perhaps not finished, is there."""
        return int(self._producer[0]) != int(self._consumer[0])

    def consume(self) -> list[Any]:
        """The finished records, oldest first; they are given back to the writers."""
        ffi, size, found = self._ffi, self._size, []
        position, end = int(self._consumer[0]), int(self._producer[0])
        while position < end:
            header = self._data + (position & size - 1)
            word = int(ffi.cast("u32 *", header)[0])
            if word & _BUSY:
                break
            length = word & ~_DISCARD
            if length > size:  # no writer makes that: the memory is not to be trusted
                break
            if not word & _DISCARD:
                data = bytes(ffi.buffer(header + _HDR, length))
                found.append(self._read(data))
            position += (length + _HDR + 7) // 8 * 8
            self._consumer[0] = position
        return found

    def _read(self, data: bytes) -> Any:
        codec = self._codec
        return codec.unpack(data) if codec and len(data) >= codec.size else data

    def poll(self, timeout_ms: float | None = None) -> list[Any]:
        """The records that are there, waited for up to timeout_ms (None: for ever)."""
        found: list[Any] = []

        def look() -> bool:
            found.extend(self.consume())
            return bool(found)

        self._map.session.wait(look, None if timeout_ms is None else timeout_ms / 1000)
        return found

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self.poll()
