"""Every one-liner of cases.py answers the same on the kernel and under guard and shim."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.clients import bpftrace
from compat_tests.clients.cases import CASES, Case
from compat_tests.clients.tool import KERNEL, NOT_RECORDED, SHIM, Way, recorded

EXPECTED = bpftrace.expected()
NAMES = [case.name for case in CASES]
# The kernel's answers are recorded; that they are still its own is shown by a sample in the suite.
ASKED_AGAIN = [pytest.param(case, id=case.name, marks=[] if n % 5 == 0 else [pytest.mark.long])
               for n, case in enumerate(CASES)]


def check(case: Case, way: Way, folder: Path) -> None:
    assert bpftrace.lines(case, way, folder) == bpftrace.wanted(case, folder)


def test_each_case_has_a_name_of_its_own_and_a_recorded_answer() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 45
    assert sorted(EXPECTED) == sorted(NAMES)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_shim_answers_as_recorded(case: Case, victim: Path) -> None:
    check(case, SHIM, victim)


@pytest.mark.kernel
@pytest.mark.skipif(not recorded("bpftrace"), reason=NOT_RECORDED)
@pytest.mark.timeout(150)
@pytest.mark.parametrize("case", ASKED_AGAIN)
def test_kernel_answers_as_recorded(case: Case, victim: Path) -> None:
    check(case, KERNEL, victim)
