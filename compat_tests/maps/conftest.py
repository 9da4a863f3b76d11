"""The two drivers, and how many operations they compared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compat_tests.clients.tool import KERNEL
from compat_tests.maps.drive import Pair

COMPARED = pytest.StashKey[tuple[int, int]]()


@pytest.fixture(scope="session")
def pair(pytestconfig: pytest.Config) -> Iterator[Pair]:
    """Kernel and shim, for as many tests as there are."""
    made = Pair()
    yield made
    made.close()
    pytestconfig.stash[COMPARED] = made.ops, made.calls


@pytest.fixture(scope="session")
def twins() -> Iterator[Pair]:
    """The kernel twice."""
    made = Pair(KERNEL)
    yield made
    made.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter,
                            config: pytest.Config) -> None:
    if COMPARED in config.stash:
        ops, calls = config.stash[COMPARED]
        terminalreporter.write_line(
            f"map commands compared with the kernel: {ops:,} operations, {calls:,} bpf(2) calls")
