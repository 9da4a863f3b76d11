"""May return addresses be replaced in a process? Its unwinder must find the slots' description,
which is so where the dynamic linker has loaded the agent, and nobody else may read them."""

from __future__ import annotations

import os
from enum import Enum

from libbpf_shim.attach.process import Process
from libbpf_shim.attach.target import Target

# They unwind on their own account: an exception that meets an unknown frame ends the process.
_UNWINDERS = ("libgcc_s.so", "libstdc++.so", "libc++", "libunwind")
# It takes the return address of what the code that it has made calls for a place in that code.
_LOOKS = "libjvm.so"


class Addresses(Enum):
    """FREE: they may be replaced. RATHER_STAY: only where a function's return cannot be seen
    otherwise. STAY: never."""

    FREE = 0
    RATHER_STAY = 1
    STAY = 2


def of(process: Process | Target) -> Addresses:
    """What holds for the process as it is now."""
    names = [os.path.basename(module.path) for module in process.modules]
    if any(name.startswith("libunwind.so.") for name in names) or _shadow_stack(process.pid):
        return Addresses.STAY  # libunwind 1.6 dies of a description by expressions
    if _LOOKS in names:
        return Addresses.RATHER_STAY
    if any(os.path.basename(m.path).startswith("libbpf_shim")
           and m.base <= process.root < m.mappings[-1].end for m in process.modules):
        return Addresses.FREE
    dynamic = any(name.startswith(("ld-linux", "ld-musl", "libc.")) for name in names)
    if not dynamic or any(name.startswith(_UNWINDERS) for name in names):
        return Addresses.STAY
    return Addresses.RATHER_STAY


def _shadow_stack(pid: int) -> bool:
    """The processor keeps a second copy of the return addresses."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            return any(line.startswith("x86_Thread_features:") and "shstk" in line
                       for line in status)
    except OSError:
        return False
