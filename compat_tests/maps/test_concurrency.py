"""Many processes and threads on the same maps, some of them killed: every model holds at the end.

crowd.h says what each worker does and checks. A deadlock is an end that does not come: the parent
waits 20 s for each process, and a killed one's locks are taken over by the others.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.maps import runtime
from compat_tests.maps.drive import HERE
from compat_tests.victims import build

PATIENCE = 60.0  # seconds more than the work itself


def crowd() -> Path:
    return build.make("maps-crowd", [HERE / "crowd.c"], [*build.WARN, "-O2", "-pthread"],
                      headers=[HERE / "crowd.h"])


def survive(way: Way, seconds: int, kills: int) -> None:
    """SECONDS of 8 processes of 4 threads, KILLS of them a second."""
    done = run(way.tool([str(crowd()), str(seconds), str(kills)]), seconds + PATIENCE)
    assert done.status == 0, done
    found = re.fullmatch(r"operations (\d+) busy \d+ killed (\d+) keys (\d+) slowest \d+ us\n",
                         done.out)
    assert found, done
    operations, killed, keys = map(int, found.groups())
    print(done.out)
    assert operations > 1000 * seconds and killed and keys


def threads_of_the_runtime(seconds: int) -> None:
    """12 threads under ThreadSanitizer: no race that is not an atomic access."""
    program = runtime.program("maps-threads", HERE / "threads.c", runtime.THREADS)
    done = subprocess.run([program, str(seconds)], capture_output=True, text=True,
                          timeout=seconds + PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr[:4000]
    print(done.stdout)
    assert re.match(r"operations \d{4,} keys [1-9]", done.stdout)


def test_no_write_is_lost_by_a_crowd_of_which_some_are_killed() -> None:
    survive(SHIM, 4, 10)


@pytest.mark.kernel
def test_the_kernels_maps_pass_the_same_test() -> None:
    survive(KERNEL, 2, 5)


def test_threads_race_only_where_both_sides_are_atomic() -> None:
    threads_of_the_runtime(4)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_no_write_is_lost_by_a_crowd_of_which_some_are_killed_in_a_minute() -> None:
    survive(SHIM, 60, 10)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_threads_race_only_where_both_sides_are_atomic_in_a_minute() -> None:
    threads_of_the_runtime(60)
