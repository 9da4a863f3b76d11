"""A perf ring that is full loses records and says how many: what came and what was lost is all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.victims import build

HERE = Path(__file__).parent
FLOOD, AFTER = 30_000, 30


@pytest.fixture
def folder() -> Iterator[Path]:
    flags = [*build.WARN, "-O1", "-fcf-protection=none", "-rdynamic"]
    place = build.private_copy({"spoken": build.make("spoken", [HERE / "spoken.c"], flags)})
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("way", [SHIM, pytest.param(KERNEL, marks=[pytest.mark.kernel])],
                         ids=lambda way: way.name)
def test_records_that_came_and_those_that_were_lost_are_all(folder: Path, way: Way) -> None:
    """One page of ring, one CPU for reader and writer, and a record that a reader spends time on
    (not by looking for names in a process that ends: bpftrace 0.17 then closes a file that isn't
    its own: stdout, a map)."""
    text = ", ".join(['strftime("%A %d %B %Y, %H:%M:%S", nsecs)'] * 3)
    program = (f'uprobe:{folder}/spoken:flooded {{ printf("came %s %s %s\\n", {text}); '
               "@total = count(); }")
    argv = ["taskset", "-c", "0", "env", "BPFTRACE_PERF_RB_PAGES=1", "bpftrace", "-e", program,
            "-c", f"{folder}/spoken {FLOOD} {AFTER}"]
    outcome = run(way.tool(argv))
    assert outcome.status == 0, outcome.err
    came = len(re.findall(r"^came", outcome.out, re.M))
    lost = sum(int(n) for n in re.findall(r"Lost (\d+) events", outcome.out + outcome.err))
    total = int(re.findall(r"^@total: (\d+)$", outcome.out, re.M)[0])
    assert lost and came > AFTER
    assert came + lost == total
    if way is SHIM:  # the kernel may leave a run out
        assert total == FLOOD + AFTER
