"""Arithmetic and branches on abstract scalars: what each instruction does to a Reg.

Pure: operands are never changed, a new Reg is returned. Ready for mypyc. Over 500 lines: the
transfer functions of one domain read best side by side.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa.insn import (
    ADD,
    AND,
    ARSH,
    JEQ,
    JGE,
    JGT,
    JLE,
    JLT,
    JNE,
    JSET,
    JSGE,
    JSGT,
    JSLE,
    JSLT,
    LSH,
    MUL,
    OR,
    RSH,
    SUB,
    XOR,
)
from libbpf_shim.verifier import domains as d
from libbpf_shim.verifier.domains import (
    S32_MAX,
    S32_MIN,
    S64_MAX,
    S64_MIN,
    U32,
    U64,
    to_s32,
    to_s64,
)
from libbpf_shim.verifier.state import SCALAR, Reg, const_reg

SIGN64: Final = 0x8000000000000000
SIGN32: Final = 0x80000000


def _from_tnum(r: Reg) -> None:
    """Tighten the intervals by the known bits."""
    v = r.tv
    m = r.tm
    if v > r.umin:
        r.umin = v
    if v | m < r.umax:
        r.umax = v | m
    lo = to_s64(v | (m & SIGN64))
    hi = to_s64(v | (m & S64_MAX))
    if lo > r.smin:
        r.smin = lo
    if hi < r.smax:
        r.smax = hi
    v &= U32
    m &= U32
    if v > r.u32min:
        r.u32min = v
    if v | m < r.u32max:
        r.u32max = v | m
    lo = to_s32(v | (m & SIGN32))
    hi = to_s32(v | (m & S32_MAX))
    if lo > r.s32min:
        r.s32min = lo
    if hi < r.s32max:
        r.s32max = hi


def _low_half_from_full(r: Reg) -> None:
    """The low 32 bits' intervals, where the high half is the same all over an interval."""
    for lo, hi in ((r.umin, r.umax), (r.smin, r.smax)):
        if lo >> 32 == hi >> 32:
            r.u32min = max(r.u32min, lo & U32)
            r.u32max = min(r.u32max, hi & U32)
            if to_s32(lo) <= to_s32(hi):
                r.s32min = max(r.s32min, to_s32(lo))
                r.s32max = min(r.s32max, to_s32(hi))
        elif (lo >> 32) + 1 == hi >> 32 and to_s32(lo) < 0 and to_s32(hi) >= 0:
            # the only step between halves is from 0xffffffff to 0: signed order is kept
            r.s32min = max(r.s32min, to_s32(lo))
            r.s32max = min(r.s32max, to_s32(hi))


def _signs(r: Reg) -> None:
    """Signed from unsigned and back, in each width."""
    if to_s32(r.u32min) <= to_s32(r.u32max):
        r.s32min = max(r.s32min, to_s32(r.u32min))
        r.s32max = min(r.s32max, to_s32(r.u32max))
    if r.s32min & U32 <= r.s32max & U32:
        r.u32min = max(r.u32min, r.s32min & U32)
        r.u32max = min(r.u32max, r.s32max & U32)
    if to_s64(r.umin) <= to_s64(r.umax):
        r.smin = max(r.smin, to_s64(r.umin))
        r.smax = min(r.smax, to_s64(r.umax))
    if r.smin & U64 <= r.smax & U64:
        r.umin = max(r.umin, r.smin & U64)
        r.umax = min(r.umax, r.smax & U64)
    elif r.smin < 0 <= r.smax:
        # signed values lie in 0..smax or smin..-1: one of them may be outside umin..umax
        if r.umax < r.smin & U64:
            r.smin = max(r.smin, 0)
            r.umax = min(r.umax, r.smax)
        elif r.umin > r.smax:
            r.smax = min(r.smax, -1)
            r.umin = max(r.umin, r.smin & U64)


def _full_from_low_half(r: Reg) -> None:
    high = ~U32
    r.umin = max(r.umin, (r.umin & high) | r.u32min)
    r.umax = min(r.umax, (r.umax & high) | r.u32max)
    r.smin = max(r.smin, (r.smin & high) | r.u32min)
    r.smax = min(r.smax, (r.smax & high) | r.u32max)
    settled = r.s32min >= 0 or r.s32max < 0  # 6.18 looks no further
    if settled and r.smin >= S32_MIN and r.smax <= S32_MAX:
        r.smin = max(r.smin, r.s32min)
        r.smax = min(r.smax, r.s32max)
        r.umin, r.umax = _meet_sign(r)


