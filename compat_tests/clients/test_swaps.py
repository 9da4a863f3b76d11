"""A loader changes maps of maps and of programs while processes go through them: each hit finds
what was there before or what is there now, never neither."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.processes import Victim
from compat_tests.clients.tool import KERNEL, LIMIT, SHIM, SHIM_NO_PTRACE, Session, Way
from compat_tests.faults import survivors
from compat_tests.victims import build

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim"), pytest.param(SHIM_NO_PTRACE, id="no-ptrace")]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({**build.calls(), **build.swap()})
    yield place
    shutil.rmtree(place)


class Swap(Session):
    """swap.c, attached when the constructor returns."""

    def __init__(self, way: Way, folder: Path) -> None:
        super().__init__(
            way.tool([f"{folder}/swap", f"{folder}/swap.bpf.o", f"{folder}/calls"]),
            stdin=subprocess.PIPE)
        try:
            self.until(b"READY\n")
        except BaseException:
            self.__exit__()
            raise

    def ask(self, line: str, limit: float = LIMIT) -> str:
        self.seen = b""
        self.send(line.encode() + b"\n")
        self.until(b"\n", limit)
        return self.seen.decode().strip()

    def swap(self, count: int, *, keep: bool = True) -> None:
        assert self.ask(f"{'keep' if keep else 'drop'} {count}") == f"swapped {count}"

    def report(self) -> dict[str, int]:
        return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", self.ask("report"))}

    def finish(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        outcome = self.end()
        assert outcome.status == 0, f"the loader ended with {outcome.status}: {outcome.out}"


def whole(report: dict[str, int], hits: int) -> None:
    """Every hit is in one inner map by each way to it, and in one of the programs."""
    assert report["hits"] == hits
    assert report["empty"] == report["fell"] == 0
    assert report["first"] + report["second"] == hits
    assert report["inner"] == 2 * hits


@pytest.mark.parametrize("way", WAYS)
def test_no_hit_of_a_running_process_misses_a_change(way: Way, folder: Path) -> None:
    hits = 20_000 if way is KERNEL else 200_000
    with Victim(way, folder, "-t", "2") as victim, Swap(way, folder) as loader:
        work = threading.Thread(target=victim.rounds, args=(hits,))
        work.start()
        while work.is_alive():
            loader.swap(5)
        work.join()
        whole(loader.report(), 2 * hits)
        assert loader.ask("clear") == "cleared"
        victim.rounds(10)
        after = loader.report()
        assert (after["hits"] - 2 * hits, after["empty"], after["fell"]) == (20, 40, 20)
        loader.swap(1)
        victim.rounds(10)
        again = loader.report()
        assert [again[name] - after[name] for name in ("hits", "empty", "fell", "inner")] == [
            20, 0, 0, 40]
        loader.finish()
        victim.finish()


@pytest.mark.parametrize("way", WAYS)
def test_no_hit_of_processes_that_fork_misses_a_change(way: Way, folder: Path) -> None:
    rounds = 5_000 if way is KERNEL else 100_000
    with Swap(way, folder) as loader:
        argv = way.target([f"{folder}/calls", "-n", str(rounds), "-t", "2", "-f", "3"])
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as target:
            while target.poll() is None:
                loader.swap(5)
        assert target.returncode == 0
        whole(loader.report(), 8 * rounds)
        loader.finish()


def mapped(pid: int) -> int:
    """Maps of a session in a process."""
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:bpf-map")


def test_inner_maps_that_are_gone_leave_the_processes(folder: Path) -> None:
    with Victim(SHIM, folder, "-t", "2") as victim, Swap(SHIM, folder) as loader:
        victim.rounds(10)
        before = mapped(victim.pid)
        work = threading.Thread(target=victim.rounds, args=(100_000,))
        work.start()
        loader.swap(20, keep=False)
        work.join()
        survivors.wait_for("inner maps are left", lambda: mapped(victim.pid) <= before)
        report = loader.report()
        assert report["empty"] == report["fell"] == 0
        loader.finish()
        victim.finish()


TRACER = """
import ctypes, sys
assert ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None) == 0  # PTRACE_SEIZE
print("traced", flush=True)
sys.stdin.read()
"""


def test_a_process_that_somebody_traces_is_named_and_made_good_for(folder: Path) -> None:
    with Victim(SHIM, folder, "-t", "2") as victim, Swap(SHIM, folder) as loader:
        victim.rounds(10)
        argv = [sys.executable, "-c", TRACER, str(victim.pid)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracer:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == b"traced\n"
            assert f"process {victim.pid}: element not delivered" in loader.ask("keep 1")
            loader.until(b"swapped 1\n")
            victim.rounds(10)
            missed = loader.report()
            assert (missed["hits"], missed["empty"], missed["fell"]) == (40, 40, 20)
            tracer.communicate()

        def whole_again() -> bool:
            before = loader.report()
            loader.swap(1)
            victim.rounds(10)
            return loader.report()["empty"] == before["empty"]

        survivors.wait_for("elements are missing", whole_again)
        loader.finish()
        victim.finish()


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.05])
def test_a_loader_killed_while_it_swaps_harms_nobody(moment: float, folder: Path) -> None:
    with Victim(SHIM, folder, "-t", "2") as victim:
        code = victim.code()
        with Swap(SHIM, folder) as loader:
            work = threading.Thread(target=victim.rounds, args=(50_000,))
            work.start()
            loader.send(b"drop 200\n")
            threading.Event().wait(moment)  # the fault that is injected, not a way to wait
            loader.child.kill()
            loader.child.wait(LIMIT)
            work.join()
        survivors.healthy(victim, code)
        victim.finish()
    survivors.nothing_left()
