"""A process that is stopped while it holds a lock of a shared map stops nobody else."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.inject.holder import stop_inside
from compat_tests.inject.targets import COMMANDS, Target
from compat_tests.inject.test_live import Reads, own_copy, soon
from compat_tests.victims import build

MOST = 200_000  # instructions between two hits, and then some
LIMIT = 60.0  # seconds for what must happen
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.getuid() != 0, reason="traces another user's process"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    made = build.private_copy({})
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.long)])
def test_a_process_stopped_inside_of_a_lock_stops_nobody_else(times: int, folder: Path) -> None:
    """It stands behind the instruction that took the lock. The others' changes of that bucket
    are -EBUSY after a second at most (csrc/runtime/lock.c), and nothing else; when it goes on, all
    are made."""
    command = own_copy(folder, [COMMANDS["glibc"]()[0], "hot"])
    with Target(command, guarded=True) as stopped, Target(command, guarded=True) as other:
        with Reads(Path(command[0]), "stepped", source="holds") as loader:
            stopped.works()
            for _ in range(times):
                one_stop(stopped, other, loader)
            loader.finish()
        stopped.works()
        other.works()
        stopped.end()
        other.end()


def one_stop(stopped: Target, other: Target, loader: Reads) -> None:
    hot = max(map(int, os.listdir(f"/proc/{stopped.pid}/task")))
    locks = stop_inside(stopped.pid, hot, MOST)
    assert locks, f"no lock in {MOST} instructions"
    os.waitpid(stopped.pid, os.WUNTRACED)
    assert locks.held(), "it was stopped elsewhere"
    busy = loader.counters()[2]
    end = time.monotonic() + LIMIT
    while loader.counters()[2] < busy + 2:
        other.works()
        assert time.monotonic() < end, "the others do not get on"
    assert locks.held()
    stopped.process.send_signal(signal.SIGCONT)
    stopped.works()
    done = loader.counters()[1]
    soon("no changes are made", lambda: loader.counters()[1] > done)
    stopped.works()
    other.works()
    hits, _, _, wrong = loader.counters()
    assert hits > 0 and wrong == 0
    locks.close()
