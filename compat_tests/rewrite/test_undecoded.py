"""Functions with what the disassembler does not know: each call is a hit, and nobody is hurt."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, run
from compat_tests.inject.test_live import Reads
from compat_tests.victims import build

HERE = Path(__file__).parent
ROUNDS = 7


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    made = build.make("undecoded", [HERE / "undecoded.c"], [*build.WARN, "-O1"])
    folder = build.private_copy({"undecoded": made})
    yield folder / "undecoded"
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "name", ["half_floats", "tiles", "traps", "computes", "vast", "in_vast"])
def test_each_call_is_counted_and_returns_what_it_did(name: str, program: Path) -> None:
    with Reads(program, name) as loader:
        done = run(SHIM.target([str(program), str(ROUNDS)]))
        assert (done.status, done.out) == (0, "0\n"), done
        assert loader.counters()[0] == ROUNDS
        loader.finish()
