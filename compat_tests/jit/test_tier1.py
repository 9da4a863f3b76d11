"""Tier 1 as its callers see it: helpers, symbols, frames, dead branches, jumps, refusals."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from compat_tests.jit import native
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.image import Image, Reloc, RelocKind
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

EXIT = Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV_K, MOV_X, ADD_K, ADD_X = 0xB7, 0xBF, 0x07, 0x0F
LDX_DW, STX_DW, STX_W = 0x79, 0x7B, 0x63
CALL, JA, JEQ_K, JNE_K = 0x85, 0x05, 0x15, 0x55
CALLEE_SAVED = (x.RBX, x.RBP, x.R12, x.R13, x.R14, x.R15)
RAN_INTO_THE_DEAD = 0xDEAD
RUN_SCRATCH = 96  # offset of scratch[3] in struct shim_run

# Helpers and the agent's exit as machine code: they see what C would not show.
STUBS = {
    "helper:1": x.mov(x.RAX, x.RSP) + b"\xc3",
    "helper:2": x.mov(x.RAX, x.R9) + b"\xc3",
    "helper:3": x.mov(x.RAX, x.R12) + b"\xc3",
    # all that a C function may change
    "helper:4": b"".join(x.mov_imm(r, -1) for r in (0, 1, 2, 6, 7, 8, 9, 10, 11)) + b"\xc3",
    # as the agent: back to where framed() has called the image
    "sym:UNREACHABLE": x.mem(b"\x8b", x.RSP, x.R12, RUN_SCRATCH, True)
    + b"".join(map(x.pop, reversed(CALLEE_SAVED))) + x.mov_imm(x.RAX, RAN_INTO_THE_DEAD)
    + b"\xc3",
}  # fmt: skip
STUB_BYTES = 128


@pytest.fixture(scope="module")
def stubs() -> Iterator[dict[str, int]]:
    """The address of each stub, for Image.relocate."""
    access = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    area = mmap.mmap(-1, STUB_BYTES * len(STUBS), prot=access)
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    addresses = {}
    for n, (name, code) in enumerate(STUBS.items()):
        assert len(code) <= STUB_BYTES
        area[n * STUB_BYTES : n * STUB_BYTES + len(code)] = code
        addresses[name] = base + n * STUB_BYTES
    yield addresses


def image_of(
    insns: list[Insn], seen: bytes | None = None, subprogs: tuple[int, ...] = (0,), stack: int = 64
) -> Image:
    code = encode(insns)
    facts = native.all_seen(code, subprogs, stack)
    return native.compile_program(Program(code, 1), replace(facts, seen=seen) if seen else facts)


def run(
    image: Image, ctx: bytes = bytes(64), symbols: dict[str, int] | None = None
) -> tuple[int, bytes]:
    """R0 and the context afterwards; ValueError if the child crashed."""
    (result,) = native.run_all([(image, ctx)], symbols)
    return result


def framed(image: Image) -> Image:
    """The image with code around it that keeps its caller's registers, and where they are in the
    run."""
    before = b"".join(map(x.push, CALLEE_SAVED)) + x.mem(b"\x89", x.RSP, x.RSI, RUN_SCRATCH, True)
    before += x.alu_imm(x.SUB, x.RSP, 8, True)
    after = x.alu_imm(x.ADD, x.RSP, 8, True) + b"".join(map(x.pop, reversed(CALLEE_SAVED)))
    after += b"\xc3"
    prefix = before + b"\xe8" + x.imm32(len(after)) + after
    relocs = tuple(replace(r, offset=r.offset + len(prefix)) for r in image.relocs)
    return replace(image, text=prefix + image.text, relocs=relocs)


def call(number: int) -> Insn:
    return Insn(CALL, 0, 0, 0, number)


# helpers


@pytest.mark.usefixtures("each_tier")
def test_a_helper_gets_its_five_arguments_in_order() -> None:
    got = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5)(
        lambda a, b, c, d, e: a | b << 8 | c << 16 | d << 24 | e << 32
    )
    address = ctypes.cast(got, ctypes.c_void_p).value
    assert address
    arguments = [Insn(MOV_K, n, 0, 0, 0x10 + n) for n in range(1, 6)]
    r0, _ = run(image_of([*arguments, call(6), EXIT]), symbols={"helper:6": address})
    assert r0 == 0x1514131211


@pytest.mark.usefixtures("each_tier")
@pytest.mark.parametrize("stack", [0, 8, 16, 24, 512])
def test_a_helper_is_called_with_an_aligned_stack_in_main_and_in_a_subprogram(
    stubs: dict[str, int], stack: int
) -> None:
    insns = [
        Insn(MOV_X, 6, 1, 0, 0), call(1), Insn(STX_DW, 6, 0, 0, 0),
        Insn(CALL, 0, op.PSEUDO_CALL, 0, 2), Insn(STX_DW, 6, 0, 8, 0), EXIT,
        Insn(MOV_X, 0, 10, 0, 0), call(1), EXIT,
    ]  # fmt: skip
    _, after = run(image_of(insns, subprogs=(0, 6), stack=stack), symbols=stubs)
    outer, inner = struct.unpack_from("<QQ", after)
    assert outer % 16 == inner % 16 == 8  # a multiple of 16 before the call pushed 8
    if native.Compiler.tier == 1:  # LLVM makes one function of the two
        assert outer - inner >= 8 * 2 + stack  # its address and rbp


def test_a_helper_gets_the_run_and_the_run_stays_in_r12(stubs: dict[str, int]) -> None:
    insns = [Insn(MOV_X, 6, 1, 0, 0)]
    for at, number in enumerate((2, 3, 4, 2)):  # 4 changes r9
        insns += [call(number), Insn(STX_DW, 6, 0, 8 * at, 0)]
    _, after = run(image_of([*insns, EXIT]), symbols=stubs)
    in_r9, in_r12, minus_one, again = struct.unpack_from("<4Q", after)
    assert in_r9 == in_r12 == again != 0
    assert minus_one == 2**64 - 1


@pytest.mark.usefixtures("each_tier")
def test_r6_to_r10_survive_helpers_and_subprograms(stubs: dict[str, int]) -> None:
    """R6 to R9 and a stack slot; the subprogram overwrites all of its own."""
    insns = [Insn(MOV_K, n, 0, 0, n) for n in range(6, 10)]
    insns += [Insn(STX_DW, 10, 9, -8, 0), call(4), Insn(CALL, 0, op.PSEUDO_CALL, 0, 7)]
    insns += [Insn(LDX_DW, 0, 10, -8, 0), *(Insn(ADD_X, 0, n, 0, 0) for n in range(6, 10)), EXIT]
    start = len(insns)
    insns[6] = Insn(CALL, 0, op.PSEUDO_CALL, 0, start - 7)
    insns += [*(Insn(MOV_K, n, 0, 0, -1) for n in range(6, 10)), Insn(STX_DW, 10, 9, -8, 0)]
    insns += [call(4), EXIT]
    assert run(image_of(insns, subprogs=(0, start)), symbols=stubs)[0] == 9 + 6 + 7 + 8 + 9


@pytest.mark.usefixtures("each_tier")
def test_the_caller_finds_its_registers_as_they_were(stubs: dict[str, int]) -> None:
    """Around the image: set what System V wants kept, call it, gather the differences in rax."""
    insns = [*(Insn(MOV_K, n, 0, 0, -1) for n in range(6, 10)), call(4), EXIT]
    inner = image_of(insns)
    marks = {reg: 0x1000 + reg for reg in CALLEE_SAVED}
    before = b"".join(map(x.push, CALLEE_SAVED)) + x.alu_imm(x.SUB, x.RSP, 8, True)
    before += b"".join(x.mov_imm(reg, mark) for reg, mark in marks.items())
    after = x.mov_imm(x.RAX, 0)
    for reg, mark in marks.items():
        after += x.alu_imm(x.SUB, reg, mark, True) + x.alu(x.OR, x.RAX, reg, True)
    after += x.alu_imm(x.ADD, x.RSP, 8, True) + b"".join(map(x.pop, reversed(CALLEE_SAVED)))
    after += b"\xc3"
    prefix = before + b"\xe8" + x.imm32(len(after)) + after
    relocs = tuple(replace(r, offset=r.offset + len(prefix)) for r in inner.relocs)
    assert run(replace(inner, text=prefix + inner.text, relocs=relocs), symbols=stubs)[0] == 0
    # the same around an image that keeps nothing must be seen
    rogue = prefix + x.mov_imm(x.RBX, 5) + b"\xc3"
    assert run(replace(inner, text=rogue, relocs=()))[0] != 0


# symbols


@pytest.mark.usefixtures("each_tier")
@pytest.mark.parametrize(
    ("source", "symbol", "addend"),
    [
        (op.PSEUDO_MAP_FD, "map:3", 0), (op.PSEUDO_MAP_IDX, "map:3", 0),
        (op.PSEUDO_MAP_VALUE, "mapval:3", 40), (op.PSEUDO_MAP_IDX_VALUE, "mapval:3", 40),
    ],
)  # fmt: skip
def test_a_map_in_a_constant_becomes_its_symbol(source: int, symbol: str, addend: int) -> None:
    second = Insn(0, 0, 0, 0, addend)
    image = image_of([Insn(op.LD_IMM64, 0, source, 0, 3), second, EXIT])
    (reloc,) = image.relocs
    assert (reloc.kind, reloc.symbol, reloc.addend) == (RelocKind.ABS64, symbol, addend)
    assert run(image, symbols={symbol: 0x123456789000})[0] == 0x123456789000 + addend


@pytest.mark.usefixtures("each_tier")
def test_a_plain_64_bit_constant_needs_no_symbol() -> None:
    image = image_of([Insn(op.LD_IMM64, 0, 0, 0, -2), Insn(0, 0, 0, 0, 0x7FFF), EXIT])
    assert image.relocs == ()
    assert run(image)[0] == 0x7FFFFFFFFFFE


@pytest.mark.usefixtures("each_tier")
def test_the_virtual_cpu_is_asked_for_where_the_facts_say_so() -> None:
    code = encode([Insn(MOV_K, 0, 0, 0, 0), EXIT])
    for percpu in (False, True):
        facts = replace(native.all_seen(code), percpu=percpu)
        assert native.compile_program(Program(code, 1), facts).needs_vcpu is percpu


# dead code


def dead_branch(jump: int, dead: int, ctx: int, symbols: dict[str, int]) -> int:
    """`if r1[0] <jump> 7 goto L; r0 = 1; exit; L: r0 = 2; exit`, without the slots from `dead`."""
    insns = [
        Insn(LDX_DW, 2, 1, 0, 0), Insn(jump, 2, 0, 2, 7),
        Insn(MOV_K, 0, 0, 0, 1), EXIT, Insn(MOV_K, 0, 0, 0, 2), EXIT,
    ]  # fmt: skip
    seen = bytearray(b"\1" * 6)
    seen[dead : dead + 2] = b"\0\0"
    image = image_of(insns, bytes(seen))
    if native.Compiler.tier == 1:
        places = enumerate(image.insn_offsets)
        assert [at for at, offset in places if offset < 0] == [dead, dead + 1]
    assert {r.symbol for r in image.relocs} == {"sym:UNREACHABLE"}
    return run(framed(image), ctx.to_bytes(8, "little"), symbols)[0]


@pytest.mark.usefixtures("each_tier")
def test_a_jump_into_dead_code_ends_the_run(stubs: dict[str, int]) -> None:
    assert dead_branch(JEQ_K, 4, 6, stubs) == 1
    assert dead_branch(JEQ_K, 4, 7, stubs) == RAN_INTO_THE_DEAD


@pytest.mark.usefixtures("each_tier")
def test_falling_into_dead_code_ends_the_run(stubs: dict[str, int]) -> None:
    assert dead_branch(JEQ_K, 2, 7, stubs) == 2
    assert dead_branch(JEQ_K, 2, 6, stubs) == RAN_INTO_THE_DEAD


@pytest.mark.usefixtures("each_tier")
def test_dead_code_that_nothing_leads_to_costs_nothing() -> None:
    insns = [Insn(JA, 0, 0, 2, 0), Insn(MOV_K, 0, 0, 0, 1), EXIT, Insn(MOV_K, 0, 0, 0, 2), EXIT]
    image = image_of(insns, b"\1\0\0\1\1")
    assert image.relocs == ()
    assert run(image)[0] == 2


@pytest.mark.usefixtures("each_tier")
def test_a_stack_that_may_be_read_unset_is_zero() -> None:
    """A first call leaves its mark below the stack pointer, where the second's frame lies."""
    insns = [
        Insn(CALL, 0, op.PSEUDO_CALL, 0, 2), Insn(CALL, 0, op.PSEUDO_CALL, 0, 5), EXIT,
        Insn(MOV_K, 1, 0, 0, -1), *(Insn(STX_DW, 10, 1, -8 * n, 0) for n in range(1, 3)), EXIT,
        Insn(LDX_DW, 0, 10, -8, 0), Insn(LDX_DW, 1, 10, -16, 0), Insn(ADD_X, 0, 1, 0, 0), EXIT,
    ]  # fmt: skip
    facts = native.all_seen(encode(insns), (0, 3, 7), 16)
    program = Program(encode(insns), 1)
    assert run(native.compile_program(program, replace(facts, reads_unset=True)))[0] == 0
    if native.Compiler.tier == 1:  # whose code would show it
        assert run(native.compile_program(program, facts))[0] == 2**64 - 2


