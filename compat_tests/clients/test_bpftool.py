"""Stock bpftool answers under guard and shim as on the kernel, in every case of the table."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients import bpftool
from compat_tests.clients.bpftool_cases import CASES, Case
from compat_tests.clients.tool import KERNEL, SHIM
from compat_tests.victims import build

NAMES = [case.name for case in CASES]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    place = build.private_copy({**build.calls(), **build.held(), **build.tool()})
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_shim_answers_as_recorded(case: Case, folder: Path) -> None:
    assert bpftool.lines(case, SHIM, folder) == bpftool.expected()[case.name]


@pytest.mark.kernel
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_kernel_answers_as_recorded(case: Case, folder: Path) -> None:
    assert bpftool.lines(case, KERNEL, folder) == bpftool.expected()[case.name]
