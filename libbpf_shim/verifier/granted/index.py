"""Bounds of a number that is added to a pointer at one slot (speculation.py). Ready for mypyc."""

from __future__ import annotations

from typing import final

from libbpf_shim.verifier.state import Reg


@final
class Index:
    """At a slot. kind, map, size: of the pointer's object; sign: 1, or -1 where the number is
    subtracted. low, high: of the number; first, last: of the pointer's place before; least, most:
    of where it is then. alone: every state was of one object. in_src: the number is the source."""

    __slots__ = ("kind", "map", "size", "in_src", "sign", "low", "high", "first", "last", "least",
                 "most", "alone")

    def __init__(self, ptr: Reg, number: Reg, in_src: bool, sign: int) -> None:
        self.kind: int = ptr.type
        self.map: int = ptr.map
        self.size: int = ptr.mem_size
        self.in_src: bool = in_src
        self.sign: int = sign
        self.low: int = number.smin
        self.high: int = number.smax
        self.first: int = ptr.off + ptr.smin
        self.last: int = ptr.off + ptr.smax
        self.alone: bool = True
        self.least: int = 0
        self.most: int = 0
        self.least, self.most = self.reach()

    def reach(self) -> tuple[int, int]:
        """Where any of the pointers and any of the numbers lead."""
        if self.sign > 0:
            return self.first + self.low, self.last + self.high
        return self.first - self.high, self.last - self.low

    def join(self, o: Index) -> None:
        """Both are of one slot."""
        same = (self.kind == o.kind and self.map == o.map and self.size == o.size
                and self.in_src == o.in_src)
        exact = (self.low == o.low and self.high == o.high and self.first == o.first
                 and self.last == o.last)
        self.alone = self.alone and (same or (exact and self.in_src == o.in_src))
        self.low = min(self.low, o.low)
        self.high = max(self.high, o.high)
        self.first = min(self.first, o.first)
        self.last = max(self.last, o.last)
        self.least = min(self.least, o.least)
        self.most = max(self.most, o.most)

    def holds(self) -> bool:
        """Its bounds hold a pointer to where some state has it."""
        least, most = self.reach()
        return self.alone and self.least <= least and most <= self.most
