"""A bpf(2) attr of another process made one of this process, and back.

What each command's pointers lead to and which fields name descriptors: the tables of
csrc/surface/gather.c, restated (linux/bpf.h 6.18, kernel/bpf/syscall.c). Pointers become
addresses here, descriptors duplicates; afterwards what was written goes to where it belongs.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from libbpf_shim.client.map import PER_CPU
from libbpf_shim.client.proxy import surface
from libbpf_shim.client.proxy.process import Waiting
from libbpf_shim.uapi.bpf import bpf_cmd as c
from libbpf_shim.uapi.bpf import bpf_map_type as t

_GIVES: Final = frozenset((0, 5, 7, 13, 14, 17, 18, 19, 28, 30, 32, 33, 36))  # a descriptor
IN, OUT = 1, 2
_MAX_IN: Final = 1 << 26  # bytes
_MAX_INSNS: Final = 1000000
_NO_FD: Final = 1 << 20  # a number that is open nowhere here
_INFO: Final = 256  # bytes of struct bpf_*_info that are looked at
_LD_IMM64: Final = 0x18
_CALL, _KFUNC, _BTF_ID = 0x85, 2, 3  # BPF_PSEUDO_KFUNC_CALL, BPF_PSEUDO_BTF_ID
_ELEMENTS: Final = (1, 2, 3, 4, 21, 24, 25, 26, 27)  # BPF_MAP_*_ELEM, *_BATCH
_HASHES: Final = (t.BPF_MAP_TYPE_HASH, t.BPF_MAP_TYPE_PERCPU_HASH, t.BPF_MAP_TYPE_LRU_HASH,
                  t.BPF_MAP_TYPE_LRU_PERCPU_HASH, t.BPF_MAP_TYPE_HASH_OF_MAPS)
_FD_VALUES: Final = (t.BPF_MAP_TYPE_PROG_ARRAY, t.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
                     t.BPF_MAP_TYPE_CGROUP_ARRAY, t.BPF_MAP_TYPE_ARRAY_OF_MAPS,
                     t.BPF_MAP_TYPE_HASH_OF_MAPS)

# command: pointer, direction, length's place (-1: a string of `times` bytes at most), place of
# the number that it is multiplied by (0: none), or that number
_POINTERS: Final[tuple[tuple[int, int, int, int, int, int], ...]] = (
    (c.BPF_MAP_CREATE, 80, IN, 88, 0, 1),  # excl_prog_hash
    (c.BPF_PROG_LOAD, 8, IN, 4, 0, 8),  # insns
    (c.BPF_PROG_LOAD, 16, IN, -1, 0, 128),  # license
    (c.BPF_PROG_LOAD, 32, OUT, 28, 0, 1),  # log_buf
    (c.BPF_PROG_LOAD, 80, IN, 88, 76, 0),  # func_info
    (c.BPF_PROG_LOAD, 96, IN, 104, 92, 0),  # line_info
    (c.BPF_PROG_LOAD, 128, IN, 116, 136, 0),  # core_relos
    (c.BPF_PROG_LOAD, 152, IN, 160, 0, 1),  # signature
    (c.BPF_OBJ_PIN, 0, IN, -1, 0, 4096),
    (c.BPF_OBJ_GET, 0, IN, -1, 0, 4096),
    (c.BPF_PROG_TEST_RUN, 16, IN, 8, 0, 1),  # data_in
    (c.BPF_PROG_TEST_RUN, 24, OUT, 12, 0, 1),
    (c.BPF_PROG_TEST_RUN, 48, IN | OUT, 40, 0, 1),  # ctx_in: programs of type syscall write it
    (c.BPF_PROG_TEST_RUN, 56, OUT, 44, 0, 1),
    (c.BPF_OBJ_GET_INFO_BY_FD, 8, IN | OUT, 4, 0, 1),
    (c.BPF_PROG_QUERY, 16, OUT, 24, 0, 4),
    (c.BPF_RAW_TRACEPOINT_OPEN, 0, IN, -1, 0, 128),
    (c.BPF_BTF_LOAD, 0, IN, 16, 0, 1),
    (c.BPF_BTF_LOAD, 8, OUT, 20, 0, 1),
    (c.BPF_TASK_FD_QUERY, 16, OUT, 12, 0, 1),
)
_UPROBE_MULTI: Final = 48  # BPF_TRACE_UPROBE_MULTI
_MULTI: Final = ((16, -1, 4096), (24, 48, 8), (32, 48, 8), (40, 48, 8))
# Pointers to memory of the process's even where a program gives the attr.
_ITS_OWN: Final[dict[int, tuple[int, ...]]] = {
    c.BPF_PROG_LOAD: (32,), c.BPF_BTF_LOAD: (8,), c.BPF_RAW_TRACEPOINT_OPEN: (0,),
    c.BPF_LINK_CREATE: (16, 24, 32, 40),
}  # fmt: skip
_DESCRIPTORS: Final[dict[int, tuple[int, ...]]] = {
    c.BPF_MAP_CREATE: (20, 48, 72, 76), c.BPF_MAP_LOOKUP_ELEM: (0,), c.BPF_MAP_UPDATE_ELEM: (0,),
    c.BPF_MAP_DELETE_ELEM: (0,), c.BPF_MAP_GET_NEXT_KEY: (0,), c.BPF_PROG_LOAD: (72, 112, 144),
    c.BPF_OBJ_PIN: (8, 16), c.BPF_OBJ_GET: (16,), c.BPF_PROG_ATTACH: (0, 4, 16),
    c.BPF_PROG_DETACH: (0, 4), c.BPF_PROG_TEST_RUN: (0,), c.BPF_OBJ_GET_INFO_BY_FD: (0,),
    c.BPF_PROG_QUERY: (0,), c.BPF_RAW_TRACEPOINT_OPEN: (8,), c.BPF_BTF_LOAD: (36,),
    c.BPF_BTF_GET_FD_BY_ID: (12,), c.BPF_TASK_FD_QUERY: (4,),
    c.BPF_MAP_LOOKUP_AND_DELETE_ELEM: (0,), c.BPF_MAP_FREEZE: (0,),
    c.BPF_MAP_LOOKUP_BATCH: (36,), c.BPF_MAP_LOOKUP_AND_DELETE_BATCH: (36,),
    c.BPF_MAP_UPDATE_BATCH: (36,), c.BPF_MAP_DELETE_BATCH: (36,), c.BPF_LINK_CREATE: (0, 4),
    c.BPF_LINK_UPDATE: (0, 4, 12), c.BPF_ITER_CREATE: (0,), c.BPF_LINK_DETACH: (0,),
    c.BPF_PROG_BIND_MAP: (0, 4), 36: (4,), 37: (16,),
}  # fmt: skip
# Pointers in struct bpf_*_info, by the object's kind: offset, its length's offset, times.
_NESTED: Final[dict[str, tuple[tuple[int, int, int], ...]]] = {
    "bpf-map": ((88, 96, 1),),
    "bpf-prog": ((24, 16, 1), (32, 20, 1), (56, 52, 4), (112, 104, 8), (120, 108, 4),
                 (136, 144, 8), (152, 148, 16), (160, 168, 8), (184, 180, 8)),
    "bpf-btf": ((0, 8, 1), (16, 24, 1)),
    "socket": ((16, 24, 1), (24, 32, 1)),
}  # fmt: skip


def poke(block: ctypes.Array[ctypes.c_char], at: int, data: bytes) -> None:
    """Bytes of a buffer."""
    ctypes.memmove(ctypes.addressof(block) + at, data, len(data))


def stand_in(there: int) -> int:
    """What to say here for a number there that is none of ours: the first three are open in both
    places, and no objects; others are open nowhere."""
    return there if there <= 2 else _NO_FD


@dataclass(slots=True)
class _Segment:
    """at: of the pointer, in its block; there: what it held, of that memory; here: the local
    copy. out: it is to be written back; before: what lay there, b"" if not all of that can be
    read."""

    memory: Waiting
    block: ctypes.Array[ctypes.c_char]
    at: int
    there: int
    here: ctypes.Array[ctypes.c_char]
    size: int
    before: bytes
    out: bool


class LocalAttr:
    """One command's. own: gives a descriptor of ours for a number there, or -1: it is none of
    the loader's objects. its_own: whose memory some pointers are of, if not that of `waiting`.
    Raises OSError as the system call would fail."""

    def __init__(
        self, waiting: Waiting, cmd: int, uattr: int, size: int,
        own: Callable[[int], int], cpus: Callable[[], int], its_own: Waiting | None = None,
    ) -> None:
        if size > 4096:
            raise OSError(errno.E2BIG, "attr")
        self._waiting, self._own, self._uattr, self._cpus = waiting, own, uattr, cpus
        self.cmd, self.size = cmd, size
        self._its_own = its_own or waiting
        self._given = waiting.read(uattr, size)
        self.attr = ctypes.create_string_buffer(self._given, max(size, 168))
        self._segments: list[_Segment] = []
        self._numbers: list[tuple[int, bytes]] = []  # place, and what it held
        self.fds: list[int] = []  # ours, to be closed

    def u32(self, at: int) -> int:
        return int.from_bytes(self._given[at : at + 4], "little")

    def u64(self, at: int) -> int:
        return int.from_bytes(self._given[at : at + 8], "little")

    @property
    def address(self) -> int:
        return ctypes.addressof(self.attr)

    def prepare(self) -> None:
        """Everything that the command names, here."""
        for at in _DESCRIPTORS.get(self.cmd, ()):
            self._descriptor(at)
        for cmd, at, way, length, factor, times in _POINTERS:
            if cmd == self.cmd:
                if length < 0:
                    self._string(at, times)
                else:
                    self._area(at, way, self.u32(length) * (self.u32(factor) if factor else times))
        if self.cmd == c.BPF_LINK_CREATE and self.u32(8) == _UPROBE_MULTI:
            for at, length, times in _MULTI:
                if length < 0:
                    self._string(at, times)
                else:
                    self._area(at, IN, self.u32(length) * times)
        elif self.cmd == c.BPF_PROG_LOAD:
            self._program()
        elif self.cmd == c.BPF_OBJ_GET_INFO_BY_FD:
            self._info()
        elif self.cmd in _ELEMENTS:
            (self._batch if self.cmd >= c.BPF_MAP_LOOKUP_BATCH else self._element)()

    def finish(self, ret: int) -> None:
        """What the call has written here, there. EFAULT: then nobody hears of a descriptor that it
        gave."""
        try:
            self._finish()
        except OSError:
            if self.gives(ret):
                surface.close(ret)
            raise

    def gives(self, ret: int) -> bool:
        """What the call returned is a descriptor."""
        return ret >= 0 and self.cmd in _GIVES

    def _finish(self) -> None:
        error: OSError | None = None
        for seg in self._segments:
            poke(seg.block, seg.at, seg.there.to_bytes(8, "little"))
        for at, there in self._numbers:
            poke(self.attr, at, there)
        for seg in self._segments:
            if not seg.out:
                continue
            now = bytes(seg.here.raw[: seg.size])
            if not seg.before and self.cmd not in _ELEMENTS:  # as much as there is to say
                now = now.rstrip(b"\0")
            try:
                self._put(seg.memory, seg.there, seg.before, now)
            except OSError as raised:
                error = raised
        self._put(self._waiting, self._uattr, self._given, bytes(self.attr.raw[: self.size]))
        if error:
            raise error

    def close(self) -> None:
        for fd in self.fds:
            surface.close(fd)

    @staticmethod
    def _put(memory: Waiting, at: int, before: bytes, now: bytes) -> None:
        """Only from the first byte to the last that changed: the rest may be read-only."""
        if not before:
            memory.write(at, now)
        if not before or before == now:
            return
        first = next(i for i, pair in enumerate(zip(before, now, strict=True))
                     if pair[0] != pair[1])
        last = len(now)
        while before[last - 1] == now[last - 1]:
            last -= 1
        memory.write(at + first, now[first:last])

    def _memory(self, at: int) -> Waiting:
        """Whose a pointer of the attr is."""
        return self._its_own if at in _ITS_OWN.get(self.cmd, ()) else self._waiting

    def _segment(
        self, block: ctypes.Array[ctypes.c_char], at: int, there: int, data: bytes, size: int,
        out: bool,
    ) -> ctypes.Array[ctypes.c_char]:
        here = ctypes.create_string_buffer(data, max(size, 8))
        memory = self._memory(at) if block is self.attr else self._waiting
        self._segments.append(_Segment(memory, block, at, there, here, size, data, out))
        poke(block, at, ctypes.addressof(here).to_bytes(8, "little"))
        return here

    def _area(self, at: int, way: int, size: int) -> ctypes.Array[ctypes.c_char] | None:
        """A pointer to so many bytes. What cannot be read stays a pointer that cannot."""
        there = self.u64(at) if at + 8 <= self.size else 0
        if not there or not size or size > _MAX_IN and way & IN:
            return None
        if self.cmd == c.BPF_PROG_LOAD and at == 8 and size > 8 * _MAX_INSNS:
            return None
        size = min(size, _MAX_IN)
        try:
            data = self._memory(at).read(there, size)
        except OSError:
            if way & IN:
                self._fault(at, there)
                return None
            data = b""
        return self._segment(self.attr, at, there, data, size, bool(way & OUT))

    def _string(self, at: int, most: int) -> None:
        there = self.u64(at) if at + 8 <= self.size else 0
        if not there:
            return
        try:
            data = self._memory(at).string(there, most)
        except OSError:
            self._fault(at, there)
            return
        self._segment(self.attr, at, there, data, len(data), False)

    def _fault(self, at: int, there: int) -> None:
        """An address that cannot be read here either."""
        here = ctypes.create_string_buffer(8)
        self._segments.append(
            _Segment(self._waiting, self.attr, at, there, here, 0, b"", False))
        poke(self.attr, at, (8).to_bytes(8, "little"))

    def number(self, there: int) -> int:
        """What to say here for a descriptor there."""
        if there < 0:
            return there
        fd = self._own(there)
        if fd < 0:
            return stand_in(there)
        self.fds.append(fd)
        return fd

    def _descriptor(self, at: int) -> None:
        if at + 4 > self.size:
            return
        there = int.from_bytes(self._given[at : at + 4], "little", signed=True)
        self._numbers.append((at, self._given[at : at + 4]))
        poke(self.attr, at, self.number(there).to_bytes(4, "little", signed=True))

    def _here(self, at: int) -> int:
        """The descriptor of a field, as it is here."""
        return int.from_bytes(bytes(self.attr.raw[at : at + 4]), "little", signed=True)

    # commands

    def _program(self) -> None:
        """Descriptors in the instructions, and those of fd_array that they use."""
        used = self.u32(148) if self.size >= 152 else 0
        for seg in self._segments:
            if seg.block is self.attr and seg.at == 8 and seg.size:
                used = max(used, self._instructions(seg.here, seg.size))
        there = self.u64(120) if self.size >= 128 else 0
        if not there or not 0 < used < 65536:
            return
        try:
            data = self._waiting.read(there, 4 * used)
        except OSError:
            self._fault(120, there)
            return
        numbers = [self.number(n) for n in struct.unpack(f"<{used}i", data)]
        self._segment(self.attr, 120, there, struct.pack(f"<{used}i", *numbers), 4 * used, False)

    def _instructions(self, code: ctypes.Array[ctypes.c_char], size: int) -> int:
        """How many entries of fd_array there must be."""
        used, at, known = 0, 0, dict[int, int]()
        raw = code.raw
        while at + 16 <= size:
            if raw[at] != _LD_IMM64:
                if raw[at] == _CALL and raw[at + 1] >> 4 == _KFUNC:
                    of = int.from_bytes(raw[at + 2 : at + 4], "little", signed=True)
                    used = max(used, of + 1 if of > 0 else 0)
                at += 8
                continue
            src, imm = raw[at + 1] >> 4, struct.unpack_from("<i", raw, at + 4)[0]
            if src in (1, 2):
                if imm not in known:
                    known[imm] = self.number(imm)
                poke(code, at + 4, known[imm].to_bytes(4, "little", signed=True))
            elif src == _BTF_ID and (of := struct.unpack_from("<i", raw, at + 12)[0]) > 0:
                poke(code, at + 12, self.number(of).to_bytes(4, "little", signed=True))
            elif src in (5, 6) and 0 <= imm < 65536:
                used = max(used, imm + 1)
            at += 16
        return used

    def _info(self) -> None:
        """Pointers inside the structure."""
        seg = next((s for s in self._segments if s.at == 8), None)
        name = self._waiting.name(self.u32(0))
        kind = next((k for k in _NESTED if k in name), "")
        if seg is None or not kind:
            return
        given = seg.before[:_INFO]
        for at, length, times in _NESTED[kind]:
            there = int.from_bytes(given[at : at + 8], "little")
            size = int.from_bytes(given[length : length + 4], "little") * times
            if at + 8 <= len(given) and there and 0 < size <= _MAX_IN:
                try:
                    data = self._waiting.read(there, size)
                except OSError:
                    data = b""
                self._segment(seg.here, at, there, data, size, True)

    def sizes(self, at: int) -> tuple[int, int, int]:
        """Type, key and value (as system calls have it) of the map that a field names, bytes;
        zeroes where it is none."""
        kind, key, value = surface.map_header(self._here(at))
        if kind in PER_CPU:
            value = -(-value // 8) * 8 * self._cpus()
        return kind, key, 4 if kind in _FD_VALUES else value

    def _element(self) -> None:
        kind, key, value = self.sizes(0)
        if not kind:
            return
        self._area(8, IN, key)
        if self.cmd == c.BPF_MAP_GET_NEXT_KEY:
            self._area(16, OUT, key)
        elif self.cmd == c.BPF_MAP_UPDATE_ELEM:
            held = self._area(16, IN, value)
            if held and kind in _FD_VALUES:
                self._values(held, 1)
        elif self.cmd != c.BPF_MAP_DELETE_ELEM:
            self._area(16, IN if kind == t.BPF_MAP_TYPE_BLOOM_FILTER else OUT, value)

    def _values(self, held: ctypes.Array[ctypes.c_char], count: int) -> None:
        """Values that name descriptors."""
        numbers = struct.unpack_from(f"<{count}i", held.raw)
        poke(held, 0, struct.pack(f"<{count}i", *(self.number(n) for n in numbers)))

    def _batch(self) -> None:
        kind, key, value = self.sizes(36)
        if not kind:
            return
        position, count = 4 if kind in _HASHES else key, self.u32(32)
        reads = self.cmd in (c.BPF_MAP_LOOKUP_BATCH, c.BPF_MAP_LOOKUP_AND_DELETE_BATCH)
        if reads:
            self._area(0, IN, position)
            self._area(8, OUT, position)
        self._area(16, OUT if reads else IN, key * count)
        held = self._area(24, OUT if reads else IN, value * count)
        if held and not reads and kind in _FD_VALUES:
            self._values(held, count)
