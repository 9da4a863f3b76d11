"""Helpers without a call answer what the runtime's own answer: lookups on maps of every shape, who
runs and where."""

from __future__ import annotations

import ctypes
import mmap
import random
import struct
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.jit.native import all_seen, compile_program
from compat_tests.runtime.test_maps import (
    ARRAY,
    HASH,
    PERCPU_ARRAY,
    PERCPU_HASH,
    VCPUS,
    Control,
    Map,
)
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import places
from libbpf_shim.jit.image import Image
from libbpf_shim.verifier.program import MapDesc, Program
from libbpf_shim.verifier.verify import verify

ENTRY = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
LOOKUP, CPU, PID_TGID, FUNC_IP, COOKIE = 1, 8, 14, 173, 174
MOV_X, ADD_K, ST_W, LDX_W, STX_W = 0xBF, 0x07, 0x62, 0x61, 0x63
CALL, EXIT = 0x85, Insn(0x95, 0, 0, 0, 0)
STACK = 64


def address(thing: Any) -> int:
    return int(ffi.cast("uintptr_t", thing))


class Code:
    """An image in this process, with the runtime's helpers and one map; each call of a helper is
    counted where it is wanted."""

    def __init__(self, image: Image, found: Map | None = None) -> None:
        self.called = 0
        self.kept: list[object] = []
        symbols = {}
        if found:
            symbols = {"map:0": address(found.desc), "mapval:0": found.desc.base}
        for name in {r.symbol for r in image.relocs if r.symbol.startswith("helper:")}:
            symbols[name] = self._counted(lib.shim_helper(int(name.partition(":")[2])))
        self.area = mmap.mmap(-1, len(image.text), prot=7)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.area))
        self.area[:] = image.relocate(self.base, symbols)

    def _counted(self, helper: Any) -> int:
        def call(*arguments: int) -> int:
            self.called += 1
            *numbers, run = arguments
            return int(helper(*numbers, ffi.cast("struct shim_run *", run)))

        wrapped = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 6)(call)
        self.kept.append(wrapped)
        found = ctypes.cast(wrapped, ctypes.c_void_p).value
        assert found
        return found

    def run(self, ctx: bytes, run: Any) -> int:
        room = ctypes.create_string_buffer(ctx, max(len(ctx), 1))
        return int(ENTRY(self.base)(ctypes.addressof(room), address(run)))


def lookup_program(desc: MapDesc, key: list[Insn]) -> Image:
    """`return bpf_map_lookup_elem(&map, fp - STACK)`, with code that puts the key there."""
    insns = [*key, Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_FD, 0, 0), Insn(0, 0, 0, 0, 0),
             Insn(MOV_X, 2, 10, 0, 0), Insn(ADD_K, 2, 0, 0, -STACK), Insn(CALL, 0, 0, 0, LOOKUP),
             EXIT]  # fmt: skip
    code = encode(insns)
    facts = replace(all_seen(code, (0,), STACK), call_map={len(insns) - 2: 0})
    return compile_program(Program(code, 1, maps=(desc,)), facts)


def copied(size: int) -> list[Insn]:
    """The context's first bytes, words of four, as the key."""
    out = []
    for off in range(0, size, 4):
        out += [Insn(LDX_W, 3, 1, off, 0), Insn(STX_W, 10, 3, off - STACK, 0)]
    return out


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("size", [4, 8, 12, 16, 20, 24, 32])
@pytest.mark.parametrize(("kind", "value"), [(HASH, 1), (HASH, 8), (HASH, 24),
                                             (PERCPU_HASH, 4), (PERCPU_HASH, 24)])
def test_a_hash_lookup_finds_what_the_runtime_finds(size: int, kind: int, value: int) -> None:
    chance = random.Random(size * value)
    # a page of each CPU's values: the next one's begin a little behind it (cpu_slots)
    entries = 4096 // (value + 7 & ~7) if kind == PERCPU_HASH else 64
    found = Map(Control(), kind, size, value, entries)
    code = Code(lookup_program(MapDesc(kind, size, value, entries), copied(size)), found)
    keys = [chance.randbytes(size) for _ in range(96)]
    keys += [k[: size - 4] + chance.randbytes(4) for k in keys[:32]]
    for turn in range(6):
        for key in chance.sample(keys, 40):
            found.update(key, chance.randbytes(found.room)) if chance.random() < 0.6 else (
                found.delete(key))
        found.run.vcpu = (0, 3, 1, VCPUS, lib.SHIM_NO_VCPU, 2)[turn]
        for key in keys:
            expected = lib.shim_map_lookup(found.desc, ffi.from_buffer(key), found.run)
            assert code.run(key, found.run) == address(expected), (turn, key.hex())
    assert code.called < 20  # nearly all without a call: chains are short


