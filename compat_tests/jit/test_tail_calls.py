"""Programs that go on in one another mean the same to the interpreter and to each compiler, with
the runtime's own PROG_ARRAY and helper."""

from __future__ import annotations

import ctypes
import mmap
import random
import struct
from dataclasses import dataclass, replace
from typing import Any

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.jit import native
from compat_tests.jit.native import all_seen, compile_program
from compat_tests.jit.stage import apart
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.interp import Machine, Memory
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import Program

XDP, PROG_ARRAY, TAIL_CALL, SLOTS = 6, 3, 12, 7
TAILS = Policy("tails", "grants.yaml", b"", helpers=(TAIL_CALL,), counter=True, default=-7)
CTX = 32  # bytes: a state that every program mixes, a sum, how many ran, 0
MAP = 0xABCD00000000  # what the interpreter's ld_imm64 gives
PAGES = 16 * mmap.PAGESIZE
ENTRY = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhI", code, dst | src << 4, off, imm & 0xFFFFFFFF)


def mix(number: int) -> bytes:
    """The state at R6 goes on, and how many programs ran."""
    return b"".join((
        insn(0x79, 2, 6), insn(0x27, 2, imm=1103515245), insn(0x07, 2, imm=12345 + number),
        insn(0x7B, 6, 2), insn(0x79, 3, 6, 16), insn(0x07, 3, imm=1), insn(0x7B, 6, 3, 16)))


def jump(rng: random.Random) -> bytes:
    """A tail call to a slot that the state picks, sometimes one behind the end."""
    return b"".join((
        insn(0xBF, 1, 6), insn(0x18, 2, 1), insn(0), insn(0x79, 3, 6),
        insn(0x77, 3, imm=rng.randrange(4, 40)), insn(0x97, 3, imm=SLOTS + 2), insn(0x85, imm=12)))


def leave(number: int) -> bytes:
    """The sum takes up this program's number: who ends a run is part of its result."""
    return b"".join((
        insn(0x79, 1, 6, 8), insn(0x27, 1, imm=31), insn(0x07, 1, imm=number), insn(0x7B, 6, 1, 8),
        insn(0x79, 0, 6), insn(0xA7, 0, imm=number), insn(0x95)))


