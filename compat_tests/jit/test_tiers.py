"""Programs that the verifier accepts leave the same behind by each tier: R0, the context, the
packet and every byte of their maps.

They are generate.py's: branches, loops, spills, functions, callbacks, lookups in arrays, hash and
per-CPU maps, records of ring buffers, locks, atomics, packets. Where a result depends on where
something lies (a second run elsewhere tells, or many where tiers differ), nothing is compared.
"""

from __future__ import annotations

import pytest

from compat_tests.jit import stage
from compat_tests.verifier import generate
from libbpf_shim.isa import decode, disassemble
from libbpf_shim.jit import tier2
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

SEEDS, PART, PARTS = 40, 500, 8


def listing(program: Program) -> str:
    insns = decode(program.insns)
    return "\n".join(f"{at:4} {disassemble(insns, at, str)}" for at in range(len(insns)))


def differences(seeds: range) -> tuple[list[str], int]:
    """Of each seed where two tiers differ; how many were compared."""
    given: list[stage.Runs] = []
    for seed in seeds:
        program = generate.generate(seed)
        facts = verify(program).facts
        if facts is not None and stage.has(facts):
            given.append((program, seed, stage.images(program, facts)))
    results = stage.run_all(given)
    if len(results) < len(given):
        program, seed, _ = given[len(results)]
        return [f"seed {seed} crashed or hung\n{listing(program)}"], 0
    wrong, compared = [], 0
    for (program, seed, images), (*found, elsewhere) in zip(given, results, strict=True):
        if found[0].unlike(elsewhere):
            continue
        compared += 1
        for tier, other in enumerate(found[1:], 1):
            what = found[0].unlike(other)
            if what and not stage.by_chance(program, seed, images[0], found[0]):
                wrong.append(f"seed {seed}, tier {tier}: {what}\n{listing(program)}")
    return wrong, compared


def test_what_programs_leave_is_the_same_by_each_tier() -> None:
    wrong, compared = differences(range(SEEDS))
    assert not wrong, f"{len(wrong)}: {wrong[0]}"
    assert compared > SEEDS // 2


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(not tier2.available(), reason="llvmlite is not installed")
@pytest.mark.parametrize("part", range(PARTS))
def test_what_many_programs_leave_is_the_same_by_each_tier(part: int) -> None:
    first = SEEDS + PART * part
    wrong, compared = differences(range(first, first + PART))
    assert not wrong, f"{len(wrong)}: {wrong[0]}"
    assert compared > PART // 2