@pytest.mark.usefixtures("each_compiler")
def test_a_long_chain_and_one_that_is_broken_go_to_the_helper() -> None:
    """All elements in one bucket; then a head behind the end, a free element in a chain."""
    found = Map(Control(), HASH, 4, 8, 64)
    keys = (struct.pack("<I", n) for n in range(20000))
    wanted = list(islice((k for k in keys if bucket(found, k) == 5), 16))
    for key in wanted:
        assert found.update(key, key * 2) == 0
    code = Code(lookup_program(MapDesc(HASH, 4, 8, 64), copied(4)), found)
    for key in wanted:
        expected = address(lib.shim_map_lookup(found.desc, ffi.from_buffer(key), found.run))
        assert code.run(key, found.run) == expected != 0
    assert 0 < code.called < len(wanted)
    head = ffi.cast("u32 *", found.desc.base + found.desc.bucket_off + 8 * 5 + places.HEAD)
    first, before = head[0] - 1, code.called
    transit = ffi.cast("u32 *", found.desc.base + found.desc.elem_off + first * found.desc.stride
                       + places.TRANSIT)
    transit[0] = places.FREE
    code.run(wanted[-1], found.run)
    assert code.called == before + 1
    head[0] = 65
    assert code.run(wanted[0], found.run) == 0
    assert code.called == before + 2


def bucket(empty: Map, key: bytes) -> int:
    """By where the key's element is linked, in a map that has no other; it is empty afterwards."""
    assert empty.update(key, bytes(8)) == 0
    heads = ffi.unpack(ffi.cast("u32 *", empty.desc.base + empty.desc.bucket_off), 128)
    assert empty.delete(key) == 0
    return next(n for n in range(64) if heads[2 * n + 1])


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("kind", [ARRAY, PERCPU_ARRAY])
@pytest.mark.parametrize("value", [1, 8, 16, 24, 100])
@pytest.mark.parametrize("entries", [1, 7])
def test_an_array_lookup_is_the_runtimes(kind: int, value: int, entries: int) -> None:
    found = Map(Control(), kind, 4, value, entries)
    desc = MapDesc(kind, 4, value, entries)
    code = Code(lookup_program(desc, copied(4)), found)
    for index in (0, 1, 6, 7, 2**31, 2**32 - 1):
        key = struct.pack("<I", index)
        store = Insn(ST_W, 10, 0, -STACK, index - (1 << 32 if index >> 31 else 0))
        fixed = Code(lookup_program(desc, [store]), found)
        for cpu in (0, VCPUS - 1, VCPUS, lib.SHIM_NO_VCPU):
            found.run.vcpu = cpu
            expected = address(lib.shim_map_lookup(found.desc, ffi.from_buffer(key), found.run))
            assert code.run(key, found.run) == fixed.run(b"", found.run) == expected
    assert code.called == 0


@pytest.mark.usefixtures("each_compiler")
def test_a_store_through_another_pointer_makes_the_key_unknown() -> None:
    """`*(u32 *)(fp - 64) = 0; r3 = fp - 64; *(u32 *)(r3 + *r1) = 3`: which key it is shows."""
    found = Map(Control(), ARRAY, 4, 8, 8)
    key = [Insn(ST_W, 10, 0, -STACK, 0), Insn(MOV_X, 3, 10, 0, 0), Insn(ADD_K, 3, 0, 0, -STACK),
           Insn(LDX_W, 4, 1, 0, 0), Insn(0x0F, 3, 4, 0, 0), Insn(ST_W, 3, 0, 0, 3)]  # fmt: skip
    code = Code(lookup_program(MapDesc(ARRAY, 4, 8, 8), key), found)
    assert code.run(struct.pack("<I", 0), found.run) == found.desc.base + 24
    assert code.run(struct.pack("<I", 8), found.run) == found.desc.base


def asked(number: int) -> Code:
    code = encode([Insn(CALL, 0, 0, 0, number), EXIT])
    return Code(compile_program(Program(code, 2), all_seen(code, (0,), 0)))


