"""bpf_loop's callbacks run: interpreter, compilers with the runtime's helper, and the kernel."""

from __future__ import annotations

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.jit import native
from compat_tests.oracle import kernel
from compat_tests.verifier.test_callbacks import COUNT, COUNTED, MOV, MOVX, build, infos, loop
from libbpf_shim.isa import Insn, encode
from libbpf_shim.jit.interp import Machine
from libbpf_shim.verifier import verify

LOOP = 181
STATIC = 0
JNE = 0x55
STOP_AT_6 = [*COUNT, Insn(MOV, 0, 0, 0, 0), Insn(JNE, 1, 0, 1, 6), Insn(MOV, 0, 0, 0, 1)]
ON = [*COUNT, Insn(MOV, 0, 0, 0, 0)]
# R6 to R9 are the caller's again after each round
CLOBBER = [*COUNT, *(Insn(MOV, r, 0, 0, 77) for r in (6, 7, 8, 9)), Insn(MOV, 0, 0, 0, 0)]
KEPT = [Insn(MOVX, 0, 6, 0, 0), Insn(0x0F, 0, 7, 0, 0), Insn(0x0F, 0, 8, 0, 0),
        Insn(0x0F, 0, 9, 0, 0)]  # fmt: skip


def rounds(count: int) -> list[Insn]:
    return [*(Insn(MOV, r, 0, 0, r) for r in (6, 7, 8, 9)), Insn(MOV, 1, 0, 0, count)]


# name, instructions, R0
CASES = [
    ("every round", loop(rounds(1000), ON, COUNTED), 1000),
    ("until one says stop", loop(rounds(1000), STOP_AT_6, COUNTED), 7),
    ("the result counts the last round", loop(rounds(1000), STOP_AT_6, []), 7),
    ("no round", loop(rounds(0), ON, COUNTED), 0),
    ("too many rounds", loop(rounds((8 << 20) + 1), ON, []), -7 & (1 << 64) - 1),
    ("saved registers", loop(rounds(5), CLOBBER, KEPT), 6 + 7 + 8 + 9),
]


def bpf_loop(machine: Machine, n: int, fn: int, ctx: int, flags: int, _unused: int) -> int:
    if n & 0xFFFFFFFF > 8 << 20:
        return -7
    for at in range(n & 0xFFFFFFFF):
        if machine.call(fn, at, ctx):
            return at + 1
    return n & 0xFFFFFFFF


@pytest.mark.usefixtures("each_tier")
@pytest.mark.parametrize(("name", "insns", "result"), CASES, ids=[c[0] for c in CASES])
def test_interpreter_and_compilers_agree(name: str, insns: list[Insn], result: int) -> None:
    program = build(insns, STATIC)
    facts = verify(program).facts
    assert facts
    machine = Machine(program.insns, helpers={LOOP: bpf_loop})
    assert machine.run() == result
    address = int(ffi.cast("uintptr_t", lib.shim_helper(LOOP)))
    image = native.compile_program(program, facts)
    assert native.run_all([(image, b"")], {f"helper:{LOOP}": address}) == [(result, b"")]


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "insns", "result"), CASES, ids=[c[0] for c in CASES])
def test_kernel_agrees(name: str, insns: list[Insn], result: int) -> None:
    oracle = kernel.driver()
    btf, rows = infos(insns, STATIC)
    loaded = oracle.kernel_verdict(encode(insns), "sched_cls", btf=btf, func_info=rows,
                                   keep_fd=True)  # fmt: skip
    assert loaded.ok, loaded.log
    assert oracle.prog_test_run(loaded.fd, bytes(64)).retval == result & 0xFFFFFFFF
