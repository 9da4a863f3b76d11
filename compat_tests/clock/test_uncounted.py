"""A process that may not read the time stamp counter, which the vDSO does, has the time by
system calls, and lives."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.victims import build

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    place = build.private_copy({
        "load": build.make("load", [HERE / "load.c"], [*build.WARN, "-O1"], ["-lbpf"]),
        "uncounted": build.make("uncounted", [HERE / "uncounted.c"],
                                [*build.WARN, "-O1", "-rdynamic", "-pthread"]),
        "uncounted.bpf.o": build.make("uncounted.bpf.o", [HERE / "uncounted.bpf.c"],
                                      build.BPF_FLAGS, compiler=build.CLANG,
                                      headers=[HERE / "note.h"])})
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize(("how", "way"), [
    ("before", SHIM), ("library", SHIM), ("thread", SHIM),
    pytest.param("thread", KERNEL, marks=[pytest.mark.kernel])])  # fmt: skip
def test_who_may_not_read_the_counter_lives(folder: Path, how: str, way: Way) -> None:
    """Before it is hit, by the library's function once it has been, in a new thread beside one
    that goes on counting."""
    outcome = run(way.tool([f"{folder}/load", f"{folder}/uncounted.bpf.o", f"{folder}/uncounted",
                            f"{folder}/uncounted {how}"]))
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines() == ["READY", f"{how}: alive", "out[0] 101", "out[1] 101"]
