"""The same program on the same packet means the same to interpreter, tier 1 and the kernel.

Random programs read and write the packet by pointers that they have checked, by LD_ABS and LD_IND,
and fields of the context. What the packet is afterwards and R0 are compared; the context as well
where the kernel tells it.
"""

from __future__ import annotations

import os
import random
import struct

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.jit import native
from compat_tests.oracle import kernel
from libbpf_shim.isa import Insn, decode, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import context
from libbpf_shim.jit.interp import Machine, Memory
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

CLS, XDP = 3, 6
SEEDS, LONG_SEEDS = 200, 4000
MOVX, ADD, ADDX, AND, JGT = 0xBF, 0x07, 0x0F, 0x57, 0x2D
LDX = {1: 0x71, 2: 0x69, 4: 0x61}
STX = {1: 0x73, 2: 0x6B, 4: 0x63}
EXIT = Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
DATA, END, META, MAC, NETWORK = 192, 200, 208, 232, 240  # in struct shim_packet
SHIM_PACKET = 264
LENGTH = 64
DATA_FIELD = {CLS: (76, 80), XDP: (0, 4)}
READ = {CLS: (0, 4, 8, 12, 16, 32, 36, 40, 44, 48, 64, 72, 164), XDP: (12, 16)}
WRITTEN = (8, 12, 32, 44, 48, 56, 64)  # mark, queue_mapping, priority, tc_index, cb; R9 is stored


def program(rng: random.Random, kind: int, length: int) -> bytes:
    """R6 context, R7 data, R9 a result; ends early, with 1, where the packet is too short."""
    start, end = DATA_FIELD[kind]
    need = rng.randrange(14, LENGTH + 1)
    out = [
        Insn(MOVX, 6, 1, 0, 0), Insn(0x61, 7, 6, start, 0), Insn(0x61, 8, 6, end, 0),
        Insn(0xB7, 9, 0, 0, rng.randrange(1 << 31)), Insn(0xB7, 0, 0, 0, 1),
        Insn(MOVX, 2, 7, 0, 0), Insn(ADD, 2, 0, 0, need), Insn(0xBD, 2, 8, 1, 0), EXIT,
    ]  # fmt: skip
    for _ in range(length):
        size = rng.choice((1, 2, 4))
        at = rng.randrange(need - size + 1)
        choice = rng.randrange(6)
        if choice == 0:
            out += [Insn(LDX[size], 1, 7, at, 0), Insn(ADDX, 9, 1, 0, 0)]
        elif choice == 1:
            out.append(Insn(STX[size], 7, 9, at, 0))
        elif choice == 2:  # at a variable offset, if it is there
            out += [Insn(MOVX, 1, 9, 0, 0), Insn(AND, 1, 0, 0, 63), Insn(ADDX, 1, 7, 0, 0),
                    Insn(MOVX, 2, 1, 0, 0), Insn(ADD, 2, 0, 0, 3), Insn(JGT, 2, 8, 2, 0),
                    Insn(LDX[1], 2, 1, 2, 0), Insn(ADDX, 9, 2, 0, 0)]  # fmt: skip
        elif choice == 3:
            out += [Insn(0x61, 1, 6, rng.choice(READ[kind]), 0), Insn(ADDX, 9, 1, 0, 0)]
        elif kind == CLS and choice == 4:
            out.append(Insn(0x63, 6, 9, rng.choice(WRITTEN), 0))
        elif kind == CLS:
            code = {1: 0x30, 2: 0x28, 4: 0x20}[size]
            off = rng.choice((at, LENGTH - size, rng.randrange(LENGTH + 4), -0x100000 + 2))
            if rng.random() < 0.5:
                out += [Insn(0xB7, 3, 0, 0, off), Insn(code + 0x20, 0, 3, 0, 0)]
            else:
                out.append(Insn(code, 0, 0, 0, off))
            out.append(Insn(ADDX, 9, 0, 0, 0))
    out += [Insn(MOVX, 0, 9, 0, 0), EXIT]
    return encode(out)


def skb(length: int) -> bytes:
    """struct __sk_buff as a test run begins: len, pkt_type, protocol, ifindex."""
    ctx = bytearray(192)
    struct.pack_into("<II", ctx, 0, length, 3)
    struct.pack_into("<I", ctx, 16, 0x0008)
    struct.pack_into("<I", ctx, 40, 1)
    return bytes(ctx)


