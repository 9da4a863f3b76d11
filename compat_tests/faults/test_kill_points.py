"""kill -9 at the Nth system call of the keeper and of the backend, inside their transactions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.processes import Victim
from compat_tests.clients.tool import SHIM, Session
from compat_tests.faults import survivors
from compat_tests.faults.test_kill_rounds import end_loader, start_loader
from compat_tests.victims import build

POINTS = [("keeper", 3), ("keeper", 29), ("keeper", 151),
          *(("backend", n) for n in (3, 11, 29, 67, 151, 311))]
LONG_POINTS = [(role, n) for role in ("keeper", "backend") for n in range(1, 600, 13)]
LONG_POINTS += [("keeper", n) for n in (11, 67, 311)]


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({**build.calls(), **build.eight(static=False)})
    yield place
    shutil.rmtree(place)


def one_point(role: str, number: int, folder: Path) -> None:
    source = Path(__file__).with_name("killat.c")
    killat = build.make("killat", [source], [*build.WARN, "-O1"])
    with Victim(SHIM, folder, "-t", "2") as victim:
        code = victim.code()
        loader = start_loader(folder)
        try:
            survivors.wait_for(f"no {role}", lambda: survivors.shim_processes(role))
            pid = survivors.shim_processes(role)[0]
            with Session([str(killat), str(pid), str(number)]) as killer:
                victim.rounds(2000)
                # Attaching is over or the process is dead: the end of input goes on from there.
                end_loader(loader, killed=False)
                survivors.wait_for(f"{role} {pid} is alive",
                                   lambda: pid not in survivors.shim_processes(role))
                assert killer.end().status in (0, 3)
        finally:
            if loader.poll() is None:
                loader.kill()
                loader.wait()
        survivors.healthy(victim, code)
        victim.finish()
    survivors.nothing_left()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("role", "number"), POINTS)
def test_death_inside_a_transaction_harms_no_target(
    role: str, number: int, folder: Path
) -> None:
    one_point(role, number, folder)


@pytest.mark.long
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("role", "number"), LONG_POINTS)
def test_death_at_every_thirteenth_call_harms_no_target(
    role: str, number: int, folder: Path
) -> None:
    one_point(role, number, folder)
