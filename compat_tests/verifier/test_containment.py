"""Abstract contains concrete: what the verifier recorded covers what a machine really does.

Generated programs, the same with a token changed, and the corpus' own run on rubbish with helpers
that do their worst (world.py); each step must be covered (containment.py), once with pruning off
and once with it. The seeds are fixed. Statistics are asserted: a generator whose programs are
refused, or end at once, would show nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from compat_tests.verifier import generate, generate_merge, world
from compat_tests.verifier import test_corpus as corpus
from compat_tests.verifier.containment import Totals, judge
from compat_tests.verifier.test_mutants import changed
from libbpf_shim.isa import decode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit.interp import TAIL_CALL
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program
from libbpf_shim.verifier.watch import EVERYWHERE, PLAIN, USUAL

SEEDS, LONG_SEEDS, PART = 600, 20_000, 2500
MERGES, LONG_MERGES = 225, 6000
MUTANTS, LONG_MUTANTS = 300, 6000
EVERY = 12  # of the corpus, in the suite
LARGEST = 3000  # instructions that the kernel processed of a program of the corpus
TYPES = (*world.SKB_TYPES, 2, 5, 6, 7, 17)  # whose contexts the machine has


def generated(seeds: range) -> tuple[Totals, list[str]]:
    """Each with nothing pruned, then pruned as usual or everywhere."""
    plain, pruned, wrong = Totals(), Totals(), []
    for seed in seeds:
        program = generate.generate(seed)
        for mode, totals in ((PLAIN, plain), (USUAL + seed % 2, pruned)):
            why = judge(program, mode, seed, totals, runs=2)
            if why:
                wrong.append(f"seed {seed}: {why}")
    assert plain.accepted > len(seeds) * 0.7, plain
    assert pruned.accepted > len(seeds) * 0.75, pruned
    both = plain.steps + pruned.steps
    assert both > len(seeds) * 80, (plain, pruned)
    assert pruned.pruned > len(seeds) * 2, pruned
    assert plain.ended + pruned.ended > (plain.runs + pruned.runs) * 0.8, (plain, pruned)
    print(plain, pruned)
    return pruned, wrong


def merges(seeds: range) -> None:
    """Programs whose paths differ where they meet: pruned in each way."""
    totals, wrong = Totals(), []
    for seed in seeds:
        program = generate_merge.merge(seed)
        for mode in (USUAL, EVERYWHERE):
            why = judge(program, mode, seed, totals, runs=3)
            if why:
                wrong.append(f"seed {seed}: {why}")
    assert not wrong, (len(wrong), wrong[:5])
    assert totals.accepted > len(seeds) and totals.pruned > 5 * len(seeds), totals
    assert totals.ended == totals.runs, totals


def mutants(count: int, seed: int) -> None:
    """Mostly refused; what is accepted has come near to what should not be."""
    totals, wrong = Totals(), []
    for n in range(seed, seed + count):
        program = generate.generate(n)
        code = changed(program.insns, random.Random(n))
        why = judge(replace(program, insns=code), n % 3, n, totals, runs=2)
        if why:
            wrong.append(f"seed {n}: {why}")
    assert not wrong, (len(wrong), wrong[:5])
    assert totals.accepted > count * 0.2, totals


def runs_here(program: Program) -> bool:
    """The verifier accepts it, and the machine has all that it needs."""
    facts = verify(program).facts if program.prog_type in TYPES else None
    if facts is None or facts.arena_map >= 0:
        return False
    if any(i.code == op.JMP | op.CALL and i.src == 2 for i in decode(program.insns)):
        return False
    return facts.helpers <= {*world.HELPERS, TAIL_CALL}


def of_the_corpus(every: int) -> tuple[Totals, list[str]]:
    rows, blobs = corpus.corpus()
    totals, wrong = Totals(), []
    for n, row in enumerate(rows[::every]):
        processed = (row.get("stats") or {}).get("processed") or 0
        if row["kernel_verdict"] != "accept" or processed > LARGEST:
            continue
        program = replace(corpus.program(row, blobs), log_level=0)
        if runs_here(program):
            for mode in (PLAIN, USUAL, EVERYWHERE):
                why = judge(program, mode, n, totals, runs=2)
                if why:
                    wrong.append(f"{row['name']}: {why}")
    return totals, wrong


def test_generated_programs_stay_in_the_recorded_states() -> None:
    _, wrong = generated(range(SEEDS))
    assert not wrong, (len(wrong), wrong[:5])


def test_paths_that_meet_stay_in_the_recorded_states() -> None:
    merges(range(MERGES))


def test_programs_with_a_token_changed_stay_in_the_recorded_states() -> None:
    mutants(MUTANTS, 100_000)


@pytest.mark.skipif(not corpus.CORPUS.exists(), reason=f"no {corpus.CORPUS.name}")
def test_a_sample_of_the_corpus_stays_in_the_recorded_states() -> None:
    totals, wrong = of_the_corpus(EVERY)
    assert not wrong, (len(wrong), wrong[:5])
    assert totals.accepted > 100 and totals.steps > 5000, totals


def test_every_kind_of_instruction_is_generated() -> None:
    seen = Counter(i.code for seed in range(400) for i in decode(generate.generate(seed).insns))
    missing = [f"{c:#x}" for c in EXPECTED if not seen[c]]
    assert not missing


_ALU = [klass | kind | mode for klass in (op.ALU, op.ALU64) for mode in (0, 8)
        for kind in generate.BINARY]  # fmt: skip
_JMP = [klass | kind | mode for klass in (op.JMP, op.JMP32) for mode in (0, 8)
        for kind in generate.CONDITIONS]  # fmt: skip
EXPECTED = [*_ALU, *_JMP, *generate.LDX.values(), *generate.LDSX.values(), *generate.ST.values(),
            *generate.STX.values(), *generate.ATOMIC.values()]  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(LONG_SEEDS // PART))
def test_many_generated_programs_stay_in_the_recorded_states(part: int) -> None:
    first = SEEDS + part * PART
    _, wrong = generated(range(first, first + PART))
    assert not wrong, (len(wrong), wrong[:5])


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_paths_that_meet_stay_in_the_recorded_states() -> None:
    merges(range(MERGES, MERGES + LONG_MERGES))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_programs_with_a_token_changed_stay_in_the_recorded_states() -> None:
    mutants(LONG_MUTANTS, 200_000)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not corpus.CORPUS.exists(), reason=f"no {corpus.CORPUS.name}")
def test_the_corpus_stays_in_the_recorded_states() -> None:
    totals, wrong = of_the_corpus(1)
    assert not wrong, (len(wrong), wrong[:5])
    assert totals.accepted > 1000, totals
