"""CO-RE where the machine's kernel and compiler do not lead: types made for the case.

Expected answers: the rules of libbpf 1.1 src/relo_core.c; what the machine's kernel reaches is
compared with libbpf itself in test_handed_over.py.
"""

from __future__ import annotations

import errno

import pytest

from libbpf_shim.btf import core_match, kinds
from libbpf_shim.btf.core_relo import POISON, Outcome, Relo, Resolver, patch
from libbpf_shim.btf.parse import Btf
from libbpf_shim.btf.write import SIGNED, Writer
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as isa
from libbpf_shim.uapi.bpf import bpf_core_relo_kind as Kind


def types(*members: tuple[str, str, int], name: str = "s", size: int = 16) -> Btf:
    """A BTF with one structure: type 4, after int, unsigned, u64."""
    out = Writer()
    ids = {"int": out.integer("int", 4, SIGNED), "unsigned": out.integer("unsigned int", 4, 0),
           "u64": out.integer("long unsigned int", 8, 0)}
    out.struct(name, size, [(n, ids[t], at) for n, t, at in members])
    return Btf(out.blob())


def resolve(local: Btf, target: Btf, access: str, kind: int, type_id: int = 4) -> Outcome:
    return Resolver(local, target).resolve(Relo(0, type_id, access, kind))


LOCAL = types(("a", "int", 0), ("b", "unsigned", 4))
OFFSET = Kind.BPF_CORE_FIELD_BYTE_OFFSET


@pytest.mark.parametrize(("name", "essence"), [
    ("task_struct", "task_struct"), ("task_struct___old", "task_struct"), ("a___b___c", "a___b"),
    ("a____b", "a____b"), ("___x", "___x"), ("x___", "x___"), ("", ""), ("a___b_", "a"),
])
def test_a_flavor_is_what_follows_three_underscores(name: str, essence: str) -> None:
    assert core_match.essential(name) == essence


def test_a_field_is_found_where_the_target_has_it() -> None:
    found = resolve(LOCAL, types(("b", "unsigned", 8), ("a", "int", 12)), "0:1", OFFSET)
    assert (found.old, found.new, found.poison) == (4, 8, False)


def test_a_field_of_another_kind_is_not_it() -> None:
    out = Writer()
    number = out.integer("int", 4, SIGNED)
    out.ref(kinds.PTR, number)
    out.integer("unsigned int", 4, 0)
    out.struct("s", 16, [("a", 2, 0), ("b", 3, 8)])
    target = Btf(out.blob())
    assert resolve(LOCAL, target, "0:0", OFFSET).poison
    assert not resolve(LOCAL, target, "0:1", OFFSET).poison
    assert resolve(LOCAL, target, "0:0", Kind.BPF_CORE_FIELD_EXISTS).new == 0


def test_an_absent_type_poisons_reads_and_answers_questions() -> None:
    other = types(("a", "int", 0), name="other")
    assert resolve(LOCAL, other, "0:0", OFFSET).poison
    for kind in (Kind.BPF_CORE_FIELD_EXISTS, Kind.BPF_CORE_TYPE_EXISTS,
                 Kind.BPF_CORE_TYPE_SIZE, Kind.BPF_CORE_TYPE_ID_TARGET,
                 Kind.BPF_CORE_TYPE_MATCHES):
        access = "0:0" if kind == Kind.BPF_CORE_FIELD_EXISTS else "0"
        found = resolve(LOCAL, other, access, kind)
        assert (found.poison, found.new) == (False, 0), kind


def test_candidates_that_disagree_are_refused() -> None:
    out = Writer()
    number = out.integer("int", 4, SIGNED)
    out.struct("s", 16, [("a", number, 0)])
    out.struct("s___other", 16, [("a", number, 4)])
    with pytest.raises(ShimError) as caught:
        resolve(LOCAL, Btf(out.blob()), "0:0", OFFSET)
    assert caught.value.errno == errno.EINVAL and "different" in caught.value.message


MATCHES = [
    # a member more in the target, the same members, one missing, another size, another sign
    ((("a", "int", 0), ("b", "unsigned", 4), ("c", "u64", 8)), 1),
    ((("b", "unsigned", 0), ("a", "int", 4)), 1),
    ((("a", "int", 0),), 0),
    ((("a", "int", 0), ("b", "u64", 8)), 0),
    ((("a", "unsigned", 0), ("b", "unsigned", 4)), 0),
]


@pytest.mark.parametrize(("members", "answer"), MATCHES)
def test_a_type_matches_if_each_member_has_its_like(
    members: tuple[tuple[str, str, int], ...], answer: int
) -> None:
    assert resolve(LOCAL, types(*members), "0", Kind.BPF_CORE_TYPE_MATCHES).new == answer
    assert resolve(LOCAL, types(*members), "0", Kind.BPF_CORE_TYPE_EXISTS).new == 1


@pytest.mark.parametrize(("kind", "access"), [
    (OFFSET, "0:7"), (OFFSET, "0:0:0"), (OFFSET, ""), (OFFSET, "x"), (OFFSET, "0:-1"),
    (Kind.BPF_CORE_TYPE_SIZE, "0:1"), (Kind.BPF_CORE_ENUMVAL_VALUE, "0"), (77, "0"),
])
def test_an_access_that_is_none_is_refused(kind: int, access: str) -> None:
    with pytest.raises(ShimError):
        resolve(LOCAL, LOCAL, access, kind)


def load(code: int, off: int = 0, imm: int = 0) -> isa.Insn:
    return isa.Insn(code, 1, 2, off, imm)


LDX_W, LDX_DW, MOV_K, MOV_X = 0x61, 0x79, 0xB7, 0xBF


def test_a_load_of_an_unsigned_field_takes_the_targets_width() -> None:
    wide = types(("b", "u64", 8))
    insns = [load(LDX_W, off=4)]
    patch(insns, 0, resolve(LOCAL, wide, "0:1", OFFSET))
    assert (insns[0].code, insns[0].off) == (LDX_DW, 8)


def test_a_load_of_a_signed_field_of_another_width_is_poisoned() -> None:
    insns = [load(LDX_W)]
    patch(insns, 0, resolve(LOCAL, types(("a", "u64", 8)), "0:0", OFFSET))
    assert insns[0] == isa.Insn(isa.JMP | isa.CALL, 0, 0, 0, POISON)


def test_both_halves_of_a_wide_constant_are_poisoned() -> None:
    insns = [isa.Insn(isa.LD_IMM64, 1, 0, 0, 4), isa.Insn(0, 0, 0, 0, 0)]
    patch(insns, 0, resolve(LOCAL, types(("z", "int", 0)), "0:1", OFFSET))
    assert [i.imm for i in insns] == [POISON, POISON]


@pytest.mark.parametrize("insn", [load(MOV_K, imm=5), load(MOV_X), load(0x85), load(LDX_W, off=3)])
def test_an_instruction_that_does_not_hold_the_local_value_is_refused(insn: isa.Insn) -> None:
    with pytest.raises(ShimError):
        patch([insn], 0, resolve(LOCAL, LOCAL, "0:1", OFFSET))


def test_an_offset_beyond_16_bits_is_refused() -> None:
    far = types(("a", "int", 0x8000), size=0x9000)
    with pytest.raises(ShimError) as caught:
        patch([load(LDX_W)], 0, resolve(LOCAL, far, "0:0", OFFSET))
    assert caught.value.errno == errno.ERANGE
    insns = [load(MOV_K)]
    patch(insns, 0, resolve(LOCAL, far, "0:0", OFFSET))
    assert insns[0].imm == 0x8000