def main_program(rng: random.Random, number: int) -> tuple[bytes, tuple[int, ...]]:
    """Tail calls in main, in a function that it calls, or in both; R7 to R9 and the stack must
    come through. The instructions, and the functions' first slots."""
    kept = b"".join((
        *(insn(0xB7, n, imm=number * n) for n in (7, 8, 9)), insn(0x7A, 10, off=-8, imm=number)))
    checked = b"".join((
        *(insn(0x0F, 0, n) for n in (7, 8, 9)), insn(0x79, 1, 10, -8), insn(0x0F, 0, 1),
        insn(0x79, 1, 6, 8), insn(0x0F, 1, 0), insn(0x7B, 6, 1, 8)))
    head = insn(0xBF, 6, 1) + mix(number)
    calls = rng.randrange(3)
    tail = (jump(rng) if rng.random() < 0.7 else b"") + leave(number)
    per_call = 2 + len(checked) // 8
    body, after = b"", len(tail) // 8
    for left in range(calls, 0, -1):
        distance = len(checked) // 8 + (left - 1) * per_call + after
        body += insn(0xBF, 1, 6) + insn(0x85, 0, 1, imm=distance) + checked
    whole = head + kept + body + tail
    if not calls:
        return whole, (0,)
    sub = insn(0xBF, 6, 1) + mix(number + 100) + jump(rng) + leave(number + 100)
    return whole + sub, (0, len(whole) // 8)


@dataclass(frozen=True)
class Set:
    """Programs that share a PROG_ARRAY. slots: which one is in each, None where it is empty."""

    programs: list[tuple[bytes, tuple[int, ...]]]
    slots: list[int | None]


def generate(seed: int) -> Set:
    rng = random.Random(seed)
    programs = [main_program(rng, number) for number in range(1, 6)]
    empty = rng.random() * 0.5
    slots = [None if rng.random() < empty else rng.randrange(5) for _ in range(SLOTS)]
    return Set(programs, slots)


def interpret(which: Set, data: bytes) -> tuple[int, bytes]:
    return counted_run(which, data)[:2]


def counted_run(which: Set, data: bytes) -> tuple[int, bytes, int]:
    """And how many instructions it took."""
    memory, after = Memory(), bytearray(data)
    tails: dict[int, list[Machine | None]] = {MAP: []}
    machines = [Machine(insns, memory=memory, maps=[MAP], tails=tails)
                for insns, _ in which.programs]
    tails[MAP] += [None if n is None else machines[n] for n in which.slots]
    return machines[0].run(memory.add(after)), bytes(after), machines[0]._steps


def prog_array(which: Set) -> tuple[Any, Any, Any]:
    """The map's descriptor and the word that its `objects` points at; memory that they need."""
    hdr = ffi.new("struct shim_map_hdr *")
    hdr.magic, hdr.version = lib.SHIM_MAP_MAGIC, lib.SHIM_MAP_VERSION
    hdr.type, hdr.key_size, hdr.value_size = PROG_ARRAY, 4, 4
    hdr.max_entries, hdr.nr_vcpus = SLOTS, 1
    assert lib.shim_map_layout(hdr) == 0
    memory = ffi.from_buffer(mmap.mmap(-1, hdr.file_size))
    assert lib.shim_map_format(memory, hdr) == 0
    desc, run = ffi.new("struct shim_map_desc *"), ffi.new("struct shim_run *")
    assert lib.shim_map_desc_init(desc, memory, hdr.file_size) == 0
    for slot, number in enumerate(which.slots):
        if number is not None:
            key, value = ffi.new("u32 *", slot), ffi.new("u32 *", number + 1)
            assert lib.shim_map_sys_update(desc, key, value, 0, run) == 0
    word = ffi.new("u64 *")
    desc.objects = int(ffi.cast("uintptr_t", word))
    return desc, word, memory


def objects(addresses: list[int]) -> Any:
    """struct shim_objects of programs 1, 2, ..."""
    table = ffi.new("struct shim_objects *", {"nr": 16, "at": 16})
    for number, address in enumerate(addresses, 1):
        at = number * 0x9E3779B1 & 15
        while table.at[at].key:
            at = at + 1 & 15
        table.at[at].key, table.at[at].addr = lib.SHIM_OBJECT_PROG << 32 | number, address
    return table


Run = tuple[int, bytes, int]  # R0, the context afterwards, the tail calls counted


def execute(which: Set, data: bytes, counted: int = -1) -> Run:
    """A run of compiled code, in a child, which may crash."""
    found = apart(lambda given: _execute(*given), [(which, data, counted)])
    assert found, "it crashed"
    return found[0]


def _execute(which: Set, data: bytes, counted: int = -1) -> Run:
    desc, word, _memory = prog_array(which)
    symbols = {"map:0": int(ffi.cast("uintptr_t", desc)),
               f"helper:{TAIL_CALL}": int(ffi.cast("uintptr_t", lib.shim_helper(TAIL_CALL)))}
    tell = native.HELPER(lambda *_: 0)
    symbols["helper:213"] = ctypes.cast(tell, ctypes.c_void_p).value or 0
    area = mmap.mmap(-1, PAGES, prot=7)
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    starts, end = [], 0
    for image in (compiled(one, counted) for one in which.programs):
        starts.append(base + end)
        area[end : end + len(image.text)] = image.relocate(base + end, symbols)
        end += len(image.text)
    table = objects(starts)
    word[0] = int(ffi.cast("uintptr_t", table))
    ctx, run = ctypes.create_string_buffer(data, CTX), ffi.new("struct shim_run *")
    r0 = ENTRY(starts[0])(ctypes.addressof(ctx), int(ffi.cast("uintptr_t", run)))
    return r0, ctx.raw, run.tail_calls


def compiled(program: tuple[bytes, tuple[int, ...]], counted: int) -> Image:
    insns, functions = program
    facts = replace(all_seen(insns, functions, 16), counted=counted)
    return compile_program(Program(insns, XDP, policy=TAILS), facts)


def differ(seeds: range) -> list[str]:
    deepest = 0
    sets = [(generate(seed), struct.pack("<QQQQ", seed * 2654435761, 0, 0, 0)) for seed in seeds]
    results = apart(lambda one: _execute(*one), sets)
    for seed, one, got in zip(seeds, sets, results, strict=False):
        r0, after = interpret(*one)
        if got[:2] != (r0, after):
            return [f"seed {seed}: interpreter {r0:#x} {after.hex()}, compiled {got}"]
        deepest = max(deepest, got[2])
    if len(results) < len(sets):
        return [f"seed {seeds[len(results)]}: it crashed"]
    return [] if deepest == 33 else [f"no run was 33 deep: {deepest}"]


@pytest.mark.usefixtures("each_tier")
def test_chains_of_programs_run_as_the_interpreter() -> None:
    assert not differ(range(native.share(150)))


@pytest.mark.usefixtures("each_tier")
def test_chains_of_programs_have_the_instructions_of_one() -> None:
    for seed in range(native.share(16)):
        which, data = generate(seed), struct.pack("<QQQQ", seed * 2654435761, 0, 0, 0)
        r0, after, length = counted_run(which, data)
        assert execute(which, data, length)[:2] == (r0, after), seed
        assert execute(which, data, length - 1)[0] == 0xFFFFFFF9, seed


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("each_tier")
def test_many_chains_of_programs_run_as_the_interpreter() -> None:
    assert not differ(range(150, 150 + native.share(4850)))
