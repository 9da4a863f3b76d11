"""Windows of isolated programs in a process (jit/window.py): one for each class, in which the maps
of its programs are mapped once more."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.elf.process import read_maps
from libbpf_shim.errors import ShimError
from libbpf_shim.jit import window as layout

if TYPE_CHECKING:
    from libbpf_shim.attach.objects import MapRef

_READ, _WRITE = 1, 2
_SHARED, _PRIVATE, _FIXED, _ANON, _NORESERVE = 1, 2, 0x10, 0x20, 0x4000
_PAGE = 4096
_RDONLY_PROG = 1 << 7  # BPF_F_RDONLY_PROG
# Above what programs are linked to and below what mmap(2) begins with, where nothing grows to
_LOWEST, _HIGHEST = 0x3000_0000_0000, 0x5000_0000_0000
_TRIES = 8  # at a place that somebody else takes meanwhile
_HEAD = struct.Struct("<QQ")  # number of rows, limit
_ROW = struct.Struct("<QQ")  # id of a map, address of its descriptor


@dataclass(slots=True)
class Window:
    """base: as jit/window.py has it. maps: by id, mapping and descriptor there. sizes: bytes of
    their files. free: room that was a map's, by its size. end: of what is in use."""

    base: int
    maps: dict[int, tuple[int, int]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    free: dict[int, list[int]] = field(default_factory=dict)
    end: int = 0
    _rows: list[int] = field(default_factory=list)  # ids, 0: free again

    @property
    def reserved(self) -> tuple[int, int]:
        """Its addresses: first, how many."""
        return self.base - layout.BASE, layout.SIZE + layout.GUARD

    def room(self, talk: Conversation, size: int) -> int:
        """An address for a map's file of that size. ENOMEM."""
        if len([n for n in self._rows if n]) >= layout.ROWS:
            raise ShimError("AW0001", errno.ENOMEM, f"more than {layout.ROWS} maps in a window")
        if again := self.free.get(size):
            return again.pop()
        at = self.end
        if at + size + layout.BEHIND > self.base - layout.BASE + layout.SIZE:
            raise ShimError("AW0001", errno.ENOMEM, f"a window has no room for {size} bytes more")
        return at

    def map(self, talk: Conversation, ref: MapRef, describe: Callable[[int], int]) -> int:
        """The map's file there. describe: makes the descriptor of a mapping, answers its
        address."""
        size = ref.file_size
        at = self.room(talk, size)
        # what is frozen changes no more, for programs that rely on that neither
        constant = ref.frozen and ref.desc.map_flags & _RDONLY_PROG
        talk.mmap(size, _READ | _WRITE, (_PRIVATE if constant else _SHARED) | _FIXED, fd=ref.fd,
                  address=at)
        talk.mmap(layout.BEHIND, _READ | _WRITE, _PRIVATE | _ANON | _FIXED, address=at + size)
        self.maps[ref.id] = at, describe(at)
        self.sizes[ref.id] = size
        self.end = max(self.end, at + size + layout.BEHIND)
        self._put_row(talk, 0, ref.id, self.maps[ref.id][1])
        return at

    def drop(self, talk: Conversation, number: int) -> int:
        """Nobody's memory in the place of a map's. Its descriptor's address."""
        at, desc = self.maps.pop(number)
        size = self.sizes.pop(number)
        talk.mmap(size, _READ | _WRITE, _PRIVATE | _ANON | _FIXED, address=at)
        self.free.setdefault(size, []).append(at)
        self._put_row(talk, number, 0, 0)
        return desc

    def _put_row(self, talk: Conversation, before: int, number: int, desc: int) -> None:
        if before not in self._rows:
            self._rows.append(before)
        at = self._rows.index(before)
        self._rows[at] = number
        talk.write(self.base - _PAGE + at * _ROW.size, _ROW.pack(number, desc))
        limit = self.end - layout.BEHIND - self.base
        talk.write(self.base - _HEAD.size, _HEAD.pack(len(self._rows), limit))

    def read(self, talk: Conversation, describe: Callable[[int], tuple[int, int]]) -> None:
        """What a fork child has inherited. describe: of a descriptor there, base and size."""
        count, limit = _HEAD.unpack(talk.read(self.base - _HEAD.size, _HEAD.size))
        self.end = self.base + limit + layout.BEHIND
        rows = talk.read(self.base - _PAGE, min(count, layout.ROWS) * _ROW.size)
        for number, desc in _ROW.iter_unpack(rows):
            self._rows.append(number)
            if number:
                at, self.sizes[number] = describe(desc)
                self.maps[number] = at, desc


def reserve(talk: Conversation, pid: int) -> Window:
    """A new window in the process. ENOMEM, with the reason."""
    size = layout.SIZE + layout.GUARD
    for _ in range(_TRIES):
        place = _place(pid, size)
        try:
            talk.mmap(size, 0, _PRIVATE | _ANON | _NORESERVE, address=place)
        except ShimError as error:
            if error.errno == errno.EEXIST:
                continue
            raise ShimError("AW0002", error.errno, f"process {pid}: no 4 GiB of addresses for "
                            "an isolated program (ulimit -v?)") from error
        base = place + layout.BASE
        talk.mmap(_PAGE, _READ, _PRIVATE | _ANON | _FIXED, address=base - _PAGE)
        talk.mmap(layout.MAPS + layout.BEHIND, _READ | _WRITE,
                  _PRIVATE | _ANON | _FIXED | _NORESERVE, address=base)
        found = Window(base, end=base + layout.MAPS + layout.BEHIND)
        talk.write(base - _HEAD.size, _HEAD.pack(0, layout.MAPS))
        return found
    raise ShimError("AW0002", errno.ENOMEM, f"process {pid}: no place for a window")


def _place(pid: int, size: int) -> int:
    """A multiple of 4 GiB with so many free bytes behind it."""
    at = _LOWEST
    for m in sorted(read_maps(pid), key=lambda m: m.start):
        if m.end <= at:
            continue
        if m.start >= at + size:
            break
        at = -(-m.end // layout.SIZE) * layout.SIZE
    if at + size > _HIGHEST:
        raise ShimError("AW0002", errno.ENOMEM, f"process {pid}: no place for a window")
    return at
