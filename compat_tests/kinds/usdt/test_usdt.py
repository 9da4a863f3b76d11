"""The semaphored probes of python3.11 and of postgres fire with the kernel's arguments."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way
from compat_tests.kinds.usdt import act, servers

SLOW = (KERNEL, act.postgres_by_bpftrace)  # each probe of each of its processes


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("way", "case"), [
    pytest.param(way, case, id=f"{way.name}-{case.__name__}",
                 marks=[*([pytest.mark.kernel] if way is KERNEL else []),
                        *([pytest.mark.long] if (way, case) == SLOW else [])])
    for way in (KERNEL, SHIM) for case in act.CASES
    if way is SHIM or case is not act.python_by_api])
def test_probes_answer_as_on_the_kernel(
    way: Way, case: Callable[[Way, Path], list[str]]
) -> None:
    if case is act.postgres_by_bpftrace and not servers.postgres():
        pytest.skip("no PostgreSQL server (package postgresql)")
    if case is not act.postgres_by_bpftrace and not os.path.exists(act.PYTHON):
        pytest.skip(f"no {act.PYTHON}")
    name = "python_by_libbpf" if case is act.python_by_api else case.__name__
    assert act.answer(way, case) == act.expected()[name]
