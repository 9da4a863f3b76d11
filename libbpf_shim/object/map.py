"""MAP_CREATE and what the backend does with maps. Elements are read and written in C, by the
surface and by programs (csrc/runtime); descriptor arrays pass here.

Source: kernel/bpf/syscall.c, map_create().
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from libbpf_shim.btf.fields import Field
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.control import Control
from libbpf_shim.object.file import PAGE, MemFile
from libbpf_shim.object.map_btf import ENOTSUPP
from libbpf_shim.object.memory import MapMemory
from libbpf_shim.object.store import Object
from libbpf_shim.uapi import bpf
from libbpf_shim.verifier.program import MapDesc

if TYPE_CHECKING:
    from libbpf_shim.object.prog import ProgObject

_NO_PREALLOC = 1 << 0
_TOKEN_FD = 1 << 16  # BPF_F_TOKEN_FD
_GROWING = frozenset((
    bpf.bpf_map_type.BPF_MAP_TYPE_HASH, bpf.bpf_map_type.BPF_MAP_TYPE_PERCPU_HASH,
    bpf.bpf_map_type.BPF_MAP_TYPE_LPM_TRIE))  # without preallocation, as they fill
_SPARSE = frozenset((  # large, and most of it never used
    bpf.bpf_map_type.BPF_MAP_TYPE_ARENA, bpf.bpf_map_type.BPF_MAP_TYPE_STACK_TRACE,
    bpf.bpf_map_type.BPF_MAP_TYPE_TASK_STORAGE))
_RINGS = (bpf.bpf_map_type.BPF_MAP_TYPE_RINGBUF, bpf.bpf_map_type.BPF_MAP_TYPE_USER_RINGBUF)
_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")


def object_name(raw: bytes) -> str:
    """bpf_obj_name_cpy(): 15 of those bytes and a NUL; EINVAL."""
    name, nul, rest = raw.partition(b"\0")
    if not nul or not _NAME.issuperset(name):
        raise ShimError("OB0010", errno.EINVAL, f"name {raw!r}: not 15 letters, digits, _ or .")
    return name.decode()


class MapObject(Object):
    """A map: its file, what the verifier needs to know of it, and this process's mapping."""

    kind = 1

    def __init__(self, number: int, header: Any, attr: Attr, control: Control) -> None:
        from libbpf_shim._native import ffi, lib

        flags = self.flags = int(header.map_flags)  # as MAP_CREATE gave, but its descriptor's
        self.type, self._extra = int(header.type), int(header.map_extra)
        grows = self.type in _GROWING and flags & _NO_PREALLOC or self.type in _SPARSE
        front = int(header.elem_off) if grows else None
        self.mem = _file(int(header.file_size), front, control.memory)
        super().__init__(number, self.mem)
        self.control = control
        self.attr = attr
        self.name = ffi.string(header.name).decode()
        self.btf: BtfObject | None = None
        self.fields: list[Field] = []
        self._copy: MemFile | None = None  # what targets map in its place
        self._used = False  # some program was judged that has it
        self.exclusive = b""  # SHA-256 of the only program that may use it
        try:
            self._memory = mmap.mmap(self.mem.fd, self.mem.size)
        except OSError as error:
            self.mem.close()
            raise ShimError("OB0011", error.errno or errno.ENOMEM,
                            f"map {number}: {error.strerror}") from error
        self._view = ffi.from_buffer(self._memory)
        if (err := lib.shim_map_format(self._view, header)) < 0:
            raise ShimError("OB0011", -err, f"map {number}: not formatted")
        self.desc: Any = ffi.new("struct shim_map_desc *")
        if (err := lib.shim_map_desc_init(self.desc, self._view, self.mem.size)) < 0:
            raise ShimError("OB0011", -err, f"map {number}: its header is not readable")
        self.desc.ctl, self.desc.perf = control.run.ctl, control.run.perf
        self.desc.perf_size = control.perf_size
        self.header: Any = ffi.cast("struct shim_map_hdr *", self._view + self.mem.size - PAGE)

    @property
    def fd(self) -> int:
        """For targets to map: a description that keeps nothing alive."""
        return (self._copy or self.mem).fd

    def hand_out(self, mode: int) -> int:
        """A descriptor for a client. mode: O_RDONLY or O_WRONLY restrict it, not the map."""
        if mode != os.O_RDWR:
            self.header.restricted = 1
        return self.mem.hand_out(mode)

    @property
    def ino(self) -> int:
        """Of the file that targets map."""
        return (self._copy or self.mem).key[1]

    @property
    def file_size(self) -> int:
        """Bytes of the file."""
        return self.mem.size

    @property
    def contents(self) -> Iterable[MapObject | ProgObject] | None:
        """The maps and programs that are its values; None: values are bytes (object/fdmap.py)."""
        return None

    @property
    def frozen(self) -> bool:
        """MAP_FREEZE was called: no system call writes it any more."""
        return bool(self.header.frozen)

    def freeze(self, mode: int, pids: Iterable[int]) -> None:
        """MAP_FREEZE by a descriptor of that mode. ENOTSUPP (524): its values have special
        fields; EPERM: the descriptor may not write, or it is frozen already; EBUSY: one of the
        processes has mapped it to write."""
        if self.fields:
            raise ShimError("OB0012", ENOTSUPP, f"map {self.id}: its fields cannot be frozen")
        if self.header.frozen or self._copy or mode == os.O_RDONLY:
            raise ShimError("OB0012", errno.EPERM, f"map {self.id}: not to be written")
        mapped = self.flags & bpf.BPF_F_MMAPABLE or self.type in _RINGS
        if mapped and any(self._written_by(pid) for pid in pids):
            raise ShimError("OB0012", errno.EBUSY, f"map {self.id}: mapped to be written")
        if self.control.guarded and self._constant and not self._used:
            self._copy = self._copied()
        self.header.frozen = 1

    @property
    def _constant(self) -> bool:
        """Once it is frozen the verifier knows its value, and nobody may change that."""
        return bool(self.type == bpf.bpf_map_type.BPF_MAP_TYPE_ARRAY
                    and self.desc.map_flags & bpf.BPF_F_RDONLY_PROG)

    def _copied(self) -> MemFile:
        """A file of the same content that no loader has: one could write the map's own through a
        mapping of before. ENOMEM."""
        copy = MemFile("bpf-map", self.mem.size)
        with mmap.mmap(copy.fd, copy.size) as memory:
            memory[:] = self._memory[:]
        return copy

    def _known(self) -> bytes | None:
        """The value that programs find there, whatever loaders do."""
        size = int(self.desc.value_size)
        if self._copy:
            return os.pread(self._copy.fd, size, 0)
        frozen = self.frozen and self._constant and not self.control.guarded
        return bytes(self._memory[:size]) if frozen else None

    def _written_by(self, pid: int) -> bool:
        """The process has a writable mapping that is not its surface's (which maps all of it)."""
        try:
            with open(f"/proc/{pid}/maps") as file:
                rows = [line.split(maxsplit=5) for line in file]
        except OSError:
            return False
        for where, rights, _, _, inode, *_ in rows:
            start, end = (int(at, 16) for at in where.split("-"))
            if rights[1] == "w" and int(inode) == self.mem.key[1] and end - start < self.mem.size:
                return True
        return False

    def values(self) -> bytes:
        """The values of an array, one after the other, each rounded up to 8 bytes."""
        return bytes(self._memory[: int(self.header.stride) * int(self.header.max_entries)])

    def describe(self) -> MapDesc:
        """For the verifier; a frozen read-only array's value is a constant."""
        desc, self._used = self.desc, True
        return MapDesc(
            type=self.type, key_size=desc.key_size, value_size=desc.value_size,
            max_entries=desc.max_entries, map_flags=self.flags,
            map_extra=self._extra, name=self.name, contents=self._known(),
            btf=self.btf.blob if self.btf else None,
            btf_key_type_id=self.attr["btf_key_type_id"],
            btf_value_type_id=self.attr["btf_value_type_id"],
            fields=tuple((field.name, field.offset) for field in self.fields),
            arena=self._arena(),
        )  # fmt: skip

    def _arena(self) -> tuple[int, int]:
        """Where an arena's loader has it."""
        from libbpf_shim._native import ffi

        if self.type != bpf.bpf_map_type.BPF_MAP_TYPE_ARENA:
            return 0, 0
        found = ffi.cast("struct shim_arena *", self._view + self.header.state_off)
        return int(found.start), int(found.end)

    def update(self, key: bytes, value: bytes, flags: int) -> None:
        """shim_map_sys_update on this process's mapping; its errno."""
        from libbpf_shim._native import ffi, lib

        err = lib.shim_map_sys_update(
            self.desc, ffi.from_buffer(key), ffi.from_buffer(value), flags, self.control.run)
        if err < 0:
            raise ShimError("OB0013", -int(err), f"map {self.id}: update refused")

    def delete(self, key: bytes) -> None:
        """shim_map_sys_delete; its errno."""
        from libbpf_shim._native import ffi, lib

        err = lib.shim_map_sys_delete(self.desc, ffi.from_buffer(key), self.control.run)
        if err < 0:
            raise ShimError("OB0013", -int(err), f"map {self.id}: delete refused")

    def end(self) -> None:
        from libbpf_shim._native import ffi

        self.control.memory.drop(self.mem.fd)
        self.header = None
        ffi.release(self._view)
        self._memory.close()
        if self._copy:
            self._copy.close()


