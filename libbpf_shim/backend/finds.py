"""SHIM_OP_FIND: types and symbols of the kernel's that a program looks up by name while it is run.

Source: kernel/bpf/btf.c (bpf_find_btf_id: the kernel's own types, then the modules'),
kernel/bpf/syscall.c (bpf_kallsyms_lookup_name).
"""

from __future__ import annotations

import errno
import struct
from typing import Final

from libbpf_shim.backend.command import Family
from libbpf_shim.backend.events import Answer
from libbpf_shim.backend.modules import ModuleBtf
from libbpf_shim.btf.parse import Btf
from libbpf_shim.errors import ShimError
from libbpf_shim.object.btf import MACHINE

_SYMBOL: Final = 32  # SHIM_FIND_SYMBOL


class Finds(Family):
    """Of one session."""

    def find(self, payload: bytes) -> Answer:
        """ENOENT, EPERM."""
        (kind,) = struct.unpack_from("<I", payload)
        name = payload[4:].decode(errors="surrogateescape")
        if kind == _SYMBOL:
            return _found(self._symbol(name))
        kernel = self.session.kernel_btf()
        if found := kernel.find(name, kind):
            return _found(found.id)
        if self.session.modules:
            self.session.modules.look()
        for one in self.store.of_kind(ModuleBtf).values():
            if found := Btf(one.blob, kernel).find(name, kind):
                return Answer(payload=struct.pack("<Q", found.id), fd=self.give(one).fd)
        raise _none(name)

    def _symbol(self, name: str) -> int:
        """EPERM: it is there, but this user may not know where."""
        at = MACHINE.symbol(name)
        if at is None:
            raise _none(name)
        if not at:
            raise ShimError("BC0023", errno.EPERM, f"{name}: /proc/kallsyms hides addresses")
        return at


def _found(value: int) -> Answer:
    return Answer(payload=struct.pack("<Q", value))


def _none(name: str) -> ShimError:
    return ShimError("BC0023", errno.ENOENT, f"{name}: the kernel has none of that name")
