"""Scalars that are copies of one value, or that value plus a constant: one id, learnt of together.

A copy of an unknown scalar gives both an id. `r8 = r7; r8 += 4` keeps r7's id with ADD_CONST and
the 4 in Reg.off, so that `if r7 < 40` bounds r8 too. Source of rules: Linux 6.18,
kernel/bpf/verifier.c, assign_scalar_id_before_mov, collect_linked_regs, sync_linked_regs.
Compiled by mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa.insn import ADD, SUB
from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.scalar import transfer
from libbpf_shim.verifier.scalar.domains import S32_MAX, S32_MIN, U32, U64, to_s32, to_s64
from libbpf_shim.verifier.state import (
    ADD_CONST,
    ADD_CONST32,
    ADD_CONST64,
    SCALAR,
    SPILL,
    Reg,
    Slot,
    State,
    const_reg,
)

MOST: Final = 6  # that are learnt of at one comparison
SLOTS: Final = 16  # places from here on are stack slots
Place = tuple[int, int]  # frame, and register or SLOTS + slot


def named(env: Env, regno: int) -> Reg:
    """The scalar in a register of the current frame, about to have a copy: with an id, unless it
    is known. One that is another's plus a constant begins a set of its own."""
    reg = env.regs()[regno]
    if reg.type != SCALAR or (reg.id and not reg.id & ADD_CONST):
        return reg
    if reg.id == 0 and reg.tm == 0:
        return reg
    reg = reg.copy()
    reg.off = 0
    reg.id = 0 if reg.tm == 0 else env.new_id()
    env.regs()[regno] = reg
    return reg


def moved(kind: int, before: Reg, by: Reg, is32: bool, after: Reg) -> None:
    """The id of after, the fresh result of before += by or before -= by."""
    if not before.id or before.id & ADD_CONST or kind not in (ADD, SUB):
        return
    if by.tm & (U32 if is32 else U64) or (is32 and before.umax > U32):
        return
    if not is32 and not S32_MIN <= to_s64(by.tv) <= S32_MAX:
        return
    off = to_s32(by.tv)
    if kind == SUB:
        if off == S32_MIN:
            return
        off = -off
    after.id = before.id | (ADD_CONST32 if is32 else ADD_CONST64)
    after.off = off


def collect(env: Env, ident: int, places: list[Place]) -> None:
    """Where values of that id are, added to places; those beyond the first ones lose the id.
    Registers that are not read any more don't count."""
    ident &= ~ADD_CONST
    frames = env.cur.frames
    at = env.insn_idx
    for f in range(len(frames) - 1, -1, -1):
        frame = frames[f]
        live = env.live[at]
        at = frame.callsite
        for r in range(10):
            reg = frame.regs[r]
            if reg.type == SCALAR and reg.id & ~ADD_CONST == ident and live >> r & 1:
                if len(places) < MOST:
                    places.append((f, r))
                else:
                    frame.regs[r] = _nameless(reg)
        for s in range(len(frame.stack)):
            slot = frame.stack[s]
            spilled = slot.reg
            if spilled is None or slot.types[0] != SPILL or spilled.type != SCALAR:
                continue
            if spilled.id & ~ADD_CONST == ident:
                if len(places) < MOST:
                    places.append((f, SLOTS + s))
                else:
                    frame.stack[s] = Slot(slot.types, _nameless(spilled))


def _nameless(reg: Reg) -> Reg:
    reg = reg.copy()
    reg.id = 0
    reg.off = 0
    return reg


def spread(state: State, regno: int, places: list[Place]) -> None:
    """What is known of regno of the innermost frame holds for the others of its id."""
    top = len(state.frames) - 1
    known = state.frames[top].regs[regno]
    if known.type != SCALAR or not known.id:
        return
    for f, place in places:
        frame = state.frames[f]
        if place >= SLOTS:
            slot = frame.stack[place - SLOTS]
            if slot.reg is not None and slot.reg.type == SCALAR:
                learnt = _learnt(slot.reg, known)
                if learnt is not slot.reg:
                    frame.stack[place - SLOTS] = Slot(slot.types, learnt)
        elif f != top or place != regno:
            reg = frame.regs[place]
            if reg.type == SCALAR:
                frame.regs[place] = _learnt(reg, known)


def _learnt(reg: Reg, known: Reg) -> Reg:
    """reg, of known's id or not, once known is known."""
    if (reg.id ^ known.id) & ~ADD_CONST or (reg.id ^ known.id) & ADD_CONST == ADD_CONST:
        return reg
    if not (reg.id | known.id) & ADD_CONST or reg.off == known.off:
        return known
    apart = const_reg(reg.off - known.off)
    wraps = (reg.id | known.id) & ADD_CONST32 != 0
    learnt = transfer.added(known, apart, wraps)
    learnt.id = reg.id
    learnt.off = reg.off
    return learnt
