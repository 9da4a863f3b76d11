"""Uprobes on the functions of libc that libbpf_shim.so stands before, in a process that it is
preloaded into: counted as often as the program calls them, all but those that parity.md names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.guard import launch
from compat_tests.victims import build

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")
SOURCE = Path(__file__).with_name("libc_calls.c")
# docs/parity.md: "execl, execle, execlp and syscall() of libc"
NOT_COUNTED = {"execl", "execle", "execlp", "syscall"}
# More than once: libc's own calls among them. Recorded from the kernel, as the last test does.
MORE = {"chdir": 4, "close": 3, "close_range": 2, "execve": 9, "execvpe": 3, "fopen": 2,
        "fopen64": 2, "fstatat": 12, "fstatat64": 12, "lstat": 2, "lstat64": 2, "mkdir": 2,
        "mmap": 3, "mmap64": 3, "open": 2, "open64": 2, "opendir": 3, "readlink": 3,
        "readdir": 18, "readdir64": 18, "renameat": 2, "rmdir": 3, "unlink": 4}


def exported(library: Path) -> set[str]:
    listed = subprocess.run(["nm", "-D", "--defined-only", library], check=True,
                            capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in listed.splitlines()}


@pytest.fixture(scope="module")
def victim() -> Iterator[Path]:
    flags = [*build.WARN, "-O1", "-Wno-unused-parameter", "-rdynamic"]
    place = build.private_copy({"libc_calls": build.make("libc_calls", [SOURCE], flags)})
    yield place / "libc_calls"
    shutil.rmtree(place)


def counts(way: Way, victim: Path) -> dict[str, int]:
    names = sorted((exported(launch.library()) & exported(LIBC)) | {"getenv"})
    probes = ",".join(f"uprobe:{LIBC}:{name}" for name in names)
    program = (f"uprobe:{victim}:begin {{ @on = 1; }} "
               f"{probes} /@on && comm == \"libc_calls\"/ {{ @[probe] = count(); }} "
               "END { delete(@on); }")
    outcome = run(way.tool(["bpftrace", "-e", program, "-c", str(victim)]))
    assert outcome.status == 0, outcome
    return {name: int(n) for name, n in re.findall(r"^@\[uprobe:.*:(\w+)\]: (\d+)$",
                                                   outcome.out, re.M)}


@pytest.fixture(scope="module")
def ours(victim: Path) -> dict[str, int]:
    return counts(SHIM, victim)


@pytest.mark.skipif(os.confstr("CS_GNU_LIBC_VERSION") != "glibc 2.36",
                    reason="how often libc calls itself is recorded of glibc 2.36")
def test_functions_are_counted_as_the_program_calls_them(ours: dict[str, int]) -> None:
    assert len(ours) >= 75
    assert not NOT_COUNTED & set(ours)
    assert ours == dict.fromkeys(ours, 1) | MORE


@pytest.mark.kernel
@pytest.mark.long  # the kernel takes half a minute to take the probes out
def test_functions_are_counted_as_the_kernel_counts_them(
    victim: Path, ours: dict[str, int]
) -> None:
    theirs = counts(KERNEL, victim)
    assert NOT_COUNTED <= set(theirs)
    assert ours == {name: n for name, n in theirs.items() if name not in NOT_COUNTED}
