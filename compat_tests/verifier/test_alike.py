"""What the verifier accepts runs alike: interpreter, tier 1 and the kernel give one result.

Generated programs (generate.py: branches, loops, spills, variable offsets, functions, atomics) on
a packet, which is all that they read and write but their stack. The kernel must accept them too.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.jit import native
from compat_tests.jit.test_packets import CLS, LENGTH, SHIM_PACKET, interpret, start, told
from compat_tests.oracle import kernel
from compat_tests.verifier import generate
from compat_tests.verifier.asm import assemble
from compat_tests.verifier.generate import ATOMIC, CTX, LDSX, NONE, NUMBER, Function
from libbpf_shim.isa import Insn
from libbpf_shim.isa import insn as op
from libbpf_shim.jit.memory import Memory
from libbpf_shim.jit.tier1 import compile_program
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

SEEDS, LONG_SEEDS = 120, 4000
WITH_ADDRESSES = (2346, 3222, 3505, 3593, 4033, 4214)
BEGIN = f"""r6 = *(u32 *)(r1 + 76); r7 = *(u32 *)(r1 + 80); r2 = r6; r2 += {LENGTH}
if r2 > r7 goto short; goto long; short: r0 = 7; exit; long: r7 = r6; r6 = 0"""


class Alone(Function):
    """R7 is the packet."""

    WEIGHTS = {name: Function.WEIGHTS[name] for name in (
        "arithmetic", "source", "branch", "loop", "spill", "fill", "stack_data", "stack_varies",
        "access", "call", "atomic", "copy", "choice_of_constants", "leave",
    )}  # fmt: skip
    alone = True

    def write(self) -> None:
        if self.main:
            self.out += assemble(BEGIN)
            self.regs = [NONE] * 6 + [NUMBER, ("mem", LENGTH), NONE, NONE]
            self.busy.add(7)
        super().write()


class ForKernel(Alone):
    """The same, but that the kernel's verifier knows nothing of what atomics fetch and of what is
    filled with its sign, which 6.18 takes for more than it is (test_scalar_bugs.py)."""

    def emit(self, code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> Insn:
        if code in ATOMIC.values() and imm & op.FETCH:
            for _ in range(2):
                super().emit(ATOMIC[8], dst, src, off & -8, op.XOR)
        insn = super().emit(code, dst, src, off, imm)
        if code in LDSX.values() and src == 10:
            super().emit(op.ALU64 | op.OR, dst)
        return insn


class Elsewhere(Memory):
    """Everything is at other addresses, no byte of which is the same."""

    BY = 0x1122334455667788

    def add(self, data: bytearray, writable: bool = True) -> int:
        return super().add(data, writable) + self.BY

    def remove(self, address: int) -> None:
        super().remove(address - self.BY)

    def read(self, address: int, size: int) -> bytes:
        return super().read(address - self.BY, size)

    def write(self, address: int, data: bytes) -> None:
        super().write(address - self.BY, data)


def program(seed: int, kind: type[Alone] = Alone) -> tuple[Program, Facts | None]:
    rng = random.Random(seed)
    callees: list[Function] = []
    for _ in range(rng.randrange(3)):
        callees.append(kind(rng, CLS, [NUMBER] * rng.randrange(1, 4), callees[:], [], 8))
    main = kind(rng, CLS, [CTX], callees, [], rng.randrange(6, 40))
    for function in (*callees, main):
        function.write()
    made = generate.link(rng, CLS, [main, *callees], False)
    return made, verify(made).facts


def packet(seed: int) -> bytes:
    """An Ethernet frame whose words are small or edges as often as not."""
    rng = random.Random(-seed)
    words = [rng.choice((rng.randrange(70), rng.choice(generate.IMMEDIATES) & 0xFFFFFFFF,
                         rng.getrandbits(32))) for _ in range(LENGTH // 4)]  # fmt: skip
    data = b"".join(word.to_bytes(4, "little") for word in words)
    return bytes([2] + [0] * 11 + [8, 0]) + data[14:]


def accepted(seeds: Sequence[int], kind: type[Alone] = Alone) -> dict[int, tuple[Program, Facts]]:
    found = {}
    for seed in seeds:
        made, facts = program(seed, kind)
        if facts is not None:
            found[seed] = (made, facts)
    assert len(found) > len(seeds) * 0.6, len(found)
    return found


def differences_from_tier1(seeds: range) -> list[str]:
    images, told_by_seed = [], accepted(seeds)
    for seed, (made, facts) in told_by_seed.items():
        images.append((compile_program(made, facts), start(CLS, packet(seed))))
    address = int(ffi.cast("uintptr_t", lib.shim_helper(255)))
    symbols = {"helper:255": address, "sym:UNREACHABLE": address}
    results = native.run_all([(image, block) for image, (block, _) in images], symbols,
                             images[0][1][1])  # fmt: skip
    assert len(results) == len(images)
    wrong = []
    for seed, (r0, after) in zip(told_by_seed, results, strict=True):
        ours = (r0 & 0xFFFFFFFF, told(CLS, after) + after[SHIM_PACKET:])
        if ours != interpret(told_by_seed[seed][0].insns, CLS, packet(seed)):
            wrong.append(f"seed {seed}")
    return wrong


def differences_from_the_kernel(seeds: range) -> list[str]:
    oracle, wrong = kernel.driver(), []
    for seed, (made, _) in accepted(seeds, ForKernel).items():
        loaded = oracle.kernel_verdict(made.insns, CLS, keep_fd=True)
        if not loaded.ok:
            wrong.append(f"seed {seed}: refused: {loaded.log[-300:]}")
            continue
        ran = oracle.prog_test_run(loaded.fd, packet(seed), ctx_out_size=192, ctx_in=bytes(192))
        os.close(loaded.fd)
        theirs = (ran.retval, told(CLS, ran.ctx_out) + ran.data_out)
        if theirs != interpret(made.insns, CLS, packet(seed)):
            wrong.append(f"seed {seed}")
    return wrong


def test_no_address_gets_into_what_they_compute() -> None:
    """Which nothing else but the same addresses would agree on. The last were found by the long
    test: in a slot of an address, a part had been stored over, or two paths met."""
    for seed, (made, _) in accepted([*range(SEEDS), *WITH_ADDRESSES]).items():
        here = interpret(made.insns, CLS, packet(seed))
        assert interpret(made.insns, CLS, packet(seed), Elsewhere()) == here, seed


def test_tier1_runs_accepted_programs_as_the_interpreter() -> None:
    assert not differences_from_tier1(range(SEEDS))


@pytest.mark.kernel
def test_the_kernel_runs_accepted_programs_as_the_interpreter() -> None:
    assert not differences_from_the_kernel(range(SEEDS))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_tier1_runs_many_accepted_programs_as_the_interpreter() -> None:
    assert not differences_from_tier1(range(SEEDS, SEEDS + LONG_SEEDS))


@pytest.mark.kernel
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_kernel_runs_many_accepted_programs_as_the_interpreter() -> None:
    assert not differences_from_the_kernel(range(SEEDS, SEEDS + LONG_SEEDS))
