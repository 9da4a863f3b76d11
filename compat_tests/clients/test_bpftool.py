"""Stock bpftool answers under guard and shim as on the kernel, in every case of the table."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients import bpftool
from compat_tests.clients.bpftool_cases import CASES, DIFFERENCES, Case, Difference
from compat_tests.clients.tool import KERNEL, NOT_RECORDED, SHIM, Outcome, Way, recorded, run
from compat_tests.guard import launch
from compat_tests.victims import build

NAMES = [case.name for case in CASES]
VMLINUX = Path("/sys/kernel/btf/vmlinux")
PARITY = Path(__file__).parents[2] / "docs" / "parity.md"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    place = build.private_copy({**build.calls(), **build.held(), **build.tool()})
    yield place
    shutil.rmtree(place)


def as_here(lines: list[str]) -> list[str]:
    """What the kernel said; of programs that have no machine code what one without JIT says."""
    if os.environ.get("LIBBPF_SHIM_TIER") != "0":
        return lines
    return [line.replace("  jited BYTES", "  not jited")
            .replace('"jited":true,"bytes_jited":BYTES', '"jited":false') for line in lines]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_shim_answers_as_recorded(case: Case, folder: Path) -> None:
    assert bpftool.lines(case, SHIM, folder) == as_here(bpftool.wanted(case, folder))


@pytest.mark.kernel
@pytest.mark.skipif(not recorded("bpftool"), reason=NOT_RECORDED)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_kernel_answers_as_recorded(case: Case, folder: Path) -> None:
    assert bpftool.lines(case, KERNEL, folder) == bpftool.expected()[case.name]


WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=[d.case.name for d in DIFFERENCES])
@pytest.mark.parametrize("way", WAYS)
def test_what_differs_is_known_and_still_differs(
    way: Way, difference: Difference, folder: Path
) -> None:
    found = bpftool.lines(difference.case, way, folder)
    said = tuple(found[found.index(f"$ {difference.case.lines[-1]}") + 1 :])
    assert said == (difference.kernel if way is KERNEL else difference.here)
    rows = [row for row in PARITY.read_text().splitlines()
            if row.startswith(f"| {difference.in_parity}")]
    assert len(rows) == 1


@pytest.mark.kernel
@pytest.mark.skipif(not launch.reachable(VMLINUX), reason=f"{VMLINUX} cannot be read by a user")
def test_types_of_the_kernel_are_the_machines_own() -> None:
    kernel, here = (run(way.tool(["sh", "-c", "bpftool btf dump id 1 | md5sum; "
                                  "bpftool btf show id 1"])) for way in (KERNEL, SHIM))
    assert here == kernel and not here.err


def test_bpf_shim_run_is_the_preloaded_library() -> None:
    outcome = run(launch.shim_run(["bpftool", "-j", "map", "list"]))
    assert outcome == Outcome(0, "[]\n", "")
