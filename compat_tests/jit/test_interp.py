"""The interpreter against the conformance cases, and its own rules: bounds, limits, calls,
callbacks."""

from __future__ import annotations

import math
import struct

import pytest

from compat_tests.jit import conformance
from compat_tests.jit.conformance import Case
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import interp
from libbpf_shim.jit.interp import IllegalInstruction, Machine, Memory, MemoryFault, StepLimit

EXIT = Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV64_K = op.ALU64 | op.MOV
MOV64_X = op.ALU64 | op.MOV | 8
ADD64_K = op.ALU64 | op.ADD
CALL = op.JMP | op.CALL
LDX_DW, LDX_W, LDX_B = 0x79, 0x61, 0x71
STX_DW, ST_DW = 0x7B, 0x7A


def gather_bytes(_machine: Machine, a: int, b: int, c: int, d: int, e: int) -> int:
    return (a & 255) << 32 | (b & 255) << 24 | (c & 255) << 16 | (d & 255) << 8 | (e & 255)


def memfrob(machine: Machine, address: int, size: int, _c: int, _d: int, _e: int) -> int:
    if address > 1:  # call-save only wants its registers kept
        machine.memory.write(address, bytes(b ^ 42 for b in machine.memory.read(address, size)))
    return 0


def nothing(_machine: Machine, _a: int, _b: int, _c: int, _d: int, _e: int) -> int:
    return 0


def sqrti(_machine: Machine, a: int, _b: int, _c: int, _d: int, _e: int) -> int:
    return math.isqrt(a)


def strcmp(machine: Machine, a: int, b: int, _c: int, _d: int, _e: int) -> int:
    while (left := machine.memory.load(a, 1)) == (right := machine.memory.load(b, 1)) and left:
        a, b = a + 1, b + 1
    return left - right


def identity(_machine: Machine, a: int, _b: int, _c: int, _d: int, _e: int) -> int:
    return a


HELPERS = {0: gather_bytes, 1: memfrob, 2: nothing, 3: sqrti, 4: strcmp, 5: identity}


def interpret(case: Case, step_limit: int = 3_000_000) -> tuple[int, bytes]:
    """R0, uncut, and the memory afterwards."""
    memory, data = Memory(), bytearray(case.memory)
    address = memory.add(data)
    machine = Machine(case.insns, memory=memory, helpers=HELPERS, step_limit=step_limit)
    return machine.run(address, *([len(data)] if case.passes_length else [])), bytes(data)


needs_corpus = pytest.mark.skipif(not conformance.cases(), reason=f"no {conformance.CORPUS}")


@needs_corpus
def test_every_conformance_case_has_its_result() -> None:
    wrong = []
    ran = 0
    for case in conformance.cases():
        if case.result is None or case.name in conformance.NOT_EBPF:
            continue
        r0, after = interpret(case)
        ran += 1
        if r0 & ((1 << case.bits) - 1) != case.result:
            wrong.append(f"{case.name}: R0 {r0:#x}, expected {case.result:#x}")
        if case.memory_after is not None and after != case.memory_after:
            wrong.append(
                f"{case.name}: memory {after.hex()}, the kernel has {case.memory_after.hex()}"
            )
    assert not wrong
    assert ran == 825


@needs_corpus
def test_every_wrong_conformance_program_is_refused_when_it_gets_there() -> None:
    accepted = set()
    for case in conformance.cases():
        if case.result is None and case.name not in conformance.REFUSED_BY_STRUCTURE:
            try:
                interpret(case, step_limit=1000)
            except interp.InterpreterError:
                continue
            except ValueError as error:  # half an instruction
                assert "whole number of instructions" in str(error)
                continue
            accepted.add(case.name)
    assert not accepted


def program(*insns: Insn) -> bytes:
    return encode([*insns, EXIT])


