"""Many writers on one map, processes and threads, while some are killed: stress.c."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from compat_tests.victims import build

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = HERE / "stress.c"
TYPES = {"HASH": 1, "LRU_HASH": 9, "LPM_TRIE": 11}


def run(kind: str, seconds: float, processes: int, threads: int) -> tuple[int, int]:
    """Changes made, processes killed."""
    runtime = sorted((ROOT / "csrc" / "runtime").glob("*.c"))
    objects = [ROOT / "build" / "obj" / "runtime" / f"{source.name}.o" for source in runtime]
    program = build.make("stress", [SOURCE, *objects],
                         [*build.WARN, "-O2", "-pthread", f"-I{ROOT / 'csrc' / 'include'}"])
    done = subprocess.run([program, str(TYPES[kind]), str(seconds), str(processes), str(threads)],
                          capture_output=True, text=True, timeout=seconds + 60)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"(\d+) changes, (\d+) killed\n", done.stdout)
    assert found, done.stdout
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("kind", TYPES)
def test_threads_lose_no_update(kind: str) -> None:
    assert run(kind, 1, 0, 4)[0] > 100


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", TYPES)
def test_processes_that_die_lose_no_update(kind: str) -> None:
    changes, killed = run(kind, 2, 8, 4)
    assert changes > 100 and killed > 0


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", TYPES)
def test_processes_that_die_for_a_minute_lose_no_update(kind: str) -> None:
    changes, killed = run(kind, 60, 8, 4)
    assert changes > 10000 and killed > 50
