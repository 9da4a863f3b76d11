"""Functions that bpf_loop calls back: what the kernel says of them, we say too.

The callback gets the round in R1 and the address of a counter on its caller's stack in R2. Cases
come in pairs; each is loaded into the kernel as well. Many more stand in the corpus
(test_corpus.py: verifier_iterating_callbacks).
"""

from __future__ import annotations

import struct

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.test_iterators import branches
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

SCHED_CLS = 3
CALL, EXIT = op.JMP | op.CALL, Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV, MOVX, ADD, ADDX, AND = 0xB7, 0xBF, 0x07, 0x0F, 0x57
LDX, STX, ST, JA, JGE, JLT, JNE = 0x79, 0x7B, 0x7A, 0x05, 0x35, 0xA5, 0x55
STATIC, GLOBAL = 0, 1
COUNTER = -8


def loop(rounds: list[Insn], body: list[Insn], after: list[Insn]) -> list[Insn]:
    """R1 = rounds; bpf_loop(R1, body, &counter, 0); after: what follows, R0 its result."""
    main = [Insn(ST, 10, 0, COUNTER, 0), *rounds]
    setup = [
        Insn(op.LD_IMM64, 2, op.PSEUDO_FUNC, 0, 0), Insn(0, 0, 0, 0, 0),
        Insn(MOVX, 3, 10, 0, 0), Insn(ADD, 3, 0, 0, COUNTER), Insn(MOV, 4, 0, 0, 0),
        Insn(CALL, 0, 0, 0, 181), *after, EXIT,
    ]  # fmt: skip
    func = len(main)
    total = func + len(setup)
    setup[0] = Insn(op.LD_IMM64, 2, op.PSEUDO_FUNC, 0, total - func - 1)
    return [*main, *setup, *body, EXIT]


TEN = [Insn(MOV, 1, 0, 0, 10)]
MANY = [Insn(MOV, 1, 0, 0, 1000)]
COUNT = [Insn(LDX, 0, 2, 0, 0), Insn(ADD, 0, 0, 0, 1), Insn(STX, 2, 0, 0, 0)]
ZERO = [Insn(MOV, 0, 0, 0, 0)]
COUNTED = [Insn(LDX, 0, 10, COUNTER, 0)]
# R1 = fp - 16 + the counter; a byte there is read
READ_THERE = [Insn(LDX, 3, 10, COUNTER, 0), Insn(MOVX, 1, 10, 0, 0), Insn(ADDX, 1, 3, 0, 0),
              Insn(0x71, 0, 1, -16, 0)]  # fmt: skip
UNLESS_8 = [Insn(LDX, 3, 10, COUNTER, 0), Insn(JLT, 3, 0, 1, 8), Insn(ST, 10, 0, COUNTER, 0)]

# name, instructions, linkage of the callback (None: no BTF), errno, words of the log
CASES = [
    ("ten rounds that count", loop(TEN, [*COUNT, *ZERO], COUNTED), STATIC, 0, ""),
    ("a callback behind 8191 branches", loop([*branches(8191), *TEN], ZERO, []), STATIC, 0, ""),
    ("a callback behind 8192", loop([*branches(8192), *TEN], ZERO, []), STATIC, 12,
     "The sequence of 8193 jumps is too complex."),
    ("a callback that may stop", loop(TEN, [Insn(MOV, 0, 0, 0, 1)], []), STATIC, 0, ""),
    ("a callback that returns 2", loop(TEN, [Insn(MOV, 0, 0, 0, 2)], []), STATIC, 22,
     "At callback return the register R0 has"),
    ("a callback that returns what it counted", loop(TEN, COUNT, []), STATIC, 22,
     "At callback return the register R0 has"),
    ("a global callback", loop(TEN, ZERO, []), GLOBAL, 22, "callback function not static"),
    ("a callback without BTF", loop(TEN, ZERO, []), None, 22, "missing btf func_info"),
    ("the count as an offset, checked", loop(MANY, [*COUNT, *ZERO], [*UNLESS_8, *READ_THERE]),
     STATIC, 0, ""),
    ("the count as an offset", loop(MANY, [*COUNT, *ZERO], READ_THERE), STATIC, 13, "stack"),
    ("a pointer for the number of rounds", loop([], ZERO, []), STATIC, 14, "verifier bug"),
    ("no rounds at all, and a callback that would be wrong",
     loop([Insn(MOV, 1, 0, 0, 0)], [Insn(MOV, 0, 0, 0, 2)], []), STATIC, 0, ""),
    ("a number in the place of the counter's address",
     loop([Insn(MOV, 1, 0, 0, 10), Insn(JA, 0, 0, 0, 0)],
          [Insn(MOVX, 2, 1, 0, 0), *COUNT, *ZERO], []), STATIC, 13,
     "R2 invalid mem access 'scalar'"),
    ("stack that the second round finds overwritten",
     loop(TEN, [Insn(LDX, 3, 2, 0, 0), Insn(MOV, 4, 0, 0, 600), Insn(STX, 2, 4, 0, 0),
                Insn(ADDX, 2, 3, 0, 0), Insn(0x71, 0, 2, 0, 0), *ZERO], []), STATIC, 13, ""),
]  # fmt: skip
NAMES = [case[0] for case in CASES]


