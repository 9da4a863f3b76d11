"""The instructions that made a register what it is, backwards from where it was refused.

A backward slice of one path: moves, arithmetic, spills and fills, calls in and out, and the
branches that narrowed a value. What another register or the memory contributed is followed only
while it is a register or a stack slot.
"""

from __future__ import annotations

from dataclasses import dataclass

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.diagnose import words
from libbpf_shim.verifier.diagnose.replay import Moment, Replay
from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.state import NOT_INIT, SCALAR, STACK, TYPE_MASK

_LAST = 10  # register
_MOST = 12  # events that are told


@dataclass(frozen=True, slots=True)
class Event:
    """at: the slot. what: what it did, in words."""

    at: int
    what: str


class _Slice:
    """Registers and stack slots (as -1 - slot) that are followed, by frame."""

    def __init__(self, found: Replay) -> None:
        self.env: Env = found.env
        self.moments = found.moments
        self.follow: set[tuple[int, int]] = set()
        self.events: list[Event] = []

    def run(self, frame: int, reg: int) -> list[Event]:
        self.follow = {(frame, reg)}
        for k in range(len(self.moments) - 2, -1, -1):
            self._undo(self.moments[k], self.moments[k + 1])
            if not self.follow or len(self.events) == _MOST:
                break
        return list(reversed(self.events))

    def _tell(self, moment: Moment, what: str) -> None:
        self.events.append(Event(moment.at, what))

    def _after(self, after: Moment, frame: int, reg: int) -> str:
        """What the register then was; a slot's content is told by the register it is filled to."""
        if frame != after.frame or reg < 0:
            return ""
        return words.register(self.env, after.regs[reg])

    def _undo(self, before: Moment, after: Moment) -> None:
        i, frame = self.env.insns[before.at], before.frame
        if i.dst > _LAST or i.src > _LAST:  # refused for that
            return
        klass, kind = i.code & 7, i.code & 0xF0
        if after.frame > frame:
            self._entered(before, after)
        elif after.frame < frame:
            self._left(before, after)
        elif klass in (op.ALU, op.ALU64):
            self._arithmetic(i, before, after)
        elif klass == op.LDX:
            self._load(i, before, after)
        elif klass in (op.ST, op.STX):
            self._store(i, before, after)
        elif klass == op.LD:
            self._made(i, before, after)
        elif kind == op.CALL:
            self._called(i, before, after)
        elif kind not in (op.JA, op.EXIT, op.JCOND):
            self._branched(i, before, after)

    def _entered(self, before: Moment, after: Moment) -> None:
        """A call into a function, or a callback: arguments were the caller's registers."""
        inner = {(f, r) for f, r in self.follow if f == after.frame}
        for _, reg in sorted(inner):
            value = words.register(self.env, after.regs[reg]) if reg >= 0 else ""
            self._tell(before, f"R{reg} is passed to the function: {value}")
            if 1 <= reg <= 5:
                self.follow.add((before.frame, reg))
        self.follow -= inner

    def _left(self, before: Moment, after: Moment) -> None:
        if (after.frame, 0) in self.follow:
            self.follow.remove((after.frame, 0))
            self.follow.add((before.frame, 0))
            value = words.register(self.env, after.regs[0])
            self._tell(before, f"R0 is returned by the function: {value}")

    def _arithmetic(self, i: Insn, before: Moment, after: Moment) -> None:
        key = (before.frame, i.dst)
        if key not in self.follow:
            return
        value = self._after(after, *key)
        if i.code & 0xF0 == op.MOV:
            self.follow.remove(key)
            if not i.code & 8:
                self._tell(before, f"R{i.dst} becomes {value}")
                return
            self.follow.add((before.frame, i.src))
            narrow = i.code & 7 == op.ALU
            how = "is the low half of" if narrow else "is copied from"
            self._tell(before, f"R{i.dst} {how} R{i.src}: {value}")
            return
        self._tell(before, f"R{i.dst} becomes {value}")
        if i.code & 8 and before.regs[i.src].type == SCALAR and before.regs[i.src].tm:
            self.follow.add((before.frame, i.src))

    def _slot(self, i: Insn, base: int, before: Moment) -> tuple[int, int] | None:
        """The stack slot that the access is to, if it is to one."""
        reg = before.regs[base]
        if reg.type & TYPE_MASK != STACK or reg.tm:
            return None
        at = reg.off + reg.smin + i.off
        return (reg.frame, -1 - (-at - 1) // 8) if at < 0 else None

    def _load(self, i: Insn, before: Moment, after: Moment) -> None:
        key = (before.frame, i.dst)
        if key not in self.follow:
            return
        self.follow.remove(key)
        value = self._after(after, *key)
        slot = self._slot(i, i.src, before)
        if slot is None:
            origin = words.register(self.env, before.regs[i.src])
            self._tell(before, f"R{i.dst} is loaded from {origin}: {value}")
            return
        self.follow.add(slot)
        self._tell(before, f"R{i.dst} is loaded from the stack, fp{8 * slot[1]:+d}: {value}")

    def _store(self, i: Insn, before: Moment, after: Moment) -> None:
        slot = self._slot(i, i.dst, before)
        if slot is None or slot not in self.follow:
            return
        self.follow.remove(slot)
        if i.code & 7 == op.STX and i.code & 0xE0 != op.MODE_ATOMIC:
            value = words.register(self.env, before.regs[i.src])
            self._tell(before, f"R{i.src} is stored there: {value}")
            self.follow.add((before.frame, i.src))
        else:
            self._tell(before, "the stack is written there")

    def _made(self, i: Insn, before: Moment, after: Moment) -> None:
        reg = i.dst if i.code == op.LD_IMM64 else 0
        if (before.frame, reg) in self.follow:
            self.follow.remove((before.frame, reg))
            self._tell(before, f"R{reg} becomes {self._after(after, before.frame, reg)}")

    def _called(self, i: Insn, before: Moment, after: Moment) -> None:
        lost = {(f, r) for f, r in self.follow if f == before.frame and 0 <= r <= 5}
        self.follow -= lost
        for _, reg in sorted(lost):
            if reg == 0 and after.regs[0].type != NOT_INIT:
                value = words.register(self.env, after.regs[0])
                self._tell(before, f"R0 is returned by the call: {value}")
            else:
                self._tell(before, f"R{reg} is lost by the call")

    def _branched(self, i: Insn, before: Moment, after: Moment) -> None:
        taken = after.at != before.at + 1
        for frame, reg in sorted(self.follow):
            if frame != before.frame or reg < 0:
                continue
            then = words.register(self.env, before.regs[reg])
            now = words.register(self.env, after.regs[reg])
            concerned = reg == i.dst or (i.code & 8 and reg == i.src)
            if then != now or concerned:
                way = "taken" if taken else "not taken"
                told = f"so R{reg} is {now}" if then != now else f"R{reg} stays {now}"
                self._tell(before, f"the branch is {way}: {told}")


def of_register(found: Replay, reg: int) -> list[Event]:
    """How register `reg` of the last moment's frame came to what it is. A register that nothing
    wrote on this path has no cause."""
    if not found.moments:
        return []
    return _Slice(found).run(found.moments[-1].frame, reg)


def branches(found: Replay) -> list[Event]:
    """The last conditional jumps of the path, for what no instruction of it caused."""
    events = []
    for moment, after in zip(found.moments, found.moments[1:], strict=False):
        i = found.env.insns[moment.at]
        conditional = i.code & 0xF0 not in (op.JA, op.EXIT, op.CALL, op.JCOND)
        if i.klass in (op.JMP, op.JMP32) and conditional:
            way = "taken" if after.at != moment.at + 1 else "not taken"
            events.append(Event(moment.at, f"the branch is {way}"))
    return events[-_MOST:]


def of_slot(found: Replay, at: int) -> list[Event]:
    """The instruction at a slot that the path ran through, with the branches after it."""
    last = max((k for k, moment in enumerate(found.moments) if moment.at == at), default=-1)
    if last < 0:
        return []
    after = Replay(found.env, found.moments[last + 1 :])
    return [Event(at, "it is acquired here"), *branches(after)]
