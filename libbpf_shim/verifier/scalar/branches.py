"""Comparisons of two abstract scalars: whether they are decided, and what each outcome teaches.

Pure: operands are never changed. As far as Linux 6.18 looks (kernel/bpf/verifier.c:
is_scalar_branch_taken, regs_refine_cond_op; restated as rules). Compiled by mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa.insn import JEQ, JGE, JGT, JLE, JLT, JNE, JSET, JSGE, JSGT, JSLE, JSLT
from libbpf_shim.verifier.scalar import domains as d
from libbpf_shim.verifier.scalar.bounds import forget_bounds, sync
from libbpf_shim.verifier.scalar.domains import U32, U64, to_s32, to_s64
from libbpf_shim.verifier.state import Reg

# The comparison with its operands exchanged, and the one that holds where this does not.
MIRRORED: Final = {
    JEQ: JEQ, JNE: JNE, JSET: JSET, JGT: JLT, JGE: JLE, JLT: JGT, JLE: JGE, JSGT: JSLT,
    JSGE: JSLE, JSLT: JSGT, JSLE: JSGE,
}  # fmt: skip
_NEGATED: Final = {
    JEQ: JNE, JNE: JEQ, JGT: JLE, JLE: JGT, JGE: JLT, JLT: JGE, JSGT: JSLE, JSLE: JSGT,
    JSGE: JSLT, JSLT: JSGE,
}  # fmt: skip


def branch_taken(op: int, a: Reg, b: Reg, is32: bool) -> int:
    """1: always, 0: never, -1: not known, for two scalars."""
    if op == JEQ or op == JNE:
        same = _equal(a, b, is32)
        return same if same < 0 or op == JEQ else 1 - same
    if op == JSET:
        return _common_bits(a, b, U32 if is32 else U64)
    if op in (JGT, JGE, JLT, JLE):
        if is32:
            return _ordered(op, a.u32min, a.u32max, b.u32min, b.u32max)
        return _ordered(op, a.umin, a.umax, b.umin, b.umax)
    if is32:
        return _ordered(op, a.s32min, a.s32max, b.s32min, b.s32max)
    return _ordered(op, a.smin, a.smax, b.smin, b.smax)


def _equal(a: Reg, b: Reg, is32: bool) -> int:
    width = U32 if is32 else U64
    if not (a.tm | b.tm) & width:
        return 1 if a.tv & width == b.tv & width else 0
    if not d.t_overlap(a.tv & width, a.tm & width, b.tv & width, b.tm & width):
        return 0
    if a.u32min > b.u32max or a.u32max < b.u32min or a.s32min > b.s32max or a.s32max < b.s32min:
        return 0
    if is32:
        return -1
    if a.umin > b.umax or a.umax < b.umin or a.smin > b.smax or a.smax < b.smin:
        return 0
    return -1


def _common_bits(a: Reg, b: Reg, width: int) -> int:
    if b.tm & width:
        a, b = b, a
        if b.tm & width:
            return -1
    bits = b.tv & width
    if a.tv & bits:
        return 1
    return -1 if a.tm & bits else 0


def _ordered(op: int, alo: int, ahi: int, blo: int, bhi: int) -> int:
    if op == JGT or op == JSGT:
        return 1 if alo > bhi else 0 if ahi <= blo else -1
    if op == JGE or op == JSGE:
        return 1 if alo >= bhi else 0 if ahi < blo else -1
    if op == JLT or op == JSLT:
        return 1 if ahi < blo else 0 if alo >= bhi else -1
    return 1 if ahi <= blo else 0 if alo > bhi else -1


def refine(op: int, a: Reg, b: Reg, one: bool, is32: bool, taken: bool) -> tuple[Reg, Reg]:
    """Both operands on one outcome of the comparison: new registers. one: they are the same
    register, of which 6.18 learns as if they were two."""
    x = a.copy()
    y = x if one else b.copy()
    if op == JSET:
        _refine_set(x, y, is32, taken)
    else:
        real = op if taken else _NEGATED[op]
        if real == JEQ:
            _refine_equal(x, y, is32)
        elif real == JNE:
            if y.tm & (U32 if is32 else U64):
                _refine_unequal(y, x, is32)
            else:
                _refine_unequal(x, y, is32)
        else:
            _refine_order(real, x, y, is32)
    sync(x)
    sync(y)
    return x, y


def _refine_equal(x: Reg, y: Reg, is32: bool) -> None:
    if is32:
        v, m = d.t_intersect(x.tv & U32, x.tm & U32, y.tv & U32, y.tm & U32)
        for r in (x, y):
            r.tv = (r.tv & ~U32) | v
            r.tm = (r.tm & ~U32) | m
        x.u32min = y.u32min = max(x.u32min, y.u32min)
        x.u32max = y.u32max = min(x.u32max, y.u32max)
        x.s32min = y.s32min = max(x.s32min, y.s32min)
        x.s32max = y.s32max = min(x.s32max, y.s32max)
        return
    if y.tm == 0 and _may_be(x, y.tv):
        x.set_const(y.tv)
        return
    x.tv, x.tm = d.t_intersect(x.tv, x.tm, y.tv, y.tm)
    y.tv = x.tv
    y.tm = x.tm
    x.umin = y.umin = max(x.umin, y.umin)
    x.umax = y.umax = min(x.umax, y.umax)
    x.smin = y.smin = max(x.smin, y.smin)
    x.smax = y.smax = min(x.smax, y.smax)


def _may_be(x: Reg, value: int) -> bool:
    """Every bound of x has that value."""
    low = value & U32
    return (
        x.umin <= value <= x.umax and x.smin <= to_s64(value) <= x.smax and value & ~x.tm == x.tv
        and x.u32min <= low <= x.u32max and x.s32min <= to_s32(low) <= x.s32max
    )  # fmt: skip


def _refine_unequal(x: Reg, y: Reg, is32: bool) -> None:
    """x != y: a known y at the edge of an interval of x is cut off."""
    if is32:
        if y.tm & U32:
            return
        u = y.tv & U32
        s = to_s32(u)
        if x.u32min == u:
            x.u32min = (x.u32min + 1) & U32
        if x.u32max == u:
            x.u32max = (x.u32max - 1) & U32
        if x.s32min == s:
            x.s32min = to_s32(x.s32min + 1)
        if x.s32max == s:
            x.s32max = to_s32(x.s32max - 1)
        return
    if y.tm:
        return
    s = to_s64(y.tv)
    if x.umin == y.tv:
        x.umin = (x.umin + 1) & U64
    if x.umax == y.tv:
        x.umax = (x.umax - 1) & U64
    if x.smin == s:
        x.smin = to_s64((s + 1) & U64)
    if x.smax == s:
        x.smax = to_s64((s - 1) & U64)


def _refine_set(x: Reg, y: Reg, is32: bool, taken: bool) -> None:
    """x & y, where one is known; taken: some common bit is set, else none is."""
    known = y
    other = x
    width = U32 if is32 else U64
    if known.tm & width:
        known = x
        other = y
        if known.tm & width:
            return
    bits = known.tv & width
    if taken:
        if bits and not bits & (bits - 1):
            other.tv |= bits
            other.tm &= ~bits
        return
    other.tv &= ~bits
    other.tm &= ~bits
    forget_bounds(other)  # 6.18 starts anew from the bits


def _refine_order(op: int, x: Reg, y: Reg, is32: bool) -> None:
    if op == JGT or op == JGE or op == JSGT or op == JSGE:
        x, y = y, x
    strict = 1 if op in (JGT, JLT, JSGT, JSLT) else 0
    # now x < y or x <= y
    if op in (JGT, JGE, JLT, JLE):
        if is32:
            x.u32max = min(x.u32max, (y.u32max - strict) & U32)
            y.u32min = max(y.u32min, (x.u32min + strict) & U32)
        else:
            x.umax = min(x.umax, (y.umax - strict) & U64)
            y.umin = max(y.umin, (x.umin + strict) & U64)
    elif is32:
        x.s32max = min(x.s32max, to_s32(y.s32max - strict))
        y.s32min = max(y.s32min, to_s32(x.s32min + strict))
    else:
        x.smax = min(x.smax, to_s64((y.smax - strict) & U64))
        y.smin = max(y.smin, to_s64((x.smin + strict) & U64))
