"""What is not ours goes to the kernel as before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from compat_tests.surface.conftest import Build, run_gcc

Client = Callable[..., Any]


def test_syscall_keeps_six_arguments_and_errno(client: Client) -> None:
    got = client("""
        fd = os.memfd_create("six"); os.ftruncate(fd, 8192); os.pwrite(fd, b"tail", 4096)
        at = syscall(9, 0, 4096, 1, 2, fd, 4096)             # mmap: six arguments, the last used
        print(json.dumps([syscall(39) == os.getpid(), ctypes.string_at(at, 4).decode(),
                          syscall(3, 12345), syscall(100000)]))
    """)
    assert got == [True, "tail", -9, -38]


def test_a_process_that_makes_no_bpf_call_starts_nothing_and_says_nothing(client: Client) -> None:
    done = client("print(json.dumps(sorted(os.listdir('/proc/self/fd'))))", check=False)
    bare = subprocess.run(
        [sys.executable, "-c", "import "
                               "os,json;print(json.dumps(sorted(os.listdir('/proc/self/fd'))))"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (bare.stdout, "")


def test_the_library_needs_libc_alone(build: Build) -> None:
    needed = subprocess.check_output(["readelf", "-d", build.library], text=True)
    assert [line.split()[-1] for line in needed.splitlines() if "NEEDED" in line] == [
        "[libc.so.6]"
    ]
    names = subprocess.check_output(["nm", "-u", *build.surface], text=True)
    used = {line.split()[-1].split("@")[0] for line in names.splitlines() if line.startswith("  ")}
    assert not used & {"malloc", "calloc", "free", "printf", "fprintf", "snprintf", "fork"}


C_CLIENT = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <sys/syscall.h>
int main(int argc, char **argv) {
	char buf[64];
	int fd = open("/dev/null", O_RDONLY), same = syscall(SYS_getpid) == getpid();
	errno = 0;
	int bad = open((char *)8, O_RDONLY), e1 = errno;
	int none = open("/sys/none", O_RDONLY), e2 = errno;
	printf("%d %d %d %d %d %d %zd\n", same, bad, e1, none, e2, fcntl(fd, F_GETFD),
	readlink("/proc/self/fd/0", buf, 0));
	return 0;
}
"""


@pytest.fixture(scope="session")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("client")
    (out / "c.c").write_text(C_CLIENT)
    run_gcc("-O2", "-w", "-o", out / "client", out / "c.c")
    return str(out / "client")


def test_calls_that_pass_through_have_the_results_and_errnos_of_libc(
    build: Build, c_client: str
) -> None:
    def once(preload: str) -> str:
        return subprocess.check_output([c_client], text=True, env={"LD_PRELOAD": preload})

    assert once(str(build.library)) == once("")
