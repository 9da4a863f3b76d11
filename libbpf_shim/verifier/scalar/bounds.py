"""One scalar's known bits and its four intervals, kept consistent: what each tells of the others.

A Reg holds a tnum and unsigned and signed bounds of the whole and of the low half. `sync` lets
each tighten the others, as far as Linux 6.18 looks and no further, since a verdict may hang on
it (kernel/bpf/verifier.c: reg_bounds_sync, coerce_reg_to_size; restated as rules). A branch that
no run takes can leave an empty interval; the kernel then forgets the bounds, see `broken`.
Compiled by mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.scalar import domains as d
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
from libbpf_shim.verifier.state import SCALAR, UNKNOWN, Reg

SIGN64: Final = 0x8000000000000000
SIGN32: Final = 0x80000000
HIGH: Final = U64 & ~U32
TEST_INVARIANTS: Final = 1 << 7  # BPF_F_TEST_REG_INVARIANTS: a contradiction is refused
EFAULT: Final = 14


def forget_bounds(r: Reg) -> None:
    """Intervals hold anything; the known bits stay."""
    r.umin = 0
    r.umax = U64
    r.smin = S64_MIN
    r.smax = S64_MAX
    forget_low(r)


def forget_low(r: Reg) -> None:
    """Intervals of the low half hold anything."""
    r.u32min = 0
    r.u32max = U32
    r.s32min = S32_MIN
    r.s32max = S32_MAX


def set_unknown(r: Reg) -> None:
    """The numeric part becomes: anything."""
    forget_bounds(r)
    r.tv = 0
    r.tm = U64


def from_bits_low(r: Reg) -> None:
    """The low half's intervals from its known bits."""
    v = r.tv & U32
    m = r.tm & U32
    r.s32min = max(r.s32min, to_s32(v | (m & SIGN32)))
    r.s32max = min(r.s32max, to_s32(v | (m & S32_MAX)))
    r.u32min = max(r.u32min, v)
    r.u32max = min(r.u32max, v | m)


def from_bits(r: Reg) -> None:
    """Every interval from the known bits; a value that alone fits both is the value."""
    from_bits_low(r)
    v = r.tv
    m = r.tm
    r.smin = max(r.smin, to_s64(v | (m & SIGN64)))
    r.smax = min(r.smax, to_s64(v | (m & S64_MAX)))
    lo = r.umin = max(r.umin, v)
    hi = r.umax = min(r.umax, v | m)
    if (m == U64 and lo < hi) or (m == 0 and lo == v == hi):
        return
    above = d.t_above(v, m, lo)
    if lo & ~m == v:
        if above > hi:
            r.set_const(lo)
    elif above == v | m:
        r.set_const(above)
    elif above <= hi < d.t_above(v, m, above):
        r.set_const(above)


def _low_from_full(r: Reg) -> None:
    """The low half's intervals from the whole's, where the high half is the same in all of one,
    or goes up by one while the low half goes from negative to positive."""
    lo = r.umin
    hi = r.umax
    slo = to_s32(lo)
    shi = to_s32(hi)
    if lo >> 32 == hi >> 32:
        r.u32min = max(r.u32min, lo & U32)
        r.u32max = min(r.u32max, hi & U32)
        if slo <= shi:
            r.s32min = max(r.s32min, slo)
            r.s32max = min(r.s32max, shi)
    tlo = r.smin
    thi = r.smax
    sslo = to_s32(tlo)
    sshi = to_s32(thi)
    if tlo >> 32 == thi >> 32:
        if tlo & U32 <= thi & U32:
            r.u32min = max(r.u32min, tlo & U32)
            r.u32max = min(r.u32max, thi & U32)
        if sslo <= sshi:
            r.s32min = max(r.s32min, sslo)
            r.s32max = min(r.s32max, sshi)
    if ((lo >> 32) + 1) & U32 == hi >> 32 and slo < 0 <= shi:
        r.s32min = max(r.s32min, slo)
        r.s32max = min(r.s32max, shi)
    if ((tlo >> 32) + 1) & U32 == (thi >> 32) & U32 and sslo < 0 <= sshi:
        r.s32min = max(r.s32min, sslo)
        r.s32max = min(r.s32max, sshi)


