"""Compiled accesses of the host's memory: what is read and written, and what a fault does.

Programs run in a child, as native.py has it. Their context is struct pt_regs (168 bytes), and
behind it a struct request at R, and a struct connection at C.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.eim import world
from compat_tests.jit import native
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as op
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.tiers import compile_by
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import Program

R, C, END = 168, 232, 264
RDI, STATUS = 112, R + 32
CLASS = """classes:
  c: {entries: [process], allow: [read(r), "read(*r.connection)", write(r.status), write(r.in),
      write(r.connection.fd), "helper(*)"]}
"""
HELPERS = (4, 112, 113, 114, 216, 218, 219)
U64 = (1 << 64) - 1


@pytest.fixture(params=native.TIERS, ids=[f"tier{n}" for n in native.TIERS], autouse=True)
def tier(request: pytest.FixtureRequest) -> object:
    if not native.has(request.param):
        pytest.skip("llvmlite is not installed")
    native.Compiler.tier = request.param
    yield
    native.Compiler.tier = 1


def memory() -> bytearray:
    """Where r points to the request, and that to the connection."""
    found = bytearray(range(256)) + bytearray(END - 256)
    struct.pack_into("<Q", found, RDI, R)
    struct.pack_into("<Q", found, R + 8, C)
    struct.pack_into("<q", found, STATUS, -2)
    return found


def compiled(text: str, held: Policy) -> Image:
    verdict = world.judge(text, held, maps=())
    assert verdict.facts is not None, verdict.log
    insns = world.encoded(text, held)
    program = Program(insns, world.KPROBE, license="GPL", policy=held)
    return native.compile_program(program, verdict.facts)


def symbols() -> dict[str, int]:
    return {f"helper:{n}": int(ffi.cast("uintptr_t", lib.shim_helper(n))) for n in HELPERS}


def run(
    text: str, block: bytearray, pointers: tuple[int, ...] = (RDI, R + 8),
    held: Policy | None = None,
) -> tuple[int, bytes]:
    image = compiled(text, held or world.class_of(CLASS, "c"))
    results = native.run_all([(image, bytes(block))], symbols(), pointers)
    assert results, "it crashed"
    return results[0]


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("sign", ["u", "s"])
def test_a_load_gives_what_is_there(size: int, sign: str) -> None:
    if size == 64 and sign == "s":
        return
    text = f"r6 = *(u64 *)(r1 + 112); r0 = *({sign}{size} *)(r6 + 32); exit"
    value = -2 & U64 if sign == "s" or size == 64 else (1 << size) - 2
    assert run(text, memory())[0] == value


def test_a_chain_of_pointers_is_followed() -> None:
    text = "r1 = *(u64 *)(r1 + 112); r1 = *(u64 *)(r1 + 8); r0 = *(u8 *)(r1 + 17); exit"
    assert run(text, memory())[0] == C + 17


def test_other_registers_stay_as_they_are() -> None:
    text = ("r9 = *(u64 *)(r1 + 112); r2 = 2; r3 = 3; r4 = 4; r5 = 5; r6 = 6; r7 = 7; r8 = 8; "
            "r1 = 1; r0 = *(u8 *)(r9 + 33); *(u64 *)(r10 - 8) = 100; *(u32 *)(r9 + 40) = r8; "
            "r0 += r1; r0 += r2; r0 += r3; r0 += r4; r0 += r5; r0 += r6; r0 += r7; r0 += r8; "
            "r1 = *(u64 *)(r10 - 8); r0 += r1; exit")
    assert run(text, memory())[0] == 255 + 36 + 100


@pytest.mark.parametrize("base", range(6))
def test_a_load_through_each_register(base: int) -> None:
    text = f"r6 = *(u64 *)(r1 + 112); r{base} = r6; r0 = *(u8 *)(r{base} + 32); exit"
    assert run(text, memory())[0] == 254


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("value", ["r7", "-3"])
def test_a_store_changes_those_bytes_and_no_other(size: int, value: str) -> None:
    before = memory()
    text = f"r7 = -3; r6 = *(u64 *)(r1 + 112); *(u{size} *)(r6 + 40) = {value}; r0 = 0; exit"
    after = bytearray(run(text, before, (RDI,))[1])
    struct.pack_into("<Q", after, RDI, R)
    before[R + 40 : R + 40 + size // 8] = (-3 & (1 << size) - 1).to_bytes(size // 8, "little")
    assert after == before


@pytest.mark.parametrize("source", range(1, 6))
def test_a_store_from_each_register(source: int) -> None:
    text = (f"r6 = *(u64 *)(r1 + 112); r{source} = 77; *(u64 *)(r6 + 32) = r{source}; "
            "r0 = *(u64 *)(r6 + 32); exit")
    assert run(text, memory())[0] == 77


@pytest.mark.parametrize("address", [0, 8, 4096, (1 << 47) - 8, 1 << 47, 1 << 63, U64 - 64])
def test_a_load_that_faults_gives_nothing(address: int) -> None:
    block = memory()
    struct.pack_into("<Q", block, RDI, address)
    text = "r6 = *(u64 *)(r1 + 112); r0 = *(u64 *)(r6 + 32); r0 += 5; exit"
    assert run(text, block, ())[0] == 5


@pytest.mark.parametrize("address", [0, 4096, 1 << 47, U64 - 64])
def test_a_store_that_faults_is_none(address: int) -> None:
    block = memory()
    struct.pack_into("<Q", block, RDI, address)
    text = "r6 = *(u64 *)(r1 + 112); *(u64 *)(r6 + 32) = 1; r0 = 6; exit"
    assert run(text, block, ())[0] == 6


def acquires(text: str, held: Policy) -> bytes:
    """With its addition made a load-acquire: a load in the form of an atomic."""
    insns = op.decode(world.encoded(text, held))
    for i in insns:
        if i.code & 0xE0 == op.MODE_ATOMIC and i.klass == op.STX:
            i.imm, i.dst, i.src = op.LOAD_ACQ, i.src, i.dst
    return op.encode(insns)


def test_a_load_that_acquires_is_refused_by_name() -> None:
    held = world.class_of(CLASS, "c")
    text = "r6 = *(u64 *)(r1 + 112); r2 = 1; lock *(u64 *)(r6 + 32) += r2; r0 = 0; exit"
    program = Program(acquires(text, held), world.KPROBE, license="GPL", policy=held)
    verdict = verify(program)
    assert verdict.facts is not None
    with pytest.raises(ShimError, match="insn 2: an atomic in the host's memory"):
        native.compile_program(program, verdict.facts)


def test_an_atomic_is_refused_by_name() -> None:
    held = world.class_of(CLASS, "c")
    text = "r6 = *(u64 *)(r1 + 112); r2 = 1; lock *(u64 *)(r6 + 32) += r2; r0 = 0; exit"
    verdict = world.judge(text, held, maps=())
    assert verdict.facts is not None
    program = Program(world.encoded(text, held), world.KPROBE, license="GPL", policy=held)
    with pytest.raises(ShimError, match="insn 2: an atomic in the host's memory"):
        native.compile_program(program, verdict.facts)


def test_a_call_of_the_hosts_names_its_function_in_the_binary() -> None:
    held = world.class_of("classes:\n  c: {entries: [sure], allow: [call(host_quota)]}\n", "c")
    text = "r1 = 1; call 9005; r0 = 0; exit"
    verdict = world.judge(text, held, maps=())
    assert verdict.facts is not None
    program = Program(world.encoded(text, held), world.KPROBE, license="GPL", policy=held)
    image = compile_by(native.Compiler.tier, program, verdict.facts)  # LLVM leaves it to tier 1
    assert {reloc.symbol for reloc in image.relocs} == {"host:quota", "helper:217"}
    assert not image.bare


DATA, FAULT = END, -14 & U64
LENGTHS = """classes:
  c: {entries: [process], allow: [read(r), "read(*r.uri.data)", write(r.status), write(r.in),
      "helper(*)"]}
