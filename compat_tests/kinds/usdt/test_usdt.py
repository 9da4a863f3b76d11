"""The semaphored probes of python3.11 and of postgres fire with the kernel's arguments."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way
from compat_tests.kinds.usdt import act, servers

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", act.CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("way", WAYS)
def test_probes_answer_as_on_the_kernel(
    way: Way, case: Callable[[Way, Path], list[str]]
) -> None:
    if case is act.postgres_by_bpftrace and not servers.postgres():
        pytest.skip("no PostgreSQL server (package postgresql)")
    if case is not act.postgres_by_bpftrace and not os.path.exists(act.PYTHON):
        pytest.skip(f"no {act.PYTHON}")
    assert act.answer(way, case) == act.expected()[case.__name__]
