"""Accesses of an arena, compiled and interpreted; the kernel's own are runtime/test_plain.py's."""

from __future__ import annotations

import ctypes
import mmap
import random
from dataclasses import replace

import pytest

from compat_tests.jit import native
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit.interp import Arena, Machine
from libbpf_shim.jit.memory import Memory
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.policy import MASKED, Policy
from libbpf_shim.verifier.program import MapDesc, Program

SOCKET_FILTER, ARENA = 1, 33
HELD = Policy("held", "grants.yaml", b"", spectre=MASKED)  # every other program's
PAGES, PAGE = 2, 4096
STARTS = (0x7F00_1234_5000, 0x1_FFFF_E000, 0x1_0000_0000)
MOV, MOVX, ADD = 0xB7, 0xBF, 0x07
EXIT = Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
LOADS = (0x71, 0x69, 0x61, 0x79, 0x91, 0x89, 0x81)
STORES, CONSTANTS = (0x73, 0x6B, 0x63, 0x7B), (0x72, 0x6A, 0x62, 0x7A)
ATOMICS = (op.ADD, op.AND, op.OR, op.XOR, op.ADD | op.FETCH, op.XCHG, op.CMPXCHG, op.LOAD_ACQ,
           op.STORE_REL)  # fmt: skip
ARITHMETIC = (0x07, 0x17, 0x27, 0x47, 0x57, 0x67, 0x77, 0xA7, 0xC7, 0x04, 0x14)


def access(chance: random.Random) -> list[Insn]:
    """One access somewhere around the arena; what it gives is added to R0."""
    at = chance.choice((chance.randrange(PAGES * PAGE), PAGES * PAGE - 8, PAGES * PAGE - 3, 0))
    out = [Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_VALUE, 0, 0), Insn(0, 0, 0, 0, at),
           Insn(MOVX, 2, 1, op.ADDR_SPACE_CAST, op.CAST_KERN), Insn(MOV, 3, 0, 0, 77),
           Insn(MOVX, 6, 0, 0, 0)]  # fmt: skip
    if chance.random() < 0.2:
        out.append(Insn(chance.choice(ARITHMETIC), 2, 0, 0, chance.randrange(31)))
    off, size = chance.randrange(-16, 16), chance.choice((op.STX | 0xC0, op.STX | 0xD8))
    kind = chance.randrange(4)
    if kind == 0:
        out.append(Insn(chance.choice(LOADS), 3, 2, off, 0))
    elif kind == 1:
        out.append(Insn(chance.choice(STORES), 2, chance.choice((2, 3, 6)), off, 0))
    elif kind == 2:
        out.append(Insn(chance.choice(CONSTANTS), 2, 0, off, chance.randrange(-9, 9)))
    else:
        imm = chance.choice(ATOMICS)
        regs = (3, 2) if imm == op.LOAD_ACQ else (2, 3)
        out.append(Insn(size, *regs, off, imm))
    user = [Insn(MOVX, 4, 2, op.ADDR_SPACE_CAST, op.CAST_USER), Insn(0x0F, 0, 4, 0, 0)]
    return [*out, Insn(0x0F, 6, 3, 0, 0), Insn(MOVX, 0, 6, 0, 0), *user]


@pytest.mark.usefixtures("each_tier")
@pytest.mark.parametrize("start", STARTS)
def test_interpreter_and_compilers_agree(start: int) -> None:
    chance, desc = random.Random(start), MapDesc(
        ARENA, 0, 0, PAGES, 1 << 10, arena=(start, start + PAGES * PAGE))
    shared = mmap.mmap(-1, PAGES * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    for n in range(native.share(60)):
        insns = [Insn(MOV, 0, 0, 0, 0), *(i for _ in range(6) for i in access(chance)), EXIT]
        program = Program(encode(insns), SOCKET_FILTER, license="GPL", maps=(desc,), log_level=1)
        verdict = verify(program)
        assert verdict.facts, verdict.log
        content = bytearray(chance.randbytes(PAGES * PAGE))
        shared[:] = bytes(content)
        memory, facts = Memory(), verdict.facts
        arena = Arena(facts.arena, facts.arena_alu, start, memory.add(content), PAGES * PAGE)
        machine = Machine(program.insns, memory=memory, values={0: start}, arena=arena)
        result = machine.run(0)
        image = native.compile_program(replace(program, policy=HELD if n % 2 else None), facts)
        assert native.run_all([(image, b"")], {"mapval:0": address}) == [(result, b"")]
        assert shared[:] == content


CASES = [
    ("arithmetic on an address or on a number", [
        Insn(MOV, 2, 0, 0, 5), Insn(0x15, 0, 0, 1, 0),
        Insn(MOVX, 2, 1, op.ADDR_SPACE_CAST, op.CAST_KERN), Insn(ADD, 2, 0, 0, 8)],
     "arithmetic on both arena addresses and numbers"),
    ("a load of an address or of the stack", [
        Insn(MOVX, 2, 10, 0, 0), Insn(0x7A, 10, 0, -8, 0), Insn(ADD, 2, 0, 0, -8),
        Insn(0x15, 0, 0, 1, 0), Insn(MOVX, 2, 1, op.ADDR_SPACE_CAST, op.CAST_KERN),
        Insn(0x79, 3, 2, 0, 0)], "same insn cannot be used with different pointers"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "body", "words"), CASES, ids=[case[0] for case in CASES])
def test_one_instruction_is_compiled_in_one_way(name: str, body: list[Insn], words: str) -> None:
    start = STARTS[0]
    insns = [Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_VALUE, 0, 0), Insn(0, 0, 0, 0, 0),
             Insn(MOVX, 6, 1, 0, 0), Insn(op.JMP | op.CALL, 0, 0, 0, 7), Insn(MOVX, 1, 6, 0, 0),
             *body, Insn(MOV, 0, 0, 0, 0), EXIT]  # fmt: skip
    desc = MapDesc(ARENA, 0, 0, PAGES, 1 << 10, arena=(start, start + PAGES * PAGE))
    verdict = verify(Program(encode(insns), SOCKET_FILTER, license="GPL", maps=(desc,),
                             log_level=1))  # fmt: skip
    assert verdict.errno and words in verdict.log