def _signs_low(r: Reg) -> None:
    """Signed from unsigned and back in the low half."""
    if to_s32(r.u32min) <= to_s32(r.u32max):
        r.s32min = max(r.s32min, to_s32(r.u32min))
        r.s32max = min(r.s32max, to_s32(r.u32max))
    lo = r.s32min & U32
    hi = r.s32max & U32
    if lo <= hi:
        r.u32min = max(r.u32min, lo)
        r.u32max = min(r.u32max, hi)
    elif r.u32max < lo:  # of the two unsigned ranges that the signed one is, one is left
        r.s32min = to_s32(r.u32min)
        r.u32max = min(r.u32max, hi)
    elif hi < r.u32min:
        r.s32max = to_s32(r.u32max)
        r.u32min = max(r.u32min, lo)


def _signs(r: Reg) -> None:
    """Signed from unsigned and back in the whole."""
    if to_s64(r.umin) <= to_s64(r.umax):
        r.smin = max(r.smin, to_s64(r.umin))
        r.smax = min(r.smax, to_s64(r.umax))
    lo = r.smin & U64
    hi = r.smax & U64
    if lo <= hi:
        r.umin = max(r.umin, lo)
        r.umax = min(r.umax, hi)
    elif r.umax < lo:
        r.smin = to_s64(r.umin)
        r.umax = min(r.umax, hi)
    elif hi < r.umin:
        r.smax = to_s64(r.umax)
        r.umin = max(r.umin, lo)


def _full_from_low(r: Reg) -> None:
    """The ends of the whole's intervals have a low half that is in the low half's."""
    r.umin = max(r.umin, (r.umin & HIGH) | r.u32min)
    r.umax = min(r.umax, (r.umax & HIGH) | r.u32max)
    r.smin = max(r.smin, (r.smin & ~U32) | r.u32min)
    r.smax = min(r.smax, (r.smax & ~U32) | r.u32max)
    if r.s32min >= 0 and r.smin >= S32_MIN and r.smax <= S32_MAX:
        r.smin = r.s32min
        r.smax = r.s32max
        r.umin = r.s32min & U64
        r.umax = r.s32max & U64
        v, m = d.t_range(r.umin, r.umax, U64)
        r.tv, r.tm = d.t_intersect(r.tv, r.tm, v, m)


def _to_bits(r: Reg) -> None:
    """Known bits from the unsigned intervals."""
    v, m = d.t_range(r.umin, r.umax, U64)
    v, m = d.t_intersect(r.tv, r.tm, v, m)
    lv, lm = d.t_range(r.u32min, r.u32max, U32)
    lv, lm = d.t_intersect(v & U32, m & U32, lv, lm)
    r.tv = (v & HIGH) | lv
    r.tm = (m & HIGH) | lm


def _settled(r: Reg) -> bool:
    """Nothing is known, or all: common, and quickly seen."""
    if r.tm == U64:
        return (
            r.umin == 0 and r.u32min == 0 and r.u32max == U32 and r.s32min == S32_MIN
            and r.s32max == S32_MAX and r.umax == U64 and r.smin == S64_MIN and r.smax == S64_MAX
        )  # fmt: skip
    return (
        r.tm == 0 and r.umin == r.tv and r.umax == r.tv and r.u32min == r.u32max
        and r.s32min == r.s32max and r.u32min == r.tv & U32 and r.s32min == to_s32(r.tv)
        and r.smin == r.smax and r.smin == to_s64(r.tv)
    )  # fmt: skip


def sync(r: Reg) -> None:
    """Let each domain tighten the others: three rounds, as the kernel."""
    if _settled(r):
        return
    from_bits(r)
    for _ in range(3):
        umin, umax, smin, smax = r.umin, r.umax, r.smin, r.smax
        u32min, u32max, s32min, s32max = r.u32min, r.u32max, r.s32min, r.s32max
        _low_from_full(r)
        _signs_low(r)
        _signs(r)
        _full_from_low(r)
        if (
            umin == r.umin and umax == r.umax and smin == r.smin and smax == r.smax
            and u32min == r.u32min and u32max == r.u32max
            and s32min == r.s32min and s32max == r.s32max
        ):  # fmt: skip
            break  # more rounds change nothing
    _to_bits(r)
    from_bits(r)


