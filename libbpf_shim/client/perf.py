"""Reading a PERF_EVENT_ARRAY: a ring for each CPU, records straight from their memory.

Layout of a ring: linux/perf_event.h struct perf_event_mmap_page, perf_event_open(2).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

from libbpf_shim.client import attach
from libbpf_shim.client.map import Map
from libbpf_shim.client.session import failed, identity, packed
from libbpf_shim.client.values import Codec
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import bpf_map_type

_PAGE: Final = 4096
_HEAD_AT, _TAIL_AT = 1024, 1032  # data_head, data_tail
_LOST, _SAMPLE = 2, 9  # PERF_RECORD_*
_HEADER: Final = struct.Struct("<IHH")


@dataclass(frozen=True, slots=True)
class Event:
    """One record. cpu: whose ring; data: as the program wrote it, or read by the codec."""

    cpu: int
    data: Any


class _Ring:
    """One CPU's."""

    def __init__(self, owner: Map, cpu: int, pages: int, wakeup: int) -> None:
        from libbpf_shim._native import ffi

        session = owner.session
        self._ffi, self._session, self.cpu, self._size = ffi, session, cpu, pages * _PAGE
        self.fd = attach.output_event(session, cpu, wakeup)
        try:
            ask = packed("shim_perf_mmap", event=identity(self.fd), length=(pages + 1) * _PAGE)
            reply = session.request(session.lib.SHIM_OP_PERF_MMAP, ask)
            if reply.ret < 0:
                raise failed(f"perf ring of CPU {cpu}", reply.ret)
            at = int.from_bytes(reply.payload[:8], "little")
            if at + (pages + 1) * _PAGE > session.perf_size:
                raise failed(f"perf ring of CPU {cpu}", -errno.ENOMEM)
            attach.enable(session, self.fd)
        except BaseException:
            os.close(self.fd)
            raise
        self._head: Any = ffi.cast("u64 *", session.perf + at + _HEAD_AT)
        self._tail: Any = ffi.cast("u64 *", session.perf + at + _TAIL_AT)
        self._data: Any = session.perf + at + _PAGE

    def _bytes(self, position: int, size: int) -> bytes:
        at = position % self._size
        first = bytes(self._ffi.buffer(self._data + at, min(size, self._size - at)))
        rest = size - len(first)
        return first + bytes(self._ffi.buffer(self._data, rest)) if rest else first

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(type, what follows the header), given back as they are taken."""
        position, head = int(self._tail[0]), int(self._head[0])
        while position < head:
            kind, _, size = _HEADER.unpack(self._bytes(position, _HEADER.size))
            if not _HEADER.size <= size <= head - position:
                self._tail[0] = head  # no writer makes that
                return
            body = self._bytes(position + _HEADER.size, size - _HEADER.size)
            position += size
            self._tail[0] = position
            yield kind, body


class PerfBuffer:
    """The reader of a PERF_EVENT_ARRAY. pages: of data, for each CPU, a power of two. codec: how
    records are read, bytes without one. lost: records that found no room."""

    def __init__(
        self, events: Map, pages: int = 64, codec: Codec | None = None, wakeup: int = 1
    ) -> None:
        if events.type != bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY:
            raise ShimError("CE0002", errno.EINVAL, f"map {events.name}: no perf event array")
        if pages <= 0 or pages & pages - 1:
            raise ShimError("CE0001", errno.EINVAL, f"perf buffer: {pages} pages, not 2^n")
        self._map, self._codec, self.lost = events, codec, 0
        self._rings: list[_Ring] = []
        try:
            for cpu in range(min(events.session.nr_cpus, events.max_entries)):
                ring = _Ring(events, cpu, pages, wakeup)
                self._rings.append(ring)
                events.put(cpu, ring.fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Takes the rings out of the map."""
        rings, self._rings = self._rings, []
        for ring in rings:
            try:
                del self._map[ring.cpu]
            except (KeyError, ShimError):
                pass
            os.close(ring.fd)

    def __enter__(self) -> PerfBuffer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        self.close()

    def consume(self) -> list[Event]:
        """The records that are there, by CPU."""
        found = []
        for ring in self._rings:
            for kind, body in ring.records():
                if kind == _SAMPLE:
                    size = int.from_bytes(body[:4], "little")
                    found.append(Event(ring.cpu, self._read(body[4 : 4 + size])))
                elif kind == _LOST:
                    self.lost += int.from_bytes(body[8:16], "little")
        return found

    def _read(self, data: bytes) -> Any:
        codec = self._codec
        return codec.unpack(data) if codec and len(data) >= codec.size else data

    def poll(self, timeout_ms: float | None = None) -> list[Event]:
        """The records that are there, waited for up to timeout_ms (None: for ever)."""
        found: list[Event] = []

        def look() -> bool:
            found.extend(self.consume())
            return bool(found)

        self._map.session.wait(look, None if timeout_ms is None else timeout_ms / 1000)
        return found

    def __iter__(self) -> Iterator[Event]:
        while True:
            yield from self.poll()