@pytest.mark.usefixtures("each_compiler")
def test_who_runs_and_where_is_what_the_helpers_say() -> None:
    run, thread = Control().run(), ffi.new("struct shim_thread *")
    thread.tid, thread.tgid = 0x1234, 0x80005678
    run.cookie, run.func_ip = 0xFEDCBA9876543210, 0x123456789ABC
    for cpu in (3, 511, lib.SHIM_NO_VCPU):
        for who in (address(thread), 0):
            run.vcpu, run.thread = cpu, who
            for number in (PID_TGID, FUNC_IP, COOKIE):
                expected = lib.shim_helper(number)(0, 0, 0, 0, 0, run)
                assert asked(number).run(b"", run) == expected
            code = asked(CPU)
            found = code.run(b"", run)
            assert found == cpu or (cpu == lib.SHIM_NO_VCPU and code.called == 1)


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("size", [2, 4, 8])
# bpf_probe_read, bpf_probe_read_user, bpf_probe_read_kernel
@pytest.mark.parametrize("number", [4, 112, 113])
def test_a_register_of_the_context_is_read_without_a_call(number: int, size: int) -> None:
    """`long word = -1; bpf_probe_read_kernel(&word, size, *r1); return word`, of addresses in and
    beside the registers, and where there are none or nothing is; of a program whose context is
    another thing (BPF_PROG_TYPE_PERF_EVENT)."""
    code = encode([
        Insn(0x7A, 10, 0, -8, -1), Insn(0x79, 3, 1, 0, 0), Insn(0xB7, 2, 0, 0, size),
        Insn(MOV_X, 1, 10, 0, 0), Insn(ADD_K, 1, 0, 0, -8), Insn(CALL, 0, 0, 0, number),
        Insn(0x79, 0, 10, -8, 0), EXIT])  # fmt: skip
    image = Code(compile_program(Program(code, 7), all_seen(code, (0,), 8)))
    registers = ffi.new("u8[]", bytes(range(1, 169 + 64)))
    run, inside = Control().run(), number != 112 and size >= 4
    for at in (0, 1, 160, 164, 161, 165, 168 + 8):
        run.regs, image.called = address(registers), 0
        where = address(registers) + at
        word = bytes(registers[at : at + size]) + b"\xff" * (8 - size)
        expected = int.from_bytes(word, "little")
        assert image.run(struct.pack("<Q", where), run) == expected
        assert image.called == (at + size > 168 or not inside)
        run.regs, image.called = 0, 0
        assert image.run(struct.pack("<Q", where), run) == expected
        assert image.called == 1
    assert image.run(struct.pack("<Q", 100), run) == (1 << 64) - (1 << 8 * size) & (1 << 64) - 1


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("calls", [False, True])  # in how many functions
@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("number", [4, 113])
def test_a_register_of_a_hit_is_read_without_a_call(number: int, size: int, calls: bool) -> None:
    """The same of BPF_PROG_TYPE_KPROBE, of R1 + cookie in a function of its own, which another
    one may call."""
    lone = [Insn(MOV_X, 6, 1, 0, 0), Insn(CALL, 0, 0, 0, COOKIE), Insn(MOV_X, 1, 6, 0, 0),
            Insn(MOV_X, 2, 0, 0, 0), Insn(CALL, 0, 1, 0, 1), EXIT]  # fmt: skip
    passes = [Insn(CALL, 0, 1, 0, 1), EXIT] * calls
    reads = [
        Insn(0x7A, 10, 0, -8, -1), Insn(MOV_X, 3, 1, 0, 0), Insn(0x0F, 3, 2, 0, 0),
        Insn(0xB7, 2, 0, 0, size), Insn(MOV_X, 1, 10, 0, 0), Insn(ADD_K, 1, 0, 0, -8),
        Insn(CALL, 0, 0, 0, number), Insn(0x79, 0, 10, -8, 0), EXIT]  # fmt: skip
    code = encode([*lone, *passes, *reads])
    starts = (0, 6, 8) if calls else (0, 6)
    facts = replace(all_seen(code, starts, 8), stack_depth=(8,) * len(starts))
    image = Code(compile_program(Program(code, 2), facts))
    registers, run = ffi.new("u8[]", bytes(range(1, 169 + 64))), Control().run()
    run.regs = address(registers)
    for at in (0, 1, 168 - size, 169 - size, 168 + 8):
        run.cookie, image.called = at, 0
        word = bytes(registers[at : at + size]) + b"\xff" * (8 - size)
        assert ENTRY(image.base)(run.regs, address(run)) == int.from_bytes(word, "little")
        assert image.called == (at + size > 168)
    run.cookie = (1 << 64) - run.regs + 100  # nothing is there
    failed = ENTRY(image.base)(run.regs, address(run))
    assert failed == (1 << 64) - (1 << 8 * size) & (1 << 64) - 1


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize(("code", "size", "signed"), [
    (0x71, 1, False), (0x69, 2, False), (0x61, 4, False), (0x79, 8, False),
    (0x91, 1, True), (0x89, 2, True), (0x81, 4, True)])  # fmt: skip
