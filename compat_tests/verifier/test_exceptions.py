"""The callback of exceptions that a program's main function names by a tag. After the kernel's
selftests progs/{exceptions,exceptions_fail}.c; each case is loaded into the kernel as well."""

from __future__ import annotations

import struct

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.test_kfuncs import kfunc
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import SIGNED, Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.diagnose.errors import errors
from libbpf_shim.verifier.program import Program

EXIT = Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
STATIC, GLOBAL = 0, 1
CGROUP_SKB, INGRESS = 8, 0


def mov(reg: int, value: int) -> Insn:
    return Insn(0xB7, reg, 0, 0, value)


def call(to: int) -> Insn:
    return Insn(op.JMP | op.CALL, 0, op.PSEUDO_CALL, 0, to)


def types(tags: list[str], linkage: int = GLOBAL, args: int = 1) -> tuple[bytes, int, int]:
    """BTF, and the functions' types: main's, and that of the function "caught"."""
    out = Writer()
    number = out.integer("int", 4, SIGNED)
    wide = out.integer("unsigned long", 8)
    main = out.func("main", out.proto(number, [("ctx", wide)]), GLOBAL)
    names = [(f"a{n}", wide) for n in range(args)]
    caught = out.func("caught", out.proto(number, names), linkage)
    for tag in tags:
        out.decl_tag(tag, main)
    return out.blob(), main, caught


TAG = "exception_callback:caught"
THROW = [mov(1, 7), kfunc("bpf_throw"), EXIT]  # 7 is no result of these programs
CAUGHT = [mov(0, 1), EXIT]
# name, main function, callback, BTF, errno, words of the log
CASES = [
    ("caught", THROW, CAUGHT, types([TAG]), 0, ""),
    ("not caught", THROW, [], types([]), 22,
     "At program exit the register R1 has smin=7 smax=7 should have been in [0, 1]"),
    ("never thrown", [mov(0, 1), EXIT], CAUGHT, types([TAG]), 0, ""),
    ("caught with another result", THROW, [mov(0, 7), EXIT], types([TAG]), 22,
     "At program exit the register R0 has smin=7 smax=7 should have been in [0, 1]"),
    ("caught with what was thrown", THROW, [Insn(0xBF, 0, 1, 0, 0), EXIT], types([TAG]), 22,
     "At program exit the register R0 has unknown scalar value should have been in [0, 1]"),
    ("caught by a static function", THROW, CAUGHT, types([TAG], STATIC), 22,
     "exception callback 'caught' must have global linkage"),
    ("caught by nobody", THROW, [], types(["exception_callback:nobody"]), 2,
     "exception callback 'nobody' could not be found in BTF"),
    ("caught by what is not in the program", THROW, [], types([TAG]), 22,
     "exception callback type id not found in func_info"),
    ("caught by two", THROW, CAUGHT, types([TAG, "exception_callback:main"]), 17,
     "multiple exception callback tags for main subprog"),
    ("caught by a function of two arguments", THROW, CAUGHT, types([TAG], args=2), 22,
     "exception cb only supports single integer argument"),
    ("the callback called", [mov(1, 7), call(2), mov(0, 1), EXIT], CAUGHT, types([TAG]), 22,
     "insn 1 cannot call exception cb directly"),
    ("thrown by the callback", THROW, [mov(1, 1), kfunc("bpf_throw"), *CAUGHT], types([TAG]), 22,
     "bpf_throw kfunc (insn 4) cannot be called from callback subprog 1"),
]  # fmt: skip
NAMES = [case[0] for case in CASES]
Types = tuple[bytes, int, int]
pytestmark = pytest.mark.skipif(
    MACHINE.btf.find("bpf_throw", kinds.FUNC) is None, reason="no kernel BTF")


def infos(main: list[Insn], caught: list[Insn], found: Types) -> bytes:
    rows = struct.pack("<II", 0, found[1])
    return rows + struct.pack("<II", len(main), found[2]) * bool(caught)


@pytest.mark.parametrize(("name", "main", "caught", "found", "errno", "words"), CASES, ids=NAMES)
def test_verdict(
    name: str, main: list[Insn], caught: list[Insn], found: Types, errno: int, words: str
) -> None:
    program = Program(
        encode([*main, *caught]), CGROUP_SKB, INGRESS, license="GPL", log_level=1, btf=found[0],
        kernel_btf=MACHINE, func_info=infos(main, caught, found), func_info_rec_size=8,
    )  # fmt: skip
    verdict = verify(program)
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log
    told = [one.message for one in errors(program)]
    assert bool(told) == bool(errno) and (not told or any(words in one for one in told)), told


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "main", "caught", "found", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(
    name: str, main: list[Insn], caught: list[Insn], found: Types, errno: int, words: str
) -> None:
    real = kernel.driver().kernel_verdict(
        encode([*main, *caught]), CGROUP_SKB, expected_attach_type=INGRESS, btf=found[0],
        license="GPL", func_info=infos(main, caught, found))  # fmt: skip
    assert real.errno == errno, real.log
    assert words in real.log
