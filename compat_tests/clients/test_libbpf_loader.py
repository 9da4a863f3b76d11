"""A libbpf program with eight uprobes counts the same on the kernel and under the shim."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.processes import Eight, Victim, computed
from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.victims import build

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]
LINKED = ["shared", "static"]
# by what its loader links is no difference to the kernel
BOTH = [pytest.param(way, linked, id=f"{way.name}-{linked}", marks=[
    *([pytest.mark.kernel] if way is KERNEL else []),
    *([pytest.mark.long] if (way, linked) == (KERNEL, "static") else [])])
    for way in (KERNEL, SHIM) for linked in LINKED]
MILLION, SOME = 31_250, 3_125  # rounds of four, eight probes in each


@pytest.fixture
def folder() -> Iterator[Path]:
    files = {**build.calls(), **build.eight(static=True), **build.eight(static=False)}
    place = build.private_copy(files)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def rounds(way: Way, request: pytest.FixtureRequest) -> int:
    """The kernel, which takes microseconds for a hit, shows what is right with a tenth."""
    return SOME if way is KERNEL and not request.config.getoption("--long") else MILLION


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("way", "linked"), BOTH)
def test_a_million_hits_of_four_threads_are_all_counted(
    way: Way, linked: str, rounds: int, folder: Path
) -> None:
    with Eight(way, folder, linked) as loader:
        target = run(way.target([str(folder / "calls"), "-n", str(rounds), "-t", "4"]), 120)
        assert target.status == 0, target
        report = loader.report()
        assert report == computed(rounds, 4, 1)
        assert report.total == 32 * rounds
        loader.finish()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("way", "linked"), BOTH)
def test_a_million_hits_of_four_processes_are_all_counted(
    way: Way, linked: str, rounds: int, folder: Path
) -> None:
    with Eight(way, folder, linked) as loader:
        target = run(way.target([str(folder / "calls"), "-n", str(rounds), "-f", "3"]), 120)
        assert target.status == 0, target
        assert loader.report() == computed(rounds, 4, 4)
        loader.finish()


@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_ran_before_the_attach_is_counted(way: Way, folder: Path) -> None:
    with Victim(way, folder, "-t", "2") as victim:
        before = victim.code()
        victim.rounds(10)
        with Eight(way, folder) as loader:
            victim.rounds(2500)
            assert loader.report() == computed(2500, 2, 1)
            loader.finish()
        victim.code_becomes(before)
        victim.rounds(10)
        victim.finish()