# jumps


def filler(size: int) -> list[Insn]:
    """Instructions whose code is so many bytes: `mov [rdi], edx` is 2, `mov [rdi + 8], edx` 3."""
    twos, threes = (size - size % 2 * 3) // 2, size % 2
    return [Insn(STX_W, 1, 3, 0, 0)] * twos + [Insn(STX_W, 1, 3, 8, 0)] * threes


def forward_jump(size: int) -> Image:
    fill = filler(size)
    return image_of([
        Insn(LDX_DW, 2, 1, 0, 0), Insn(MOV_K, 0, 0, 0, 0),
        Insn(JEQ_K, 2, 0, len(fill) + 1, 0), Insn(ADD_K, 0, 0, 0, 1), *fill, EXIT,
    ])  # fmt: skip


def backward_jump(size: int) -> Image:
    fill = filler(size)
    return image_of([
        Insn(LDX_DW, 2, 1, 0, 0), Insn(MOV_K, 0, 0, 0, 0), *fill, Insn(ADD_K, 0, 0, 0, 1),
        Insn(ADD_K, 2, 0, 0, -1), Insn(JNE_K, 2, 0, -len(fill) - 3, 0), EXIT,
    ])  # fmt: skip


@pytest.mark.parametrize("size", [*range(100, 130), 4000])
def test_a_jump_is_short_exactly_where_that_reaches(size: int) -> None:
    """At most 127 bytes forward; at most 128 back, the jump's own among them."""
    forward, least = forward_jump(size), forward_jump(4)
    jump, start, end = forward.insn_offsets[2], forward.insn_offsets[3], forward.insn_offsets[-1]
    short = least.insn_offsets[3] - least.insn_offsets[2]
    assert end - forward.insn_offsets[4] >= size
    assert start - jump == short + (0 if end - start <= 127 else 4)
    for value in (0, 5):
        assert run(forward, value.to_bytes(8, "little"))[0] == (value != 0)

    image, least = backward_jump(size), backward_jump(4)
    top, jump, after = image.insn_offsets[2], image.insn_offsets[-2], image.insn_offsets[-1]
    short = least.insn_offsets[-1] - least.insn_offsets[-2]
    assert after - jump == short + (0 if jump + short - top <= 128 else 4)
    assert run(image, (4).to_bytes(8, "little"))[0] == 4


