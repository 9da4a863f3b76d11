"""Stacks of programs without frame pointers: what a program is given is what libgcc's unwinder
makes of the same stack, return address for return address."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, SHIM_NO_PTRACE, Way, run
from compat_tests.victims import build

HERE = Path(__file__).parent
FLAGS = [*build.WARN, "-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-rdynamic",
         "-fcf-protection=none", "-pthread"]
STACK = "ustack(perf, 60)"
DONE = " uprobe:$V:done { exit(); }"
WAYS = {"straight", "wide", "aligned", "compare", "handler", "deep"}


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({
        "unwound": build.make("unwound", [HERE / "unwound.c"], FLAGS, ["-ldl"]),
        "libplug9.so": build.make("libplug9.so", [HERE / "plug.c"],
                                  [*FLAGS, "-shared", "-fPIC"])})
    yield place
    shutil.rmtree(place)


def stacks(way: Way, folder: Path, program: str) -> tuple[list[list[int]], list[list[int]]]:
    """Return addresses of each call of leaf, as the victim told them; and of each stack that
    bpftrace printed, its first address left out."""
    outcome = run(way.tool(["bpftrace", "-B", "line", "-c",
                            f"{folder}/unwound {folder}/libplug9.so",
                            "-e", (program + DONE).replace("$V", f"{folder}/unwound")]))
    assert outcome.status == 0, outcome
    told = [[int(word, 16) for word in line.split()[1:]]
            for line in outcome.out.splitlines() if line.startswith("straight ")]
    printed: list[list[int]] = []
    for line in outcome.out.splitlines():
        if line == "STACK":
            printed.append([])
        elif found := re.match(r"\s+([0-9a-f]+) ", line):
            printed[-1].append(int(found[1], 16))
    return told, [frames[1:] for frames in printed]


@pytest.mark.parametrize("way", [SHIM, SHIM_NO_PTRACE], ids=["ptrace", "no ptrace"])
def test_each_stack_is_the_one_that_libgcc_unwinds(folder: Path, way: Way) -> None:
    told, printed = stacks(
        way, folder, f'uprobe:$V:leaf {{ printf("STACK\\n%s\\n", {STACK}); }}')
    assert len(told) == 10 and len({len(frames) for frames in told}) > 5
    # leaf was called by straight itself, which told of its callers; rings have no order
    assert sorted(frames[1:] for frames in printed) == sorted(told)


def test_return_probes_do_not_show(folder: Path) -> None:
    """The functions on the way have their return addresses taken, some of them twice."""
    probes = ",".join(f"uretprobe:$V:{name}" for name in sorted(WAYS | {"sorted", "main"}))
    program = (f"{probes} {{ @[func] = count(); }} uretprobe:$V:deep {{ @deep = count(); }} "
               f'uprobe:$V:leaf {{ printf("STACK\\n%s\\n", {STACK}); }} END {{ clear(@); }}')
    plain, _ = stacks(SHIM, folder, f'uprobe:$V:leaf {{ printf("STACK\\n%s\\n", {STACK}); }}')
    _, printed = stacks(SHIM, folder, program)
    want = sorted([a & 0xFFF for a in frames] for frames in plain)
    assert sorted([a & 0xFFF for a in frames[1:]] for frames in printed) == want


def test_a_stack_at_a_return_begins_where_the_function_was_called(folder: Path) -> None:
    told, printed = stacks(
        SHIM, folder, f'uretprobe:$V:leaf {{ printf("STACK\\n%s\\n", {STACK}); }}')
    assert sorted(printed) == sorted(told)
