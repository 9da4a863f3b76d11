"""Root's tools in processes of other users, that run and that fork."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

import pytest

from compat_tests.clients.tool import Session
from compat_tests.guard import launch
from compat_tests.inject.targets import LIMIT, Target
from compat_tests.victims import build

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="another user's, and root's tool")

# "ready"; a line in: 3 calls, and 4 in a child; a line out
FORKS = """
import ctypes, os, sys
labs = ctypes.CDLL(None).labs
print("ready", flush=True)
while sys.stdin.buffer.raw.read(1):
    for _ in range(3):
        labs(1)
    child = os.fork()
    if not child:
        for _ in range(4):
            labs(1)
        os._exit(0)
    os.waitpid(child, 0)
    print(0, 1, flush=True)
"""


def as_root(argv: list[str]) -> list[str]:
    """ARGV with the shim, under the guard's filter, as root."""
    return [str(build.guard()), "--root", "--env", "LIBBPF_SHIM_SESSION=private",
            "--env", f"LD_PRELOAD={launch.library()}", "--", *argv]


def bpftrace(program: str) -> list[str]:
    found = shutil.which("bpftrace")
    if not found:
        pytest.skip("bpftrace: not installed")
    return [found, "-e", program]


def libc(pid: int) -> str:
    with open(f"/proc/{pid}/maps") as file:
        return next(line.split()[-1] for line in file if "/libc.so" in line)


def left(pid: int) -> list[str]:
    with open(f"/proc/{pid}/maps") as file:
        return [line for line in file if "bpf-agent" in line]


def forking() -> Target:
    setpriv = shutil.which("setpriv")
    assert setpriv
    user = [f"--reuid={launch.UID}", f"--regid={launch.UID}", "--clear-groups"]
    python = launch.product() / ".venv" / "bin" / "python"
    return Target([setpriv, *user, str(python), "-c", FORKS])


def program(target: Target) -> str:
    return (f"uprobe:{libc(target.pid)}:labs /uid == {launch.UID}/ {{ @ = count(); }} "
            'BEGIN { printf("begun\\n"); }')


def test_another_users_process_and_its_children_are_counted() -> None:
    with forking() as target, Session(as_root(bpftrace(program(target)))) as tool:
        tool.until(b"begun", limit=LIMIT)
        for _ in range(3):
            target.works()
        tool.child.send_signal(signal.SIGINT)
        assert "@: 21\n" in tool.end().out
        target.works()
        target.end()


def test_a_tool_that_is_killed_leaves_another_users_process_as_it_was() -> None:
    with forking() as target:
        with Session(as_root(bpftrace(program(target)))) as tool:
            tool.until(b"begun", limit=LIMIT)
            target.works()
            assert left(target.pid)
            tool.child.kill()
        end = time.monotonic() + LIMIT
        while left(target.pid):
            assert time.monotonic() < end, "the agent is there"
            time.sleep(0.02)  # between two looks, under the deadline above
        target.works()
        target.end()


def test_root_of_a_container_is_told_that_it_reaches_no_other_users() -> None:
    setpriv = shutil.which("setpriv")
    assert setpriv
    without = [setpriv, "--bounding-set=-sys_ptrace"]
    with forking() as target:
        done = subprocess.run(as_root([*without, *bpftrace(
            f'uprobe:{libc(target.pid)}:labs {{ @ = count(); }} interval:ms:1 {{ exit(); }}')]),
            capture_output=True, text=True, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = "libbpf_shim: other users' processes: not attached: that takes CAP_SYS_PTRACE\n"
    assert done.stderr.count(line) == 1
