"""Loads that give one number always (`Facts.loaded`): which those are."""

from __future__ import annotations

import pytest

from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.program import MapDesc, Program
from libbpf_shim.verifier.verify import verify

SOCKET, ARRAY, RDONLY_PROG = 1, 2, 128
HELD = bytes.fromhex("fe01 8899 a1b2c3d4 1122334455667788")
FROZEN = MapDesc(ARRAY, 4, 16, 1, map_flags=RDONLY_PROG, contents=HELD)
WARM = MapDesc(ARRAY, 4, 16, 1, map_flags=RDONLY_PROG)
OTHER = MapDesc(ARRAY, 4, 16, 1, map_flags=RDONLY_PROG, contents=HELD[::-1])
LOADS = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}
ADD_K, ADD_X, JEQ_K, JA = 0x07, 0x0F, 0x15, 0x05
EXIT = Insn(0x95, 0, 0, 0, 0)


def value_of(regno: int, index: int, off: int = 0) -> list[Insn]:
    return [Insn(op.LD_IMM64, regno, op.PSEUDO_MAP_VALUE, 0, index), Insn(0, 0, 0, 0, off)]


def two_ways(first: list[Insn], second: list[Insn], code: int = LOADS[4]) -> list[Insn]:
    """By the context's first word R1 is set so or so, then loaded from."""
    assert len(first) == len(second) == 2
    return [Insn(LOADS[4], 2, 1, 0, 0), Insn(JEQ_K, 2, 0, 3, 0), *first, Insn(JA, 0, 0, 2, 0),
            *second, Insn(code, 0, 1, 4, 0), EXIT]  # fmt: skip


def program(insns: list[Insn]) -> Program:
    return Program(encode(insns), SOCKET, license="GPL", maps=(FROZEN, WARM, OTHER))


def loaded(insns: list[Insn]) -> dict[int, int]:
    verdict = verify(program(insns))
    assert verdict.facts, verdict.log
    return verdict.facts.loaded


@pytest.mark.parametrize("size", LOADS)
def test_a_load_from_a_frozen_map_gives_what_is_there(size: int) -> None:
    known = int.from_bytes(HELD[8 - size : 8], "little")
    insns = [*value_of(1, 0, 8 - size), Insn(LOADS[size], 0, 1, 0, 0), EXIT]
    assert loaded(insns) == {2: known}
    assert loaded(two_ways(value_of(1, 0), value_of(1, 0))) == {
        7: int.from_bytes(HELD[4:8], "little")}


@pytest.mark.parametrize(("first", "second"), [
    (value_of(1, 0), value_of(1, 0, 4)),  # another place
    (value_of(1, 0), value_of(1, 2)),  # another map
    (value_of(1, 0), value_of(1, 1)),  # one that is not frozen
    (value_of(1, 1), value_of(1, 0)),
    ([Insn(0xBF, 1, 10, 0, 0), Insn(ADD_K, 1, 0, 0, -8)], value_of(1, 0)),  # the stack
    (value_of(1, 0), [Insn(0xBF, 1, 10, 0, 0), Insn(ADD_K, 1, 0, 0, -8)]),
])  # fmt: skip
def test_one_that_depends_on_the_way_is_not_known(first: list[Insn], second: list[Insn]) -> None:
    assert loaded([Insn(0x7A, 10, 0, -8, 0), *two_ways(first, second)]) == {}


def test_one_at_a_place_that_varies_is_not_known() -> None:
    insns = [Insn(LOADS[4], 2, 1, 0, 0), Insn(0x57, 2, 0, 0, 7), *value_of(1, 0),
             Insn(ADD_X, 1, 2, 0, 0), Insn(LOADS[4], 0, 1, 0, 0), EXIT]  # fmt: skip
    assert loaded(insns) == {}
