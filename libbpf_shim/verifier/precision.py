"""Which recorded scalars a decision depended on: backtracking through executed instructions.

When a scalar's bounds decide something (a branch, an access), every recorded ancestor state gets
marks on the registers and stack slots that the scalar came from. Only marked scalars must be
in range for pruning. Model: kernel/bpf/verifier.c, mark_chain_precision, as a fact about which
states the kernel tells apart; where this walk meets what it cannot follow, it marks every scalar
of the rest of the chain, which is always sound. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa.insn import (
    ALU,
    ALU64,
    CALL,
    CMPXCHG,
    END,
    EXIT,
    FETCH,
    JA,
    JCOND,
    JMP,
    JMP32,
    LD,
    LDX,
    LOAD_ACQ,
    MODE_ATOMIC,
    MOV,
    NEG,
    PSEUDO_CALL,
    ST,
    STX,
)
from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.state import ASSUMED, ENTERED, LEFT, SCALAR, SPILL, TAILED, State, Step

LOST: Final = -1


class Tracked:
    """Registers (bit r) and slots (bit s) of each frame still to be traced."""

    __slots__ = ("regs", "slots", "frame")

    def __init__(self, frame: int) -> None:
        self.regs: list[int] = [0] * 9
        self.slots: list[int] = [0] * 9
        self.frame: int = frame

    def empty(self) -> bool:
        for i in range(9):
            if self.regs[i] or self.slots[i]:
                return False
        return True


def mark_reg(env: Env, regno: int) -> None:
    """The current frame's scalar regno decided something."""
    t = Tracked(len(env.cur.frames) - 1)
    t.regs[t.frame] = 1 << regno
    _walk(env, t)


def mark_masks(env: Env, regs: list[int], slots: list[int]) -> None:
    """Registers and slots, by frame, of the current state."""
    t = Tracked(len(env.cur.frames) - 1)
    for i in range(len(env.cur.frames)):
        t.regs[i] = regs[i]
        t.slots[i] = slots[i]
    if not t.empty():
        _walk(env, t)


def _walk(env: Env, t: Tracked) -> None:
    state: State | None = env.cur
    while state is not None:
        steps = state.history
        for at in range(len(steps) - 1, -1, -1):
            if not _back(env, t, steps[at], at, steps):
                _mark_everything(env, state.parent)
                return
            if t.empty():
                return
        state = state.parent
        if state is None:
            return
        _mark_state(env, state, t)
        if t.empty():
            return


def _mark_state(env: Env, state: State, t: Tracked) -> None:
    """Mark what is tracked in a recorded state; what is marked already, or no scalar, is done."""
    for f in range(9):
        regs = t.regs[f]
        slots = t.slots[f]
        if not regs and not slots:
            continue
        if f >= len(state.frames):
            t.regs[f] = 0
            t.slots[f] = 0
            continue
        frame = state.frames[f]
        for r in range(10):
            bit = 1 << r
            if regs & bit and (frame.regs[r].type != SCALAR or frame.precise & bit):
                t.regs[f] &= ~bit
            elif regs & bit:
                frame.precise |= bit
                env.marks += 1
        at = 0
        while slots:
            if slots & 1:
                bit = 1 << at
                known = False
                if at < len(frame.stack):
                    slot = frame.stack[at]
                    spilled = slot.reg
                    known = (
                        slot.types[0] == SPILL and spilled is not None and spilled.type == SCALAR
                    )
                if not known or frame.precise_stack & bit:
                    t.slots[f] &= ~bit
                else:
                    frame.precise_stack |= bit
                    env.marks += 1
            slots >>= 1
            at += 1


def _mark_everything(env: Env, state: State | None) -> None:
    """Every scalar of every state of the chain."""
    while state is not None:
        for frame in state.frames:
            if frame.precise != 0x3FF or frame.precise_stack != (1 << 64) - 1:
                env.marks += 1
            frame.precise = 0x3FF
            frame.precise_stack = (1 << 64) - 1
        state = state.parent


def _linked(t: Tracked, step: Step) -> None:
    """Bounds of equal scalars change together: one of them tracked means all are."""
    hit = False
    for frame, place in step.linked:
        if place < 16:
            hit = hit or (t.regs[frame] & (1 << place)) != 0
        else:
            hit = hit or (t.slots[frame] & (1 << (place - 16))) != 0
    if hit:
        for frame, place in step.linked:
            if place < 16:
                t.regs[frame] |= 1 << place
            else:
                t.slots[frame] |= 1 << (place - 16)


