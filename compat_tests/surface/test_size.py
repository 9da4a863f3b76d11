"""What the library takes of a process's address space: 2 MiB at most, before there are maps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from compat_tests.guard import launch

LIB = Path(launch.ROOT) / "libbpf_shim" / "_lib"


def size(preload: Path | None) -> int:
    """KiB that `grep` has mapped while it looks."""
    env = {"LD_PRELOAD": str(preload), "LIBBPF_SHIM_AGENT": "1"} if preload else {}
    out = subprocess.run(["grep", "^VmSize", "/proc/self/status"], env=env, capture_output=True,
                         check=True).stdout
    return int(out.split()[1])


def test_a_target_that_has_it_preloaded() -> None:
    assert size(LIB / "libbpf_shim.so") - size(None) <= 2048


@pytest.mark.parametrize("name", ["agent.so", "libbpf_shim.so"])
def test_its_segments_are_all_there_is(name: str) -> None:
    out = subprocess.run(["readelf", "-lW", str(LIB / name)], capture_output=True, check=True,
                         text=True).stdout
    loads = [line.split() for line in out.splitlines() if line.split()[:1] == ["LOAD"]]
    first, last = loads[0], loads[-1]
    assert int(last[2], 16) + int(last[5], 16) - int(first[2], 16) <= 2 << 20
