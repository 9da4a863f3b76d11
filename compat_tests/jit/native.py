"""Compiled programs run for real, in a child process: what crashes there is a result here."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Mapping, Sequence

from libbpf_shim.jit import tier0, tier1, tier2
from libbpf_shim.jit.image import Image
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

RUN_BYTES = 136  # sizeof(struct shim_run), csrc/include/shim_run.h
_REGS = 8  # in it, regs: the context
RUN_SECONDS = 10

_RESULT = struct.Struct("<QI")
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p)
TIERS = (0, 1, 2)
COMPILERS = (1, 2)
HELPER = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 5)


class Compiler:
    """What tests of every tier compile with; the fixture each_tier says which (conftest.py)."""

    tier = 1


def compile_program(program: Program, facts: Facts, bmi: bool | None = None) -> Image:
    """By the tier that the test is about."""
    if Compiler.tier == 0:
        return tier0.compile_program(program, facts)
    if Compiler.tier == 1:
        return tier1.compile_program(program, facts, bmi)
    from libbpf_shim.jit.tier2 import machine

    return machine.compile_program(program, facts, bmi)


def share(count: int) -> int:
    """How many of so many programs: LLVM takes some 20 ms for each. The long tests have all."""
    return count // 8 if Compiler.tier == 2 else count


def has(tier: int) -> bool:
    return tier < 2 or tier2.available()


def all_seen(insns: bytes, subprogs: tuple[int, ...] = (0,), stack_depth: int = 512) -> Facts:
    """The facts of a program that no verifier has seen: every instruction may run."""
    return Facts(subprogs, (stack_depth,) * len(subprogs), b"\1" * (len(insns) // 8))


def run_all(
    programs: Sequence[tuple[Image, bytes]], symbols: Mapping[str, int] | None = None,
    pointers: Sequence[int] = (),
) -> list[tuple[int, bytes]]:
    """R0 and the context afterwards of each (image, context), in order; R1 is the context's
    address.

    The list ends early where one crashed or hung. symbols: addresses that hold in this process
    (ctypes callbacks), for Image.relocate. pointers: words of the context, by offset, that count
    from its address."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.close(read_end)
            with os.fdopen(write_end, "wb") as out:
                for image, ctx in programs:
                    signal.alarm(RUN_SECONDS)
                    r0, after = _run(image, ctx, dict(symbols or {}), pointers)
                    out.write(_RESULT.pack(r0, len(after)) + after)
                    out.flush()
        except BaseException as error:
            os.write(2, f"native.run_all: {error!r}\n".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as results:
        data = results.read()
    os.waitpid(child, 0)
    done, at = [], 0
    while at + _RESULT.size <= len(data):
        r0, size = _RESULT.unpack_from(data, at)
        at += _RESULT.size
        done.append((r0, data[at : at + size]))
        at += size
    return done


def _run(
    image: Image, ctx: bytes, symbols: dict[str, int], pointers: Sequence[int]
) -> tuple[int, bytes]:
    area = mmap.mmap(
        -1, max(len(image.text), 1), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    )
    base = ctypes.addressof(ctypes.c_char.from_buffer(area))
    area[: len(image.text)] = image.relocate(base, symbols)
    data = ctypes.create_string_buffer(ctx, max(len(ctx), 1))
    for at in pointers:
        word = ctypes.c_uint64.from_buffer(data, at)
        word.value += ctypes.addressof(data)
    run = ctypes.create_string_buffer(RUN_BYTES)
    struct.pack_into("<Q", run, _REGS, ctypes.addressof(data))
    r0 = _ENTRY(base)(ctypes.addressof(data), ctypes.addressof(run))
    return r0, data.raw[: len(ctx)]
