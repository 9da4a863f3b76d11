"""From the first test of a client to the end of the session the kernel is watched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compat_tests.guard.audit import Audit, successes
from compat_tests.oracle import kernel


@pytest.fixture(scope="session", autouse=True)
def kernel_runs_nothing_for_the_guard() -> Iterator[None]:
    """No bpf(2) and no perf_event_open(2) of the guard's user succeeds in the whole session."""
    if kernel.why_not():
        yield
        return
    with Audit() as audit:
        yield
        counts = audit.counts()
    assert successes(counts) == 0, counts
