"""RLIMIT_MEMLOCK of a process under the filter. Loaders lift it, and some go no further where they
may not; nothing here is counted against it.

Source: prlimit(2), csrc/surface/creds.c, which does the same in a preloaded process.
"""

from __future__ import annotations

import resource
import struct
from typing import Final

from libbpf_shim.client.proxy.process import Waiting
from libbpf_shim.client.proxy.seccomp import SYS_GETRLIMIT, SYS_PRLIMIT64, SYS_SETRLIMIT, Call

CALLS: Final = (SYS_GETRLIMIT, SYS_SETRLIMIT, SYS_PRLIMIT64)
_PAIR: Final = struct.Struct("<qq")  # RLIM_INFINITY is -1, in Python too
_INFINITE: Final = (1 << 64) - 1
Pair = tuple[int, int]


class Limits:
    """Those that processes have asked for and were not given."""

    def __init__(self) -> None:
        self._told: dict[int, Pair] = {}

    def answer(self, call: Call, waiting: Waiting) -> bool:
        """It has been answered, with 0; else it is the kernel's matter. OSError."""
        new = old = 0
        if call.nr == SYS_PRLIMIT64:
            new, old = call.args[2:4]
            if call.s32(0) not in (0, waiting.pid):
                return False
        elif call.nr == SYS_SETRLIMIT:
            new = call.args[1]
        else:
            old = call.args[1]
        told = self._told.get(waiting.pid)
        if not new and not told:
            return False
        try:
            was = told or resource.prlimit(waiting.pid, resource.RLIMIT_MEMLOCK)
        except PermissionError:  # it is another user's by now
            return False
        if new and not self._lift(waiting, _PAIR.unpack(waiting.read(new, _PAIR.size))):
            return False
        if old:
            waiting.write(old, _PAIR.pack(*was))
        return True

    def _lift(self, waiting: Waiting, to: Pair) -> bool:
        """Sets, or notes, what a process asks for. False: no process may."""
        soft, hard = (n & _INFINITE for n in to)
        if soft > hard:
            return False
        self._told.pop(waiting.pid, None)
        try:
            resource.prlimit(waiting.pid, resource.RLIMIT_MEMLOCK, to)
        except PermissionError:
            self._told[waiting.pid] = to
        return True
