"""The number of the CPU is less than that of the CPUs there may be: a table of as many is enough.

Source of the rule: Linux 6.18, kernel/bpf/verifier.c, do_refine_retval_range.
"""

from __future__ import annotations

import os

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.asm import assemble
from libbpf_shim.isa import encode
from libbpf_shim.jit import kept
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

CPUS = os.sysconf("SC_NPROCESSORS_CONF")
CODE = encode(assemble("call 8; r1 = value 0; r0 <<= 3; r1 += r0; r0 = *(u64 *)(r1 + 0); exit"))
BEYOND = "R1 max value is outside of the allowed memory range"


def program(entries: int, cpus: int) -> Program:
    return Program(CODE, 3, license="GPL", maps=(MapDesc(2, 4, 8 * entries, 1),), log_level=1,
                   cpus=cpus)  # fmt: skip


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 65])
def test_a_table_of_all_cpus_is_enough(cpus: int) -> None:
    verdict = verify(program(cpus, cpus))
    assert not verdict.errno, verdict.log
    larger = verify(program(cpus, cpus + 1))
    assert larger.errno == 13
    assert BEYOND in larger.log


def test_where_their_number_is_not_known_any_is_possible() -> None:
    assert verify(program(64, 0)).errno


def test_verdicts_are_kept_by_the_number() -> None:
    assert kept.key(program(2, 2)) != kept.key(program(2, 3))


@pytest.mark.kernel
@pytest.mark.parametrize("missing", [0, 1])
def test_kernel_agrees(missing: int) -> None:
    entries = CPUS - missing
    if not entries:
        pytest.skip("a map's value has no size of 0")
    row = {"type": 2, "key_size": 4, "value_size": 8 * entries, "max_entries": 1}
    theirs = kernel.driver().kernel_verdict(CODE, "sched_cls", maps=[row], license="GPL")
    ours = verify(program(entries, CPUS))
    assert theirs.errno == ours.errno == 13 * missing, theirs.log
    assert not missing or (BEYOND in theirs.log and BEYOND in ours.log)
