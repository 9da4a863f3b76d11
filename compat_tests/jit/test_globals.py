"""Programs that keep addresses of global variables in registers, reach one by another's, and write
the registers that hold them: to the interpreter and to each compiler they mean the same."""

from __future__ import annotations

import ctypes
import mmap
import random

import pytest

from compat_tests.jit import native
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit.interp import Machine, Memory
from libbpf_shim.verifier.program import MapDesc, Program

SOCKET_FILTER, ARRAY = 1, 2
WORDS = 8
BYTES = 8 * WORDS
PROGRAMS = 400
LDX, STX, ST, ATOMIC, MOV, MOVX, ADD, MUL = 0x79, 0x7B, 0x7A, 0xDB, 0xB7, 0xBF, 0x07, 0x27
NUMBER = -1  # a register that is no address
FETCHING = (op.ADD | op.FETCH, op.XOR | op.FETCH, op.XCHG, op.CMPXCHG, op.LOAD_ACQ, op.STORE_REL)


def address(regno: int, word: int) -> list[Insn]:
    return [Insn(op.LD_IMM64, regno, op.PSEUDO_MAP_VALUE, 0, 0), Insn(0, 0, 0, 0, 8 * word)]


class Writer:
    """at: by register, the word that it is the address of."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.at = [NUMBER] * 10
        self.insns = [Insn(MOV, n, 0, 0, 3 * n + 1) for n in range(10)]
        for _ in range(chance.randrange(4, 40)):
            self.step()
        self.insns += self.folded()

    def any_of(self, number: bool) -> int:
        """A register that is a number, or an address."""
        found = [n for n in range(10) if (self.at[n] == NUMBER) is number]
        return self.chance.choice(found) if found else -1

    def step(self) -> None:
        chance, dst = self.chance, self.chance.randrange(10)
        pointer, number = self.any_of(False), self.any_of(True)
        off = 8 * (chance.randrange(WORDS) - self.at[pointer])
        kind = chance.randrange(8)
        if kind <= 1 or pointer < 0 or number < 0:
            self.at[dst] = chance.randrange(WORDS)
            self.insns += address(dst, self.at[dst])
        elif kind == 2:
            self.insns.append(Insn(LDX, dst, pointer, off, 0))
            self.at[dst] = NUMBER
        elif kind == 3:
            self.insns.append(Insn(STX, pointer, number, off, 0) if chance.random() < 0.7 else
                              Insn(ST, pointer, 0, off, chance.randrange(-9, 9)))
        elif kind == 4:
            self.atomic(pointer, number, off)
        elif kind == 5:
            self.insns.append(Insn(ADD, pointer, 0, 0, off))
            self.at[pointer] += off // 8
        elif kind == 6:
            self.insns.append(Insn(MOVX, dst, pointer, 0, 0))
            self.at[dst] = self.at[pointer]
        else:
            self.insns.append(Insn(chance.choice((0x0F, 0xAF, 0x2F)), number, self.any_of(True),
                                   0, 0))

    def atomic(self, pointer: int, number: int, off: int) -> None:
        imm = self.chance.choice(FETCHING)
        if imm == op.CMPXCHG and self.at[0] != NUMBER:
            return  # a number is compared with
        load = imm == op.LOAD_ACQ
        self.insns.append(Insn(ATOMIC, *((number, pointer) if load else (pointer, number)), off,
                               imm))

    def folded(self) -> list[Insn]:
        """R0 tells of all words, of numbers and of where addresses lead."""
        out = []
        for n in range(10):
            out += [Insn(LDX, n, n, 0, 0)] if self.at[n] != NUMBER else []
            out.append(Insn(STX, 10, n, -8 * n - 8, 0))
        out += [*address(1, 0), Insn(MOV, 0, 0, 0, 0)]
        rows = [(1, 8 * n) for n in range(WORDS)] + [(10, -8 * n - 8) for n in range(10)]
        for base, off in rows:
            out += [Insn(MUL, 0, 0, 0, 31), Insn(LDX, 2, base, off, 0), Insn(0x0F, 0, 2, 0, 0)]
        return [*out, Insn(op.JMP | op.EXIT, 0, 0, 0, 0)]


def interpreted(code: bytes, content: bytes) -> int:
    memory = Memory()
    return Machine(code, memory=memory, values={0: memory.add(bytearray(content))}).run(0)


def compiled(code: bytes, content: bytes) -> int:
    program = Program(code, SOCKET_FILTER, maps=(MapDesc(ARRAY, 4, BYTES, 1),))
    image = native.compile_program(program, native.all_seen(code))
    shared = mmap.mmap(-1, BYTES)
    shared[:] = content
    start = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    results = native.run_all([(image, b"")], {"mapval:0": start})
    assert results, "it crashed"
    return results[0][0]


WRITES = [  # of a register that has been the address of word 0, through R1, that of word 1
    Insn(LDX, 2, 1, 0, 0), Insn(ATOMIC, 2, 1, 0, op.LOAD_ACQ), Insn(ATOMIC, 1, 2, 0, op.XCHG),
    Insn(ATOMIC, 1, 3, 0, op.CMPXCHG),
]  # fmt: skip


@pytest.mark.usefixtures("each_tier")
@pytest.mark.parametrize("write", WRITES, ids=lambda insn: f"{insn.code:x}-{insn.imm:x}")
def test_an_address_outlives_the_register_that_it_was_told_by(write: Insn) -> None:
    """Of `last = x; runs++`: R1 is R2 + 8 when R2 is loaded through it, and is stored to after."""
    content = random.Random(8).randbytes(BYTES)
    old = 0 if write.imm == op.CMPXCHG else 2
    text = encode([Insn(MOV, 3, 0, 0, 5), *address(old, 0), Insn(STX, old, 3, 0, 0),
                   *address(1, 1), write, Insn(ADD, old, 0, 0, 1), Insn(STX, 1, old, 0, 0),
                   Insn(LDX, 0, 1, 0, 0), Insn(op.JMP | op.EXIT, 0, 0, 0, 0)])
    assert compiled(text, content) == interpreted(text, content)


@pytest.mark.usefixtures("each_tier")
def test_interpreter_and_compilers_agree() -> None:
    for seed in range(native.share(PROGRAMS)):
        chance = random.Random(seed)
        content, text = chance.randbytes(BYTES), encode(Writer(chance).insns)
        assert compiled(text, content) == interpreted(text, content), f"seed {seed}"
