"""Memory of a process that a session has mapped there and gives out piece by piece: images,
descriptors, and trampolines, which are to be near to what they are for."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.elf.process import Mapping, read_maps
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.region import find_gap, find_place

_READ, _EXEC = 1, 4
_PRIVATE_ANON = 0x22
_PAGE = 4096
_REGION = 16 * _PAGE
_REACH = 0x7FFF_0000
_TRIES = 8  # at a place that somebody else takes meanwhile
_Find = Callable[[list[Mapping]], int]


@dataclass(slots=True)
class _Region:
    """Anonymous memory of the process, given out from the front; what comes back is given out
    again to what has the same size."""

    start: int
    size: int
    used: int = 0
    free: dict[int, list[int]] = field(default_factory=dict)

    def take(self, size: int) -> int | None:
        size = size + 15 & ~15
        if again := self.free.get(size):
            return again.pop()
        if self.used + size > self.size:
            return None
        at = self.start + self.used
        self.used += size
        return at

    def give_back(self, at: int, size: int) -> None:
        self.free.setdefault(size + 15 & ~15, []).append(at)

    def put_back(self, at: int, size: int) -> None:
        """The same, of what has not been used: the last that was taken may then be any size."""
        if at + (size + 15 & ~15) >= self.start + self.used:
            self.used = at - self.start
        else:
            self.give_back(at, size)


@dataclass(slots=True)
class Pool:
    """Pieces of one protection (PROT_*), anywhere; what is given back is given out again."""

    prot: int
    regions: list[_Region] = field(default_factory=list)
    _sizes: dict[int, int] = field(default_factory=dict)

    def take(
        self, talk: Conversation, size: int, mapped: Callable[[int, int, int], None] | None = None
    ) -> int:
        """Address of so many bytes. mapped: is told of memory that was mapped for it: where, how
        many bytes, protection."""
        at = next((at for r in self.regions if (at := r.take(size)) is not None), None)
        if at is None:
            length = max(_REGION, -(-size // _PAGE) * _PAGE)
            start = talk.mmap(length, self.prot, _PRIVATE_ANON)
            if mapped:
                mapped(start, length, self.prot)
            fresh = _Region(start, length)
            self.regions.append(fresh)
            at = fresh.take(size)
        assert at is not None
        self._sizes[at] = size
        return at

    def give_back(self, at: int) -> None:
        """What was taken here; anything else is left alone."""
        size = self._sizes.pop(at, 0)
        for region in self.regions:
            if size and region.start <= at < region.start + region.size:
                region.give_back(at, size)

    def unmap(self, talk: Conversation) -> None:
        """All of it. EBUSY: a program runs."""
        while self.regions:
            talk.munmap(self.regions[-1].start, self.regions[-1].size)
            self.regions.pop()


@dataclass(slots=True)
class Near:
    """Executable memory within reach of code. pid: whose. seen: what was mapped when the
    conversation began (loaded.py), and by us since; somebody else may have mapped more."""

    pid: int
    regions: list[_Region] = field(default_factory=list)
    seen: list[Mapping] = field(default_factory=list)

    def take(self, talk: Conversation, window: int, size: int) -> int:
        """So many bytes that a jmp at `window` reaches. ENOMEM."""
        at = self.at_hand(window, size)
        return at or self._more(
            talk, lambda maps: find_gap(maps, window, window + 32, _REGION), size + 15 & ~15,
            _REGION, window)

    def at_hand(self, window: int, size: int) -> int:
        """The same where it is mapped already; else 0."""
        for region in self.regions:
            close = abs(region.start - window) < _REACH - region.size
            if close and (at := region.take(size)) is not None:
                return at
        return 0

    def take_many(self, talk: Conversation, lo: int, hi: int, size: int) -> int:
        """The same of any size, for all windows in [lo, hi], in one piece."""
        for region in self.regions:
            far = max(abs(region.start - lo), abs(region.start - hi))
            if far < _REACH - region.size and region.used + size <= region.size:
                at = region.take(size)
                assert at is not None
                return at
        length = max(_REGION, -(-size // _PAGE) * _PAGE)
        return self._more(
            talk, lambda maps: find_gap(maps, lo, hi + 32, length), size, length, lo)

    def take_between(self, talk: Conversation, lo: int, hi: int, size: int) -> int:
        """So many bytes that begin in [lo, hi]. ENOMEM."""
        for region in self.regions:
            at = max(region.start + region.used, lo)
            at = -(-at // 16) * 16 if at < hi - 15 else at
            if at <= hi and at + size <= region.start + region.size:
                region.used = at + size - region.start
                return at
        return self._more(talk, lambda maps: find_place(maps, lo, hi, size), size, _PAGE, lo)

    def put_back(self, at: int, size: int) -> None:
        """Room that was taken and not written to."""
        for region in self.regions:
            if region.start <= at < region.start + region.used:
                region.put_back(at, size)

    def _more(self, talk: Conversation, find: _Find, size: int, least: int, near: int) -> int:
        """The first `size` bytes of a new region, at least `least` long."""
        at, start, length = self.map(talk, find, size, least, near)
        self.regions.append(_Region(start, length, at + size - start))
        return at

    def map(
        self, talk: Conversation, find: _Find, size: int, least: int, near: int
    ) -> tuple[int, int, int]:
        """New memory for `size` bytes, of at least `least`: where they are, where it begins, its
        length. find: where they may be; near: what for. ENOMEM."""
        for turn in range(_TRIES):
            if turn or not self.seen:
                self.seen = read_maps(self.pid)
            at = find(self.seen)
            start = at & -_PAGE
            length = max(least, (at + size + _PAGE - 1 & -_PAGE) - start)
            try:
                talk.mmap(length, _READ | _EXEC, _PRIVATE_ANON, address=start)
            except ShimError as error:
                if error.errno == errno.EEXIST:
                    continue
                raise
            self.mapped(start, length)
            return at, start, length
        raise ShimError("AP0001", errno.ENOMEM, f"process {self.pid}: no room near {near:#x}")

    def mapped(self, start: int, length: int) -> None:
        """So much is there now."""
        self.seen.append(Mapping(start, start + length, "r-xp", 0, 0, 0, ""))
