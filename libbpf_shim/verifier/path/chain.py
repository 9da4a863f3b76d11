"""Which stack slots may still be read, found while paths run. Compiled by mypyc.

For each chain of calls that a path takes there is one Chain, and in it, for each frame of the
chain and each instruction of the function called last, the slots that the instruction may read
and those that it always writes. From these follows, backwards over the jumps, what may be read
from an instruction on; it is asked only of states whose paths are all explored, since then every
instruction that runs from there has told what it does. Slot s of a frame is bit s: fp-8*(s+1).

Model: Linux 6.18, kernel/bpf/liveness.c, as a fact about which states the kernel tells apart.
"""

from __future__ import annotations

from typing import final


@final
class Slots:
    """Of one frame, by instruction of the chain's function: slots that it may read; that it
    writes whenever it runs; live: that may be read from it on; sure: that it or what follows in
    the function always writes."""

    __slots__ = ("read", "write", "live", "sure")

    def __init__(self, count: int) -> None:
        self.read: list[int] = [0] * count
        self.write: list[int] = [0] * count
        self.live: list[int] = [0] * count
        self.sure: list[int] = [0] * count


@final
class Chain:
    """outer: the caller's chain; callsite: slot of the call there; start: the function's first
    slot, count: how many it has. frames[n]: of the n-th frame, 0 the first function's. ran: by
    instruction, 1 once its writes are known. low, high: the instructions whose Slots changed since
    live was computed, high -1: none; shrunk: a write mark was taken back. inner: by call site and
    first slot of the function called, chains of one call more. pending: of a whole program, the
    chains that are not settled."""

    __slots__ = ("outer", "callsite", "start", "count", "depth", "frames", "ran", "low", "high",
                 "shrunk", "inner", "pending")

    def __init__(
        self, outer: Chain | None, callsite: int, start: int, count: int, pending: list[Chain]
    ) -> None:
        self.outer: Chain | None = outer
        self.callsite: int = callsite
        self.start: int = start
        self.count: int = count
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.frames: list[Slots | None] = [None] * (self.depth + 1)
        self.ran: bytearray = bytearray(count)
        self.low: int = count
        self.high: int = -1
        self.shrunk: bool = False
        self.inner: dict[tuple[int, int], Chain] = {}
        self.pending: list[Chain] = pending

    def call(self, callsite: int, start: int, count: int) -> Chain:
        """The chain of the function that this one calls there."""
        found = self.inner.get((callsite, start))
        if found is None:
            found = Chain(self, callsite, start, count, self.pending)
            self.inner[(callsite, start)] = found
        return found

    def slots(self, frame: int) -> Slots:
        found = self.frames[frame]
        if found is None:
            found = Slots(self.count)
            self.frames[frame] = found
        return found

    def live(self, frame: int, insn: int) -> int:
        """Slots of that frame that may be read from the instruction on."""
        slots = self.frames[frame]
        return 0 if slots is None else slots.live[insn - self.start]

    def _changed(self, at: int) -> None:
        if self.high < 0:
            self.pending.append(self)
        if at < self.low:
            self.low = at
        if at > self.high:
            self.high = at

    def reads(self, frame: int, insn: int, mask: int) -> None:
        """The instruction may read these slots of that frame."""
        slots = self.slots(frame)
        at = insn - self.start
        if mask & ~slots.read[at]:
            slots.read[at] |= mask
            if mask & ~slots.live[at]:
                self._changed(at)

    def writes(self, insn: int, frame: int, mask: int) -> None:
        """The instruction ran and wrote these slots of that frame, and no other slot whole."""
        at = insn - self.start
        first = self.ran[at] == 0
        self.ran[at] = 1
        for f in range(self.depth + 1):
            self._written(at, f, mask if f == frame else 0, first)

    def _written(self, at: int, frame: int, now: int, first: bool) -> None:
        slots = self.frames[frame]
        if slots is None:
            if not now or not first:
                return
            slots = self.slots(frame)
        before = slots.write[at]
        if not first:
            now &= before
        if now != before:
            slots.write[at] = now
            self._changed(at)
            if before & ~now:
                self.shrunk = True

    def called(self, inner: Chain) -> None:
        """What the call of inner's function reads and writes of the frames of this chain: it
        writes what is written on every way to its end."""
        at = inner.callsite - self.start
        first = self.ran[at] == 0
        self.ran[at] = 1
        for f in range(inner.depth):
            slots = inner.frames[f]
            self._written(at, f, 0 if slots is None else slots.sure[0], first)
            if slots is not None:
                self.reads(f, inner.callsite, slots.live[0])


@final
class Flow:
    """The jumps inside a program's functions: next and other are the slots that may run after
    one, -1: none. ends: 1 for a tail call, at which the function may end as well."""

    __slots__ = ("next", "other", "ends", "before")

    def __init__(self, next: list[int], other: list[int], ends: bytearray) -> None:
        self.next: list[int] = next
        self.other: list[int] = other
        self.ends: bytearray = ends
        self.before: list[list[int]] = [[] for _ in next]
        for at in range(len(next)):
            for to in (next[at], other[at]):
                if 0 <= to < len(next):
                    self.before[to].append(at)


def settle(flow: Flow, pending: list[Chain]) -> None:
    """Bring live and sure of every chain up to date, those of the most calls first."""
    while pending:
        last = 0
        for n in range(1, len(pending)):
            if pending[n].depth > pending[last].depth:
                last = n
        chain = pending.pop(last)
        for frame in range(chain.depth + 1):
            slots = chain.frames[frame]
            if slots is not None:
                _settle_frame(flow, chain, slots, frame < chain.depth)
        chain.low = chain.count
        chain.high = -1
        chain.shrunk = False
        if chain.outer is not None:
            chain.outer.called(chain)


def _settle_frame(flow: Flow, chain: Chain, slots: Slots, sure: bool) -> None:
    """Sweeps from the last instruction that changed backwards, until nothing changes. sure: the
    frame is a caller's, whose slots that are surely written matter to it."""
    start = chain.start
    count = chain.count
    dirty = bytearray(count)
    low = chain.low
    high = chain.high
    if sure and chain.shrunk:
        slots.sure = [0] * count
        low = 0
        high = count - 1
    for at in range(low, high + 1):
        dirty[at] = 1
    while high >= 0:
        at = high
        high = -1
        while at >= 0:
            if dirty[at]:
                dirty[at] = 0
                if _update(flow, start, slots, at, sure):
                    for before in flow.before[start + at]:
                        place = before - start
                        if 0 <= place < count:
                            dirty[place] = 1
                            if place >= at and place > high:
                                high = place
            at -= 1


def _update(flow: Flow, start: int, slots: Slots, at: int, sure: bool) -> bool:
    """One instruction from those that follow; True: something is new."""
    insn = start + at
    one = flow.next[insn]
    two = flow.other[insn]
    if one < 0 and two < 0:
        return False  # the end of a function reads nothing
    after = 0
    acc = -1
    if one >= 0:
        after = slots.live[one - start]
        acc = slots.sure[one - start]
    if two >= 0:
        after |= slots.live[two - start]
        acc &= slots.sure[two - start]
    live = (after & ~slots.write[at]) | slots.read[at]
    changed = live != slots.live[at]
    slots.live[at] = live
    if sure:
        if flow.ends[insn]:
            acc = 0  # 6.18 overlooks this way out, later kernels do not
        acc |= slots.write[at]
        if acc != slots.sure[at]:
            slots.sure[at] = acc
            changed = True
    return changed