@pytest.mark.parametrize(
    ("code", "off", "ok"),
    [
        (LDX_B, 15, True),
        (LDX_B, 16, False),
        (LDX_B, -1, False),
        (LDX_W, 12, True),
        (LDX_W, 13, False),
        (LDX_DW, 8, True),
        (LDX_DW, 9, False),
        (LDX_DW, -8, False),
        (STX_DW, 8, True),
        (STX_DW, 9, False),
        (ST_DW, 8, True),
        (ST_DW, 9, False),
    ],
)
def test_an_access_across_the_end_of_ctx_faults(code: int, off: int, ok: bool) -> None:
    insns = program(Insn(MOV64_X, 2, 1, 0, 0), Insn(code, 2, 1, off, 7), Insn(MOV64_K, 0, 0, 0, 5))
    if ok:
        assert interp.run(insns, bytearray(16)) == 5
    else:
        with pytest.raises(MemoryFault):
            interp.run(insns, bytearray(16))


@pytest.mark.parametrize(
    ("off", "ok"), [(-8, True), (-512, True), (-7, False), (0, False), (-513, False)]
)
def test_the_stack_has_512_bytes_below_r10(off: int, ok: bool) -> None:
    insns = program(
        Insn(MOV64_K, 0, 0, 0, 1), Insn(ST_DW, 10, 0, off, -2), Insn(LDX_DW, 0, 10, off, 0)
    )
    if ok:
        assert interp.run(insns, bytearray()) == 2**64 - 2
    else:
        with pytest.raises(MemoryFault):
            interp.run(insns, bytearray())


def test_a_read_only_region_is_read_and_not_written() -> None:
    memory = Memory()
    address = memory.add(bytearray(b"\x2a\0\0\0\0\0\0\0"), writable=False)
    assert Machine(program(Insn(LDX_DW, 0, 1, 0, 0)), memory=memory).run(address) == 42
    with pytest.raises(MemoryFault) as caught:
        Machine(program(Insn(ST_DW, 1, 0, 0, 1)), memory=memory).run(address)
    assert (caught.value.what, caught.value.address, caught.value.size) == ("store", address, 8)


def test_the_frame_of_a_function_is_gone_after_its_exit() -> None:
    insns = encode(
        [
            Insn(CALL, 0, op.PSEUDO_CALL, 0, 2),
            Insn(LDX_DW, 0, 0, -8, 0),
            EXIT,
            Insn(ST_DW, 10, 0, -8, 3),
            Insn(MOV64_X, 0, 10, 0, 0),
            EXIT,
        ]
    )
    with pytest.raises(MemoryFault):
        interp.run(insns, bytearray())


def test_a_callee_keeps_r6_to_r10_and_not_r1_to_r5() -> None:
    insns = encode(
        [
            Insn(MOV64_K, 6, 0, 0, 11),
            Insn(MOV64_K, 3, 0, 0, 1),
            Insn(CALL, 0, op.PSEUDO_CALL, 0, 3),
            Insn(MOV64_X, 0, 6, 0, 0),
            Insn(op.ALU64 | op.ADD | 8, 0, 3, 0, 0),
            EXIT,
            Insn(MOV64_K, 6, 0, 0, 99),
            Insn(MOV64_K, 0, 0, 0, 0),
            EXIT,
        ]
    )
    assert interp.run(insns, bytearray()) == (11 + interp.POISON) & (2**64 - 1)


def test_eight_frames_are_allowed_and_nine_are_not() -> None:
    def nested(depth: int) -> bytes:
        call = [Insn(CALL, 0, op.PSEUDO_CALL, 0, 1), EXIT]
        return encode(call * (depth - 1) + [Insn(MOV64_K, 0, 0, 0, 8), EXIT])

    assert interp.run(nested(8), bytearray()) == 8
    with pytest.raises(IllegalInstruction, match="9 frames"):
        interp.run(nested(9), bytearray())


def test_a_loop_ends_at_the_step_limit() -> None:
    with pytest.raises(StepLimit):
        interp.run(encode([Insn(op.JMP | op.JA, 0, 0, -1, 0)]), bytearray(), step_limit=100)
    assert interp.run(program(Insn(MOV64_K, 0, 0, 0, 1)), bytearray(), step_limit=2) == 1