@pytest.mark.usefixtures("each_tier")
def test_a_function_is_entered_again_by_a_call_and_not_by_a_jump() -> None:
    """The subprogram's loop goes back to its own first instruction."""
    insns = [
        Insn(MOV_K, 1, 0, 0, 5), Insn(MOV_K, 2, 0, 0, 0),
        Insn(CALL, 0, op.PSEUDO_CALL, 0, 1), EXIT,
        Insn(ADD_K, 2, 0, 0, 3), Insn(ADD_K, 1, 0, 0, -1), Insn(JNE_K, 1, 0, -3, 0),
        Insn(op.ALU64 | op.MOV | 8, 0, 2, 0, 0), EXIT,
    ]  # fmt: skip
    assert run(image_of(insns, subprogs=(0, 4)))[0] == 15


# what dumps need


def test_the_listing_and_the_offsets_name_every_instruction() -> None:
    insns = [Insn(op.LD_IMM64, 3, 0, 0, 1), Insn(0, 0, 0, 0, 1), Insn(STX_DW, 1, 3, 0, 0),
             Insn(MOV_K, 0, 0, 0, 9), EXIT]  # fmt: skip
    image = image_of(insns)
    first, second, third, fourth, last = image.insn_offsets
    assert second == -1
    # what waits for its use is compiled there
    assert first <= third < fourth == last < len(image.text)
    assert image.text[last : last + 5] == b"\xb8" + (9).to_bytes(4, "little")
    lines = image.asm.splitlines()
    assert [int(line.split()[0], 16) for line in lines] == [first, third, fourth, last]
    assert "r0 = 9" in lines[2]


