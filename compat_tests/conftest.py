"""Marks, and what every test of a whole tool needs: a private victim, a clean user."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.oracle import kernel
from compat_tests.victims import build, named


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel: needs root and the real kernel's bpf(2)")
    config.addinivalue_line("markers", "long: only with --long (make test-long)")
    named.link()
    for number in (signal.SIGINT, signal.SIGQUIT):  # of a shell's "&"; tools would ignore them too
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    os.environ.setdefault("BPFTRACE_MAX_STRLEN", "64")  # an earlier bpftrace's own


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = kernel.why_not()
    for item in items:
        if reason and item.get_closest_marker("kernel"):
            item.add_marker(pytest.mark.skip(reason=f"the kernel's bpf(2): {reason}"))
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="long: make test-long"))


@pytest.fixture
def victim() -> Iterator[Path]:
    """A folder with a private copy of `calls`, libvictim.so and libplug.so."""
    folder = build.private_copy(build.calls())
    yield folder
    shutil.rmtree(folder)