def _meet_sign(r: Reg) -> tuple[int, int]:
    if r.smin >= 0 or r.smax < 0:
        return max(r.umin, r.smin & U64), min(r.umax, r.smax & U64)
    return r.umin, r.umax


def _is_empty(r: Reg) -> bool:
    return (
        r.umin > r.umax
        or r.smin > r.smax
        or r.u32min > r.u32max
        or r.s32min > r.s32max
        or (r.tv & r.tm) != 0
    )


def set_unknown(r: Reg) -> None:
    """The numeric part becomes: anything."""
    r.umin = 0
    r.umax = U64
    r.smin = S64_MIN
    r.smax = S64_MAX
    r.u32min = 0
    r.u32max = U32
    r.s32min = S32_MIN
    r.s32max = S32_MAX
    r.tv = 0
    r.tm = U64


def sync(r: Reg) -> None:
    """Let each domain tighten the others. A contradiction (a branch that no run takes, which the
    domains could not tell before) becomes: anything."""
    _from_tnum(r)
    for _ in range(3):
        _low_half_from_full(r)
        _signs(r)
        _full_from_low_half(r)
    if _is_empty(r):
        set_unknown(r)
        return
    v, m = d.t_range(r.umin, r.umax, U64)
    v, m = d.t_intersect(r.tv, r.tm, v, m)
    lv, lm = d.t_range(r.u32min, r.u32max, U32)
    lv, lm = d.t_intersect(v & U32, m & U32, lv, lm)
    r.tv = (v & ~U32) | lv
    r.tm = (m & ~U32) | lm
    _from_tnum(r)
    if _is_empty(r):
        set_unknown(r)


def zext32(r: Reg) -> None:
    """The high 32 bits become zero, in place, from the 32-bit bounds and the low tnum."""
    r.tv &= U32
    r.tm &= U32
    r.umin = r.u32min
    r.umax = r.u32max
    r.smin = r.u32min
    r.smax = r.u32max
    sync(r)


def truncated(src: Reg, size: int) -> Reg:
    """The low size bytes of a scalar, zero extended: a store then a load."""
    if size == 8:
        return src
    full = (1 << size * 8) - 1
    r = Reg(SCALAR)
    r.tv = src.tv & full
    r.tm = src.tm & full
    if src.umin & ~full == src.umax & ~full:
        r.umin = src.umin & full
        r.umax = src.umax & full
    else:
        r.umin = 0
        r.umax = full
    r.smin = r.umin
    r.smax = r.umax
    if size == 4:
        r.umin = max(r.umin, src.u32min)
        r.umax = min(r.umax, src.u32max)
    r.u32min = r.umin
    r.u32max = r.umax
    sync(r)
    return r


def sign_extended(src: Reg, size: int, to32: bool) -> Reg:
    """The low size bytes of a scalar, sign extended to 64 bits, or to 32 and then zero
    extended."""
    low = truncated(src, size)
    r = Reg(SCALAR)
    full = (1 << size * 8) - 1
    top = full >> 1
    slo, shi = d.s_of_u(low.umin, low.umax, top)
    r.smin = slo
    r.smax = shi
    sign = top + 1
    high = U64 & ~full
    if low.tm & sign:
        r.tv = low.tv
        r.tm = low.tm | high
    elif low.tv & sign:
        r.tv = low.tv | high
        r.tm = low.tm
    else:
        r.tv = low.tv
        r.tm = low.tm
    sync(r)
    if to32:
        r = truncated(r, 4)
    return r


