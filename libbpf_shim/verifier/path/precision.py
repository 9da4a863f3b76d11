"""Which recorded scalars a decision depended on: backtracking through executed instructions.

When a scalar's bounds decide something (a branch, an access), every recorded ancestor state gets
marks on the registers and stack slots that the scalar came from. Only marked scalars must be
in range for pruning. Model: kernel/bpf/verifier.c, mark_chain_precision, as a fact about which
states the kernel tells apart; where this walk meets what it cannot follow, it marks every scalar
of the rest of the chain, which is always sound. Compiled by mypyc.
"""

from __future__ import annotations

from typing import Final, final

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
    LD,
    LD_IMM64,
    LDX,
    LOAD_ACQ,
    MODE_ATOMIC,
    MOV,
    NEG,
    PSEUDO_CALL,
    ST,
    STORE_REL,
    STX,
    Insn,
)
from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.log import marklog
from libbpf_shim.verifier.state import (
    ASSUMED,
    ENTERED,
    LEFT,
    MAX_FRAMES,
    SCALAR,
    SPILL,
    TAILED,
    State,
    Step,
)
from libbpf_shim.verifier.watch import PLAIN

ALL_SLOTS: Final = (1 << 64) - 1


@final
class Tracked:
    """Registers (bit r) and slots (bit s) of each frame still to be traced; frame: the one that
    the instruction looked at ran in."""

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
    """The current frame's scalar regno decided something at the instruction that runs."""
    t = Tracked(len(env.cur.frames) - 1)
    t.regs[t.frame] = 1 << regno
    _walk(env, env.cur, env.running, env.prev_idx, t)


def mark_slot(env: Env, frame: int, slot: int) -> None:
    """A scalar spilled there decided something."""
    t = Tracked(len(env.cur.frames) - 1)
    t.slots[frame] = 1 << slot
    _walk(env, env.cur, env.running, env.prev_idx, t)


def mark_masks(env: Env, state: State, regs: list[int], slots: list[int]) -> None:
    """Registers and slots, by frame, of a state, of which state.insn has not run."""
    t = Tracked(len(state.frames) - 1)
    for i in range(len(state.frames)):
        t.regs[i] = regs[i]
        t.slots[i] = slots[i]
    if not t.empty():
        _walk(env, state, state.insn, state.prev, t)


def _walk(env: Env, origin: State, insn: int, prev: int, t: Tracked) -> None:
    """Backwards from slot prev, before insn, through origin's steps and its ancestors'."""
    if env.watch is not None and env.watch.mode == PLAIN:
        return  # every scalar counts there, and no state is kept that a walk could end at
    state = origin
    # a state recorded before insn: nothing ran since
    done = insn == state.first and not state.history
    last, after = insn, -1
    while True:
        if env.log_level & 2:
            marklog.begins(env, t.frame, last, state.first, after)
        if not done and prev >= 0 and not _back_to_parent(env, state, prev, t):
            _give_up(env, origin)
            return
        if t.empty():
            return
        parent = state.parent
        if parent is None:
            break
        after = state.first
        state = parent
        _mark_state(env, state, t)
        if env.log_level & 2:
            for f in range(t.frame, -1, -1):
                marklog.marked(env, state, f, t.regs[f], t.slots[f])
        if t.empty():
            return
        prev = state.prev
        last = prev
        done = False
    for f in range(9):
        # but for arguments of a function that is verified by itself, all were set on the way
        if t.slots[f] or t.regs[f] & ~(0x3E if f == 0 else 0):
            _give_up(env, origin)
            return


def _give_up(env: Env, origin: State) -> None:
    if env.log_level & 2:
        marklog.gives_up(env, origin)
    mark_everything(env, origin.parent)


def _back_to_parent(env: Env, state: State, at: int, t: Tracked) -> bool:
    """From slot at to the first that ran since state's parent was recorded. False: lost."""
    steps = state.history
    left = len(steps)
    while at >= 0:
        step: Step | None = None
        if left and steps[left - 1].insn == at:
            step = steps[left - 1]
        if not _back(env, t, at, step):
            return False
        if t.empty():
            return True
        if at == state.first and (left == 0 or (left == 1 and step is not None)):
            return True
        if step is not None:
            at = step.prev
            left -= 1
        else:
            at -= 1
    return True


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


def mark_everything(env: Env, state: State | None) -> None:
    """Every scalar of every state of the chain."""
    while state is not None:
        for frame in state.frames:
            if frame.precise != 0x3FF or frame.precise_stack != ALL_SLOTS:
                env.marks += 1
            frame.precise = 0x3FF
            frame.precise_stack = ALL_SLOTS
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


