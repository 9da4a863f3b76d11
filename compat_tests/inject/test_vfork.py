"""A child of vfork() is no process to be attached to: its memory is its parent's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from compat_tests.inject.targets import HERE
from compat_tests.victims import build
from libbpf_shim.attach.target import shares_memory


def test_a_child_of_vfork_shares_its_parent_s_memory_until_it_ends() -> None:
    program = build.make("vforks", [HERE / "vforks.c"], [*build.WARN, "-O1"])
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout and parent.stdin
        child, forked = map(int, parent.stdout.readline().split())
        assert shares_memory(child)
        assert not shares_memory(forked) and not shares_memory(parent.pid)
        assert not shares_memory(os.getpid())
        parent.stdin.close()
    assert not Path(f"/proc/{child}").exists() and not shares_memory(child)
