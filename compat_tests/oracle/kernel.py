"""The machine's own kernel as the oracle: the same tool, as root, on the real bpf(2).

The tool runs in a private mount namespace with debugfs mounted, since tools look for
tracepoints there and Debian machines differ in whether it is mounted.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

DRIVER = Path(__file__).parents[3] / "shared" / "tools" / "oracle.py"
SCRIPT = (
    "mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug; "
    'exec "$@"'
)
SYS_BPF = 321
BPF_MAP_CREATE = 0


def driver() -> ModuleType:
    """The tool that loads single programs into the kernel; a visible skip where it is absent."""
    if not DRIVER.exists():
        pytest.skip(f"no {DRIVER}")
    spec = importlib.util.spec_from_file_location("oracle", DRIVER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_root(argv: list[str]) -> list[str]:
    """ARGV as root with debugfs, in a mount namespace of its own."""
    return ["unshare", "-m", "sh", "-c", SCRIPT, "sh", *argv]


@functools.cache
def why_not() -> str:
    """Why bpf(2) cannot be the oracle here; empty if it can."""
    if os.geteuid():
        return "not root"
    attr = (ctypes.c_uint32 * 32)(2, 4, 8, 1)  # BPF_MAP_TYPE_ARRAY, key, value, entries
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(SYS_BPF, BPF_MAP_CREATE, attr, ctypes.sizeof(attr))
    if fd < 0:
        return f"bpf(2): {os.strerror(ctypes.get_errno())}"
    os.close(fd)
    return ""
