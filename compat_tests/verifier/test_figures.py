"""The closing figures of larger programs are the kernel's: steps, states, the most kept at once.

A program takes as many steps here as there only if states are recorded, compared and forgotten
alike, and if what decided is marked alike. Source: recorded loads of Linux 6.18.
"""

from __future__ import annotations

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier import test_corpus as corpus
from compat_tests.verifier.asm import assemble
from libbpf_shim.isa import encode
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

SMALLEST, LARGEST = 1000, 20_000  # instructions that the kernel processed
EQUAL = 0.95

NOWHERE = "; ".join(f"if r0 == {n} goto n{n}; n{n}:" for n in range(4))
# what one of two paths writes, that meet where a state is recorded, and both read
WRITES = f"""call 7; {{}}; if r0 > 9 goto both; *(u64 *)(r10 - 8) = 7; both: {NOWHERE}
r1 = *(u32 *)(r10 - 4); r0 = 0; exit"""

with_corpus = pytest.mark.skipif(not corpus.CORPUS.exists(), reason=f"no {corpus.CORPUS.name}")


@with_corpus
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


@pytest.mark.kernel
@pytest.mark.parametrize("before", ["r1 = 0", "*(u64 *)(r10 - 16) = 0"])
def test_a_path_that_has_not_touched_the_stack_is_not_like_one_that_has(before: str) -> None:
    """The second has slots that hold nothing: it need not run to the end."""
    code = encode(assemble(WRITES.format(before)))
    theirs = kernel.driver().kernel_verdict(code, 1, log_level=4)
    ours = verify(Program(code, 1, license="GPL", log_level=4))
    assert theirs.ok and not ours.errno
    assert ours.stats.insns_processed == theirs.stats["processed"]
    assert ours.stats.total_states == theirs.stats["total_states"]