# refusals

LOAD = Insn(LDX_DW, 0, 1, 0, 0)


@pytest.mark.usefixtures("each_tier")
@pytest.mark.parametrize(
    ("insn", "reason"),
    [
        (Insn(CALL, 0, op.PSEUDO_KFUNC_CALL, 0, 1), "kernel function"),
        (Insn(op.JMP | 0xF0, 0, 0, 0, 0), "opcode 0xf5"),
        (Insn(op.LD_IMM64, 0, op.PSEUDO_BTF_ID, 0, 0), "a constant of kind 3"),
        (Insn(op.STX | op.MODE_ATOMIC, 1, 0, 0, 0x22), "atomic 0x22"),
        (Insn(op.STX | op.MODE_ATOMIC | 0x10, 1, 0, 0, 0), "an atomic of 1 bytes"),
        (Insn(op.ALU | op.END, 0, 0, 0, 24), "byte swap of 24 bits"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_refused_with_its_place(insn: Insn, reason: str) -> None:
    with pytest.raises(ShimError) as refused:
        image_of([Insn(MOV_K, 0, 0, 0, 0), insn, Insn(0, 0, 0, 0, 0), EXIT], b"\1\1\1\1")
    assert refused.value.errno == errno.EOPNOTSUPP
    assert refused.value.message == f"insn 1: {reason} cannot be compiled"


@pytest.mark.usefixtures("each_tier")
def test_only_a_load_that_may_fault_is_refused() -> None:
    code = encode([LOAD, EXIT])
    facts: Facts = native.all_seen(code)
    image = native.compile_program(Program(code, 1), facts)
    assert run(image, (42).to_bytes(8, "little"))[0] == 42
    with pytest.raises(ShimError, match="a load that may fault") as refused:
        native.compile_program(Program(code, 1), replace(facts, probe_mem=frozenset({0})))
    assert refused.value.errno == errno.EOPNOTSUPP


@pytest.mark.usefixtures("each_tier")
def test_an_unknown_symbol_is_an_error_of_relocation() -> None:
    image = image_of([call(7), EXIT])
    assert image.relocs == (Reloc(image.relocs[0].offset, RelocKind.ABS64, "helper:7"),)
    with pytest.raises(KeyError):
        image.relocate(0x1000, {})
