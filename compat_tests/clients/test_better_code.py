"""A program goes over to LLVM's code while its probe fires: no hit is lost or counted twice, every
result is the same, and whatever happens in the middle of it harms no process."""

from __future__ import annotations

import functools
import os
import re
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.processes import Victim
from compat_tests.clients.tool import LIMIT, SHIM, SHIM_NO_PTRACE, Session, Way
from compat_tests.faults import survivors
from compat_tests.victims import build
from libbpf_shim.jit import tier2, tiers

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not tier2.available(), reason="llvmlite is not installed"),
    pytest.mark.skipif(tiers.VARIABLE in os.environ, reason="one tier alone: no code is replaced"),
]
THREADS, FORKS, ROUNDS = 3, 1, 2000
SHOWN = 24  # bytes of machine code by which it is known in a process


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({**build.calls(), **build.better()})
    yield place
    shutil.rmtree(place)


class Better(Session):
    """better.c, attached when the constructor returns, with a program that is new here."""

    def __init__(self, way: Way, folder: Path) -> None:
        self.salt = secrets.randbits(64)
        super().__init__(
            way.tool([f"{folder}/better", f"{folder}/better.bpf.o", f"{folder}/calls",
                      str(self.salt)]), stdin=subprocess.PIPE)
        try:
            self.until(b"READY\n")
        except BaseException:
            self.__exit__()
            raise

    def ask(self, line: str) -> str:
        self.seen = b""
        self.send(line.encode() + b"\n")
        self.until(b"\n")
        return self.seen.decode().strip()

    def code(self) -> bytes:
        answer = self.ask("code")
        assert answer.startswith("code"), answer
        return bytes.fromhex(answer.removeprefix("code"))

    def report(self) -> dict[str, int]:
        return {name: int(count) for name, count in re.findall(r"(\w+) (\d+)", self.ask("report"))}

    def finish(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        outcome = self.end()
        assert outcome.status == 0, f"the loader ended with {outcome.status}: {outcome.out}"


@functools.cache
def computed(salt: int, rounds: int) -> tuple[int, int]:
    """What one run of so many rounds adds to the two sums."""
    loop = callback = 0
    for x in range(rounds):
        for n, byte in enumerate((x ^ salt).to_bytes(8, "little")):
            loop += byte * (n + 1)
            callback += byte
    return loop, callback


def expected(salt: int, runs: int) -> dict[str, int]:
    """After so many runs, one for each thread, of ROUNDS rounds."""
    loop, callback = computed(salt, ROUNDS)
    return {"hits": runs * ROUNDS, "loop": runs * loop % 2**64, "callback": runs * callback,
            "threads": runs * ROUNDS}


def has(pid: int, code: bytes) -> bool:
    """Whether a process could execute machine code that begins so."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for row in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, rights, *_ = row.split()
            if "x" not in rights or "[vsyscall]" in row:
                continue
            start, end = (int(word, 16) for word in place.split("-"))
            memory.seek(start)
            try:
                if code[:SHOWN] in memory.read(end - start):
                    return True
            except OSError:  # it went meanwhile
                continue
    return False


class Firing(threading.Thread):
    """Rounds of a victim, until it is told to stop; runs: of threads, that have ended."""

    def __init__(self, victim: Victim) -> None:
        super().__init__()
        self.victim, self.stop, self.batches = victim, threading.Event(), 0
        self.start()

    def run(self) -> None:
        while not self.stop.is_set():
            self.victim.rounds(ROUNDS)
            self.batches += 1

    def runs(self) -> int:
        """Stops it."""
        self.stop.set()
        self.join()
        return THREADS * (1 + FORKS) * self.batches


def firing_victim(way: Way, folder: Path) -> Victim:
    return Victim(way, folder, "-m", "tick", "-t", str(THREADS), "-f", str(FORKS))


def replaced(loader: Better, first: bytes) -> bytes:
    """The new code, once the loader is told of it."""
    found = first

    def look() -> bool:
        nonlocal found
        found = loader.code()
        return found != first

    survivors.wait_for("no better code", look)
    return found


WAYS = [pytest.param(SHIM, id="shim"),
        pytest.param(SHIM_NO_PTRACE, id="no-ptrace", marks=pytest.mark.long)]


@pytest.mark.parametrize("way", WAYS)
def test_no_hit_of_threads_and_forks_is_lost_or_doubled(way: Way, folder: Path) -> None:
    with firing_victim(way, folder) as victim, Better(way, folder) as loader:
        first, salt = loader.code(), loader.salt
        firing = Firing(victim)
        try:
            better = replaced(loader, first)
            survivors.wait_for("the victim has no better code", lambda: has(victim.pid, better))
            before = firing.batches
            survivors.wait_for("no round on it", lambda: firing.batches > before + 1)
        finally:
            runs = firing.runs()
        assert loader.report() == expected(salt, runs)
        assert loader.ask("detach") == "detach"
        victim.rounds(ROUNDS)
        assert loader.report() == expected(salt, runs)
        assert loader.ask("attach") == "attach"
        victim.rounds(ROUNDS)
        assert loader.report() == expected(salt, runs + THREADS * (1 + FORKS))
        loader.finish()
        victim.finish()


def detach_at(moment: float, folder: Path) -> None:
    """So long after the loader was told of the new code."""
    with firing_victim(SHIM, folder) as victim:
        code = victim.code()
        with Better(SHIM, folder) as loader:
            firing = Firing(victim)
            try:
                replaced(loader, loader.code())
                threading.Event().wait(moment)  # the fault that is injected, not a way to wait
                assert loader.ask("detach") == "detach"
                before = firing.batches
                survivors.wait_for("no round after it", lambda: firing.batches > before + 1)
                told = loader.report()
            finally:
                runs = firing.runs()
            assert loader.report() == told  # no hit after the detach
            assert told["hits"] == told["threads"] <= runs * ROUNDS
            victim.code_becomes(code)
            assert loader.ask("attach") == "attach"
            victim.rounds(ROUNDS)
            more = expected(loader.salt, THREADS * (1 + FORKS))
            assert loader.report() == {name: told[name] + more[name] for name in told}
            loader.finish()
        victim.finish()


@pytest.mark.long
@pytest.mark.parametrize("turn", range(12))
def test_a_detach_in_the_middle_ends_it(turn: int, folder: Path) -> None:
    detach_at(0.0005 * turn, folder)


def settled(killer: Session, victim: Victim, loader: Better, first: bytes) -> bool:
    """Somebody was killed, or the victim has its new code."""
    if killer.child.poll() is not None:
        return True
    try:
        found = loader.code()
    except (AssertionError, BrokenPipeError):  # the loader ended: nobody answers it any more
        return True
    return found != first and has(victim.pid, found)


def one_death(role: str, number: int, folder: Path) -> None:
    """The backend or the keeper is killed at its system call of that number, counted from the
    attach on, while a probe fires; if it makes so many until the code is replaced, and after
    that."""
    source = Path(__file__).parents[1] / "faults" / "killat.c"
    killat = build.make("killat", [source], [*build.WARN, "-O1"])
    with firing_victim(SHIM, folder) as victim:
        code = victim.code()
        with Better(SHIM, folder) as loader:
            first = loader.code()
            pid = survivors.shim_processes(role)[0]
            firing = Firing(victim)
            try:
                with Session([str(killat), str(pid), str(number)]) as killer:
                    killer.until(b"following\n")
                    survivors.wait_for(f"{role} {pid} is at nothing",
                                       lambda: settled(killer, victim, loader, first))
                    loader.child.kill()
                    loader.child.wait(LIMIT)
                    survivors.wait_for(f"{role} {pid} is alive",
                                       lambda: pid not in survivors.shim_processes(role))
                    assert killer.end().status in (0, 3)
            finally:
                firing.runs()
        survivors.healthy(victim, code)
        victim.finish()
    survivors.nothing_left()


@pytest.mark.long
@pytest.mark.parametrize(("role", "number"), [
    (role, n) for role in ("backend", "keeper") for n in (*range(1, 400, 9), *range(400, 1500, 50))
])
def test_a_death_in_the_middle_harms_no_process(role: str, number: int, folder: Path) -> None:
    one_death(role, number, folder)
