"""Light skeletons: a program makes the maps, types and programs by bpf(2) of its own (bpftool gen
skeleton -L, bpftool prog load -L), the same on the kernel and under the shim."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.guard import launch
from compat_tests.victims import build

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]
USED = """\
on_target uses 6 maps
attached 1
probe 1
hits 10 called 2 parent 1 absent 0 text Begin wanted 9
counts 2 second 20 first 0 ring 32
left 0
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({**build.light(), **build.tool(), **build.refused()})
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_light_skeleton_makes_is_the_processs_own(way: Way, folder: Path) -> None:
    outcome = run(way.tool([str(folder / "light")]))
    assert (outcome.out, outcome.err, outcome.status) == (f"load 0 \n{USED}", "", 0)


def test_that_of_a_static_loader_is_its_own_too(folder: Path) -> None:
    """Strict: such a loader is no target, and numbers that its program closed stay taken."""
    made = "load 0 \non_target uses 6 maps\nattached 1\nprobe 0\n"
    outcome = run(launch.shim_run([str(folder / "light-static")]))
    assert outcome.out.startswith(made) and "absent 1 text begin wanted 9\n" in outcome.out
    assert outcome.out.endswith("\nleft 2\n") and outcome.status == 0, outcome


def test_errors_of_a_static_loaders_program_are_those_of_others(folder: Path) -> None:
    static, other = (run(argv) for argv in (
        launch.shim_run([str(folder / "light-static"), "1", "refused"]),
        SHIM.tool([str(folder / "light"), "1", "refused"])))
    assert static.out.splitlines()[0] == other.out.splitlines()[0]
    assert static.out.startswith(f"load -{errno.EACCES} processed ")


@pytest.mark.kernel
@pytest.mark.parametrize("arguments", ["1", "4", "0 refused", "1 refused", "2 refused", "8"])
def test_its_errors_and_logs_are_the_kernels(arguments: str, folder: Path) -> None:
    theirs, ours = (run(way.tool([str(folder / "light"), *arguments.split()]))
                    for way in (KERNEL, SHIM))
    assert theirs.out.startswith("load ") and theirs.err == ""
    assert (ours.out, ours.err, ours.status) == (theirs.out, theirs.err, theirs.status)


# A pin and a type are not looked at by bpftool where it loads so.
@pytest.mark.kernel
@pytest.mark.parametrize("line", ["load -L plain.bpf.o", "load -L plain.bpf.o /sys/fs/bpf/no-pin",
                                  "loadall -L plain.bpf.o", "load -L refused.bpf.o"])
def test_bpftool_loads_so_as_on_the_kernel(line: str, folder: Path) -> None:
    words = [str(folder / word) if ".bpf.o" in word else word for word in line.split()]
    theirs, ours = (run(way.tool(["bpftool", "prog", *words])) for way in (KERNEL, SHIM))
    assert (ours.out, ours.err, ours.status) == (theirs.out, theirs.err, theirs.status)
