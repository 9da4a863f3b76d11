"""Abstract scalars: tnum (known bits) and unsigned and signed intervals, at any width.

A tnum is (value, mask): mask bits are unknown, value bits are zero where mask is set. Every
operation over-approximates the concrete operation of its name on all pairs of members; the
width is given by ``full`` = 2**bits - 1, so that tests can exhaust small widths. Method: tnums
after Vishwanathan et al., CGO 2022; intervals as Linux 6.18 decides them (6.18 has no transfer
for division and modulo). Compiled by mypyc: plain ints and tuples only.
"""

from __future__ import annotations

from typing import Final

U64: Final = 0xFFFFFFFFFFFFFFFF
U32: Final = 0xFFFFFFFF
S64_MIN: Final = -0x8000000000000000
S64_MAX: Final = 0x7FFFFFFFFFFFFFFF
S32_MIN: Final = -0x80000000
S32_MAX: Final = 0x7FFFFFFF

Pair = tuple[int, int]


def to_s64(x: int) -> int:
    """The signed reading of 64 unsigned bits."""
    return x - 0x10000000000000000 if x > S64_MAX else x


def to_s32(x: int) -> int:
    """The signed reading of the low 32 bits."""
    x &= U32
    return x - 0x100000000 if x > S32_MAX else x


def t_range(lo: int, hi: int, full: int) -> Pair:
    """The smallest tnum that has every value of lo..hi (unsigned)."""
    bits = (lo ^ hi).bit_length()
    mask = (1 << bits) - 1
    if mask > full:
        mask = full
    return lo & ~mask & full, mask


def t_add(av: int, am: int, bv: int, bm: int, full: int) -> Pair:
    sm = am + bm
    sv = av + bv
    mu = ((sm + sv) ^ sv) | am | bm
    return sv & ~mu & full, mu & full


def t_sub(av: int, am: int, bv: int, bm: int, full: int) -> Pair:
    dv = (av - bv) & full
    mu = (((dv + am) & full) ^ ((dv - bm) & full)) | am | bm
    return dv & ~mu & full, mu & full


def t_and(av: int, am: int, bv: int, bm: int) -> Pair:
    v = av & bv
    return v, (av | am) & (bv | bm) & ~v


def t_or(av: int, am: int, bv: int, bm: int) -> Pair:
    v = av | bv
    return v, (am | bm) & ~v


def t_xor(av: int, am: int, bv: int, bm: int) -> Pair:
    mu = am | bm
    return (av ^ bv) & ~mu, mu


def t_union(av: int, am: int, bv: int, bm: int) -> Pair:
    """The smallest tnum that has the members of both."""
    mu = am | bm | (av ^ bv)
    return av & ~mu, mu


def t_mul(av: int, am: int, bv: int, bm: int, full: int) -> Pair:
    """Long multiplication: a bit of a that is not known gives a sum with b or without it."""
    if not am and not bm:
        return (av * bv) & full, 0
    v = 0
    m = 0
    while av or am:
        if av & 1:
            v, m = t_add(v, m, bv, bm, full)
        elif am & 1:
            sv, sm = t_add(v, m, bv, bm, full)
            v, m = t_union(v, m, sv, sm)
        av >>= 1
        am >>= 1
        bv = (bv << 1) & full
        bm = (bm << 1) & full
    return v, m


def t_lsh(v: int, m: int, shift: int, full: int) -> Pair:
    return (v << shift) & full, (m << shift) & full


def t_rsh(v: int, m: int, shift: int) -> Pair:
    return v >> shift, m >> shift


def t_arsh(v: int, m: int, shift: int, bits: int) -> Pair:
    """Arithmetic shift right: an unknown sign bit spreads unknown bits."""
    full = (1 << bits) - 1
    sign = 1 << (bits - 1)
    sv = v - (full + 1) if v & sign else v
    sm = m - (full + 1) if m & sign else m
    return (sv >> shift) & full, (sm >> shift) & full


def t_intersect(av: int, am: int, bv: int, bm: int) -> Pair:
    """Values in both; meaningful only if some value is in both."""
    mu = am & bm
    return (av | bv) & ~mu, mu


def t_overlap(av: int, am: int, bv: int, bm: int) -> bool:
    """Some value is a member of both."""
    return not (av ^ bv) & ~am & ~bm


def t_above(v: int, m: int, x: int) -> int:
    """The smallest member above x, or the greatest member if none is above it."""
    top = v | m
    if x >= top:
        return top
    if x < v:
        return v
    member = v | (x & m)
    if member > x:
        # the highest bit that the tnum sets and x lacks decides; below it: as small as can be
        low = (1 << (~x & v & ~m).bit_length()) - 1
        return (x & ~low) | (v & low)
    # bits that x has and the tnum lacks: round up there, carry through the known bits
    low = (1 << (x & ~v & ~m).bit_length()) - 1
    carried = ((x & m | ~m) & ~low) + low + 1
    return (carried & m) | v


def t_swap(v: int, m: int, size: int) -> Pair:
    """The low size bytes in the other order."""
    full = (1 << size * 8) - 1
    return (
        int.from_bytes((v & full).to_bytes(size, "little"), "big"),
        int.from_bytes((m & full).to_bytes(size, "little"), "big"),
    )


def t_in(av: int, am: int, bv: int, bm: int) -> bool:
    """Every member of b is a member of a."""
    return not (bm & ~am) and (bv & ~am) == av


def u_add(alo: int, ahi: int, blo: int, bhi: int, full: int) -> Pair:
    lo = alo + blo
    hi = ahi + bhi
    if (lo > full) == (hi > full):
        return lo & full, hi & full
    return 0, full


def u_sub(alo: int, ahi: int, blo: int, bhi: int, full: int) -> Pair:
    lo = alo - bhi
    hi = ahi - blo
    if (lo < 0) == (hi < 0):
        return lo & full, hi & full
    return 0, full


def s_add(alo: int, ahi: int, blo: int, bhi: int, top: int) -> Pair:
    """top: the greatest signed value of the width. Anything, if an end overflows."""
    return _fit(alo + blo, ahi + bhi, top)


def s_sub(alo: int, ahi: int, blo: int, bhi: int, top: int) -> Pair:
    return _fit(alo - bhi, ahi - blo, top)


def _fit(lo: int, hi: int, top: int) -> Pair:
    if lo < -top - 1 or lo > top or hi < -top - 1 or hi > top:
        return -top - 1, top
    return lo, hi


def u_mul(alo: int, ahi: int, blo: int, bhi: int, full: int) -> Pair:
    lo = alo * blo
    hi = ahi * bhi
    return (0, full) if lo > full or hi > full else (lo, hi)


def s_mul(alo: int, ahi: int, blo: int, bhi: int, top: int) -> Pair:
    a = alo * blo
    b = alo * bhi
    c = ahi * blo
    d = ahi * bhi
    return _fit(min(a, b, c, d), max(a, b, c, d), top)


def s_of_u(lo: int, hi: int, top: int) -> Pair:
    """Signed bounds of the unsigned interval lo..hi, if it does not cross the sign bit."""
    span = 2 * (top + 1)
    slo = lo if lo <= top else lo - span
    shi = hi if hi <= top else hi - span
    if slo <= shi:
        return slo, shi
    return -top - 1, top
