"""Stacks of a program with frame pointers: bpftrace shows the same on the kernel and here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, normal, run
from compat_tests.victims import build

U, R = "uprobe:$V/deep:", "uretprobe:$V/deep:"
PROGRAMS = {
    "at a function's first instruction": U + "leaf { @[ustack(4)] = count(); }",
    "at the start of a function without a frame": U + "bare { @[ustack(3)] = count(); }",
    "at a return": R + "inner { @[ustack(3)] = count(); }",
    "through functions whose return is probed":
        R + "middle { @r = count(); } " + R + "leaf { @l = count(); } "
        + U + "leaf { @[ustack(4)] = count(); }",
    "deeper than is asked for": U + "leaf { @[ustack(9)] = count(); }",
    "as deep as the kernel goes": U + "leaf { @[ustack] = count(); }",
    "of the kernel there is none": U + "leaf { @[kstack] = count(); }",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy(build.deep())
    yield place
    shutil.rmtree(place)


def lines(way: Way, folder: Path, program: str) -> list[str]:
    """What bpftrace prints of a run of `deep`; above main there is libc, whose frames differ."""
    text = program.replace("$V", str(folder))
    outcome = run(way.tool(["bpftrace", "-c", f"{folder}/deep", "-e", text]))
    assert outcome.status == 0, outcome
    return normal(outcome.out, folder, ((r"^0x7[ef][0-9a-f]{10}", "LIBC"),))


@pytest.mark.kernel
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_stack_is_the_kernels(folder: Path, program: str) -> None:
    assert lines(SHIM, folder, program) == lines(KERNEL, folder, program)
