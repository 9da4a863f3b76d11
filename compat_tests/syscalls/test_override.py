"""Kprobes at the functions of system calls, and bpf_override_return(): the rules of
kernel/kprobes.c, kernel/trace/trace_kprobe.c and arch/x86/lib/error-inject.c."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent
PATTERN = "1 2 3 4 5 6 7 8 9 10 11 12"
# rcx and r11 are the kernel's, all else is as it was, the carry flag too
SEEN = f"""uid 4242
uid 4242
uid 4242
uid 4242
uid 4242
open -1 1
other -1 2
regs {PATTERN} 0 0 4242 1
ppid 7
fork -1 11
handler 4242
exec -1 1
waited 1 9
"""
GETUIDS = 8  # five, the one with patterns, the handler's, the child's
# older kprobes and kretprobes do not run; newer ones see the result, as sys_exit does; the last:
# a fork that was skipped (100), and one that was made
COUNTS = [0, GETUIDS * 4242, GETUIDS * 4242, 1, 1, 2, 1, 1, 101]


@pytest.fixture
def folder() -> Iterator[Path]:
    made = build.private_copy({
        "override.bpf.o": build.make("override.bpf.o", [HERE / "override.bpf.c"],
                                     build.BPF_FLAGS, compiler=build.CLANG),
        "overt": build.make("overt", [HERE / "override.c"], [*build.WARN, "-O2"]),
        "loader": build.make("loader", [HERE / "override_loader.c"], [*build.WARN, "-O2"],
                             ["-lbpf"]),
        "perf_read.bpf.o": build.make("perf_read.bpf.o", [HERE / "perf_read.bpf.c"],
                                      build.BPF_FLAGS, compiler=build.CLANG),
        "override.py": HERE / "override.py",
    })
    yield made
    shutil.rmtree(made)


def test_kprobes_replace_results_and_are_refused_elsewhere(folder: Path) -> None:
    python = str(launch.product() / ".venv" / "bin" / "python")
    done = subprocess.run(
        launch.guarded([python, str(folder / "override.py"), str(folder / "override.bpf.o"),
                        str(launch.library()), str(folder / "overt")]),
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    errors, seen, counts, after = json.loads(done.stdout)
    assert errors == [22, 2, 2, 95, 22, 22, 7, 0]
    assert seen == SEEN
    assert counts == COUNTS
    assert after == f"uid {launch.UID}"


def watched(way: Way, folder: Path, programs: str) -> tuple[str, list[int]]:
    """What the process prints while libbpf has these programs attached, and what they counted."""
    loader = subprocess.Popen(way.tool([str(folder / "loader"), str(folder / programs)]),
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert loader.stdin and loader.stdout
    try:
        assert loader.stdout.readline() == "READY\n"
        seen = subprocess.run(way.target([str(folder / "overt")]), capture_output=True,
                              text=True, timeout=60)
        counts = loader.communicate("", timeout=30)[0]
    finally:
        loader.kill()
        loader.wait()
    return seen.stdout, [int(n) for n in counts.split()]


def test_libbpf_attaches_to_system_calls(folder: Path) -> None:
    assert watched(SHIM, folder, "override.bpf.o") == (SEEN, COUNTS)


@pytest.mark.parametrize("way", [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
                                 pytest.param(SHIM, id="shim")])
def test_events_that_are_not_there_cannot_be_read(way: Way, folder: Path) -> None:
    """kernel/trace/bpf_trace.c, get_map_perf_counter()."""
    _, found = watched(way, folder, "perf_read.bpf.o")
    wanted = [-errno.ENOENT, -errno.ENOENT, -errno.E2BIG, -errno.EINVAL, -errno.ENOENT,
              -errno.EINVAL, 1, 1, 0]
    assert [n - (n >> 63 << 64) for n in found] == wanted


def test_bpftrace_overrides_and_says_what_is_the_kernels(folder: Path) -> None:
    script = ('kprobe:__x64_sys_getuid /comm == "overt"/ { override(4242); @[probe] = count(); } '
              'kprobe:__x64_sys_execve /comm == "overt"/ { override(-1); } '
              'kretprobe:__x64_sys_getppid /comm == "overt"/ { @[probe] = count(); }')
    done = run(SHIM.tool(["bpftrace", "--unsafe", "-e", script, "-c", str(folder / "overt")]))
    out = done.out
    assert out.count("4242") == GETUIDS - 1 and "waited 1 9" in out, done
    assert f"@[kprobe:__x64_sys_getuid]: {GETUIDS}" in out
    assert "@[kretprobe:__x64_sys_getppid]: 1" in out
    assert "ERROR" not in done.err
    refused = run(SHIM.tool(["bpftrace", "-e", "kprobe:vfs_read, kprobe:vfs_write { } "
                             "interval:ms:1 { exit(); }"]))
    assert refused.err.count("only the kernel comes by there") == 1, refused
