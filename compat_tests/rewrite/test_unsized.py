"""Functions whose extent no symbol and no unwind table tells: each call of one is a hit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, run
from compat_tests.inject.test_live import Reads
from compat_tests.victims import build
from libbpf_shim.elf.module import Module

HERE = Path(__file__).parent
ROUNDS = 7
# calls a round: two of the others jump to the first
CALLS = {"plain": 3, "far_jump": 1, "near_jump": 1, "compares": 1, "moves": 1, "loops": 1,
         "turns": 1, "tabled": 1}


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    made = build.make("unsized", [HERE / "unsized.c"],
                      [*build.WARN, "-O1", "-fno-asynchronous-unwind-tables"])
    folder = build.private_copy({"unsized": made})
    yield folder / "unsized"
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", CALLS)
def test_each_call_is_counted_and_returns_what_it_did(name: str, program: Path) -> None:
    found = Module(str(program)).find(name)
    assert found and not found.size
    with Reads(program, name) as loader:
        done = run(SHIM.target([str(program), str(ROUNDS)]))
        assert (done.status, done.out) == (0, "0\n"), done
        assert loader.counters()[0] == ROUNDS * CALLS[name]
        loader.finish()
