"""A random program means the same to the interpreter, to each compiler and to the kernel."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from compat_tests.jit import native, random_programs
from compat_tests.oracle import kernel
from libbpf_shim.isa import decode, disassemble
from libbpf_shim.jit.interp import Machine, Memory
from libbpf_shim.verifier.program import Program

BPF_PROG_TYPE_XDP = 6
SEEDS, FEW, LONG_SEEDS = 300, 60, 6000
KERNEL_SEEDS, KERNEL_LONG_SEEDS = 600, 10_000
FOUND = (2379,)  # once another result on the kernel, by a bug of its verifier


def generate(seed: int, for_kernel: bool = False) -> tuple[bytes, tuple[int, ...], bytes]:
    """The program of a seed, its functions, its memory. Length grows with the seed, up to 120."""
    rng = random.Random(seed)
    insns, functions = random_programs.program(rng, 5 + seed % 116, for_kernel)
    return insns, functions, random_programs.memory(rng)


def interpret(insns: bytes, data: bytes) -> tuple[int, bytes]:
    memory, after = Memory(), bytearray(data)
    r0 = Machine(insns, memory=memory).run(memory.add(after))
    return r0, bytes(after)


def explain(
    seed: int, code: bytes, ours: tuple[int, bytes], theirs: tuple[int, bytes] | None, who: str
) -> str:
    """A difference, with the program in full: a seed is enough to see it again."""
    insns = decode(code)
    text = "\n".join(f"{at:4} {disassemble(insns, at, str)}" for at in range(len(insns)))
    if theirs is None:
        return f"seed {seed}: {who} crashed\n{text}"
    where = [
        f"{'r' if at < 80 else 'slot '}{at // 8 if at < 80 else at // 8 - 10}: interpreter "
        f"{ours[1][at:at + 8][::-1].hex()}, {who} {theirs[1][at:at + 8][::-1].hex()}"
        for at in range(0, len(ours[1]), 8) if ours[1][at:at + 8] != theirs[1][at:at + 8]
    ]
    return f"seed {seed}: R0 {ours[0]:#x}, {who} {theirs[0]:#x}\n" + "\n".join([*where, text])


def differences_from_compiled(seeds: range, bmi: bool | None = None) -> list[str]:
    """bmi: as native.compile_program has it."""
    images = []
    for seed in seeds:
        insns, functions, data = generate(seed)
        facts = native.all_seen(insns, functions, random_programs.STACK_DEPTH)
        image = native.compile_program(Program(insns, BPF_PROG_TYPE_XDP), facts, bmi)
        images.append((image, data))
    results = native.run_all(images)
    for seed, (_, data), got in zip(seeds, images, results, strict=False):
        insns = generate(seed)[0]
        expected = interpret(insns, data)
        if got != expected:
            return [explain(seed, insns, expected, got, f"tier {native.Compiler.tier}")]
    if len(results) < len(images):
        seed = seeds[len(results)]
        return [explain(seed, generate(seed)[0], (0, b""), None, f"tier {native.Compiler.tier}")]
    return []


@pytest.mark.usefixtures("each_tier")
def test_compiled_programs_run_as_the_interpreter_has_them() -> None:
    assert not differences_from_compiled(range(native.share(SEEDS)))


@pytest.mark.usefixtures("each_tier")
def test_they_do_without_bmi2_too() -> None:
    assert not differences_from_compiled(range(SEEDS, SEEDS + native.share(FEW)), bmi=False)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("each_tier")
def test_many_compiled_programs_run_as_the_interpreter_has_them() -> None:
    assert not differences_from_compiled(range(SEEDS, SEEDS + native.share(LONG_SEEDS)))


def differences_from_the_kernel(seeds: Iterable[int]) -> list[str]:
    oracle = kernel.driver()
    for seed in seeds:
        insns, _, data = generate(seed, for_kernel=True)
        r0, after, _ns = oracle.kernel_run64(insns, data)
        expected = interpret(insns, data)
        if (r0, after) != expected:
            return [explain(seed, insns, expected, (r0, after), "the kernel")]
    return []


@pytest.mark.kernel
def test_the_kernel_runs_random_programs_as_the_interpreter() -> None:
    assert not differences_from_the_kernel([*range(KERNEL_SEEDS), *FOUND])


@pytest.mark.kernel
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_kernel_runs_many_random_programs_as_the_interpreter() -> None:
    assert not differences_from_the_kernel(range(KERNEL_SEEDS, KERNEL_SEEDS + KERNEL_LONG_SEEDS))
