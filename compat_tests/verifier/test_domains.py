"""Each operation on tnums and intervals, against the operation that it over-approximates.

All abstract values of 3 or 4 bits with all their members; at 64 bits by property. A test has the
name of its operation (STYLE.md, rule 10).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libbpf_shim.verifier.scalar import domains as d
from libbpf_shim.verifier.scalar.domains import S64_MAX, S64_MIN, U64, Pair

BITS = 4
FULL = (1 << BITS) - 1
TOP = FULL >> 1
TNUMS = [(v, m) for m in range(FULL + 1) for v in range(FULL + 1) if not v & m]
RANGES = [(lo, hi) for lo in range(FULL + 1) for hi in range(lo, FULL + 1)]
SIGNED = [(lo, hi) for lo in range(-TOP - 1, TOP + 1) for hi in range(lo, TOP + 1)]
Two = Callable[[int, int], int]


def members(v: int, m: int) -> list[int]:
    """Every number of the tnum."""
    return [x for x in range(FULL + 1) if x & ~m == v]


def signed(x: int) -> int:
    x &= FULL
    return x - FULL - 1 if x > TOP else x


def holds(result: Pair, value: int) -> bool:
    return value & ~result[1] == result[0]


# operation on tnums, the concrete one, what it needs to know of the width
TNUM_OPS: list[tuple[str, Callable[..., Pair], Two, tuple[int, ...]]] = [
    ("t_add", d.t_add, lambda x, y: x + y, (FULL,)),
    ("t_sub", d.t_sub, lambda x, y: x - y, (FULL,)),
    ("t_mul", d.t_mul, lambda x, y: x * y, (FULL,)),
    ("t_and", d.t_and, lambda x, y: x & y, ()),
    ("t_or", d.t_or, lambda x, y: x | y, ()),
    ("t_xor", d.t_xor, lambda x, y: x ^ y, ()),
]
RANGE_OPS: list[tuple[str, Callable[..., Pair], Two]] = [
    ("u_add", d.u_add, lambda x, y: x + y),
    ("u_sub", d.u_sub, lambda x, y: x - y),
    ("u_mul", d.u_mul, lambda x, y: x * y),
]
SIGNED_OPS: list[tuple[str, Callable[..., Pair], Two]] = [
    ("s_add", d.s_add, lambda x, y: x + y),
    ("s_sub", d.s_sub, lambda x, y: x - y),
    ("s_mul", d.s_mul, lambda x, y: x * y),
]


@pytest.mark.parametrize(("name", "op", "real", "width"), TNUM_OPS, ids=[o[0] for o in TNUM_OPS])
def test_tnum_operation(
    name: str, op: Callable[..., Pair], real: Two, width: tuple[int, ...]
) -> None:
    inside = {t: members(*t) for t in TNUMS}
    for a, b in itertools.product(TNUMS, TNUMS):
        v, m = op(*a, *b, *width)
        assert not v & m and (v | m) <= FULL
        for x, y in itertools.product(inside[a], inside[b]):
            assert (real(x, y) & FULL) & ~m == v, (a, b, x, y)


@pytest.mark.parametrize("shift", range(BITS))
def test_tnum_shifts(shift: int) -> None:
    """t_lsh, t_rsh, t_arsh."""
    for t in TNUMS:
        for x in members(*t):
            assert holds(d.t_lsh(*t, shift, FULL), x << shift & FULL)
            assert holds(d.t_rsh(*t, shift), x >> shift)
            assert holds(d.t_arsh(*t, shift, BITS), signed(x) >> shift & FULL)


def test_t_range() -> None:
    for lo, hi in RANGES:
        assert all(holds(d.t_range(lo, hi, FULL), x) for x in range(lo, hi + 1))


def test_tnum_sets() -> None:
    """t_intersect, t_union, t_overlap, t_in."""
    inside = {t: set(members(*t)) for t in TNUMS}
    for a, b in itertools.product(TNUMS, TNUMS):
        common = inside[a] & inside[b]
        assert d.t_overlap(*a, *b) == bool(common)
        assert d.t_in(*a, *b) == (inside[b] <= inside[a])
        if common:
            assert inside[d.t_intersect(*a, *b)] == common
        assert inside[a] | inside[b] <= inside[d.t_union(*a, *b)]


def test_t_above() -> None:
    for t in TNUMS:
        inside = members(*t)
        for x in range(FULL + 1):
            above = [y for y in inside if y > x]
            assert d.t_above(*t, x) == (min(above) if above else max(inside)), (t, x)


@pytest.mark.parametrize("size", [2, 4, 8])
@given(st.integers(0, U64), st.integers(0, U64), st.integers(0, U64))
def test_t_swap(size: int, v: int, m: int, pick: int) -> None:
    x = v & ~m | pick & m
    low = x & (1 << size * 8) - 1
    expected = int.from_bytes(low.to_bytes(size, "little"), "big")
    got, unknown = d.t_swap(v & ~m, m, size)
    assert expected & ~unknown == got


@pytest.mark.parametrize(("name", "op", "real"), RANGE_OPS, ids=[o[0] for o in RANGE_OPS])
def test_unsigned_interval_operation(name: str, op: Callable[..., Pair], real: Two) -> None:
    for a, b in itertools.product(RANGES, RANGES):
        lo, hi = op(*a, *b, FULL)
        assert 0 <= lo <= hi <= FULL
        for x, y in itertools.product(range(a[0], a[1] + 1), range(b[0], b[1] + 1)):
            assert lo <= real(x, y) & FULL <= hi, (a, b, x, y)


@pytest.mark.parametrize(("name", "op", "real"), SIGNED_OPS, ids=[o[0] for o in SIGNED_OPS])
def test_signed_interval_operation(name: str, op: Callable[..., Pair], real: Two) -> None:
    for a, b in itertools.product(SIGNED, SIGNED):
        lo, hi = op(*a, *b, TOP)
        assert -TOP - 1 <= lo <= hi <= TOP
        for x, y in itertools.product(range(a[0], a[1] + 1), range(b[0], b[1] + 1)):
            assert lo <= signed(real(x, y)) <= hi, (a, b, x, y)


def test_s_of_u() -> None:
    for lo, hi in RANGES:
        slo, shi = d.s_of_u(lo, hi, TOP)
        assert all(slo <= signed(x) <= shi for x in range(lo, hi + 1))


@given(st.integers(0, U64))
def test_to_s64(x: int) -> None:
    assert d.to_s64(x) & U64 == x and S64_MIN <= d.to_s64(x) <= S64_MAX
    assert d.to_s32(x) & 0xFFFFFFFF == x & 0xFFFFFFFF
