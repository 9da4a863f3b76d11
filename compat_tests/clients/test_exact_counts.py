"""count(), sum() and hist() from 64 threads lose nothing, although they use no atomics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, run

THREADS, ROUNDS = 64, 15625
HITS = THREADS * ROUNDS
# Every entry is there before threads meet at it: later bpftraces lose a first count then
FIRST = [0, *(1 << n for n in range(ROUNDS.bit_length()))]
BEGIN = ("BEGIN { @c = count(); @s = sum(0); "
         + "".join(f"@h = hist({value}); " for value in FIRST)
         + "".join(f"@k[{key}] = count(); " for key in range(4)) + "} ")
PROGRAM = BEGIN + ("uprobe:$V/calls:v_value { @c = count(); @s = sum(arg0); @h = hist(arg0);"
           " @k[arg0 % 4] = count(); }")


def bucket_counts() -> list[int]:
    """Non-empty power-of-two buckets of 0..ROUNDS-1, each value once a thread."""
    counts: dict[int, int] = {}
    for value in range(ROUNDS):
        counts[value.bit_length()] = counts.get(value.bit_length(), 0) + THREADS
    return [counts[key] + 1 for key in sorted(counts)]


def one_run(folder: Path) -> None:
    victim = f"{folder}/calls -m tick -t {THREADS} -n {ROUNDS}"
    argv = ["bpftrace", "-e", PROGRAM.replace("$V", str(folder)), "-c", victim]
    outcome = run(SHIM.tool(argv), 100)
    assert outcome.status == 0, outcome
    assert f"@c: {HITS + 1}\n" in outcome.out
    assert f"@s: {THREADS * sum(range(ROUNDS))}\n" in outcome.out
    found = [int(n) for n in re.findall(r"^\[.*?(\d+) \|", outcome.out, re.M)]
    assert [n for n in found if n] == bucket_counts()
    parts = {int(k): int(n) for k, n in re.findall(r"^@k\[(\d)\]: (\d+)$", outcome.out, re.M)}
    assert parts == {k: THREADS * len(range(k, ROUNDS, 4)) + 1 for k in range(4)}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("turn", range(2))
def test_a_million_hits_of_64_threads_are_exact(turn: int, victim: Path) -> None:
    one_run(victim)


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("turn", range(10))
def test_a_million_hits_of_64_threads_are_exact_ten_times(turn: int, victim: Path) -> None:
    one_run(victim)