def _file(size: int, front: int | None, memory: MapMemory) -> MemFile:
    """The file of a map, charged for what it has; ENOMEM."""
    admitted = size if front is None else front + PAGE
    memory.admit(admitted)
    try:
        file = MemFile("bpf-map", size, front=front)
    except ShimError:
        memory.forgo(admitted)
        raise
    memory.add(file.fd)
    return file


def header(attr: Attr, number: int, control: Control) -> Any:
    """struct shim_map_hdr for a MAP_CREATE: EINVAL, E2BIG, EOPNOTSUPP as shim_map_layout."""
    from libbpf_shim._native import ffi, lib

    hdr = ffi.new("struct shim_map_hdr *")
    hdr.magic, hdr.version, hdr.id = lib.SHIM_MAP_MAGIC, lib.SHIM_MAP_VERSION, number
    hdr.type, hdr.map_flags = attr["map_type"], attr["map_flags"] & ~_TOKEN_FD
    hdr.key_size, hdr.value_size = attr["key_size"], attr["value_size"]
    hdr.max_entries, hdr.map_extra = attr["max_entries"], attr["map_extra"]
    hdr.nr_vcpus, hdr.nr_cpus = control.nr_vcpus, control.nr_cpus
    if (err := lib.shim_map_layout(hdr)) < 0:
        kind = attr["map_type"]
        raise ShimError("OB0014", -int(err), f"map of type {kind}: {os.strerror(-int(err))}")
    hdr.map_flags &= ~(bpf.BPF_F_RDONLY | bpf.BPF_F_WRONLY)  # its descriptor's
    return hdr