def _back(env: Env, t: Tracked, step: Step, at: int, steps: list[Step]) -> bool:
    """Undo one step. False: cannot be followed."""
    i = env.insns[step.insn]
    f = step.frame
    t.frame = f
    klass = i.code & 7
    if klass == ALU or klass == ALU64:
        return _back_alu(t, f, i.code, i.dst, i.src)
    if step.linked:
        _linked(t, step)
    if klass == LDX or (klass == STX and i.code & 0xE0 == MODE_ATOMIC):
        if klass == STX:
            if i.imm == LOAD_ACQ:
                return _back_load(t, f, i.dst, step)
            if i.imm & FETCH and i.imm < LOAD_ACQ:
                reg = 0 if i.imm == CMPXCHG else i.src
                if t.regs[f] & (1 << reg) or (
                    step.stack >= 0 and t.slots[step.stack >> 8] & 1 << (step.stack & 255)
                ):
                    return False  # a read-modify-write: rare enough to give up
                return True
            if i.imm < LOAD_ACQ:
                return not (step.stack >= 0 and t.slots[step.stack >> 8] & 1 << (step.stack & 255))
            return _back_store(t, f, i.src, step)
        return _back_load(t, f, i.dst, step)
    if klass == STX:
        return _back_store(t, f, i.src, step)
    if klass == ST:
        return _back_store(t, f, -1, step)
    if klass == JMP or klass == JMP32:
        return _back_jump(env, t, step, klass)
    if klass == LD:
        t.regs[f] &= ~(1 << (i.dst if i.code == 0x18 else 0))
        return True
    return False


def _back_alu(t: Tracked, f: int, code: int, dst: int, src: int) -> bool:
    bit = 1 << dst
    if not t.regs[f] & bit:
        return True
    kind = code & 0xF0
    if kind == END or kind == NEG:
        return True
    if kind == MOV:
        t.regs[f] &= ~bit
        if code & 8:
            t.regs[f] |= 1 << src
    elif code & 8:
        t.regs[f] |= 1 << src
    t.regs[f] &= ~(1 << 10)
    return True


def _back_load(t: Tracked, f: int, dst: int, step: Step) -> bool:
    bit = 1 << dst
    if not t.regs[f] & bit:
        return True
    t.regs[f] &= ~bit
    if step.stack >= 0:
        t.slots[step.stack >> 8] |= 1 << (step.stack & 255)
    return True


def _back_store(t: Tracked, f: int, src: int, step: Step) -> bool:
    if step.stack < 0:
        return True
    bit = 1 << (step.stack & 255)
    if t.slots[step.stack >> 8] & bit:
        t.slots[step.stack >> 8] &= ~bit
        if src >= 0:
            t.regs[f] |= 1 << src
    return True


def _back_jump(env: Env, t: Tracked, step: Step, klass: int) -> bool:
    i = env.insns[step.insn]
    f = step.frame
    kind = i.code & 0xF0
    if klass == JMP and kind == CALL:
        if step.kind == ENTERED:
            # R1 to R5 of a callback are the helper's; its caller's registers are kept for the
            # next round
            if t.regs[f + 1] & ~0x3E or t.slots[f + 1]:
                return False
            t.regs[f + 1] = 0
            return True
        if step.kind == TAILED and f:
            # back over the return: the caller's r0 is another program's result
            caller = f - 1
            t.regs[caller] &= ~1
            return not t.regs[caller] & 0x3E
        if i.src == PSEUDO_CALL and step.kind != ASSUMED:
            # back over the entry: arguments of the callee are the caller's registers
            args = t.regs[f + 1]
            if args & ~0x3E or t.slots[f + 1]:
                return False
            t.regs[f] |= args
            t.regs[f + 1] = 0
            return True
        if t.regs[f] & 0x3E:
            return False  # clobbered by the call: nothing can come from before it
        t.regs[f] &= ~1
        return True
    if klass == JMP and kind == EXIT:
        if f == 0 or step.kind == LEFT:
            return True
        # back over the return: the caller's r0 is the callee's; r1-r5 do not survive a call
        caller = f - 1
        if t.regs[caller] & 1:
            t.regs[f] |= 1
            t.regs[caller] &= ~1
        return not t.regs[caller] & 0x3E
    if kind == JA or kind == JCOND:
        return True
    dst = 1 << i.dst
    src = 1 << i.src if i.code & 8 else 0
    if t.regs[f] & (dst | src) and src:
        t.regs[f] |= dst | src
        t.regs[f] &= ~(1 << 10)
    if step.linked:
        _linked(t, step)
    return True