def broken(r: Reg, where: str) -> str:
    """What cannot be of a register's bounds, in the kernel's words; empty if all is well."""
    if r.umin > r.umax or r.smin > r.smax or r.u32min > r.u32max or r.s32min > r.s32max:
        why = "range bounds violation"
    elif r.tm == 0 and not (r.umin == r.umax == r.tv and r.smin == r.smax == to_s64(r.tv)):
        why = "const tnum out of sync with range bounds"
    elif r.tm & U32 == 0 and not (
        r.u32min == r.u32max == r.tv & U32 and r.s32min == r.s32max == to_s32(r.tv)
    ):
        why = "const subreg tnum out of sync with range bounds"
    else:
        return ""
    return (
        f"verifier bug: REG INVARIANTS VIOLATION ({where}): {why} "
        f"u64=[{_hex(r.umin)}, {_hex(r.umax)}] s64=[{_hex(r.smin & U64)}, {_hex(r.smax & U64)}] "
        f"u32=[{_hex(r.u32min)}, {_hex(r.u32max)}] "
        f"s32=[{_hex(r.s32min & U32)}, {_hex(r.s32max & U32)}] "
        f"var_off=({_hex(r.tv)}, {_hex(r.tm)})"
    )


def _hex(value: int) -> str:
    """As C's %#llx."""
    return f"0x{value:x}" if value else "0"


def low_to_full(r: Reg) -> None:
    """The high half is zero: the whole's bounds from the low half's, not yet synced."""
    r.tv &= U32
    r.tm &= U32
    r.umin = r.u32min
    r.umax = r.u32max
    if r.s32min >= 0 and r.s32max >= 0:
        r.smin = r.s32min
        r.smax = r.s32max
    else:
        r.smin = 0
        r.smax = U32


def zext32(r: Reg) -> None:
    """The high 32 bits become zero, in place."""
    low_to_full(r)
    sync(r)


def truncated(src: Reg, size: int) -> Reg:
    """The low size bytes of a scalar, zero extended, as a load gives them: a new Reg, that keeps
    its id."""
    if size == 8:
        return src
    r = src.copy()
    full = (1 << size * 8) - 1
    r.tv &= full
    r.tm &= full
    if src.umin & ~full == src.umax & ~full:
        r.umin = src.umin & full
        r.umax = src.umax & full
    else:
        r.umin = 0
        r.umax = full
    r.smin = r.umin
    r.smax = r.umax
    if size < 4:
        forget_low(r)
    sync(r)
    return r


# What loads of 1, 2 and 4 bytes of anything give.
BYTE: Final = truncated(UNKNOWN, 1)
HALF: Final = truncated(UNKNOWN, 2)
WORD: Final = truncated(UNKNOWN, 4)


def loaded(size: int) -> Reg:
    """What a load of size unknown bytes gives."""
    if size == 8:
        return UNKNOWN
    return WORD if size == 4 else BYTE if size == 1 else HALF


def _signed(value: int, size: int) -> int:
    """The signed reading of the low size bytes."""
    sign = 1 << (size * 8 - 1)
    return ((value & (2 * sign - 1)) ^ sign) - sign


def sign_extended(src: Reg, size: int) -> Reg:
    """The low size bytes of a scalar, sign extended to 64 bits."""
    if src.tm == 0:
        r = Reg(SCALAR)
        r.set_const(_signed(src.tv, size))
        return r
    r = Reg(SCALAR)
    if src.smin >> size * 8 == src.smax >> size * 8:
        a = _signed(src.smin, size)
        b = _signed(src.smax, size)
        if (a >= 0) == (b >= 0):
            lo = min(a, b)
            hi = max(a, b)
            r.smin = lo
            r.smax = hi
            r.umin = lo & U64
            r.umax = hi & U64
            r.s32min = lo
            r.s32max = hi
            r.u32min = lo & U32
            r.u32max = hi & U32
            r.tv, r.tm = d.t_range(r.umin, r.umax, U64)
            return r
    top = (1 << (size * 8 - 1)) - 1
    r.smin = r.s32min = -top - 1
    r.smax = r.s32max = top
    return r


def sign_extended_low(src: Reg, size: int) -> Reg:
    """The low size bytes of a scalar, sign extended to 32 bits, then zero extended."""
    r = Reg(SCALAR)
    if src.tm == 0:
        r.set_const(_signed(src.tv, size) & U32)
        return r
    known = False
    if (src.s32min & U32) >> size * 8 == (src.s32max & U32) >> size * 8:
        a = _signed(src.s32min, size)
        b = _signed(src.s32max, size)
        if (a >= 0) == (b >= 0):
            known = True
            r.s32min = min(a, b)
            r.s32max = max(a, b)
            r.u32min = r.s32min & U32
            r.u32max = r.s32max & U32
            v, m = d.t_range(r.s32min & U64, r.s32max & U64, U64)
            r.tv = v & U32
            r.tm = m & U32
    if not known:
        top = (1 << (size * 8 - 1)) - 1
        r.s32min = -top - 1
        r.s32max = top
        r.tm = U32
    zext32(r)
    return r
