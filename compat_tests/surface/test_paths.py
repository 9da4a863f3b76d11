"""Redirected paths, from C, C++ streams and Python."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compat_tests.surface.conftest import Build, run_gcc

Client = Callable[..., Any]
TRACING = "/sys/kernel/debug/tracing"

pytestmark = pytest.mark.skipif(os.path.exists(f"{TRACING}/events"), reason="debugfs is mounted")


def test_tracefs_is_there_from_python(client: Client) -> None:
    got = client(f"""
        import glob
        base = "{TRACING}"
        print(json.dumps([
            open(base + "/events/syscalls/sys_enter_openat/id").read().strip().isdigit(),
            os.path.isdir(base + "/events"), len(os.listdir(base + "/events/syscalls")) > 500,
            glob.glob(base + "/events/raw_syscalls/sys_enter/form*"), os.access(base, os.R_OK),
            "bpf_map_sum_elem_count" in open(base + "/available_filter_functions").read().split(),
            open(base + "/uprobe_events").read(),
            "unsigned long" in open(base + "/events/syscalls/sys_enter_read/format").read()]))
    """)
    want = [f"{TRACING}/events/raw_syscalls/sys_enter/format"]
    assert got == [True, True, True, want, True, True, "", True]


def test_file_systems_are_of_the_types_that_are_mounted_there(client: Client) -> None:
    got = client("""
        import ctypes
        libc, said = ctypes.CDLL(None), []
        array_map()
        for place in ("fs/bpf", "kernel/tracing", "kernel/tracing/events/sched",
                      "kernel/debug/tracing", "kernel/debug/tracingx", "kernel"):
            for statfs in (libc.statfs, libc.statfs64):
                told = (ctypes.c_long * 15)()
                said.append(hex(told[0]) if not statfs(f"/sys/{place}".encode(), told) else -1)
        print(json.dumps(said))
    """)
    bpf, trace, sysfs = "0xcafe4a11", "0x74726163", "0x62656572"
    assert got == [bpf] * 2 + [trace] * 6 + [-1] * 2 + [sysfs] * 2


def test_statvfs_finds_what_statfs_does(client: Client) -> None:
    got = client("""
        import ctypes
        libc, said = ctypes.CDLL(None), []
        array_map()
        os.mkdir("/sys/fs/bpf/made")
        for place in ("fs/bpf", "fs/bpf/made", "fs/bpf/not", "kernel"):
            for statvfs in (libc.statvfs, libc.statvfs64):
                told = (ctypes.c_uint * 28)()  # the type of a later glibc's
                said.append(hex(told[22]) if not statvfs(f"/sys/{place}".encode(), told) else -1)
        os.rmdir("/sys/fs/bpf/made")
        print(json.dumps(said))
    """)
    version = (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ").split(".")
    told = tuple(map(int, version)) >= (2, 39)
    bpf, sysfs = ("0xcafe4a11", "0x62656572") if told else ("0x0", "0x0")
    assert got == [bpf] * 4 + [-1] * 2 + [sysfs] * 2


def test_what_would_make_probes_is_not_written(client: Client) -> None:
    got = client(f"""
        import errno
        said = []
        for name in ("uprobe_events", "kprobe_events", "uprobe_events.new"):
            for mode in ("w", "a", "r+"):
                try:
                    open("{TRACING}/" + name, mode).close()
                    said.append("opened")
                except OSError as why:
                    said.append(errno.errorcode[why.errno])
        print(json.dumps(said))
    """)
    assert got == ["EACCES"] * 8 + ["ENOENT"]


CPP = r"""
#include <fstream>
#include <iostream>
#include <string>
#include <cstring>
#include <glob.h>
#include <cstdlib>
#include <climits>
#include <sys/stat.h>
#include <unistd.h>
int main() {
	std::string base = "/sys/kernel/debug/tracing", word;
	std::ifstream in(base + "/events/syscalls/sys_enter_openat/format");
	in >> word >> word;
	glob_t g;
	std::memset(&g, 0, sizeof g);
	int n = glob((base + "/events/syscalls/sys_enter_openat*/format").c_str(), 0, nullptr, &g);
	char out[PATH_MAX];
	struct stat st;
	std::cout << word << " " << n << " " << (g.gl_pathc ? g.gl_pathv[0] : "") << " "
                  << access(base.c_str(), F_OK) << " " << stat(base.c_str(), &st) << " "
                  << (realpath(base.c_str(), out) != nullptr) << "\n";
	globfree(&g);
	return 0;
}
"""


def test_tracefs_is_there_from_cpp_streams_and_glob(build: Build, tmp_path: Path) -> None:
    (tmp_path / "c.cc").write_text(CPP)
    run_gcc("-x", "c++", "-O2", "-o", tmp_path / "c", tmp_path / "c.cc", "-lstdc++")
    got = subprocess.check_output(
        [tmp_path / "c"], text=True, env={"LD_PRELOAD": str(build.library)}
    )
    first = f"{TRACING}/events/syscalls/sys_enter_openat/format"
    assert got.split() == ["sys_enter_openat", "0", first, "0", "0", "1"]


def test_possible_cpus_are_the_virtual_ones_and_asking_begins_a_session(client: Client) -> None:
    got = client("""
        possible, online = ("/sys/devices/system/cpu/" + n for n in ("possible", "online"))
        before = open(online).read(); first = open(possible).read(); array_map()
        print(json.dumps([before, first, open(possible).read(), open(online).read()]))
    """)
    real = Path("/sys/devices/system/cpu/online").read_text()
    assert got == [real, "0-5\n", "0-5\n", "0-5\n"] and real != "0-5\n"


def test_what_is_in_neither_place_stays_absent(client: Client) -> None:
    got = client(f"""
        def code(f, *a):
            try: return f(*a) and 0
            except OSError as e: return e.errno
        print(json.dumps([code(open, "{TRACING}/nothing"), code(os.stat, "/sys/nothing"),
                          code(open, "/sys/kernel/debug/tracingx")]))
    """)
    assert got == [2, 2, 2]
