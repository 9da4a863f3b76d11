"""BTF_LOAD, and the vmlinux BTF that a session serves: the machine's own if this user may read
it, else the synthetic one. Source: kernel/bpf/btf.c."""

from __future__ import annotations

import os

from libbpf_shim.btf.lazy import LazyBtf
from libbpf_shim.object.file import MemFile
from libbpf_shim.object.store import Object

VMLINUX = "/sys/kernel/btf/vmlinux"
KALLSYMS = "/proc/kallsyms"


def _read() -> bytes:
    try:
        with open(VMLINUX, "rb") as file:
            return file.read()
    except OSError:
        from libbpf_shim.btf import synthetic

        return synthetic.build()


def _symbols() -> bytes:
    try:
        with open(KALLSYMS, "rb") as file:
            return file.read()
    except OSError:
        return b""


MACHINE = LazyBtf(_read, _symbols)  # one for the process; it costs nothing until somebody asks


class BtfObject(Object):
    """A blob that BTF_LOAD accepted."""

    kind = 3

    def __init__(self, number: int, blob: bytes) -> None:
        super().__init__(number, MemFile("bpf-btf", len(blob)))
        self._blob = blob
        assert isinstance(self.file, MemFile)
        os.pwrite(self.file.fd, blob, 0)

    @property
    def blob(self) -> bytes:
        return self._blob

    @property
    def name(self) -> str:
        """bpf_btf_info.name: programs' own BTF has none."""
        return ""

    kernel = False


class KernelBtf(BtfObject):
    """Always there; its blob is made when it is asked for. Nobody's last reference."""

    kernel = True

    def __init__(self, number: int) -> None:
        Object.__init__(self, number, MemFile("bpf-btf", 1))
        self.refs = 1


class VmlinuxBtf(KernelBtf):
    """The session's base."""

    @property
    def blob(self) -> bytes:
        return MACHINE.blob

    @property
    def name(self) -> str:
        return "vmlinux"
