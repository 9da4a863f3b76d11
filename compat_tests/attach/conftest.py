"""A run directory, a session in it, and victims that end with the test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import Host, Victim, plugin, victim_program, victims
from compat_tests.victims import build


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    # socket paths are short: not pytest's tmp_path
    with tempfile.TemporaryDirectory(prefix="dl") as folder:
        yield Path(folder)


@pytest.fixture
def host(runtime_dir: Path) -> Iterator[Host]:
    made = Host(runtime_dir, 1)
    yield made
    made.end()
    made.close()


@pytest.fixture
def program() -> Iterator[Path]:
    """A private copy: uprobes are by inode, and other tests' victims are not to be met."""
    folder = build.private_copy({"obeys": victim_program(), "libplug.so": plugin()})
    yield folder / "obeys"
    shutil.rmtree(folder)


@pytest.fixture
def start(program: Path, runtime_dir: Path) -> Iterator[Callable[..., Victim]]:
    with victims(program, runtime_dir) as make:
        yield make
