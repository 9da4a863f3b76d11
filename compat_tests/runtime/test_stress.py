"""Many writers on one map, processes and threads, while some are killed: stress.c."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from compat_tests.maps import runtime
from compat_tests.victims import build

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = HERE / "stress.c"
TYPES = {"HASH": 1, "LRU_HASH": 9, "LPM_TRIE": 11}


def plain(source: Path = SOURCE) -> list[str]:
    """A source with the runtime as it is in the library."""
    sources = sorted((ROOT / "csrc" / "runtime").glob("*.c"))
    objects = [ROOT / "build" / "obj" / "runtime" / f"{each.name}.o" for each in sources]
    include = ROOT / "csrc" / "include"
    return [str(build.make(source.stem, [source, *objects],
                           [*build.WARN, "-O2", "-pthread", f"-I{include}"],
                           headers=sorted([*include.glob("*.h"), *HERE.glob("*.h")])))]


def watched() -> list[str]:
    """All of it under ThreadSanitizer, which wants its own memcpy and fixed addresses."""
    try:
        made = runtime.program("stress-tsan", SOURCE, runtime.THREADS)
    except build.BuildError as err:
        if "tsan" in str(err):
            pytest.skip("no ThreadSanitizer")
        raise
    return ["setarch", "-R", str(made)]


def run(program: list[str], kind: str, seconds: float, processes: int,
        threads: int) -> tuple[int, int]:
    """Changes made, processes killed."""
    sizes = [str(n) for n in (TYPES[kind], seconds, processes, threads)]
    done = subprocess.run([*program, *sizes], capture_output=True, text=True,
                          timeout=seconds + 60)
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(r"(\d+) changes, (\d+) killed\n", done.stdout)
    assert found, done.stdout
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("kind", TYPES)
def test_threads_lose_no_update(kind: str) -> None:
    assert run(plain(), kind, 1, 0, 4)[0] > 100


@pytest.mark.parametrize("kind", TYPES)
def test_threads_have_no_data_race(kind: str) -> None:
    assert run(watched(), kind, 1, 0, 4)[0] > 10


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", TYPES)
def test_processes_that_die_lose_no_update(kind: str) -> None:
    changes, killed = run(plain(), kind, 2, 8, 4)
    assert changes > 100 and killed > 0


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", TYPES)
def test_processes_that_die_for_a_minute_lose_no_update(kind: str) -> None:
    changes, killed = run(plain(), kind, 60, 8, 4)
    assert changes > 10000 and killed > 50
