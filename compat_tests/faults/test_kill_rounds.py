"""kill -9 at random moments: nobody else hangs or dies, and nothing is left behind."""

from __future__ import annotations

import itertools
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients import bpftrace
from compat_tests.clients.cases import CASES
from compat_tests.clients.processes import Victim
from compat_tests.clients.tool import SHIM
from compat_tests.faults import survivors
from compat_tests.victims import build

ROLES = ("loader", "backend", "target")
KILLED = [*itertools.combinations(ROLES, 1), *itertools.combinations(ROLES, 2), ("keeper",)]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({**build.calls(), **build.eight(static=False)})
    yield place
    shutil.rmtree(place)


def start_loader(folder: Path) -> subprocess.Popen[bytes]:
    argv = [f"{folder}/eight-shared", f"{folder}/eight.bpf.o", f"{folder}/calls",
            f"{folder}/libvictim.so"]
    return subprocess.Popen(SHIM.tool(argv), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)


def end_loader(loader: subprocess.Popen[bytes], killed: bool) -> None:
    """A loader that survives ends by itself at the end of its input, with some status."""
    assert loader.stdin is not None
    loader.stdin.close()
    try:
        status = loader.wait(survivors.GRACE)
    except subprocess.TimeoutExpired:
        picture = survivors.picture()
        loader.kill()
        loader.wait()
        raise AssertionError(f"the loader hangs\n{picture}") from None
    assert killed or status in (0, 1), f"the loader ended with {status}"


def one_round(seed: int, folder: Path) -> None:
    """One session, one or two deaths after a random time, and everything that must hold."""
    rng = random.Random(seed)
    killed = KILLED[seed % len(KILLED)]
    with Victim(SHIM, folder, "-t", "2") as victim:
        code = victim.code()
        loader = start_loader(folder)
        try:
            # The random moment is the fault that is injected, not a way to wait for anything.
            threading.Event().wait(rng.uniform(0, 0.6))
            for role in killed:
                if role == "loader":
                    loader.kill()
                elif role == "target":
                    victim.child.kill()
                else:
                    survivors.kill(survivors.shim_processes(role))
            if "target" not in killed:
                victim.rounds(50)
        finally:
            end_loader(loader, "loader" in killed)
        if "target" not in killed:
            survivors.healthy(victim, code)
            victim.finish()
    survivors.nothing_left()


def rounds(seeds: range, folder: Path) -> None:
    for seed in seeds:
        try:
            one_round(seed, folder)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, killed {KILLED[seed % len(KILLED)]}") from error


def test_stale_entries_go_at_the_next_use(folder: Path) -> None:
    loader = start_loader(folder)
    try:
        survivors.wait_for("no backend", lambda: survivors.shim_processes("backend"))
        survivors.kill(survivors.shim_processes())
    finally:
        loader.kill()
        loader.wait()
        assert loader.stdin is not None
        loader.stdin.close()
    survivors.nothing_left()
    stale = survivors.sessions()
    case = next(case for case in CASES if case.name == "count without a key")
    assert bpftrace.lines(case, SHIM, folder) == bpftrace.expected()[case.name]
    survivors.nothing_left()
    assert not set(stale) & set(survivors.sessions())


def test_the_next_session_restores_what_backend_and_keeper_left(folder: Path) -> None:
    with Victim(SHIM, folder) as victim:
        code = victim.code()
        loader = start_loader(folder)
        try:
            survivors.wait_for("not attached", lambda: victim.code() != code)
            survivors.kill(survivors.shim_processes())
        finally:
            loader.kill()
            loader.wait()
            assert loader.stdin is not None
            loader.stdin.close()
        victim.rounds(50)  # silent, and alive
        case = next(case for case in CASES if case.name == "count without a key")
        assert bpftrace.lines(case, SHIM, folder) == bpftrace.expected()[case.name]
        victim.code_becomes(code)
        survivors.wait_for("memory of a session is left",
                           lambda: not survivors.shared_memory(victim.pid))
        victim.rounds(50)
        victim.finish()
    survivors.nothing_left()


@pytest.mark.parametrize("part", [  # each of them kills in all ways
    0, *(pytest.param(part, marks=pytest.mark.long) for part in (1, 2))])
def test_21_rounds_of_kill_9_leave_nothing(part: int, folder: Path) -> None:
    rounds(range(7 * part, 7 * part + 7), folder)


@pytest.mark.long
@pytest.mark.parametrize("part", range(20))
def test_200_rounds_of_kill_9_leave_nothing(part: int, folder: Path) -> None:
    rounds(range(1000 + 10 * part, 1010 + 10 * part), folder)
