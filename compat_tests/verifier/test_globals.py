"""Global functions: verified by themselves, and at a call only for what they are given.

The function gets (struct s *, context, long); static, it is judged by its calls. Each case is
loaded into the kernel as well.
"""

from __future__ import annotations

import struct

import pytest

from compat_tests.oracle import kernel
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

SCHED_CLS = 3
EXIT = Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV, MOVX, ADD, ADDX, JEQ = 0xB7, 0xBF, 0x07, 0x0F, 0x15
STATIC, GLOBAL = 0, 1
SIZE = 8  # of struct s


def zero(reg: int) -> Insn:
    return Insn(MOV, reg, 0, 0, 0)


BUFFER = [Insn(0x7A, 10, 0, -8, 0), Insn(0x7A, 10, 0, -16, 0), Insn(MOVX, 6, 1, 0, 0),
          Insn(MOVX, 1, 10, 0, 0), Insn(ADD, 1, 0, 0, -16)]  # fmt: skip
GIVEN = [*BUFFER, Insn(MOVX, 2, 6, 0, 0), zero(3)]
END = [zero(0), EXIT]
CHECKED = [Insn(JEQ, 1, 0, 1, 0), Insn(0x61, 1, 1, 4, 0), *END]
# R0 = a byte of the stack, at R0
INDEXED = [Insn(MOVX, 1, 10, 0, 0), Insn(ADDX, 1, 0, 0, 0), Insn(0x71, 0, 1, -16, 0), EXIT]


def program(before: list[Insn], after: list[Insn], body: list[Insn]) -> tuple[list[Insn], int]:
    """before; R0 = function(R1, R2, R3); after. And where the function begins."""
    entry = len(before) + 1 + len(after)
    call = Insn(op.JMP | op.CALL, 0, op.PSEUDO_CALL, 0, entry - len(before) - 1)
    return [*before, call, *after, *body], entry


# name, instructions, linkage, errno, words of the log
CASES = [
    ("a pointer that is looked at first", program(GIVEN, END, CHECKED), GLOBAL, 0, ""),
    ("a pointer that is not", program(GIVEN, END, [Insn(0x61, 1, 1, 4, 0), *END]), GLOBAL, 13,
     "R1 invalid mem access 'mem_or_null'"),
    ("the same in a static function", program(GIVEN, END, [Insn(0x61, 1, 1, 4, 0), *END]), STATIC,
     0, ""),
    ("behind the structure",
     program(GIVEN, END, [Insn(JEQ, 1, 0, 1, 0), Insn(0x61, 1, 1, SIZE, 0), *END]), GLOBAL, 13,
     "invalid access to memory, mem_size=8 off=8 size=4"),
    ("NULL for the pointer", program([*GIVEN, zero(1)], END, CHECKED), GLOBAL, 0, ""),
    ("a number for the pointer", program([*GIVEN, Insn(MOV, 1, 0, 0, 5)], END, CHECKED), GLOBAL,
     22, "Caller passes invalid args into func#1"),
    ("too little memory for the pointer", program([*GIVEN, Insn(ADD, 1, 0, 0, 12)], END, CHECKED),
     GLOBAL, 22, "Caller passes invalid args into func#1"),
    ("a pointer for the number", program([*GIVEN, Insn(MOVX, 3, 10, 0, 0)], END, CHECKED), GLOBAL,
     22, "R3 is not a scalar"),
    ("a buffer for the context", program([*GIVEN, Insn(MOVX, 2, 10, 0, 0)], END, CHECKED), GLOBAL,
     22, "arg#1 expects pointer to ctx"),
    ("the context read", program(GIVEN, END, [Insn(0x61, 0, 2, 0, 0), EXIT]), GLOBAL, 0, ""),
    ("its result as an offset, 0 as one can see", program(GIVEN, INDEXED, END), GLOBAL, 22,
     "math between fp pointer and register with unbounded min value is not allowed"),
    ("the same of a static function", program(GIVEN, INDEXED, END), STATIC, 0, ""),
    ("what was spilled where it may write",
     program([*GIVEN, Insn(0x7B, 10, 6, -16, 0)],
             [Insn(0x79, 1, 10, -16, 0), Insn(0x61, 0, 1, 0, 0), EXIT], CHECKED), GLOBAL, 13,
     "R1 invalid mem access 'scalar'"),
    ("what was spilled beside it",
     program([*GIVEN, Insn(0x7B, 10, 6, -8, 0)],
             [Insn(0x79, 1, 10, -8, 0), Insn(0x61, 0, 1, 0, 0), EXIT], CHECKED), GLOBAL, 0, ""),
    ("a pointer as its result", program(GIVEN, END, [Insn(MOVX, 0, 2, 0, 0), EXIT]), GLOBAL, 22,
     "At subprogram exit the register R0 is not a scalar value (ctx)"),
    ("no result", program(GIVEN, END, [EXIT]), GLOBAL, 13, "R0 !read_ok"),
]  # fmt: skip
NAMES = [case[0] for case in CASES]


def infos(entry: int, linkage: int) -> tuple[bytes, bytes]:
    out = Writer()
    u32, long = out.integer("unsigned int", 4), out.integer("long", 8, 1)
    skb = out.ref(kinds.PTR, out.struct("__sk_buff", 192, [("len", u32, 0)]))
    some = out.ref(kinds.PTR, out.struct("s", SIZE, [("a", u32, 0), ("b", u32, 4)]))
    main = out.func("main", out.proto(long, [("ctx", skb)]))
    proto = out.proto(long, [("s", some), ("ctx", skb), ("n", long)])
    function = out.func("function", proto, linkage)
    return out.blob(), struct.pack("<IIII", 0, main, entry, function)


@pytest.mark.parametrize(("name", "code", "linkage", "errno", "words"), CASES, ids=NAMES)
def test_verdict(
    name: str, code: tuple[list[Insn], int], linkage: int, errno: int, words: str
) -> None:
    insns, entry = code
    btf, rows = infos(entry, linkage)
    verdict = verify(Program(encode(insns), SCHED_CLS, license="GPL", log_level=1, btf=btf,
                             func_info=rows, func_info_rec_size=8))  # fmt: skip
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "code", "linkage", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(
    name: str, code: tuple[list[Insn], int], linkage: int, errno: int, words: str
) -> None:
    insns, entry = code
    btf, rows = infos(entry, linkage)
    found = kernel.driver().kernel_verdict(encode(insns), "sched_cls", btf=btf, func_info=rows)
    assert found.errno == errno, found.log
    assert words in found.log
