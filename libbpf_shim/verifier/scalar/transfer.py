"""Arithmetic on abstract scalars: what each instruction does to a Reg.

Pure: operands are never changed, a new Reg is returned. As precise as Linux 6.18 and no more
(kernel/bpf/verifier.c: adjust_scalar_min_max_vals, restated as rules); 6.18 has no transfer for
division and modulo. Compiled by mypyc.
"""

from __future__ import annotations

from libbpf_shim.isa.insn import ADD, AND, ARSH, LSH, MUL, OR, RSH, SUB, XOR
from libbpf_shim.verifier.scalar import domains as d
from libbpf_shim.verifier.scalar.bounds import (
    forget_bounds,
    forget_low,
    from_bits,
    from_bits_low,
    low_to_full,
    sync,
    truncated,
)
from libbpf_shim.verifier.scalar.domains import (
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


def alu(op: int, a: Reg, b: Reg, is32: bool) -> Reg:
    """dst OP= src for known transfer functions; anything else gives an unknown scalar, whose high
    half is unknown too after a 32-bit operation (6.18)."""
    if not _foldable(op, b, is32):
        return Reg(SCALAR)
    if a.tm == 0 and b.tm == 0:
        return const_reg(_concrete(op, a.tv, b.tv, is32))
    r = _plain(a)
    if op == ADD or op == SUB or op == MUL:
        _arithmetic(op, a, b, r)
    elif op == AND or op == OR or op == XOR:
        _bitwise(op, a, b, r)
    elif is32:
        _shift32(op, a, b.tv & U32, r)
    else:
        _shift64(op, a, b.tv, r)
    if is32:
        low_to_full(r)
    sync(r)
    return r


def added(a: Reg, b: Reg, is32: bool) -> Reg:
    """dst += src, also of two known numbers bound by bound."""
    r = _plain(a)
    _arithmetic(ADD, a, b, r)
    if is32:
        low_to_full(r)
    sync(r)
    return r


def _plain(a: Reg) -> Reg:
    """A scalar of the same value, linked to no other."""
    r = a.copy()
    r.id = 0
    r.off = 0
    return r


def _foldable(op: int, b: Reg, is32: bool) -> bool:
    """6.18 computes a result: not of divisions, nor of shifts by anything but a known number
    below the width, as 64 bits see it."""
    if op == LSH or op == RSH or op == ARSH:
        if is32:
            known = b.tm & U32 == 0 and b.s32min == b.s32max and b.u32min == b.u32max
        else:
            known = b.tm == 0 and b.smin == b.smax and b.umin == b.umax
        return known and b.umax < (32 if is32 else 64)
    return op in (ADD, SUB, MUL, AND, OR, XOR)


def _concrete(op: int, x: int, y: int, is32: bool) -> int:
    """The result on two known values."""
    full = U32 if is32 else U64
    if op == ADD:
        return (x + y) & full
    if op == SUB:
        return (x - y) & full
    if op == MUL:
        return (x * y) & full
    if op == AND:
        return x & y & full
    if op == OR:
        return (x | y) & full
    if op == XOR:
        return (x ^ y) & full
    if op == LSH:
        return (x << y) & full
    if op == RSH:
        return (x & full) >> y
    return (to_s32(x) if is32 else to_s64(x)) >> y & full


def _arithmetic(op: int, a: Reg, b: Reg, r: Reg) -> None:
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
    else:
        r.tv, r.tm = d.t_mul(a.tv, a.tm, b.tv, b.tm, U64)
        r.umin, r.umax = d.u_mul(a.umin, a.umax, b.umin, b.umax, U64)
        r.smin, r.smax = d.s_mul(a.smin, a.smax, b.smin, b.smax, S64_MAX)
        r.u32min, r.u32max = d.u_mul(a.u32min, a.u32max, b.u32min, b.u32max, U32)
        r.s32min, r.s32max = d.s_mul(a.s32min, a.s32max, b.s32min, b.s32max, S32_MAX)


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
    if not (r.tm | b.tm) & U32:
        low = r.tv & U32
        r.u32min = r.u32max = low
        r.s32min = r.s32max = to_s32(low)
    else:
        r.s32min, r.s32max = d.s_of_u(r.u32min, r.u32max, S32_MAX)
    r.smin, r.smax = d.s_of_u(r.umin, r.umax, S64_MAX)
    from_bits(r)


def _shift64(op: int, a: Reg, count: int, r: Reg) -> None:
    if op == LSH:
        _left_low(a, count, r)
        r.tv, r.tm = d.t_lsh(a.tv, a.tm, count, U64)
        r.smin = a.s32min << 32 if count == 32 else S64_MIN
        r.smax = a.s32max << 32 if count == 32 else S64_MAX
        if a.umax > 1 << (63 - count):
            r.umin = 0
            r.umax = U64
        else:
            r.umin = a.umin << count
            r.umax = a.umax << count
    else:
        forget_bounds(r)
        if op == RSH:
            r.tv, r.tm = d.t_rsh(a.tv, a.tm, count)
            r.umin = a.umin >> count
            r.umax = a.umax >> count
        else:
            r.tv, r.tm = d.t_arsh(a.tv, a.tm, count, 64)
            r.smin = a.smin >> count
            r.smax = a.smax >> count
    from_bits(r)


def _left_low(a: Reg, count: int, r: Reg) -> None:
    r.s32min = S32_MIN
    r.s32max = S32_MAX
    if count > 31 or a.u32max > 1 << (31 - count):
        r.u32min = 0
        r.u32max = U32
    else:
        r.u32min = a.u32min << count
        r.u32max = a.u32max << count


def _shift32(op: int, a: Reg, count: int, r: Reg) -> None:
    av = a.tv & U32
    am = a.tm & U32
    if op == LSH:
        r.tv, r.tm = d.t_lsh(av, am, count, U32)
        _left_low(a, count, r)
    else:
        forget_low(r)
        if op == RSH:
            r.tv, r.tm = d.t_rsh(av, am, count)
            r.u32min = a.u32min >> count
            r.u32max = a.u32max >> count
        else:
            r.tv, r.tm = d.t_arsh(av, am, count, 32)
            r.s32min = a.s32min >> count
            r.s32max = a.s32max >> count
    from_bits_low(r)


def negated(a: Reg, is32: bool) -> Reg:
    """dst = -dst."""
    return alu(SUB, const_reg(0), a, is32)


def swapped(a: Reg, bits: int, swap: bool) -> Reg:
    """The low bits of dst, zero extended; swap: with their bytes in the other order. Only where
    nothing happens is the id kept."""
    if not swap and bits == 64:
        return a
    r = _plain(a)
    if swap:
        r.tv, r.tm = d.t_swap(a.tv, a.tm, bits // 8)
        forget_bounds(r)
    if bits == 64:
        sync(r)
        return r
    r = truncated(r, bits // 8)
    sync(r)
    return r