@pytest.mark.parametrize("off", [1, -3])
def test_a_jump_out_of_the_program_is_no_exit(off: int) -> None:
    with pytest.raises(IllegalInstruction):
        interp.run(program(Insn(op.JMP | op.JA, 0, 0, off, 0)), bytearray())


def test_a_helper_may_call_back_a_function_of_the_program() -> None:
    def loop(machine: Machine, count: int, function: int, context: int, _d: int, _e: int) -> int:
        for index in range(count):
            machine.call(function, index, context)
        return count

    insns = encode(
        [
            Insn(ST_DW, 10, 0, -8, 0),
            Insn(MOV64_K, 1, 0, 0, 5),
            Insn(op.LD_IMM64, 2, op.PSEUDO_FUNC, 0, 6),
            Insn(0, 0, 0, 0, 0),
            Insn(MOV64_X, 3, 10, 0, 0),
            Insn(ADD64_K, 3, 0, 0, -8),
            Insn(CALL, 0, 0, 0, 181),
            Insn(LDX_DW, 0, 10, -8, 0),
            EXIT,
            Insn(LDX_DW, 3, 2, 0, 0),
            Insn(op.ALU64 | op.ADD | 8, 3, 1, 0, 0),
            Insn(STX_DW, 2, 3, 0, 0),
            Insn(MOV64_K, 0, 0, 0, 0),
            EXIT,
        ]
    )
    assert interp.run(insns, bytearray(), helpers={181: loop}) == 0 + 1 + 2 + 3 + 4


def test_map_pointers_and_map_values_are_the_machine_s() -> None:
    memory, value = Memory(), bytearray(struct.pack("<QQ", 1, 77))
    base = memory.add(value)
    load = encode(
        [
            Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_VALUE, 0, 1),
            Insn(0, 0, 0, 0, 8),
            Insn(LDX_DW, 0, 1, 0, 0),
            EXIT,
        ]
    )
    assert Machine(load, memory=memory, values={1: base}).run() == 77
    with pytest.raises(IllegalInstruction):
        Machine(load, memory=memory, values={0: base}).run()
    handle = encode([Insn(op.LD_IMM64, 0, op.PSEUDO_MAP_FD, 0, 1), Insn(0, 0, 0, 0, 0), EXIT])
    assert Machine(handle, maps=(5, 6)).run() == 6
    with pytest.raises(IllegalInstruction):
        Machine(handle, maps=(5,)).run()


@pytest.mark.parametrize(
    "insn",
    [
        Insn(0x20, 0, 0, 0, 0),
        Insn(0x40, 0, 1, 0, 0),  # packet loads
        Insn(0xE5, 0, 0, 0, 1),  # may_goto with an immediate
        Insn(CALL, 0, op.PSEUDO_KFUNC_CALL, 0, 1),
        Insn(CALL, 0, 0, 0, 12),
        Insn(0x8D, 1, 0, 0, 0),
        Insn(MOV64_K, 10, 0, 0, 1),
        Insn(LDX_DW, 10, 1, 0, 0),
        Insn(MOV64_K, 11, 0, 0, 1),
        Insn(MOV64_X, 0, 1, 24, 0),
        Insn(op.ALU | op.MOV | 8, 0, 1, 32, 0),
        Insn(ADD64_K, 0, 0, 1, 0),
        Insn(op.ALU64 | op.DIV, 0, 0, 2, 1),
        Insn(0xD7, 0, 0, 0, 8),
        Insn(0x99, 0, 1, 0, 0),
        Insn(0xDB, 1, 2, 0, 0x20),
        Insn(0xD3, 1, 2, 0, 0),
    ],
    ids=repr,
)
def test_what_is_not_modelled_is_refused(insn: Insn) -> None:
    with pytest.raises(IllegalInstruction):
        interp.run(program(insn, Insn(MOV64_K, 0, 0, 0, 0)), bytearray(64))
