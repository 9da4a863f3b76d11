"""Dynptrs that programs make by helpers: what the kernel says of them, we say too.

Map 0 is a ring buffer, map 1 an array with values of 16 bytes. Each case differs by little from
one that is right and is loaded into the kernel as well. Source of the rules' list: Linux
tools/testing/selftests/bpf, progs/dynptr_fail.c, dynptr_success.c.
"""

from __future__ import annotations

import pytest

from compat_tests.oracle import kernel
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

SOCKET = 1
CALL, EXIT = op.JMP | op.CALL, Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV, MOVX, ADD, ADDX, AND, JEQ, JNE = 0xB7, 0xBF, 0x07, 0x0F, 0x57, 0x15, 0x55
LDX, STX, ST, LDXB = 0x79, 0x7B, 0x7A, 0x71
FROM_MEM, RESERVE, SUBMIT, DISCARD, READ, WRITE, DATA = 197, 198, 199, 200, 201, 202, 203
PRANDOM = 7
MAPS = (MapDesc(27, 0, 0, 4096), MapDesc(2, 4, 16, 1))
KERNEL_MAPS = [{"type": 27, "key_size": 0, "value_size": 0, "max_entries": 4096},
               {"type": 2, "key_size": 4, "value_size": 16, "max_entries": 1}]  # fmt: skip
END = [Insn(MOV, 0, 0, 0, 0), EXIT]


def call(number: int) -> Insn:
    return Insn(CALL, 0, 0, 0, number)


def fp(reg: int, off: int) -> list[Insn]:
    return [Insn(MOVX, reg, 10, 0, 0), Insn(ADD, reg, 0, 0, off)]


def number(reg: int, value: int) -> Insn:
    return Insn(MOV, reg, 0, 0, value)


def reserve(at: int = -16, size: int = 8) -> list[Insn]:
    """A record of the ring buffer, its dynptr at fp + at."""
    return [Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_FD, 0, 0), Insn(0, 0, 0, 0, 0), number(2, size),
            number(3, 0), *fp(4, at), call(RESERVE)]  # fmt: skip


def from_value(at: int = -16, size: int = 16) -> list[Insn]:
    """The array's value, its dynptr at fp + at."""
    return [Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_VALUE, 0, 1), Insn(0, 0, 0, 0, 0),
            number(2, size), number(3, 0), *fp(4, at), call(FROM_MEM)]  # fmt: skip


def give(helper: int, at: int = -16) -> list[Insn]:
    return [*fp(1, at), number(2, 0), call(helper)]


def data(at: int = -16, size: int = 8) -> list[Insn]:
    """R0: so many bytes of it, or NULL."""
    return [*fp(1, at), number(2, 0), number(3, size), call(DATA)]


def read(into: int = -32, size: int = 8, at: int = -16) -> list[Insn]:
    return [*fp(1, into), number(2, size), *fp(3, at), number(4, 0), number(5, 0), call(READ)]


def write(source: int = -32, size: int = 8, at: int = -16) -> list[Insn]:
    return [*fp(1, at), number(2, 0), *fp(3, source), number(4, size), number(5, 0), call(WRITE)]


GONE = [Insn(JNE, 0, 0, 4, 0), *give(DISCARD), Insn(JEQ, 0, 0, 0, 0)]
SLICE = [Insn(JEQ, 0, 0, 1, 0), Insn(LDX, 6, 0, 0, 0)]
KEEP = [Insn(MOVX, 6, 0, 0, 0)]
# R0 = fp - 16 or fp - 24, not known which
EITHER = [call(PRANDOM), Insn(AND, 0, 0, 0, 8), Insn(MOVX, 4, 10, 0, 0), Insn(ADD, 4, 0, 0, -24),
          Insn(ADDX, 4, 0, 0, 0)]  # fmt: skip

