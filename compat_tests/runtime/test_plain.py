"""Map types that are neither hashes nor arrays, call by call as the kernel has them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients import tool
from compat_tests.guard import launch
from compat_tests.runtime import calls, plain
from compat_tests.runtime.scenario import CGROUP_ARRAY
from compat_tests.runtime.test_maps import Control, Map, u32

SCRIPT = Path(__file__).with_name("plain.py")


# docs/parity.md: a ring's second half, stacks of system calls, struct task_struct, an arena's flag
DIFFERENT = ("mirror", "stack_of_the_caller", "other_fields_of_the_task", "arena_that_faults")
APART = ("cgroup_array", *DIFFERENT)  # have tests of their own
COMPARED = [name for name in plain.SCENARIOS if name not in APART]
MOUNTS = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]


def output(way: tool.Way, name: str, *arguments: str, before: str = ":") -> list[str]:
    """What the scenario prints, a line each. before: a shell command by root, in its process."""
    python = str(launch.product() / ".venv" / "bin" / "python")
    argv = way.tool([python, "-B", str(SCRIPT), name, *arguments])
    outcome = tool.run(["sh", "-c", before + '; exec "$@"', "sh", *argv])
    assert outcome.status == 0, outcome.err
    return outcome.out.splitlines()


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of our own."""
    mounts = [path for path in MOUNTS if (path / "cgroup.controllers").exists()]
    if not mounts:
        pytest.skip("no cgroup2 mount")
    path = mounts[0] / f"libbpf_shim-{os.getpid()}"
    path.mkdir()
    yield path
    if path.exists():
        for pid in (path / "cgroup.procs").read_text().split():  # a backend was started in it
            (mounts[0] / "cgroup.procs").write_text(pid)
        path.rmdir()


@pytest.mark.kernel
@pytest.mark.parametrize("name", COMPARED)
def test_a_type_answers_every_call_as_the_kernel(name: str) -> None:
    assert output(tool.SHIM, name) == output(tool.KERNEL, name)


@pytest.mark.kernel
@pytest.mark.parametrize("inside", [True, False])
def test_cgroups_are_the_kernels(cgroup: Path, inside: bool) -> None:
    before = f"echo $$ > {cgroup}/cgroup.procs" if inside else ":"
    found = output(tool.SHIM, "cgroup_array", str(cgroup), before=before)
    assert found == output(tool.KERNEL, "cgroup_array", str(cgroup), before=before)


@pytest.mark.kernel
def test_a_removed_cgroup_is_not_there(cgroup: Path) -> None:
    fd = os.open(cgroup, os.O_RDONLY)
    cgroup.rmdir()
    real = calls.create(CGROUP_ARRAY, 4, 4, 1)
    control = Control()
    ours = Map(control, CGROUP_ARRAY, 4, 4, 1)
    assert -ours.update(u32(0), u32(fd)) == calls.update(real, u32(0), u32(fd)) == -2
    os.close(fd)
    os.close(real)


@pytest.mark.kernel
@pytest.mark.xfail(strict=True, reason="docs/parity.md")
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_known_to_differ(name: str) -> None:
    assert output(tool.SHIM, name) == output(tool.KERNEL, name)