@pytest.mark.parametrize("text", ["fe818384f5f6f7f8", "0102030405060708"])
def test_what_a_frozen_map_holds_is_not_loaded(
    text: str, code: int, size: int, signed: bool
) -> None:
    """A branch by it has one way, and no code for the other."""
    held = bytes.fromhex(text)
    frozen = MapDesc(ARRAY, 4, 8, 1, map_flags=128, contents=held)
    insns = [Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_VALUE, 0, 0), Insn(0, 0, 0, 0, 0),
             Insn(code, 0, 1, 0, 0), Insn(0x15, 0, 0, 1, 0), EXIT,
             Insn(0xB7, 0, 0, 0, 7), EXIT]  # fmt: skip
    program = Program(encode(insns), 1, license="GPL", maps=(frozen,))
    facts = verify(program).facts
    assert facts
    image = compile_program(program, facts)
    assert not image.relocs, image.relocs
    known = int.from_bytes(held[:size], "little", signed=signed) & (1 << 64) - 1
    assert Code(image).run(b"", Control().run()) == known


@pytest.mark.usefixtures("each_compiler")
def test_a_caller_sees_what_is_stored_through_its_pointer() -> None:
    """A function stores at addresses of its caller's stack: a part of a word, and a word that a
    callee of its own has changed before."""
    code = encode([
        Insn(0x7A, 10, 0, -8, -1), Insn(0x7A, 10, 0, -16, 5), Insn(MOV_X, 1, 10, 0, 0),
        Insn(ADD_K, 1, 0, 0, -8), Insn(MOV_X, 2, 10, 0, 0), Insn(ADD_K, 2, 0, 0, -16),
        Insn(CALL, 0, 1, 0, 4),
        Insn(0x79, 0, 10, -8, 0), Insn(0x79, 1, 10, -16, 0), Insn(0x0F, 0, 1, 0, 0), EXIT,
        # 11: u16 at r1 + 2 is 7; that at r2 is kept on the stack, called with, and read again
        Insn(0x6A, 1, 0, 2, 7), Insn(0x7B, 10, 2, -8, 0), Insn(MOV_X, 1, 2, 0, 0),
        Insn(CALL, 0, 1, 0, 5),
        Insn(0x79, 1, 10, -8, 0), Insn(0x79, 3, 1, 0, 0), Insn(ADD_K, 3, 0, 0, 0x100),
        Insn(0x7B, 1, 3, 0, 0), EXIT,
        # 20: *r1 += 0x20
        Insn(0x79, 0, 1, 0, 0), Insn(ADD_K, 0, 0, 0, 0x20), Insn(0x7B, 1, 0, 0, 0),
        EXIT])  # fmt: skip
    facts = replace(all_seen(code, (0, 11, 20), 16), stack_depth=(16, 8, 8),
                    stack_at=frozenset((0, 1, 7, 8, 11, 12, 15, 16, 18, 20, 22)))
    image = Code(compile_program(Program(code, 2), facts))
    expected = (0xFFFF_FFFF_0007_FFFF + 0x125) & (1 << 64) - 1
    assert image.run(bytes(8), Control().run()) == expected


def test_offsets_are_those_of_the_headers() -> None:
    for struct_name, offsets in (("struct shim_run", places.RUN),
                                 ("struct shim_map_desc", places.DESC)):
        for field, off in offsets.items():
            assert ffi.offsetof(struct_name, field) == off
    assert ffi.offsetof("struct shim_thread", "tid") == places.THREAD_TID
    assert ffi.offsetof("struct shim_thread", "tgid") == places.THREAD_TID + 4
