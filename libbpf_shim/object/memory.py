"""How much memory the maps of a session have: bounded, since a map that fills the machine's memory
takes every process down and not just its loader.

Maps that grow charge what they grow by themselves (csrc/runtime/charge.c); a process that dies
between the charge and the growth leaves the sum too high, so it is counted anew before anything is
refused. What is counted is what the files have, not what they may become.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from typing import Any

from libbpf_shim.errors import ShimError

VARIABLE = "LIBBPF_SHIM_MAP_MEMORY"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_BLOCK = 512  # st_blocks, stat(2)


def limit() -> int:
    """Bytes that maps of a session may have: the variable's, else half of the machine's memory.
    EINVAL: the variable is not a number of bytes."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    found = re.fullmatch(r"(\d{1,18})([KMG]?)", text)
    if not found:
        raise ShimError("OM0001", errno.EINVAL, f"{VARIABLE}={text}: not a number of bytes",
                        f"{VARIABLE}=512M")
    return int(found[1]) * _UNITS[found[2]]


class MapMemory:
    """The sum in a control page (ctl: struct shim_ctl). look: called before a refusal; files that
    nobody holds any more are dropped then."""

    def __init__(self, ctl: Any) -> None:
        from libbpf_shim._native import lib

        self._lib, self._ctl = lib, ctl
        self._files: set[int] = set()
        self.look: Callable[[], None] = lambda: None
        ctl.map_limit, ctl.map_used = limit(), 0

    @staticmethod
    def _has(fd: int) -> int:
        return os.fstat(fd).st_blocks * _BLOCK

    def count(self) -> None:
        """Counts anew, after a look at who is still held."""
        self.look()
        self._ctl.map_used = sum(map(self._has, self._files))

    def admit(self, size: int) -> None:
        """Before a file of so many bytes is made: ENOMEM."""
        if not self._lib.shim_charge(self._ctl, size):
            return
        self.count()
        if self._lib.shim_charge(self._ctl, size):
            at_most = int(self._ctl.map_limit)
            raise ShimError(
                "OM0002", errno.ENOMEM,
                f"map of {size} bytes: the session's maps may have {at_most} bytes", VARIABLE)

    def forgo(self, size: int) -> None:
        """What was admitted is not made after all."""
        self._lib.shim_uncharge(self._ctl, size)

    def add(self, fd: int) -> None:
        """The file is there, with the bytes that were admitted."""
        self._files.add(fd)

    def drop(self, fd: int) -> None:
        """The file goes; before it is closed."""
        self._files.discard(fd)
        self._lib.shim_uncharge(self._ctl, self._has(fd))
