"""The library and the victim, built once; a session for each test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.agent import build as agent_build
from compat_tests.agent.backend import Attacher, Backend


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agent")


@pytest.fixture(scope="session")
def library(built: Path) -> Path:
    return agent_build.library(built)


@pytest.fixture(scope="session")
def victim(built: Path) -> Path:
    return agent_build.victim(built)


@pytest.fixture(scope="session")
def symbols(victim: Path) -> dict[str, int]:
    return agent_build.symbols(victim)


@pytest.fixture
def backend() -> Iterator[Backend]:
    # socket paths are short: not pytest's tmp_path
    with tempfile.TemporaryDirectory(prefix="ag") as folder:
        made = Backend(Path(folder))
        yield made
        made.close()


@pytest.fixture
def attacher(backend: Backend, symbols: dict[str, int]) -> Attacher:
    return Attacher(backend, symbols)