def alu(op: int, a: Reg, b: Reg, is32: bool) -> Reg:
    """dst OP= src for known transfer functions; anything else gives an unknown scalar."""
    if not _foldable(op, b, is32):
        return Reg(SCALAR)
    if is32:
        return _alu32(op, a, b)
    if a.tm == 0 and b.tm == 0:
        known = _concrete64(op, a.tv, b.tv)
        if known >= 0:
            return const_reg(known)
    r = Reg(SCALAR)
    if op == ADD:
        r.tv, r.tm = d.t_add(a.tv, a.tm, b.tv, b.tm, U64)
        r.umin, r.umax = d.u_add(a.umin, a.umax, b.umin, b.umax, U64)
        r.smin, r.smax = d.s_add(a.smin, a.smax, b.smin, b.smax, S64_MAX)
        r.u32min, r.u32max = d.u_add(a.u32min, a.u32max, b.u32min, b.u32max, U32)
        r.s32min, r.s32max = d.s_add(a.s32min, a.s32max, b.s32min, b.s32max, S32_MAX)
    elif op == SUB:
        r.tv, r.tm = d.t_sub(a.tv, a.tm, b.tv, b.tm, U64)
        r.umin, r.umax = d.u_sub(a.umin, a.umax, b.umin, b.umax, U64)
        r.smin, r.smax = d.s_sub(a.smin, a.smax, b.smin, b.smax, S64_MAX)
        r.u32min, r.u32max = d.u_sub(a.u32min, a.u32max, b.u32min, b.u32max, U32)
        r.s32min, r.s32max = d.s_sub(a.s32min, a.s32max, b.s32min, b.s32max, S32_MAX)
    elif op == MUL:
        r.tv, r.tm = d.t_mul(a.tv, a.tm, b.tv, b.tm, U64)
        r.umin, r.umax = d.u_mul(a.umin, a.umax, b.umin, b.umax, U64)
        r.smin, r.smax = d.s_mul(a.smin, a.smax, b.smin, b.smax, S64_MAX)
        r.u32min, r.u32max = d.u_mul(a.u32min, a.u32max, b.u32min, b.u32max, U32)
        r.s32min, r.s32max = d.s_mul(a.s32min, a.s32max, b.s32min, b.s32max, S32_MAX)
    elif op == AND or op == OR or op == XOR:
        _bitwise(op, a, b, r)
    elif op == LSH or op == RSH or op == ARSH:
        _shift64(op, a, b.tv, r)
    sync(r)
    return r


def _concrete64(op: int, x: int, y: int) -> int:
    """The result on two known values, or -1 where known operands are not folded."""
    if op == ADD:
        return (x + y) & U64
    if op == SUB:
        return (x - y) & U64
    if op == MUL:
        return (x * y) & U64
    if op == AND:
        return x & y
    if op == OR:
        return x | y
    if op == XOR:
        return x ^ y
    if y < 64:
        if op == LSH:
            return (x << y) & U64
        if op == RSH:
            return x >> y
        if op == ARSH:
            return (to_s64(x) >> y) & U64
    return -1


def _bitwise(op: int, a: Reg, b: Reg, r: Reg) -> None:
    if op == AND:
        r.tv, r.tm = d.t_and(a.tv, a.tm, b.tv, b.tm)
        r.umin = r.tv
        r.umax = min(a.umax, b.umax)
        r.u32min = r.tv & U32
        r.u32max = min(a.u32max, b.u32max)
    elif op == OR:
        r.tv, r.tm = d.t_or(a.tv, a.tm, b.tv, b.tm)
        r.umin = max(a.umin, b.umin)
        r.umax = r.tv | r.tm
        r.u32min = max(a.u32min, b.u32min)
        r.u32max = (r.tv | r.tm) & U32
    else:
        r.tv, r.tm = d.t_xor(a.tv, a.tm, b.tv, b.tm)
        r.umin = r.tv
        r.umax = r.tv | r.tm
        r.u32min = r.tv & U32
        r.u32max = (r.tv | r.tm) & U32


def _foldable(op: int, b: Reg, is32: bool) -> bool:
    """The kernel computes a result (is_safe_to_compute_dst_reg_range): not of divisions, nor of
    shifts by anything but a known number below the width, as 64 bits see it."""
    if op == LSH or op == RSH or op == ARSH:
        return b.tm & (U32 if is32 else U64) == 0 and b.umax < (32 if is32 else 64)
    return op in (ADD, SUB, MUL, AND, OR, XOR)


