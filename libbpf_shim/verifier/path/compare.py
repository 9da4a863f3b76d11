"""Does one state cover another? Registers, slots and frames, compared for each recorded state that
a path comes to. Compiled by mypyc.

A state covers another if every run from the other is a run from it: live registers and slots are
in range, imprecise scalars may differ. Source: Linux 6.18, kernel/bpf/verifier.c, states_equal and
what it calls.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.path.ids import IdMap
from libbpf_shim.verifier.scalar.domains import t_in
from libbpf_shim.verifier.state import (
    ADD_CONST,
    ARENA,
    DYNPTR_SLOT,
    EMPTY_SLOT,
    INVALID,
    MAP_KEY,
    MAP_VALUE,
    MEM,
    MISC,
    MISC_SLOT,
    NOT_INIT,
    PKT,
    PKT_META,
    SCALAR,
    SPILL,
    SPILLED,
    TP_BUFFER,
    TYPE_MASK,
    UNKNOWN,
    ZERO,
    Frame,
    Reg,
    Slot,
    State,
)

_MISC: Final = MISC_SLOT.types
# How states are compared. COVERED: scalars that decided nothing may differ. WITHIN: every scalar
# is in range, since it is not known yet which ones decide. SAME: equal but for the names of ids.
COVERED: Final = 0
WITHIN: Final = 1
SAME: Final = 2


def within(old: Reg, new: Reg) -> bool:
    """Every number that new may be, old may be."""
    return (
        old.umin <= new.umin
        and old.umax >= new.umax
        and old.smin <= new.smin
        and old.smax >= new.smax
        and old.u32min <= new.u32min
        and old.u32max >= new.u32max
        and old.s32min <= new.s32min
        and old.s32max >= new.s32max
        and t_in(old.tv, old.tm, new.tv, new.tm)
    )


def _same(old: Reg, new: Reg, ids: IdMap) -> bool:
    return old.same(new) and ids.match(old.id, new.id) and ids.match(old.ref, new.ref)


def _reg_safe(old: Reg, new: Reg, precise: bool, ids: IdMap, how: int) -> bool:
    """old covers new; precise: as a scalar, old decided something."""
    if old is new and old.id == 0 and old.ref == 0:
        return True
    if how == SAME:
        return _same(old, new, ids)
    type = old.type
    if type == NOT_INIT and how == COVERED:
        return True
    if type != new.type:
        return False
    if type == SCALAR:
        if how == COVERED and not precise:
            return True
        if old.id:
            if (old.id ^ new.id) & ADD_CONST or (old.id & ADD_CONST and old.off != new.off):
                return False
            if not ids.match_scalar(old.id, new.id):
                return False
        return old is new or within(old, new)
    base = type & TYPE_MASK
    if base == MAP_VALUE or base == MEM or base == MAP_KEY or base == TP_BUFFER:
        return (
            old.off == new.off
            and old.map == new.map
            and old.mem_size == new.mem_size
            and old.kind == new.kind
            and old.depth == new.depth
            and within(old, new)
            and ids.match(old.id, new.id)
            and ids.match(old.ref, new.ref)
        )
    if base == PKT or base == PKT_META:
        if old.range < 0 or new.range < 0:
            if old.range != new.range:
                return False
        elif old.range > new.range:
            return False
        if old.off != new.off or old.kind != new.kind or old.depth != new.depth:
            return False
        return ids.match(old.id, new.id) and within(old, new)
    return base == ARENA or _same(old, new, ids)


def _slot_scalar(slot: Slot) -> Reg | None:
    """The slot as one 8-byte scalar, if it is nothing else."""
    types = slot.types
    if types == SPILLED:
        reg = slot.reg
        return reg if reg is not None and reg.type == SCALAR else None
    if types == _MISC:
        return UNKNOWN
    return UNKNOWN if _unknown(slot) else None


def _unknown(slot: Slot) -> bool:
    """Nothing in the slot may have decided anything."""
    for b in slot.types:
        if b != MISC and b != INVALID:
            return False
    return True


def _slot_safe(old: Slot, new: Slot, precise: bool, ids: IdMap, how: int) -> bool:
    if old is new and (old.reg is None or (old.reg.id == 0 and old.reg.ref == 0)):
        return True
    ot = old.types
    nt = new.types
    if how == COVERED:
        if old is EMPTY_SLOT or ot == _MISC:
            return True
    elif ot != nt:
        return False
    a = _slot_scalar(old)
    if a is not None:
        b = _slot_scalar(new)
        if b is not None:
            return _reg_safe(a, b, precise and a is not UNKNOWN, ids, how)
    if ot != nt:
        for i in range(8):
            if ot[i] != nt[i] and ot[i] != INVALID and ot[i] != MISC:
                return False
    last = ot[0]
    if last == MISC or last == ZERO or last == INVALID:
        return True
    if old.reg is None or new.reg is None:
        return old.reg is new.reg
    if last == SPILL:
        return _reg_safe(old.reg, new.reg, precise, ids, how)
    return _object_safe(last, old.reg, new.reg, ids)


def _object_safe(type: int, old: Reg, new: Reg, ids: IdMap) -> bool:
    """What slots of special types hold: how often an iterator went round does not matter, nor (in
    6.18) whether a dynptr is the one that some slice is of: that slice is compared as it is."""
    return (
        old.type == new.type
        and old.kind == new.kind
        and old.btf == new.btf
        and old.type_id == new.type_id
        and (old.depth == new.depth or type != DYNPTR_SLOT)
        and (type == DYNPTR_SLOT or ids.match(old.id, new.id))
        and ids.match(old.ref, new.ref)
    )


def _frame_safe(old: Frame, new: Frame, live: int, ids: IdMap, how: int) -> bool:
    if old.callsite != new.callsite or old.callback != new.callback or old.depth > new.depth:
        return False
    olds = old.regs
    news = new.regs
    for i in range(10):
        if live & (1 << i):
            precise = old.precise & (1 << i) != 0
            if not _reg_safe(olds[i], news[i], precise, ids, how):
                return False
    nold = len(old.stack)
    nnew = len(new.stack)
    if how != COVERED and nold > nnew:
        return False
    for i in range(nold):
        slot = old.stack[i]
        if i >= nnew:  # such a path has not touched the stack that far
            if not _unknown(slot):
                return False
            continue
        now = new.stack[i]
        if slot is now and slot.reg is None:
            continue
        precise = old.precise_stack & (1 << i) != 0
        if not _slot_safe(slot, now, precise, ids, how):
            return False
    return True


def states_equal(env: Env, old: State, new: State, how: int) -> bool:
    """old covers new, compared as COVERED, WITHIN or SAME."""
    if len(old.frames) != len(new.frames) or len(old.refs) != len(new.refs):
        return False
    ids = env.ids
    ids.clear()
    if old.rcu != new.rcu or old.preempt != new.preempt or not _sections_match(old, new, ids):
        return False
    for i in range(len(old.refs)):
        if old.refs[i][1] != new.refs[i][1] or not ids.match(old.refs[i][0], new.refs[i][0]):
            return False
    top = len(old.frames) - 1
    for i in range(top + 1):
        at = old.insn if i == top else old.frames[i + 1].callsite
        if not _frame_safe(old.frames[i], new.frames[i], env.live[at], ids, how):
            return False
    return True


def _sections_match(old: State, new: State, ids: IdMap) -> bool:
    """The same locks are held, and as many interrupt states saved."""
    if len(old.locks) != len(new.locks) or len(old.irqs) != len(new.irqs):
        return False
    for i in range(len(old.locks)):
        a = old.locks[i]
        b = new.locks[i]
        if a[0] != b[0] or a[1] != b[1] or not ids.match(a[2], b[2]):
            return False
    for i in range(len(old.irqs)):
        if not ids.match(old.irqs[i][0], new.irqs[i][0]):
            return False
    return True


def same_registers(old: State, new: State) -> bool:
    """Of the function that runs, with their ids: what is cheap to ask first, and by which 6.18
    takes a round that gave a number another id for a new one."""
    if len(old.frames) != len(new.frames):
        return False
    a = old.frames[-1].regs
    b = new.frames[-1].regs
    for i in range(10):
        r, s = a[i], b[i]
        if r is not s and (r.id != s.id or r.ref != s.ref or not r.same(s)):
            return False
    return True
