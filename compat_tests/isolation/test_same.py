"""Isolated code means the same as what it was made of: random programs on the interpreter and in a
window of this process."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from dataclasses import replace

import pytest
from libbpf_shim._native import ffi

from compat_tests.isolation.world import MAPS, POLICY, compiled
from compat_tests.jit import native, random_programs
from compat_tests.jit.test_differential import explain, generate, interpret
from compat_tests.verifier.asm import assemble
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import window
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.interp import Machine, Memory
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import FULL

SEEDS, LONG_SEEDS = 60, 3000
_RESULT = struct.Struct("<Q")
_PLACE, _FLAGS = 0x2800_0000_0000, 0x104022  # private, anonymous, NORESERVE, FIXED_NOREPLACE
_PAGE = 4096
_TOLD = native.HELPER(lambda *_: 0)  # SHIM_FUNC_BUDGET_ENDED


def mapped() -> int:
    """A window's slots in this process: the window's base."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    base = _PLACE + window.BASE
    at = libc.mmap(base - _PAGE, _PAGE + window.MAPS + window.BEHIND, 3, _FLAGS, -1, 0)
    assert at == base - _PAGE, os.strerror(ctypes.get_errno())
    ctypes.memmove(base - 8, _RESULT.pack(window.MAPS), 8)
    return base


def run(image: Image, data: bytes, base: int) -> tuple[int, bytes]:
    """R0 and the copy of the context afterwards, in the slot of a thread of index 3."""
    text = mmap.mmap(-1, len(image.text), prot=7)
    at = ctypes.addressof(ctypes.c_char.from_buffer(text))
    symbols = dict.fromkeys(("ctl", "prog", "sym:UNREACHABLE"), 0)
    told = ctypes.cast(_TOLD, ctypes.c_void_p).value or 0
    symbols |= {"helper:213": told, "sym:CONTAINED": told}
    text[: len(image.text)] = image.relocate(at, {"window": base} | symbols)
    thread = ctypes.create_string_buffer(struct.pack("<28xI32x", 3), 64)
    ctx = ctypes.create_string_buffer(data, window.CONTEXT)
    state = ctypes.create_string_buffer(native.RUN_BYTES)
    struct.pack_into("<Q", state, 16, ctypes.addressof(thread))
    entry = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)(at)
    r0 = entry(ctypes.addressof(ctx), ctypes.addressof(state))
    assert ctx.raw[: len(data)] == data, "the context itself is not the program's"
    return r0, ctypes.string_at(base + 3 * 2 * window.SLOT, len(data))


def results(programs: list[tuple[Image, bytes]]) -> list[tuple[int, bytes]]:
    """In a child: the list ends early where one crashed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            base = mapped()
            with os.fdopen(write_end, "wb") as out:
                for image, data in programs:
                    r0, after = run(image, data, base)
                    out.write(_RESULT.pack(r0) + after)
                    out.flush()
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    size = _RESULT.size + random_programs.LAYOUT_BYTES
    return [(_RESULT.unpack_from(found, at)[0], found[at + 8 : at + size])
            for at in range(0, len(found) - size + 1, size)]


def differences(seeds: range) -> list[str]:
    """Of every other one a class that holds processors, too."""
    programs = []
    for seed in seeds:
        insns, functions, data = generate(seed)
        seen = native.all_seen(insns, functions, random_programs.STACK_DEPTH)
        facts = Facts(seen.subprogs, seen.stack_depth, seen.seen, ctx_escapes=True)
        held = replace(POLICY, spectre=FULL if seed % 2 else "")
        programs.append((compiled(insns, facts, policy=held), data))
    got = results(programs)
    for seed, (_, data), one in zip(seeds, programs, got, strict=False):
        expected = interpret(generate(seed)[0], data)
        if one != expected:
            return [explain(seed, generate(seed)[0], expected, one, "isolated")]
    return [f"seed {seeds[len(got)]} crashed"] if len(got) < len(programs) else []


def test_isolated_programs_run_as_the_interpreter_has_them() -> None:
    assert not differences(range(SEEDS))


@pytest.mark.long
def test_many_isolated_programs_run_as_the_interpreter_has_them() -> None:
    assert not differences(range(SEEDS, SEEDS + LONG_SEEDS))


def test_isolated_programs_are_counted_as_the_interpreter_counts() -> None:
    """With as many instructions as they take they run to their ends; with one less they return 0
    instead."""
    programs, expected = [], []
    for seed in range(SEEDS):
        insns, functions, data = generate(seed)
        seen = native.all_seen(insns, functions, random_programs.STACK_DEPTH)
        memory, after = Memory(), bytearray(data)
        machine = Machine(insns, memory=memory)
        r0 = machine.run(memory.add(after))
        for left in (0, -1):
            facts = Facts(seen.subprogs, seen.stack_depth, seen.seen, ctx_escapes=True,
                          counted=machine._steps + left)
            programs.append((compiled(insns, facts), data))
        expected.append((r0, bytes(after)))
    got = results(programs)
    assert got[::2] == expected
    assert len(got) == 2 * SEEDS and all(r0 == 0 for r0, _ in got[1::2])
    assert sum(r0 != 0 for r0, _ in expected) > SEEDS // 2


COUNTED = replace(POLICY, counter=True, instructions=10_000, default=7)
ENDLESS = op.encode(assemble("r0 = 0; again: r0 += 1; if r0 != 0 goto again; exit"))


def test_a_program_that_never_ends_does_whatever_was_proved() -> None:
    """Nothing says that it has to be counted but its class."""
    data = bytes(random_programs.LAYOUT_BYTES)
    image = compiled(ENDLESS, native.all_seen(ENDLESS), policy=COUNTED)
    assert [r0 for r0, _ in results([(image, data)])] == [7]


@pytest.mark.long
def test_one_that_never_gives_back_does_too() -> None:
    """2^30 instructions later, by the way of those that leave their window."""
    data, seen = bytes(random_programs.LAYOUT_BYTES), native.all_seen(ENDLESS)
    held = replace(seen, held=frozenset(range(len(seen.seen))))
    image = compiled(ENDLESS, held, policy=COUNTED)
    assert [r0 for r0, _ in results([(image, data)])] == [0]


def test_the_layout_is_that_of_the_headers() -> None:
    assert ffi.offsetof("struct shim_thread", "index") == window.THREAD_INDEX
    assert ffi.offsetof("struct shim_thread", "outer_sp") == window.THREAD_OUTER
    assert ffi.sizeof("struct shim_pt_regs") == window.CONTEXT
    assert window.DEPTH * window.FRAME + window.CONTEXT <= window.SLOT
    assert all(window.map_refused(m) == "" for m in MAPS)