def _shift64(op: int, a: Reg, count: int, r: Reg) -> None:
    if op == LSH:
        r.tv, r.tm = d.t_lsh(a.tv, a.tm, count, U64)
        if count == 32:
            r.smin = a.s32min << 32
            r.smax = a.s32max << 32
        if a.umax <= U64 >> count:
            r.umin = a.umin << count
            r.umax = a.umax << count
    elif op == RSH:
        r.tv, r.tm = d.t_rsh(a.tv, a.tm, count)
        r.umin = a.umin >> count
        r.umax = a.umax >> count
    else:
        r.tv, r.tm = d.t_arsh(a.tv, a.tm, count, 64)
        r.smin = a.smin >> count
        r.smax = a.smax >> count


def _alu32(op: int, a: Reg, b: Reg) -> Reg:
    """On the low halves; the result is zero extended."""
    r = Reg(SCALAR)
    av = a.tv & U32
    am = a.tm & U32
    bv = b.tv & U32
    bm = b.tm & U32
    tv = 0
    tm = U32
    if op == ADD:
        tv, tm = d.t_add(av, am, bv, bm, U32)
        r.u32min, r.u32max = d.u_add(a.u32min, a.u32max, b.u32min, b.u32max, U32)
        r.s32min, r.s32max = d.s_add(a.s32min, a.s32max, b.s32min, b.s32max, S32_MAX)
    elif op == SUB:
        tv, tm = d.t_sub(av, am, bv, bm, U32)
        r.u32min, r.u32max = d.u_sub(a.u32min, a.u32max, b.u32min, b.u32max, U32)
        r.s32min, r.s32max = d.s_sub(a.s32min, a.s32max, b.s32min, b.s32max, S32_MAX)
    elif op == MUL:
        tv, tm = d.t_mul(av, am, bv, bm, U32)
        r.u32min, r.u32max = d.u_mul(a.u32min, a.u32max, b.u32min, b.u32max, U32)
        r.s32min, r.s32max = d.s_mul(a.s32min, a.s32max, b.s32min, b.s32max, S32_MAX)
    elif op == AND or op == OR or op == XOR:
        _bitwise(op, a, b, r)
        tv = r.tv & U32
        tm = r.tm & U32
    elif op == LSH or op == RSH or op == ARSH:
        tv, tm = _shift32(op, a, b.tv & U32, r)
    r.tv = tv
    r.tm = tm
    zext32(r)
    return r


def _shift32(op: int, a: Reg, count: int, r: Reg) -> tuple[int, int]:
    av = a.tv & U32
    am = a.tm & U32
    if op == LSH:
        if a.u32max <= U32 >> count:
            r.u32min = a.u32min << count
            r.u32max = a.u32max << count
        return d.t_lsh(av, am, count, U32)
    if op == RSH:
        r.u32min = a.u32min >> count
        r.u32max = a.u32max >> count
        return d.t_rsh(av, am, count)
    r.s32min = a.s32min >> count
    r.s32max = a.s32max >> count
    return d.t_arsh(av, am, count, 32)


def negated(a: Reg, is32: bool) -> Reg:
    """dst = -dst."""
    return alu(SUB, const_reg(0), a, is32)


def branch_taken(op: int, a: Reg, b: Reg, is32: bool) -> int:
    """1: always, 0: never, -1: not known, for two scalars."""
    if is32:
        alo, ahi, blo, bhi = a.u32min, a.u32max, b.u32min, b.u32max
        aslo, ashi, bslo, bshi = a.s32min, a.s32max, b.s32min, b.s32max
        av, am, bv, bm = a.tv & U32, a.tm & U32, b.tv & U32, b.tm & U32
    else:
        alo, ahi, blo, bhi = a.umin, a.umax, b.umin, b.umax
        aslo, ashi, bslo, bshi = a.smin, a.smax, b.smin, b.smax
        av, am, bv, bm = a.tv, a.tm, b.tv, b.tm
    if op == JEQ or op == JNE:
        yes = 1 if op == JEQ else 0
        if am == 0 and bm == 0 and av == bv:
            return yes
        if (av ^ bv) & ~(am | bm) or alo > bhi or ahi < blo or aslo > bshi or ashi < bslo:
            return 1 - yes
        return -1
    if op == JSET:
        if bm:
            if am == 0:
                av, am, bv, bm = bv, bm, av, am
            else:
                return -1
        if av & bv:
            return 1
        return 0 if not (av | am) & bv else -1
    if op == JGT:
        return 1 if alo > bhi else 0 if ahi <= blo else -1
    if op == JGE:
        return 1 if alo >= bhi else 0 if ahi < blo else -1
    if op == JLT:
        return 1 if ahi < blo else 0 if alo >= bhi else -1
    if op == JLE:
        return 1 if ahi <= blo else 0 if alo > bhi else -1
    if op == JSGT:
        return 1 if aslo > bshi else 0 if ashi <= bslo else -1
    if op == JSGE:
        return 1 if aslo >= bshi else 0 if ashi < bslo else -1
    if op == JSLT:
        return 1 if ashi < bslo else 0 if aslo >= bshi else -1
    if op == JSLE:
        return 1 if ashi <= bslo else 0 if aslo > bshi else -1
    return -1