def infos(insns: list[Insn], linkage: int | None) -> tuple[bytes | None, bytes]:
    """BTF and func_info of main and the callback."""
    if linkage is None:
        return None, b""
    out = Writer()
    long = out.integer("long", 8)
    pointer = out.ref(kinds.PTR, 0)
    main = out.func("main", out.proto(long, [("ctx", pointer)]))
    proto = out.proto(long, [("round", long), ("counter", pointer)])
    body = out.func("body", proto, linkage)
    entry = next(at + 1 + i.imm for at, i in enumerate(insns) if i.src == op.PSEUDO_FUNC
                 and i.code == op.LD_IMM64)  # fmt: skip
    return out.blob(), struct.pack("<IIII", 0, main, entry, body)


def build(insns: list[Insn], linkage: int | None) -> Program:
    btf, rows = infos(insns, linkage)
    return Program(encode(insns), SCHED_CLS, license="GPL", log_level=1, btf=btf, func_info=rows,
                   func_info_rec_size=8 if rows else 0)  # fmt: skip


@pytest.mark.parametrize(("name", "insns", "linkage", "errno", "words"), CASES, ids=NAMES)
def test_verdict(
    name: str, insns: list[Insn], linkage: int | None, errno: int, words: str
) -> None:
    verdict = verify(build(insns, linkage))
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "insns", "linkage", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(
    name: str, insns: list[Insn], linkage: int | None, errno: int, words: str
) -> None:
    btf, rows = infos(insns, linkage)
    found = kernel.driver().kernel_verdict(encode(insns), "sched_cls", btf=btf, func_info=rows)
    assert found.errno == errno, found.log
    assert words in found.log


def two_loops(rounds: int) -> tuple[list[Insn], bytes, bytes]:
    """A callback that runs once, then another, the last function, that runs `rounds` times."""
    one = [Insn(MOVX, 3, 10, 0, 0), Insn(ADD, 3, 0, 0, -8), Insn(MOV, 4, 0, 0, 0),
           Insn(CALL, 0, 0, 0, 181)]  # fmt: skip
    first, second = 2 * (3 + len(one)) + 2, 2 * (3 + len(one)) + 4
    main: list[Insn] = []
    for count, entry in ((1, first), (rounds, second)):
        main.append(Insn(MOV, 1, 0, 0, count))
        main += [Insn(op.LD_IMM64, 2, op.PSEUDO_FUNC, 0, entry - len(main) - 1),
                 Insn(0, 0, 0, 0, 0), *one]  # fmt: skip
    out = Writer()
    long = out.integer("long", 8)
    pointer = out.ref(kinds.PTR, 0)
    names = [out.func("main", out.proto(long, [("ctx", pointer)]))]
    proto = out.proto(long, [("round", long), ("ctx", pointer)])
    names += [out.func(name, proto, STATIC) for name in ("one", "two")]
    rows = struct.pack("<6I", 0, names[0], first, names[1], second, names[2])
    return [*main, *ZERO, EXIT, *ZERO, EXIT, *ZERO, EXIT], out.blob(), rows


@pytest.mark.kernel
@pytest.mark.parametrize("rounds", [1, 0])
def test_a_last_function_that_never_runs_is_the_kernels_own_mistake(rounds: int) -> None:
    insns, btf, rows = two_loops(rounds)
    ours = verify(Program(encode(insns), SCHED_CLS, license="GPL", log_level=1, btf=btf,
                          func_info=rows, func_info_rec_size=8))  # fmt: skip
    theirs = kernel.driver().kernel_verdict(encode(insns), "sched_cls", btf=btf, func_info=rows)
    assert ours.errno == theirs.errno == (0 if rounds else 14), (ours.log, theirs.log)
