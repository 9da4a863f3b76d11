"""Raw tracepoints sys_enter and sys_exit, by a program that reads the registers they point to;
what is said of those that only the kernel has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, run
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent


def test_raw_tracepoints_lead_to_the_registers_of_the_call() -> None:
    made = build.make("raw.bpf.o", [HERE / "raw.bpf.c"], build.BPF_FLAGS, compiler=build.CLANG)
    folder = build.private_copy({"raw.bpf.o": made, "raw.py": HERE / "raw.py"})
    python = str(launch.product() / ".venv" / "bin" / "python")
    done = subprocess.run(
        launch.guarded([python, str(folder / "raw.py"), str(folder / "raw.bpf.o"),
                        str(launch.library())]),
        capture_output=True, text=True, timeout=60)
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    pid, (calls, addresses, not_yet, left, total) = json.loads(done.stdout)
    assert (calls, addresses, not_yet, left, total) == (11, 11, 11, 11, 11 * pid)


@pytest.mark.parametrize("name, said", [
    ("sched_switch", "libbpf_shim: raw tracepoint sched_switch: only the kernel comes by there"),
    ("no_such_event", ""),  # on no kernel
])
def test_a_raw_tracepoint_of_the_kernels_alone_is_named(name: str, said: str) -> None:
    made = build.make(f"{name}.bpf.o", [HERE / "elsewhere.bpf.c"],
                      [*build.BPF_FLAGS, f'-DTRACEPOINT="{name}"'], compiler=build.CLANG)
    loader = build.make("loader", [HERE / "override_loader.c"], [*build.WARN, "-O2"], ["-lbpf"])
    folder = build.private_copy({"elsewhere.bpf.o": made, "loader": loader})
    done = run(SHIM.tool([str(folder / "loader"), str(folder / "elsewhere.bpf.o")]))
    shutil.rmtree(folder)
    assert done.err.endswith("\nelsewhere: No such file or directory\n"), done
    assert [line for line in done.err.splitlines() if line.startswith("libbpf_shim")] == (
        [said] if said else []), done


@pytest.mark.parametrize("script, said", [
    # a later bpftrace tries sched_fork first, and calls its program iter_task_1
    ("kfunc:vfs_read { }",
     r"program (vfs_read|sched_fork): \1: only the kernel comes by there"),
    ("iter:task { }", r"program (iter_)?task(_1)?: bpf_iter_task: iterators are not there"),
])
def test_what_a_program_names_by_its_type_in_the_kernel_is_named(script: str, said: str) -> None:
    done = run(SHIM.tool(["bpftrace", "-e", script]))
    assert done.status and re.search(f"^libbpf_shim: {said}$", done.err, re.M), done