# name, instructions, errno, words of the log
CASES = [
    ("a record that is submitted", [*reserve(), *give(SUBMIT), *END], 0, ""),
    ("a record that is discarded", [*reserve(), *give(DISCARD), *END], 0, ""),
    ("a record that is kept", [*reserve(), *END], 22,
     "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("a record that is submitted twice", [*reserve(), *give(SUBMIT), *give(SUBMIT), *END], 22,
     "arg 1 is an unacquired reference"),
    ("a record never made", [*give(SUBMIT), *END], 22, "arg 1 is an unacquired reference"),
    ("a value that is submitted", [*from_value(), *give(SUBMIT), *END], 22,
     "arg 1 is an unacquired reference"),
    ("a record submitted by its second slot", [*reserve(), *give(SUBMIT, -8), *END], 22,
     "cannot pass in dynptr at an offset=-8"),
    ("a record submitted by what is no slot", [*reserve(), *give(SUBMIT, -12), *END], 22,
     "cannot pass in dynptr at an offset=-12"),
    ("a record submitted by the slots beside", [*reserve(-24), *give(SUBMIT, -16), *END], 22,
     "Expected an initialized dynptr as arg #0"),
    ("a record made at the stack's end", [*reserve(-8), *give(SUBMIT, -8), *END], 22,
     "cannot pass in dynptr at an offset=-8"),
    ("a record below the stack", [*reserve(-520), *give(SUBMIT, -520), *END], 13,
     "invalid write to stack R4 off=-520 size=8"),
    ("a record at a place not known",
     [*reserve()[:4], Insn(MOVX, 6, 1, 0, 0), *EITHER, Insn(MOVX, 1, 6, 0, 0), number(2, 8),
      number(3, 0), call(RESERVE), *END], 22, "dynptr has to be at a constant offset"),
    ("a record over another", [*reserve(), *reserve(), *give(SUBMIT), *END], 22,
     "cannot overwrite referenced dynptr"),
    ("a record half over another", [*reserve(), *reserve(-24), *give(SUBMIT), *END], 22,
     "cannot overwrite referenced dynptr"),
    ("a value over another", [*from_value(), *from_value(), *END], 0, ""),
    ("a value half over another, and that one read",
     [*from_value(), *from_value(-24), *read(-48), *END], 22,
     "Expected an initialized dynptr as arg #2"),
    ("a value half over another, and it read",
     [*from_value(), *from_value(-24), *read(-48, at=-24), *END], 0, ""),
    ("a number over a record", [*reserve(), Insn(ST, 10, 0, -16, 0), *give(SUBMIT), *END], 22,
     "cannot overwrite referenced dynptr"),
    ("a byte over a record", [*reserve(), Insn(0x72, 10, 0, -3, 0), *give(SUBMIT), *END], 22,
     "cannot overwrite referenced dynptr"),
    ("a byte perhaps over a record",
     [*reserve(), call(PRANDOM), Insn(AND, 0, 0, 0, 31), Insn(MOVX, 1, 10, 0, 0),
      Insn(ADD, 1, 0, 0, -48), Insn(ADDX, 1, 0, 0, 0), Insn(ADD, 1, 0, 0, 8),
      Insn(0x72, 1, 0, 0, 0), *give(SUBMIT), *END], 22, "cannot overwrite referenced dynptr"),
    ("a byte over a value", [*from_value(), Insn(0x72, 10, 0, -3, 0), *END], 0, ""),
    ("a byte over a value, which is read", [*from_value(), Insn(0x72, 10, 0, -3, 0), *read(),
                                            *END], 22, "Expected an initialized dynptr as arg #2"),
    ("a look into a record", [*reserve(), Insn(LDX, 6, 10, -16, 0), *give(SUBMIT), *END], 13,
     "invalid read from stack off -16+0 size 8"),
    ("a look at four bytes of it", [*reserve(), Insn(0x61, 6, 10, -4, 0), *give(SUBMIT), *END],
     13, "invalid read from stack off -4+0 size 4"),
    ("a look at what it was once", [*reserve(), *give(SUBMIT), Insn(LDX, 6, 10, -16, 0), *END],
     0, ""),
    ("a look at a byte near it, not known which",
     [*reserve(), call(PRANDOM), Insn(AND, 0, 0, 0, 3), Insn(MOVX, 1, 10, 0, 0),
      Insn(ADDX, 1, 0, 0, 0), Insn(LDXB, 0, 1, -8, 0), *give(SUBMIT), *END], 13,
     "invalid read from stack R1 var_off"),
    ("a helper that reads it as memory",
     [*reserve(), *fp(2, -16), Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_FD, 0, 1), Insn(0, 0, 0, 0, 0),
      call(1), *give(SUBMIT), *END], 13, "invalid read from stack R2 off -16+0 size 4"),
    ("a read", [*from_value(), *read(), *END], 0, ""),
    ("a read of nothing", [*from_value(), *read(size=0), *END], 0, ""),
    ("a read into itself", [*from_value(), *read(into=-16), *END], 13,
     "potential write to dynptr at off=-16 disallowed"),
    ("a read into its second slot", [*from_value(), *read(into=-8), *END], 13,
     "potential write to dynptr at off=-8 disallowed"),
    ("a read of no dynptr", [Insn(ST, 10, 0, -16, 0), Insn(ST, 10, 0, -8, 0), *read(), *END], 22,
     "Expected an initialized dynptr as arg #2"),
    ("a read of stack never used", [*read(into=-8, size=1, at=-512), *END], 22,
     "Expected an initialized dynptr as arg #2"),
    ("a write", [*from_value(), Insn(ST, 10, 0, -32, 0), *write(), *END], 0, ""),
    ("a write of more than there is in the stack", [*from_value(), *write(-8, 16), *END], 22,
     "invalid read from stack R3 off=-8 size=16"),
    ("a write of itself", [*from_value(), *write(-16, 16), *END], 13,
     "invalid read from stack R3 off -16+0 size 16"),
    ("a slice", [*from_value(), *data(), *SLICE, *END], 0, ""),
    ("a slice without a check", [*from_value(), *data(), Insn(LDX, 6, 0, 0, 0), *END], 13,
     "R0 invalid mem access 'mem_or_null'"),
    ("beyond a slice", [*from_value(), *data(size=4), *SLICE, *END], 13,
     "invalid access to memory, mem_size=4 off=0 size=8"),
    ("a slice of a size not known",
     [*from_value(), call(PRANDOM), Insn(MOVX, 3, 0, 0, 0), *fp(1, -16), number(2, 0), call(DATA),
      *END], 13, "R3 is not a known constant'"),
    ("a slice whose dynptr is made anew",
     [*from_value(), *data(), *KEEP, Insn(JNE, 6, 0, 2, 0), *END, *from_value(),
      Insn(LDX, 7, 6, 0, 0), *END], 13, "R6 invalid mem access 'scalar'"),
    ("a slice whose dynptr is overwritten",
     [*from_value(), *data(), *KEEP, Insn(JNE, 6, 0, 2, 0), *END, Insn(ST, 10, 0, -8, 0),
      Insn(LDX, 7, 6, 0, 0), *END], 13, "R6 invalid mem access 'scalar'"),
    ("a slice while another dynptr is overwritten",
     [*from_value(-32), *from_value(), *data(), *KEEP, Insn(JNE, 6, 0, 2, 0), *END,
      Insn(ST, 10, 0, -24, 0), Insn(LDX, 7, 6, 0, 0), *END], 0, ""),
    ("a slice on the stack whose dynptr is overwritten",
     [*from_value(), *data(), Insn(JNE, 0, 0, 2, 0), *END, Insn(STX, 10, 0, -24, 0),
      Insn(ST, 10, 0, -8, 0), Insn(LDX, 6, 10, -24, 0), Insn(LDX, 7, 6, 0, 0), *END], 13,
     "R6 invalid mem access 'scalar'"),
    ("a slice of a record that was submitted",
     [*reserve(), *data(), *KEEP, Insn(JNE, 6, 0, 6, 0), *give(DISCARD), *END,
      *give(SUBMIT), Insn(LDX, 7, 6, 0, 0), *END], 13, "R6 invalid mem access 'scalar'"),
    ("a slice of a record",
     [*reserve(), *data(), *KEEP, Insn(JNE, 6, 0, 6, 0), *give(DISCARD), *END,
      Insn(LDX, 7, 6, 0, 0), *give(SUBMIT), *END], 0, ""),
    ("a slice that is submitted as a record",
     [*reserve(), *data(), *KEEP, Insn(JNE, 6, 0, 6, 0), *give(DISCARD), *END,
      Insn(MOVX, 1, 6, 0, 0), number(2, 0), call(132), *END], 13,
     "R1 type=mem expected=ringbuf_mem"),
    ("a dynptr of the stack", [Insn(ST, 10, 0, -24, 0), *fp(1, -24), number(2, 8), number(3, 0),
                               *fp(4, -16), call(FROM_MEM), *END], 13,
     "Unsupported reg type fp for bpf_dynptr_from_mem data"),
    ("a dynptr of more than the value", [*from_value(size=17), *END], 13,
     "invalid access to map value, value_size=16 off=0 size=17"),
    ("a map value for a dynptr",
     [Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_VALUE, 0, 1), Insn(0, 0, 0, 0, 0), number(2, 0),
      number(3, 8), call(DATA), *END], 13, "R1 type=map_value expected=fp, dynptr_ptr"),
    ("given back on one branch only",
     [*reserve(), call(PRANDOM), Insn(JEQ, 0, 0, 5, 0), *give(SUBMIT), *END[:1], *END], 22,
     "reference leak"),
    ("given back on both branches",
     [*reserve(), call(PRANDOM), Insn(JEQ, 0, 0, 6, 0), *give(SUBMIT), *END, *give(DISCARD), *END],
     0, ""),
    ("made on one branch only",
     [call(PRANDOM), Insn(JEQ, 0, 0, 7, 0), *reserve(), *give(SUBMIT), *END], 22,
     "arg 1 is an unacquired reference"),
]  # fmt: skip
NAMES = [case[0] for case in CASES]


@pytest.mark.parametrize(("name", "insns", "errno", "words"), CASES, ids=NAMES)
def test_verdict(name: str, insns: list[Insn], errno: int, words: str) -> None:
    verdict = verify(Program(encode(insns), SOCKET, license="GPL", maps=MAPS, log_level=2))
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "insns", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(name: str, insns: list[Insn], errno: int, words: str) -> None:
    found = kernel.driver().kernel_verdict(encode(insns), "socket_filter", maps=KERNEL_MAPS,
                                           license="GPL")  # fmt: skip
    assert found.errno == errno, found.log
    assert words in found.log
