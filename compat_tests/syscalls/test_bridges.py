"""Cancellable calls, as C libraries make them by one function that looks whether the thread is
cancelled: a signal that comes while programs run at the call's entry is not lost."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.guard import launch
from compat_tests.victims import build
from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite.syscalls import make_plan

HERE = Path(__file__).resolve().parent
NAMES = ("fill", "mark", "look")


@pytest.fixture
def folder() -> Iterator[Path]:
    flags = [*build.WARN, "-O2", "-fcf-protection=none"]
    made = build.private_copy({
        "bridged": build.make("bridged", [HERE / "bridged.c", HERE / "bridges.S"], flags),
        "loader": build.make("loader", [HERE / "override_loader.c"], [*build.WARN, "-O2"],
                             ["-lbpf"]),
        "plain.o": build.make("bridged.bpf.o", [HERE / "bridged.bpf.c"], build.BPF_FLAGS,
                              compiler=build.CLANG),
        "skips.o": build.make("skips.bpf.o", [HERE / "bridged.bpf.c"],
                              [*build.BPF_FLAGS, "-DSKIPS"], compiler=build.CLANG),
    })
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("way, programs", [
    pytest.param(KERNEL, "plain.o", marks=pytest.mark.kernel, id="kernel"),
    pytest.param(SHIM, "plain.o", id="shim"),
    pytest.param(SHIM, "skips.o", id="skipped"),
])
def test_a_signal_at_a_calls_entry_cancels_it(
    way: Way, folder: Path, programs: str
) -> None:
    loader = subprocess.Popen(way.tool([str(folder / "loader"), str(folder / programs)]),
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert loader.stdin and loader.stdout
    try:
        assert loader.stdout.readline() == "READY\n"
        done = run(way.target([str(folder / "bridged")]))
        counts = loader.communicate("", timeout=30)[0].split()
    finally:
        loader.kill()
        loader.wait()
    uid = 4242 if programs == "skips.o" else 0 if way is KERNEL else launch.UID
    each = "{} mapped 1 uid {} none -9\ncancelled 8\ncancelled 8\n"
    assert done.out == "".join(each.format(name, uid) for name in NAMES), done
    # on the kernel such a call has been entered and is left; here it is not made
    assert counts[:3] == ["3", "3", "3" if way is KERNEL else "0"]


def test_they_are_known_by_their_shape(folder: Path) -> None:
    module = Module(str(folder / "bridged"))
    sites = [site for site in make_plan(module).sites if site.bridge]
    for name, site in zip(NAMES, sites, strict=True):
        function = module.find(f"bridge_{name}")
        assert function and site.before and site.after
        assert site.before.window == function.vaddr < site.vaddr < function.vaddr + function.size
    assert [len(s.before.orig) for s in sites if s.before] == [2, 6, 10]