_NEGATION: Final = {
    JEQ: JNE,
    JNE: JEQ,
    JGT: JLE,
    JLE: JGT,
    JGE: JLT,
    JLT: JGE,
    JSGT: JSLE,
    JSLE: JSGT,
    JSGE: JSLT,
    JSLT: JSGE,
}


def refine(op: int, a: Reg, b: Reg, is32: bool, taken: bool) -> tuple[Reg, Reg]:
    """Both operands on one outcome of the comparison: new registers, never wider."""
    x = a.copy()
    y = b.copy()
    if op == JSET:
        _refine_set(x, y, is32, taken)
    else:
        real = op if taken else _NEGATION[op]
        if real == JEQ:
            _refine_equal(x, y, is32)
        elif real == JNE:
            _refine_unequal(x, y, is32)
            _refine_unequal(y, x, is32)
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
    else:
        v, m = d.t_intersect(x.tv, x.tm, y.tv, y.tm)
        for r in (x, y):
            r.tv = v
            r.tm = m
        x.umin = y.umin = max(x.umin, y.umin)
        x.umax = y.umax = min(x.umax, y.umax)
        x.smin = y.smin = max(x.smin, y.smin)
        x.smax = y.smax = min(x.smax, y.smax)
    x.u32min = y.u32min = max(x.u32min, y.u32min)
    x.u32max = y.u32max = min(x.u32max, y.u32max)
    x.s32min = y.s32min = max(x.s32min, y.s32min)
    x.s32max = y.s32max = min(x.s32max, y.s32max)


def _refine_unequal(x: Reg, y: Reg, is32: bool) -> None:
    """x != y: a known y at the edge of an interval of x is cut off."""
    if is32:
        if y.tm & U32:
            return
        u = y.tv & U32
        s = to_s32(u)
        if x.u32min == u:
            x.u32min += 1
        if x.u32max == u:
            x.u32max -= 1
        if x.s32min == s:
            x.s32min += 1
        if x.s32max == s:
            x.s32max -= 1
    else:
        if y.tm:
            return
        s = to_s64(y.tv)
        if x.umin == y.tv:
            x.umin += 1
        if x.umax == y.tv:
            x.umax -= 1
        if x.smin == s:
            x.smin += 1
        if x.smax == s:
            x.smax -= 1


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
    else:
        other.tv &= ~bits
        other.tm &= ~bits


def _refine_order(op: int, x: Reg, y: Reg, is32: bool) -> None:
    if op == JGT or op == JGE or op == JSGT or op == JSGE:
        x, y = y, x
    strict = 1 if op in (JGT, JLT, JSGT, JSLT) else 0
    # now x < y or x <= y
    if op in (JGT, JGE, JLT, JLE):
        if is32:
            x.u32max = min(x.u32max, y.u32max - strict)
            y.u32min = max(y.u32min, x.u32min + strict)
        else:
            x.umax = min(x.umax, y.umax - strict)
            y.umin = max(y.umin, x.umin + strict)
    elif is32:
        x.s32max = min(x.s32max, y.s32max - strict)
        y.s32min = max(y.s32min, x.s32min + strict)
    else:
        x.smax = min(x.smax, y.smax - strict)
        y.smin = max(y.smin, x.smin + strict)