"""
TEXT = b"/firewall/index"
SEVENS = struct.pack("<QQ", 7, 7)


class Read(NamedTuple):
    """bpf_probe_read*() of size bytes, skip behind r.uri.data, where r.uri.len is length. there:
    what it finds, None: nothing."""

    call: int
    size: int
    length: int
    skip: int
    there: bytes | None
    data: int = DATA


def made(one: Read, most: int) -> tuple[Image, bytes]:
    """A program that leaves 16 bytes of its stack in r.in, and what it runs on."""
    block = memory() + TEXT.ljust(24, b"\0") + b"secret!"
    struct.pack_into("<QQ", block, R + 16, one.length, one.data)
    text = (
        "r6 = *(u64 *)(r1 + 112); *(u64 *)(r10 - 8) = 7; *(u64 *)(r10 - 16) = 7; "
        f"r3 = *(u64 *)(r6 + 24); r3 += {one.skip}; r2 = {one.size}; r1 = r10; r1 += -16; "
        f"call {one.call}; r1 = *(u64 *)(r10 - 16); *(u64 *)(r6 + 40) = r1; "
        "r1 = *(u64 *)(r10 - 8); *(u64 *)(r6 + 48) = r1; exit")
    held = world.class_of(LENGTHS, "c", world.LENGTHS.replace("most: 64", f"most: {most}"))
    return compiled(text, held), bytes(block)


def answers(reads: list[Read], most: int = 64, pointers: tuple[int, ...] = (R + 24,)) -> (
    list[tuple[int, bytes]]
):
    """What each call answers, and the 16 bytes."""
    found = native.run_all([made(one, most) for one in reads], symbols(), (RDI, R + 8, *pointers))
    assert len(found) == len(reads), "it crashed"
    return [(r0, after[R + 40 : R + 56]) for r0, after in found]


@pytest.mark.parametrize(("most", "reads"), [
    (64, [Read(112, 8, 15, 0, TEXT[:8]), Read(112, 15, 15, 0, TEXT), Read(112, 16, 15, 0, None),
          Read(112, 8, 8, 0, TEXT[:8]), Read(112, 8, 7, 0, None), Read(112, 4, 8, 4, TEXT[4:8]),
          Read(112, 5, 8, 4, None), Read(112, 1, 8, 8, None), Read(112, 8, 15, -1, None),
          Read(112, 8, 1 << 63, 0, TEXT[:8]), Read(113, 8, 8, 0, TEXT[:8]),
          Read(113, 8, 7, 0, None), Read(4, 4, 3, 0, None)]),
    (12, [Read(112, 12, 15, 0, TEXT[:12]), Read(112, 4, 15, 8, TEXT[8:12]),
          Read(112, 4, 15, 12, None)]),
])  # fmt: skip
def test_bytes_are_read_as_far_as_the_length_says(most: int, reads: list[Read]) -> None:
    for one, got in zip(reads, answers(reads, most), strict=True):
        if one.there is None:
            assert got == (FAULT, bytes(one.size) + SEVENS[one.size :]), one
        else:
            assert got == (0, one.there + SEVENS[one.size :]), one


def test_a_string_ends_where_the_length_does() -> None:
    reads = [Read(114, *row) for row in (
        (16, 15, 0, TEXT), (16, 9, 0, TEXT[:9]), (8, 15, 0, TEXT[:7]), (16, 0, 0, b""),
        (16, 20, 10, TEXT[10:]), (16, 1 << 62, 0, TEXT), (1, 15, 0, b""), (16, 3, 4, None))]
    for one, (r0, found) in zip(reads, answers(reads), strict=True):
        if one.there is None:
            assert (r0, found[: one.size]) == (FAULT, bytes(one.size)), one
        else:
            assert (r0, found[:r0]) == (len(one.there) + 1, one.there + b"\0"), one


def test_bytes_that_cannot_be_read_are_none() -> None:
    reads = [Read(112, 8, 8, 0, None, data) for data in (0, 8, 1 << 47, 1 << 63, U64 - 7)]
    nothing = (FAULT, bytes(8) + SEVENS[8:])
    assert answers(reads, pointers=()) == [nothing] * len(reads)


def test_the_length_is_the_one_of_now() -> None:
    interface = world.LENGTHS.replace("write(r.status),", "write(r.status), write(r.uri),")
    held = world.class_of(LENGTHS.replace("write(r.status)", "write(r.uri)"), "c", interface)
    for change, answer in (("*(u64 *)(r6 + 16) = 7; ", FAULT), ("*(u64 *)(r6 + 24) = 5; ", FAULT),
                           ("*(u64 *)(r6 + 16) = 9; ", 0)):
        block = memory() + TEXT.ljust(24, b"\0")
        struct.pack_into("<QQ", block, R + 16, 8, DATA)
        text = ("r6 = *(u64 *)(r1 + 112); r3 = *(u64 *)(r6 + 24); r2 = 8; " + change +
                "r1 = r10; r1 += -8; call 112; exit")
        assert run(text, block, (RDI, R + 24), held)[0] == answer, change
