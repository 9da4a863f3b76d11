"""Abstract scalars contain what the instruction computes: arithmetic, conversions, comparisons.

Hulls of two numbers from the edges of the widths, all pairs of them under every operation, and
random scalars by property. `contains` is plain containment in all five domains.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.scalar import bounds, branches, domains, transfer
from libbpf_shim.verifier.scalar.domains import U32, U64, to_s32, to_s64
from libbpf_shim.verifier.state import SCALAR, Reg

EDGES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, U64)
ALU = {"add": op.ADD, "sub": op.SUB, "mul": op.MUL, "and": op.AND, "or": op.OR, "xor": op.XOR,
       "lsh": op.LSH, "rsh": op.RSH, "arsh": op.ARSH, "div": op.DIV, "mod": op.MOD}  # fmt: skip
JUMPS = {"jeq": op.JEQ, "jne": op.JNE, "jset": op.JSET, "jgt": op.JGT, "jge": op.JGE,
         "jlt": op.JLT, "jle": op.JLE, "jsgt": op.JSGT, "jsge": op.JSGE, "jslt": op.JSLT,
         "jsle": op.JSLE}  # fmt: skip


def hull(*values: int) -> Reg:
    """The least scalar that has all these numbers, each domain by itself, then synced."""
    r = Reg(SCALAR)
    r.tv, r.tm = values[0], 0
    for x in values[1:]:
        r.tv, r.tm = domains.t_union(r.tv, r.tm, x, 0)
    r.umin, r.umax = min(values), max(values)
    r.smin, r.smax = min(map(to_s64, values)), max(map(to_s64, values))
    r.u32min, r.u32max = min(x & U32 for x in values), max(x & U32 for x in values)
    r.s32min, r.s32max = min(map(to_s32, values)), max(map(to_s32, values))
    bounds.sync(r)
    return r


def contains(r: Reg, x: int) -> bool:
    return (
        x & ~r.tm == r.tv and r.umin <= x <= r.umax and r.smin <= to_s64(x) <= r.smax
        and r.u32min <= x & U32 <= r.u32max and r.s32min <= to_s32(x) <= r.s32max
    )  # fmt: skip


def computed(kind: int, x: int, y: int, is32: bool) -> int:
    """What the instruction gives; a shift counts modulo the width, a division by 0 gives 0."""
    bits = 32 if is32 else 64
    full = (1 << bits) - 1
    signed = to_s32(x) if is32 else to_s64(x)
    a, b, by = x & full, y & full, y & (bits - 1)
    results = {
        op.ADD: a + b, op.SUB: a - b, op.MUL: a * b, op.AND: a & b, op.OR: a | b, op.XOR: a ^ b,
        op.LSH: a << by, op.RSH: a >> by, op.ARSH: signed >> by, op.DIV: a // b if b else 0,
        op.MOD: a % b if b else a,
    }  # fmt: skip
    return results[kind] & full


def taken(kind: int, x: int, y: int, is32: bool) -> bool:
    full = U32 if is32 else U64
    signed = to_s32 if is32 else to_s64
    a, b, s, t = x & full, y & full, signed(x), signed(y)
    return {
        op.JEQ: a == b, op.JNE: a != b, op.JSET: a & b != 0, op.JGT: a > b, op.JGE: a >= b,
        op.JLT: a < b, op.JLE: a <= b, op.JSGT: s > t, op.JSGE: s >= t, op.JSLT: s < t,
        op.JSLE: s <= t,
    }[kind]  # fmt: skip


HULLS = [(hull(x, y), (x, y)) for x, y in itertools.combinations_with_replacement(EDGES, 2)]


def check_alu(kind: int, a: Reg, b: Reg, xs: tuple[int, ...], ys: tuple[int, ...]) -> None:
    for is32 in (False, True):
        r = transfer.alu(kind, a, b, is32)
        for x, y in itertools.product(xs, ys):
            assert contains(r, computed(kind, x, y, is32)), (is32, xs, ys, x, y)


def check_branch(kind: int, a: Reg, b: Reg, xs: tuple[int, ...], ys: tuple[int, ...]) -> None:
    for is32 in (False, True):
        known = branches.branch_taken(kind, a, b, is32)
        sides = {yes: branches.refine(kind, a, b, False, is32, yes) for yes in (False, True)}
        for x, y in itertools.product(xs, ys):
            yes = taken(kind, x, y, is32)
            assert known in (-1, int(yes)), (is32, xs, ys, x, y)
            p, q = sides[yes]
            assert contains(p, x) and contains(q, y), (is32, xs, ys, x, y)


@pytest.mark.parametrize("name", ALU)
def test_alu(name: str) -> None:
    for (a, xs), (b, ys) in itertools.product(HULLS, HULLS):
        check_alu(ALU[name], a, b, xs, ys)


@pytest.mark.parametrize("name", JUMPS)
def test_branch_taken_and_refine(name: str) -> None:
    for (a, xs), (b, ys) in itertools.product(HULLS, HULLS):
        check_branch(JUMPS[name], a, b, xs, ys)


def numbers() -> st.SearchStrategy[int]:
    near = st.builds(lambda edge, by: (edge + by) & U64, st.sampled_from(EDGES),
                     st.integers(-70, 70))  # fmt: skip
    return st.one_of(near, st.integers(0, U64), st.integers(0, 70))


SOME = st.lists(numbers(), min_size=1, max_size=4)


@given(st.sampled_from(sorted(ALU)), SOME, SOME)
@settings(max_examples=400, deadline=None)
def test_alu_of_any_scalars(name: str, xs: list[int], ys: list[int]) -> None:
    check_alu(ALU[name], hull(*xs), hull(*ys), tuple(xs), tuple(ys))


@given(st.sampled_from(sorted(JUMPS)), SOME, SOME)
@settings(max_examples=400, deadline=None)
def test_branch_of_any_scalars(name: str, xs: list[int], ys: list[int]) -> None:
    check_branch(JUMPS[name], hull(*xs), hull(*ys), tuple(xs), tuple(ys))


@given(SOME)
@settings(max_examples=150, deadline=None)
def test_conversions(xs: list[int]) -> None:
    """sync, truncated, zext32, sign_extended, sign_extended_low, swapped, negated."""
    a = hull(*xs)
    low = a.copy()
    bounds.zext32(low)
    for x in xs:
        assert contains(a, x) and contains(low, x & U32)
        assert contains(transfer.negated(a, False), -x & U64)
        assert contains(transfer.negated(a, True), -x & U32)
        for size in (1, 2, 4):
            full = (1 << 8 * size) - 1
            extended = ((x & full) ^ (full + 1) // 2) - (full + 1) // 2
            assert contains(bounds.truncated(a, size), x & full)
            assert contains(bounds.sign_extended(a, size), extended & U64)
            assert contains(bounds.sign_extended_low(a, size), extended & U32)
        for size in (2, 4, 8):
            full = (1 << 8 * size) - 1
            other = int.from_bytes((x & full).to_bytes(size, "little"), "big")
            assert contains(transfer.swapped(a, 8 * size, True), other)
            assert contains(transfer.swapped(a, 8 * size, False), x & full)


@given(SOME, st.integers(-(2**31), 2**31 - 1))
@settings(max_examples=100, deadline=None)
def test_added(xs: list[int], by: int) -> None:
    """A linked scalar, learnt of through the other."""
    apart = hull(by & U64)
    for is32 in (False, True):
        r = transfer.added(hull(*xs), apart, is32)
        assert all(contains(r, (x + by) & (U32 if is32 else U64)) for x in xs)


def test_a_contradiction_is_told_and_forgotten() -> None:
    r = hull(1, 9)
    r.umin, r.umax = 10, 9
    assert bounds.broken(r, "alu").startswith(
        "verifier bug: REG INVARIANTS VIOLATION (alu): range bounds violation u64=[0xa, 0x9]")
    assert not bounds.broken(hull(3), "alu") and not bounds.broken(hull(0, U64), "alu")
