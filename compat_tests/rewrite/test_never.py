"""Functions that begin with ud2: each call is a hit, and the signal comes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, run
from compat_tests.inject.test_live import Reads
from compat_tests.victims import build
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.decode import UD2
from libbpf_shim.rewrite.site import plan_site

HERE = Path(__file__).parent
ROUNDS = 7


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    made = build.make("never", [HERE / "never.c"], [*build.WARN, "-O1"])
    folder = build.private_copy({"never": made})
    yield folder / "never"
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["never", "packed", "beside"])
def test_each_call_is_counted_and_traps(name: str, program: Path) -> None:
    with Reads(program, name) as loader:
        done = run(SHIM.target([str(program), str(ROUNDS)]))
        assert (done.status, done.out) == (0, "0\n"), done
        assert loader.counters()[0] == ROUNDS * (2 if name == "beside" else 1)
        loader.finish()


def test_a_trap_inside_of_a_function_stays_where_it_is(program: Path) -> None:
    module = Module(str(program))  # its address may tell a handler what it is
    checks = module.find("checks")
    assert checks
    trap = checks.vaddr + module.read(checks.vaddr, checks.size).index(UD2)
    with pytest.raises(ShimError, match="it stays where it is"):
        plan_site(module, trap)
