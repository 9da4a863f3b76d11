"""bpf_send_signal, bpf_send_signal_thread and bpf_probe_write_user do as on the kernel."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.victims import build

HERE = Path(__file__).parent


@pytest.fixture
def folder() -> Iterator[Path]:
    flags = [*build.WARN, "-O1", "-fcf-protection=none", "-rdynamic", "-pthread"]
    place = build.private_copy({
        "load": build.make("load", [HERE / "load.c"], [*build.WARN, "-O1"], ["-lbpf"]),
        "deeds": build.make("deeds", [HERE / "deeds.c"], flags),
        "deeds.bpf.o": build.make("deeds.bpf.o", [HERE / "deeds.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG, headers=[HERE / "note.h"]),
        "writes.bpf.o": build.make("writes.bpf.o", [HERE / "deeds.bpf.c"],
                                   [*build.BPF_FLAGS, "-DWRITES"], compiler=build.CLANG,
                                   headers=[HERE / "note.h"])})
    yield place
    shutil.rmtree(place)


def lines(way: Way, folder: Path, name: str) -> list[str]:
    outcome = run(way.tool([f"{folder}/load", f"{folder}/{name}", f"{folder}/deeds",
                            f"{folder}/deeds; echo status $?"]))
    assert outcome.status == 0, outcome
    return outcome.out.splitlines()


SIGNALS = ["READY", "process: signal 10 code 128", "thread: signal 12 code 128 there 1",
           "memory: 5 7", "status 137", "out[0] 100", "out[1] 22", "out[2] 22"]


@pytest.mark.parametrize("way", [SHIM, pytest.param(KERNEL, marks=[pytest.mark.kernel])],
                         ids=lambda way: way.name)
def test_signals_come_where_and_as_the_kernel_sends_them(folder: Path, way: Way) -> None:
    found = [line for line in lines(way, folder, "deeds.bpf.o") if "Killed" not in line]
    assert found == SIGNALS


def test_memory_is_written_where_the_process_may_write(folder: Path) -> None:
    """A machine that is locked down has no such helper, so there is no kernel to ask."""
    found = [line for line in lines(SHIM, folder, "writes.bpf.o") if "Killed" not in line]
    wanted = [line.replace("memory: 5", "memory: 1122334455667788") for line in SIGNALS]
    assert found == [*wanted, "out[3] 100", "out[4] 14", "out[5] 14"]
