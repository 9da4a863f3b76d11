"""The end of a process is told by a descriptor, where the kernel has pidfds and where not."""

from __future__ import annotations

import errno
import os
import subprocess
import time

import pytest

from libbpf_shim.attach import pidfd
from libbpf_shim.attach.door import ready

LIMIT = 20.0  # seconds


@pytest.fixture(params=["pidfd", "pipe"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, "")

    if request.param == "pipe":
        monkeypatch.setattr(os, "pidfd_open", refused)


def test_it_can_be_read_once_the_process_has_ended() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        fd = pidfd.pidfd_open(process.pid)
        assert not ready([fd], 0.3)
        process.kill()
        assert ready([fd], LIMIT)  # nobody has waited for it yet
        os.close(fd)


def test_of_a_process_that_is_no_more_there_is_none() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError):
        pidfd.pidfd_open(process.pid)


def test_one_that_is_closed_leaves_nothing() -> None:
    before = set(os.listdir("/proc/self/fd"))
    os.close(pidfd.pidfd_open(os.getpid()))
    end = time.monotonic() + LIMIT
    while set(os.listdir("/proc/self/fd")) - before:
        assert time.monotonic() < end
        time.sleep(0.01)  # between two looks, under the deadline above
