"""What BTF says of a map's keys and values: do its sizes fit, may what is special stand there.

Source: kernel/bpf/syscall.c (map_check_btf), each map type's
map_check_btf. Which type takes which BTF is measured on Linux 6.18 (compat_tests/attrs).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from functools import cached_property

from libbpf_shim.btf import kinds
from libbpf_shim.btf.fields import Field, Finder
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG, bpf_map_type

ENOTSUPP = 524
_T = bpf_map_type
_INT_PLAIN = 32  # of an INT's word: all of its bits, no offset

LOCAL = (_T.BPF_MAP_TYPE_SK_STORAGE, _T.BPF_MAP_TYPE_INODE_STORAGE,
          _T.BPF_MAP_TYPE_TASK_STORAGE, _T.BPF_MAP_TYPE_CGRP_STORAGE)
_PLAIN = (_T.BPF_MAP_TYPE_HASH, _T.BPF_MAP_TYPE_ARRAY)
_LOCKS = (*_PLAIN, _T.BPF_MAP_TYPE_CGROUP_STORAGE, *LOCAL)
_TIMERS = (*_PLAIN, _T.BPF_MAP_TYPE_LRU_HASH)
_KPTRS = (*_PLAIN, _T.BPF_MAP_TYPE_PERCPU_HASH, _T.BPF_MAP_TYPE_LRU_HASH,
          _T.BPF_MAP_TYPE_LRU_PERCPU_HASH, _T.BPF_MAP_TYPE_PERCPU_ARRAY, *LOCAL)  # fmt: skip
# Map types whose values may hold a field.
_HOLDERS: dict[str, tuple[bpf_map_type, ...]] = {
    "bpf_spin_lock": _LOCKS, "bpf_res_spin_lock": _LOCKS,
    "bpf_timer": _TIMERS, "bpf_wq": _TIMERS, "bpf_task_work": _TIMERS,
    "bpf_list_head": _TIMERS, "bpf_rb_root": _TIMERS,
    "bpf_refcount": _KPTRS, "kptr": _KPTRS, "kptr_untrusted": _KPTRS, "percpu_kptr": _KPTRS,
    "uptr": (_T.BPF_MAP_TYPE_TASK_STORAGE,),
}  # fmt: skip
# Types that take no BTF at all, and those without a rule of their own, which need a key's.
_NONE = frozenset((
    _T.BPF_MAP_TYPE_PERF_EVENT_ARRAY, _T.BPF_MAP_TYPE_STACK_TRACE, _T.BPF_MAP_TYPE_SOCKMAP,
    _T.BPF_MAP_TYPE_SOCKHASH, _T.BPF_MAP_TYPE_HASH_OF_MAPS,
    _T.BPF_MAP_TYPE_CGROUP_ARRAY, _T.BPF_MAP_TYPE_ARRAY_OF_MAPS, _T.BPF_MAP_TYPE_DEVMAP,
    _T.BPF_MAP_TYPE_DEVMAP_HASH, _T.BPF_MAP_TYPE_CPUMAP, _T.BPF_MAP_TYPE_XSKMAP,
))  # fmt: skip
_ARRAYS = (_T.BPF_MAP_TYPE_ARRAY, _T.BPF_MAP_TYPE_PERCPU_ARRAY)
_KEYLESS = frozenset((*_ARRAYS, _T.BPF_MAP_TYPE_LPM_TRIE, _T.BPF_MAP_TYPE_BLOOM_FILTER,
                      _T.BPF_MAP_TYPE_ARENA, *LOCAL))  # fmt: skip


def _refused(what: str, code: int = errno.EINVAL) -> ShimError:
    return ShimError("OB0030", code, f"map: BTF: {what}")


def _sized(btf: Btf, type_id: int) -> Type:
    """The type with a size that type_id leads to (btf_type_id_size)."""
    try:
        btf.sizeof(type_id)
        found = btf.strip(type_id)
    except KeyError:
        found = None
    if found is None or found.kind == kinds.DECL_TAG:
        raise _refused(f"type {type_id} has no size")
    return found


def _size(btf: Btf, type_id: int, size: int, what: str) -> Type:
    found = _sized(btf, type_id)
    if btf.sizeof(type_id) != size:
        raise _refused(f"{what} of {btf.sizeof(type_id)} bytes, expected {size}")
    return found


def is_u32(found: Type) -> bool:
    """A whole 32-bit integer: what arrays are indexed by."""
    return (found.kind == kinds.INT and found.size == 4 and found.extra & 0xFFFFFF == _INT_PLAIN)


@dataclass(frozen=True)
class MapTypes:
    """The types of one map's key and value. flags: the map's."""

    btf: Btf
    map_type: int
    flags: int
    max_entries: int
    key_size: int
    value_size: int
    key_id: int
    value_id: int

    @cached_property
    def fields(self) -> list[Field]:
        """The value's special fields. None where one of them is wrong: the kernel then takes the
        map, and programs find no field in it."""
        try:
            return Finder(self.btf, frozenset(_HOLDERS)).of(_sized(self.btf, self.value_id))
        except ShimError:
            return []

    def at(self, name: str) -> int:
        """Offset of a field of that name plus 1; 0: there is none."""
        return next((f.offset + 1 for f in self.fields if f.name == name), 0)

    def check(self) -> None:
        """map_check_btf(): EINVAL, EACCES, E2BIG, EOPNOTSUPP, ENOTSUPP (524)."""
        key = _size(self.btf, self.key_id, self.key_size, "key") if self.key_id else None
        if key is None and self.map_type not in _KEYLESS and self.map_type not in _NONE:
            raise _refused("no key")
        value = _size(self.btf, self.value_id, self.value_size, "value")
        if self.fields and self.flags & (BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG):
            raise _refused("special fields in a map that programs may not write", errno.EACCES)
        for field in self.fields:
            if self.map_type not in _HOLDERS[field.name]:
                raise _refused(f"{field.name} in a map of type {self.map_type}", errno.EOPNOTSUPP)
        names = {field.name for field in self.fields}
        if len(names & {"bpf_spin_lock", "bpf_res_spin_lock"}) > 1:
            raise _refused("two kinds of locks", errno.EINVAL)
        self._of_type(key, value)

    def _of_type(self, key: Type | None, value: Type) -> None:
        """The rule of the map's type."""
        if self.map_type in _NONE:
            raise _refused("this type takes none", ENOTSUPP)
        if self.map_type in _ARRAYS:
            keyless = (self.map_type == _T.BPF_MAP_TYPE_ARRAY and self.max_entries == 1
                       and value.kind == kinds.DATASEC)
            if not (is_u32(key) if key else keyless):
                raise _refused("an array's key is a 32-bit integer")
        if self.map_type == _T.BPF_MAP_TYPE_LPM_TRIE and (not key or key.kind != kinds.STRUCT):
            raise _refused("a trie's key is a structure")
        if self.map_type in LOCAL and (not key or not is_u32(key)):
            raise _refused("a storage's key is a 32-bit integer")
        if self.map_type == _T.BPF_MAP_TYPE_BLOOM_FILTER and key:
            raise _refused("a bloom filter has no key")