def start(kind: int, packet: bytes) -> tuple[bytes, tuple[int, ...]]:
    """struct shim_packet with the packet behind it; its words that are addresses."""
    ctx = skb(len(packet)) if kind == CLS else struct.pack("<12xI", 1).ljust(192, b"\0")
    data, end = SHIM_PACKET, SHIM_PACKET + len(packet)
    words = (data, end, data, data, end, data, data + 14, 0)
    kinds = struct.pack("<II", 0, 1 if kind == CLS else 2)
    return ctx + struct.pack("<8Q", *words) + kinds + packet, (DATA, END, META, 216, 224, MAC,
                                                               NETWORK)  # fmt: skip


def interpret(
    code: bytes, kind: int, packet: bytes, memory: Memory | None = None
) -> tuple[int, bytes]:
    program_ = Program(code, kind, license="GPL")
    facts = verify(program_).facts
    assert facts
    memory, data = memory or Memory(), bytearray(packet)
    base = memory.add(data)
    block, _ = start(kind, packet)
    ctx = bytearray(block[:SHIM_PACKET])
    struct.pack_into("<3Q", ctx, DATA, base, base + len(packet), base)

    def load(_ctx: int, off: int, size: int) -> int | None:
        at = off if off >= 0 else 14 + off + 0x100000
        if at < 0 or at + size > len(data):
            return None
        return int.from_bytes(data[at : at + size], "big")

    machine = Machine(code, memory=memory, packet_load=load,
                      context=context.accesses(program_, decode(code), facts))  # fmt: skip
    r0 = machine.run(memory.add(ctx))
    return r0 & 0xFFFFFFFF, told(kind, bytes(ctx)) + bytes(data)


def told(kind: int, ctx: bytes) -> bytes:
    """What the kernel tells of the context: mark, priority, cb."""
    return ctx[8:12] + ctx[32:36] + ctx[48:68] if kind == CLS else b""


def generate(seed: int) -> tuple[bytes, int, bytes]:
    rng = random.Random(seed)
    kind = CLS if seed % 3 else XDP
    packet = bytes([2] + [0] * 11 + [8, 0]) + rng.randbytes(LENGTH - 14)
    return program(rng, kind, 3 + seed % 40), kind, packet[: LENGTH if seed % 7 else 40]


def differences(seeds: range) -> list[str]:
    images = []
    for seed in seeds:
        code, kind, packet = generate(seed)
        verdict = verify(Program(code, kind, license="GPL", log_level=1))
        assert verdict.facts, verdict.log
        image = native.compile_program(Program(code, kind), verdict.facts)
        images.append((image, start(kind, packet)))
    symbols = {"helper:255": int(ffi.cast("uintptr_t", lib.shim_helper(255)))}
    results = native.run_all([(image, block) for image, (block, _) in images], symbols,
                             images[0][1][1])  # fmt: skip
    assert len(results) == len(images)
    wrong = []
    for seed, (r0, after) in zip(seeds, results, strict=True):
        code, kind, packet = generate(seed)
        ours = (r0 & 0xFFFFFFFF, told(kind, after) + after[SHIM_PACKET:])
        if ours != interpret(code, kind, packet):
            wrong.append(f"seed {seed}: {ours} {interpret(code, kind, packet)}")
    return wrong


@pytest.mark.usefixtures("each_tier")
def test_compiled_packet_programs_run_as_the_interpreter_has_them() -> None:
    assert not differences(range(native.share(SEEDS)))


@pytest.mark.long
@pytest.mark.usefixtures("each_tier")
def test_many_compiled_packet_programs_run_as_the_interpreter_has_them() -> None:
    assert not differences(range(SEEDS, SEEDS + native.share(LONG_SEEDS)))


def differences_from_the_kernel(seeds: range) -> list[str]:
    oracle, wrong = kernel.driver(), []
    for seed in seeds:
        code, kind, packet = generate(seed)
        loaded = oracle.kernel_verdict(code, kind, keep_fd=True)
        assert loaded.ok, loaded.log
        ran = oracle.prog_test_run(loaded.fd, packet, ctx_out_size=192 if kind == CLS else 0,
                                   ctx_in=bytes(192) if kind == CLS else b"")  # fmt: skip
        os.close(loaded.fd)
        theirs = (ran.retval, told(kind, ran.ctx_out) + ran.data_out)
        if theirs != interpret(code, kind, packet):
            wrong.append(f"seed {seed}: {theirs} {interpret(code, kind, packet)}")
    return wrong


@pytest.mark.kernel
def test_the_kernel_runs_packet_programs_as_the_interpreter() -> None:
    assert not differences_from_the_kernel(range(SEEDS))


@pytest.mark.kernel
@pytest.mark.long
def test_the_kernel_runs_many_packet_programs_as_the_interpreter() -> None:
    assert not differences_from_the_kernel(range(SEEDS, SEEDS + LONG_SEEDS))
