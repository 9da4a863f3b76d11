"""The closing figures of larger programs are the kernel's: steps, states, the most kept at once.

A program takes as many steps here as there only if states are recorded, compared and forgotten
alike, and if what decided is marked alike. Source: recorded loads of Linux 6.18.
"""

from __future__ import annotations

import pytest

from compat_tests.verifier import test_corpus as corpus
from libbpf_shim.verifier import verify

SMALLEST, LARGEST = 1000, 20_000  # instructions that the kernel processed
EQUAL = 0.95

pytestmark = pytest.mark.skipif(not corpus.CORPUS.exists(), reason=f"no {corpus.CORPUS.name}")


def test_programs_take_as_many_steps_and_states_as_in_the_kernel() -> None:
    rows, blobs = corpus.corpus()
    same, other = 0, []
    for row in rows:
        theirs = row.get("stats") or {}
        steps = theirs.get("processed") or 0
        if row["kernel_verdict"] != "accept" or not SMALLEST <= steps <= LARGEST:
            continue
        verdict = verify(corpus.program(row, blobs))
        if verdict.errno:
            continue
        ours = verdict.stats
        figures = (ours.insns_processed, ours.total_states, ours.max_states_per_insn)
        if figures == (steps, theirs["total_states"], theirs["max_states_per_insn"]):
            same += 1
        else:
            other.append((row["name"], figures, theirs))
    assert same > 30
    assert same >= EQUAL * (same + len(other)), other
