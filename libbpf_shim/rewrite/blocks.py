"""Windows of a function: its basic blocks cut into runs of whole instructions, the same way
whichever instruction is asked for.

So two probes either share a window, and then the second is served by the first's trampoline, or
their windows do not touch; in whatever order they come and go. A run is at least a jump long
where its block allows it. Control may enter a block at its start alone: a jump target, behind a
call (which may only end a window) or behind what stays where it is.
"""

from __future__ import annotations

import array
from bisect import bisect_left
from dataclasses import dataclass

from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite.body import (
    BARRIER,
    CALL,
    ENDS,
    PAD,
    Body,
    body,
    overlapping,
    padding,
    settled,
)
from libbpf_shim.rewrite.decode import ENDBR64
from libbpf_shim.rewrite.targets import inside

JUMP = 5  # bytes of jmp rel32
_ENOUGH = 16  # bytes of fill, for a window that ends in it
_LONGEST = 32  # SHIM_WINDOW_MAX
_SHORT = 128  # bytes that a rel8 reaches


@dataclass(frozen=True, slots=True)
class Run:
    """Instructions [first, last) of a body. lead: one before them that stays where it is
    (endbr64); trail: one behind them that does (syscall). dead: bytes of fill behind, which
    nothing executes."""

    first: int
    last: int
    lead: bool = False
    trail: bool = False
    dead: int = 0


class Blocks:
    """The blocks of a body. targets: jump_targets of its module."""

    def __init__(self, module: Module, made: Body, targets: array.array[int]) -> None:
        self.module, self.body, self.targets = module, made, targets

    def _is_target(self, vaddr: int) -> bool:
        return vaddr in self.body.near or inside(self.targets, vaddr, vaddr + 1) is not None

    def _begins(self, index: int) -> bool:
        """Control may come to this instruction from elsewhere than the one before it."""
        b = self.body
        if not index or b.computed or b.addrs[index - 1] + b.sizes[index - 1] != b.addrs[index]:
            return True
        if b.flags[index - 1] & (ENDS | CALL | BARRIER):
            return True
        return self._is_target(b.addrs[index])

    def block(self, index: int) -> tuple[int, int]:
        """[first, last) of the block that holds it. A BARRIER is the last of its block."""
        b = self.body
        first, last = index, index + 1
        while not self._begins(first):
            first -= 1
        while last < len(b.addrs) and not self._begins(last):
            last += 1
        return first, last

    def size(self, first: int, last: int) -> int:
        b = self.body
        return b.addrs[last - 1] + b.sizes[last - 1] - b.addrs[first] if last > first else 0

    def run(self, index: int) -> Run | None:
        """The run that serves this instruction. None: it stays where it is, and nothing comes
        before it in its block. Its size may be less than a jump's."""
        b = self.body
        first, last = self.block(index)
        lead = self._endbr(first) and last - first > 1
        trail = bool(b.flags[last - 1] & BARRIER)
        start, stop = first + lead, last - trail
        if start == stop:
            return None if trail else Run(first, last)
        dead = 0 if trail or not b.flags[stop - 1] & ENDS else min(self.dead(stop - 1), _ENOUGH)
        runs = self._cut(start, stop, dead)
        if index < start:
            at = 0
        elif index >= stop:
            at = len(runs) - 1
        else:
            at = next(k for k, (_, z) in enumerate(runs) if index < z)
        a, z = runs[at]
        is_last = at == len(runs) - 1
        if not is_last or self.size(a, z) >= JUMP:
            dead = 0
        return Run(a, z, lead and at == 0, trail and is_last, dead)

    def _endbr(self, first: int) -> bool:
        """An endbr64 begins the block, and no loop leads behind it (or its hits would count)."""
        b = self.body
        return (b.sizes[first] == len(ENDBR64)
                and self.module.read(b.addrs[first], len(ENDBR64)) == ENDBR64)

    def _cut(self, start: int, stop: int, dead: int) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        at = start
        for k in range(start, stop):
            if self.size(at, k + 1) >= JUMP:
                runs.append((at, k + 1))
                at = k + 1
        if at < stop:
            if runs and self.size(at, stop) + dead < JUMP:
                runs[-1] = runs[-1][0], stop
            else:
                runs.append((at, stop))
        return runs

    def dead(self, index: int) -> int:
        """Bytes of fill behind an instruction after which control never goes on: whole
        instructions, up to the first that something may jump to or into."""
        b = self.body
        begin = end = b.addrs[index] + b.sizes[index]
        k = index + 1
        while k < len(b.addrs) and b.addrs[k] == end and b.flags[k] & PAD:
            end += b.sizes[k]
            k += 1
        if k == len(b.addrs) and end == b.end:
            end += padding(self.module, end)
        target = inside(self.targets, begin, end)
        if target is not None:
            end = target
        return min([end, *(t for t in b.near if begin <= t < end)]) - begin

    def carriers(self, vaddr: int) -> list[tuple[Body, int, int]]:
        """Instructions [first, last) of a body, of at least two jumps' size, whose second jump a
        two-byte jump at vaddr reaches: runs that may be moved to make room, nearest first. Not
        those of vaddr's own block."""
        lo, hi = vaddr + 2 - _SHORT - JUMP, vaddr + 2 + _SHORT - 1 - JUMP
        found: list[tuple[int, Body, int, int]] = []
        for start, end in overlapping(self.module, lo, hi):
            made = settled(self.module, body(self.module, start, end))
            blocks = Blocks(self.module, made, self.targets)
            k = bisect_left(made.addrs, lo)
            while k < len(made.addrs) and made.addrs[k] < hi:
                first, last = blocks.block(k)
                k = last
                if made.addrs[first] <= vaddr < made.addrs[last - 1] + made.sizes[last - 1]:
                    continue
                for a, z in blocks._pairs(first, last):
                    if lo <= made.addrs[a] <= hi:
                        found.append((abs(made.addrs[a] - vaddr), made, a, z))
        return [(made, a, z) for _, made, a, z in sorted(found, key=lambda f: f[0])]

    def _pairs(self, first: int, last: int) -> list[tuple[int, int]]:
        """Runs of a block, or two together, with room for two jumps."""
        b = self.body
        start = first + (self._endbr(first) and last - first > 1)
        stop = last - bool(b.flags[last - 1] & BARRIER)
        if start >= stop:
            return []
        runs = self._cut(start, stop, 0)
        both = runs + [(a, z) for (a, _), (_, z) in zip(runs, runs[1:], strict=False)]
        return [(a, z) for a, z in both if 2 * JUMP <= self.size(a, z) <= _LONGEST]

    def holes(self, vaddr: int) -> list[int]:
        """Places of five dead bytes that a two-byte jump at vaddr reaches, nearest first."""
        lo, hi = vaddr + 2 - _SHORT, vaddr + 2 + _SHORT - 1
        found: list[int] = []
        for start, end in overlapping(self.module, lo - 64, hi):
            made = settled(self.module, body(self.module, start, end))
            blocks = Blocks(self.module, made, self.targets)
            for k in range(bisect_left(made.addrs, lo - 64), len(made.addrs)):
                if made.addrs[k] > hi:
                    break
                if made.flags[k] & ENDS:
                    begin = made.addrs[k] + made.sizes[k]
                    size = blocks.dead(k)
                    places = (begin + size - JUMP, begin)
                    found += [p for p in places if size >= JUMP and lo <= p <= hi]
        return sorted(dict.fromkeys(found), key=lambda p: abs(p - vaddr))
