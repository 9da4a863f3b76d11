"""Programs that clang made of loops over iterators, and of dynptrs: loaded and run by bpftool on
the kernel and under the shim, with the same result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compat_tests.clients.bpftool import kernel_shell
from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.victims.build import BPF_FLAGS, CLANG, HERE, make

PIN = "/sys/fs/bpf/libbpf_shim_loops"


def built() -> Path:
    return make("loops.bpf.o", [HERE / "loops.bpf.c"], BPF_FLAGS, compiler=CLANG)


def results(way: Way, folder: Path) -> dict[str, int]:
    """What each program returns for a packet of 60 bytes."""
    data = folder / "packet"
    data.write_bytes(bytes(range(60)))
    data.chmod(0o644)
    found = {}
    for name in ("loops", "packet"):
        script = (f"bpftool prog loadall {built()} {PIN} && "
                  f"bpftool prog run pinned {PIN}/{name} data_in {data}; rm -rf {PIN}")
        done = run(kernel_shell(script) if way is KERNEL else way.tool(["sh", "-c", script]))
        value = re.search(r"Return value: (\d+)", done.out)
        assert value, done
        found[name] = int(value[1])
    return found


@pytest.mark.kernel
def test_the_kernel_and_the_shim_run_them_alike(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    ours = results(SHIM, tmp_path)
    assert ours == {"loops": sum(range(61)) * 100000 + 10000,
                    "packet": sum(1000 * n + n + 3 for n in range(0, 60, 4))}
    assert ours == results(KERNEL, tmp_path)
