"""The guard takes away what it says, and leaves the rest."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compat_tests.guard import launch

PROBE = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
def wide(value):
    return ctypes.c_long(value) if isinstance(value, int) else value
def call(number, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(number, *map(wide, arguments)) < 0 else 0
attr = (ctypes.c_uint32 * 32)(2, 4, 8, 1)
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines()
              if ":\\t" in line)
print(json.dumps({
    "bpf": call(321, 0, attr, 128), "perf": call(298, attr, 0, -1, -1, 0),
    "ptrace": call(101, 0x4206, 1, 0, 0), "vm_readv": call(310, os.getpid(), 0, 0, 0, 0, 0),
    "vm_writev": call(311, os.getpid(), 0, 0, 0, 0, 0), "uid": os.getresuid(),
    "env": dict(os.environ), "caps": status["CapEff"], "bound": status["CapBnd"],
    "nnp": status["NoNewPrivs"], "groups": os.getgroups(),
}))
"""


def probe(**options: bool) -> dict[str, object]:
    argv = launch.guarded(["/usr/bin/python3", "-c", PROBE], **options)  # type: ignore[arg-type]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_bpf_and_perf_event_open_answer_eperm() -> None:
    found = probe()
    assert (found["bpf"], found["perf"]) == (errno.EPERM, errno.EPERM)


def test_process_vm_readv_works_unless_it_is_refused_too() -> None:
    assert probe()["vm_readv"] == 0
    found = probe(no_ptrace=True)
    assert [found[k] for k in ("ptrace", "vm_readv", "vm_writev")] == [errno.EPERM] * 3


def test_user_has_no_capability_no_group_and_only_path() -> None:
    found = probe()
    assert found["uid"] == [launch.UID] * 3 and launch.UID != 0
    assert int(str(found["caps"]), 16) == 0
    environment = found["env"]
    assert isinstance(environment, dict)
    assert set(environment) - {"LC_CTYPE"} == {"PATH"}  # LC_CTYPE: Python's own (PEP 538)
    if os.getuid() == 0:
        assert (found["bound"], found["nnp"], found["groups"]) == ("0" * 16, "0", [])


def test_children_inherit_the_filter() -> None:
    inner = [sys.executable if os.getuid() else "/usr/bin/python3", "-c", PROBE]
    argv = launch.guarded(["/bin/sh", "-c", '"$@"; true', "sh", *inner])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout)["bpf"] == errno.EPERM


def test_exit_status_is_the_commands() -> None:
    assert subprocess.run(launch.guarded(["/bin/sh", "-c", "exit 7"]), timeout=30).returncode == 7


def test_unshimmed_bpftrace_is_refused_under_the_guard() -> None:
    argv = launch.guarded(["bpftrace", "-e", "BEGIN { exit(); }"])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0 and "root" in done.stderr


@pytest.mark.kernel
def test_without_the_guard_the_same_probe_reaches_bpf() -> None:
    done = subprocess.run(["/usr/bin/python3", "-c", PROBE], capture_output=True, text=True,
                          timeout=30, check=True)
    assert json.loads(done.stdout)["bpf"] == 0


def test_guard_user_reaches_the_product() -> None:
    script = 'test -r "$0/setup.py" -o -d "$0/libbpf_shim" && "$0/.venv/bin/python" -c ""'
    argv = launch.guarded(["/bin/sh", "-c", script, str(launch.product())])
    assert subprocess.run(argv, timeout=30).returncode == 0
    assert Path(launch.product()).is_absolute()
