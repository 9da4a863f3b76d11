"""Loops that may_goto ends: what the kernel says of them, we say too; and they end when run.

Cases in pairs, each loaded into the kernel as well. Source: Linux tools/testing/selftests/bpf,
progs/verifier_may_goto_1.c, verifier_iterating_callbacks.c.
"""

from __future__ import annotations

import pytest

from compat_tests.jit import native
from compat_tests.oracle import kernel
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import budget
from libbpf_shim.jit.interp import Machine
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

SOCKET = 1
EXIT = Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV, MOVX, ADD, JA, JGT, STX, ST, LDX = (
    0xB7, 0xBF, 0x07, 0x05, 0x25, 0x7B, 0x7A, 0x79)
ZERO = Insn(MOV, 0, 0, 0, 0)


def may_goto(off: int, dst: int = 0, imm: int = 0) -> Insn:
    return Insn(op.JMP | op.JCOND, dst, 0, off, imm)


def back(distance: int) -> Insn:
    return Insn(JA, 0, 0, -distance - 1, 0)


COUNT = [ZERO, may_goto(2), Insn(ADD, 0, 0, 0, 1), back(2)]
# a byte at fp - 8 + R0
READ_THERE = [Insn(MOVX, 1, 10, 0, 0), Insn(0x0F, 1, 0, 0, 0), Insn(0x71, 0, 1, -8, 0)]

# name, instructions, errno, words of the log
CASES = [
    ("a loop that counts", [*COUNT, EXIT], 0, ""),
    ("a loop that ja alone closes", [ZERO, Insn(ADD, 0, 0, 0, 1), back(1), EXIT], 22,
     "unreachable"),
    ("an empty loop", [ZERO, may_goto(1), back(1), EXIT], 0, ""),
    ("a loop of may_goto alone", [ZERO, may_goto(-1), EXIT], 22, "infinite loop detected"),
    ("the count as an offset", [*COUNT, *READ_THERE, EXIT], 13, "stack"),
    ("an offset that the loop checks",
     [ZERO, may_goto(3), Insn(JGT, 0, 0, 2, 6), Insn(ADD, 0, 0, 0, 1), back(3), *READ_THERE,
      EXIT], 0, ""),
    ("an offset that the loop checks too late",
     [ZERO, may_goto(3), Insn(JGT, 0, 0, 2, 7), Insn(ADD, 0, 0, 0, 1), back(3), *READ_THERE,
      EXIT], 13, "stack"),
    ("a pointer that the second round has lost",
     [Insn(MOVX, 6, 10, 0, 0), ZERO, may_goto(3), Insn(0x72, 6, 0, -1, 0), Insn(MOV, 6, 0, 0, 0),
      back(3), EXIT], 13, "R6 invalid mem access 'scalar'"),
    ("the whole stack beside", [Insn(ST, 10, 0, -512, 0), *COUNT, EXIT], 0, ""),
    ("an immediate", [ZERO, may_goto(1, imm=1), ZERO, EXIT], 22, "invalid may_goto imm 1"),
    ("a register", [ZERO, may_goto(1, dst=1), ZERO, EXIT], 22, "invalid may_goto imm 0"),
    ("of 32 bits", [ZERO, Insn(op.JMP32 | op.JCOND, 0, 0, 1, 0), ZERO, EXIT], 22,
     "unknown opcode e6"),
]  # fmt: skip
NAMES = [case[0] for case in CASES]


@pytest.mark.parametrize(("name", "insns", "errno", "words"), CASES, ids=NAMES)
def test_verdict(name: str, insns: list[Insn], errno: int, words: str) -> None:
    verdict = verify(Program(encode(insns), SOCKET, license="GPL", log_level=1))
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "insns", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(name: str, insns: list[Insn], errno: int, words: str) -> None:
    found = kernel.driver().kernel_verdict(encode(insns), "socket_filter")
    assert found.errno == errno, found.log
    assert words in found.log


CALL_AGAIN = [
    # two calls of a function that counts, each with the budget anew
    Insn(op.JMP | op.CALL, 0, op.PSEUDO_CALL, 0, 4), Insn(MOVX, 6, 0, 0, 0),
    Insn(op.JMP | op.CALL, 0, op.PSEUDO_CALL, 0, 2), Insn(0x0F, 0, 6, 0, 0), EXIT, *COUNT, EXIT,
]  # fmt: skip
# R0 counts the rounds of the outer and the inner loop, which share the function's budget
NESTED = [ZERO, may_goto(5), Insn(ADD, 0, 0, 0, 1), may_goto(2), Insn(ADD, 0, 0, 0, 256), back(2),
          back(5), EXIT]  # fmt: skip
# what the stack holds stays, beside the budget
STACK = [Insn(MOV, 1, 0, 0, 7), Insn(STX, 10, 1, -8, 0), ZERO, may_goto(4),
         Insn(LDX, 1, 10, -8, 0), Insn(ADD, 1, 0, 0, 1), Insn(STX, 10, 1, -8, 0), back(4),
         Insn(LDX, 0, 10, -8, 0), EXIT]  # fmt: skip


@pytest.mark.parametrize("tier", native.TIERS)
@pytest.mark.parametrize(
    ("insns", "subprogs", "result"),
    [([*COUNT, EXIT], 1, 100), (CALL_AGAIN, 2, 200), (NESTED, 1, 1 + 99 * 256), (STACK, 1, 107)],
    ids=["counts", "called twice", "nested", "with a stack"],
)
def test_interpreter_and_compilers_end_alike(
    insns: list[Insn], subprogs: int, result: int, tier: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native.has(tier):
        pytest.skip("llvmlite is not installed")
    monkeypatch.setattr(native.Compiler, "tier", tier)
    monkeypatch.setattr(budget, "MAY_GOTO_ROUNDS", 100)
    program = Program(encode(insns), SOCKET)
    facts = verify(program).facts
    assert facts and len(facts.subprogs) == subprogs
    assert Machine(program.insns).run() == result
    assert native.run_all([(native.compile_program(program, facts), b"")]) == [(result, b"")]


def test_the_real_budget_is_spent_in_compiled_code() -> None:
    program = Program(encode([*COUNT, EXIT]), SOCKET)
    facts = verify(program).facts
    assert facts
    assert native.run_all([(native.compile_program(program, facts), b"")]) == [(8 << 20, b"")]