def _back(env: Env, t: Tracked, at: int, step: Step | None) -> bool:
    """Undo one instruction. False: cannot be followed."""
    i = env.insns[at]
    f = t.frame
    if env.log_level & 2:
        marklog.steps(env, f, t.regs[f], t.slots[f], at)
    klass = i.code & 7
    if klass == ALU or klass == ALU64:
        _back_alu(t, f, i.code, i.dst, i.src)
        return True
    if klass == LDX:
        _back_load(t, f, i.dst, step)
        return True
    if klass == STX:
        if i.code & 0xE0 == MODE_ATOMIC and i.imm != STORE_REL:
            return _back_atomic(t, f, i, step)
        return _back_store(t, f, i.dst, i.src, step)
    if klass == ST:
        return _back_store(t, f, i.dst, -1, step)
    if klass == LD:
        if step is not None and step.kind == TAILED:
            t.regs[f] &= ~1  # its function ended here, with a constant
            t.frame = f + 1
            return not t.regs[f] & 0x3E
        if step is not None and step.kind == LEFT:
            followed = _back_exit(t, True)
            t.regs[t.frame] &= ~1
            return followed
        if i.code:  # 0: the second half of an ld_imm64
            t.regs[f] &= ~(1 << (i.dst if i.code == LD_IMM64 else 0))
        return True
    return _back_jump(t, i, step)


def _back_alu(t: Tracked, f: int, code: int, dst: int, src: int) -> None:
    bit = 1 << dst
    if not t.regs[f] & bit:
        return
    kind = code & 0xF0
    if kind == END or kind == NEG:
        return
    if kind == MOV:
        t.regs[f] &= ~bit
    if code & 8 and src != 10:
        t.regs[f] |= 1 << src


def _back_load(t: Tracked, f: int, dst: int, step: Step | None) -> None:
    bit = 1 << dst
    if t.regs[f] & bit:
        t.regs[f] &= ~bit
        if step is not None and step.stack >= 0:
            t.slots[step.stack >> 8] |= 1 << (step.stack & 255)


def _back_store(t: Tracked, f: int, dst: int, src: int, step: Step | None) -> bool:
    if t.regs[f] & 1 << dst:
        return False  # an address: the scalar is a difference of two
    if step is None or step.stack < 0:
        return True
    bit = 1 << (step.stack & 255)
    if t.slots[step.stack >> 8] & bit:
        t.slots[step.stack >> 8] &= ~bit
        if src >= 0:
            t.regs[f] |= 1 << src
    return True


def _back_atomic(t: Tracked, f: int, i: Insn, step: Step | None) -> bool:
    if i.imm == LOAD_ACQ:
        _back_load(t, f, i.dst, step)
        return True
    if step is not None and step.stack >= 0:
        if t.slots[step.stack >> 8] & 1 << (step.stack & 255):
            return False  # a read-modify-write: rare enough to give up
    if i.imm & FETCH:
        return not t.regs[f] & 1 << (0 if i.imm == CMPXCHG else i.src)
    return True


def _back_jump(t: Tracked, i: Insn, step: Step | None) -> bool:
    kind = i.code & 0xF0
    if i.code & 7 == JMP:
        if kind == CALL:
            return _back_call(t, i, 0 if step is None else step.kind)
        if kind == EXIT:
            return _back_exit(t, step is not None and step.kind == LEFT)
    if kind == JA or kind == JCOND:
        return True
    if step is not None and step.linked:
        _linked(t, step)
    f = t.frame
    if i.code & 8:
        both = 1 << i.dst | 1 << i.src
        if t.regs[f] & both:
            t.regs[f] |= both & ~(1 << 10)
    if step is not None and step.linked:
        _linked(t, step)
    return True


def _back_call(t: Tracked, i: Insn, kind: int) -> bool:
    f = t.frame
    if kind == ENTERED or (i.src == PSEUDO_CALL and kind != ASSUMED):
        # to the caller, from the function's entry: only its arguments come from there; those of a
        # callback are the helper's
        args = t.regs[f]
        if f == 0 or args & ~0x3E or t.slots[f]:
            return False
        t.regs[f] = 0
        if kind != ENTERED:
            t.regs[f - 1] |= args
        t.frame = f - 1
        return True
    t.regs[f] &= ~1
    if t.regs[f] & 0x3E:
        return False  # clobbered by the call: nothing can come from before it
    if kind == TAILED:  # its function ended here, with the result of another program
        t.frame = f + 1
    return True


def _back_exit(t: Tracked, callback: bool) -> bool:
    """To a function, from its caller. What its caller is to know of registers that a callback's
    helper was given is kept for the round before."""
    f = t.frame
    t.frame = f + 1
    if f + 1 >= MAX_FRAMES:
        return False
    if callback:
        return True
    if t.regs[f] & 1:
        t.regs[f] &= ~1
        t.regs[f + 1] |= 1
    return not t.regs[f] & 0x3E
