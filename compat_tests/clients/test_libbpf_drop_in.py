"""libbpf.so.1 as a drop-in: what links libbpf runs with it through LD_LIBRARY_PATH alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients import bpftrace
from compat_tests.clients.cases import CASES, Case
from compat_tests.clients.processes import Eight, computed
from compat_tests.clients.tool import DROP_IN, run
from compat_tests.guard import launch
from compat_tests.victims import build
from tools.relink_libbpf import installed, versions

SYSTEM = installed("libbpf.so")
pytestmark = pytest.mark.skipif(SYSTEM is None, reason="libbpf-dev is not installed")
# One of each kind that reaches another part of libbpf or of the other libraries.
FEW = [case for case in CASES if case.attach == "child"][::6]


def ours() -> Path:
    return launch.library().with_name("libbpf.so.1")


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({**build.calls(), **build.eight(static=False)})
    yield place
    shutil.rmtree(place)


def test_every_symbol_has_the_version_that_the_system_s_library_gives_it() -> None:
    assert SYSTEM
    system, found = versions(SYSTEM), versions(ours())
    assert list(found) == list(system)
    for node in system:
        assert found[node][0] == system[node][0], node
        assert sorted(found[node][1]) == sorted(system[node][1]), node
    assert sum(len(symbols) for _, symbols in found.values()) >= 304


def test_nothing_else_is_exported() -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", str(ours())], capture_output=True,
                            text=True, check=True).stdout  # fmt: skip
    plain = [line for line in listed.splitlines() if "@@LIBBPF_" not in line]
    assert [line for line in plain if " A LIBBPF_" not in line] == []


def test_a_program_counts_eight_probes_with_it(folder: Path) -> None:
    with Eight(DROP_IN, folder) as loader:
        target = run(DROP_IN.target([str(folder / "calls"), "-n", "2500", "-t", "4"]))
        assert target.status == 0, target
        assert loader.report() == computed(2500, 4, 1)
        loader.finish()


@pytest.mark.parametrize("case", FEW, ids=[case.name for case in FEW])
def test_bpftrace_answers_as_on_the_kernel(case: Case, victim: Path) -> None:
    assert bpftrace.lines(case, DROP_IN, victim) == bpftrace.wanted(case, victim)


def test_preloaded_too_it_is_the_same_library(folder: Path) -> None:
    argv = ["bpftrace", "-e", 'BEGIN { printf("%s", "once\\n"); exit(); }']
    done = run(launch.guarded(argv, preload=True, drop_in=True))
    assert (done.status, done.out.count("once"), done.err) == (0, 1, "")


def test_without_the_surface_beside_it_a_program_does_not_start(tmp_path: Path) -> None:
    shutil.copy(ours(), tmp_path)
    done = subprocess.run(["bpftrace", "--version"], capture_output=True, text=True,
                          env={"LD_LIBRARY_PATH": str(tmp_path)}, timeout=30)  # fmt: skip
    assert done.returncode == 127 and "libbpf_shim.so" in done.stderr
