"""Maps as mappings, elements straight in shared memory.

The checks before an operation are those of kernel/bpf/syscall.c that csrc/surface/elem.c makes;
the operation itself is csrc/runtime. Maps whose values are objects go through the backend, which
knows them. What fails raises ShimError with the kernel's errno, but a missing key is KeyError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any, ClassVar, Final

from libbpf_shim.btf.parse import Btf
from libbpf_shim.client import handle
from libbpf_shim.client.handle import Handle
from libbpf_shim.client.session import Command, Session, closing_fds, failed, mapped
from libbpf_shim.client.values import Addresses, Codec, Number, PerCpu, codec
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi import structs
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_map_type

ANY, NOEXIST, EXIST, F_LOCK = 0, 1, 2, 4  # BPF_ANY ...
_ENOTSUPP = 524
_BATCH = 512  # elements
_T = bpf_map_type
PER_CPU: Final = frozenset((
    _T.BPF_MAP_TYPE_PERCPU_HASH, _T.BPF_MAP_TYPE_PERCPU_ARRAY, _T.BPF_MAP_TYPE_LRU_PERCPU_HASH,
    _T.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE_DEPRECATED,
))
OBJECTS: Final = frozenset((
    _T.BPF_MAP_TYPE_PROG_ARRAY, _T.BPF_MAP_TYPE_PERF_EVENT_ARRAY, _T.BPF_MAP_TYPE_CGROUP_ARRAY,
    _T.BPF_MAP_TYPE_ARRAY_OF_MAPS, _T.BPF_MAP_TYPE_HASH_OF_MAPS,
))
KEYLESS: Final = frozenset((
    _T.BPF_MAP_TYPE_QUEUE, _T.BPF_MAP_TYPE_STACK, _T.BPF_MAP_TYPE_BLOOM_FILTER,
))
# Types with BPF_MAP_LOOKUP_AND_DELETE_ELEM.
_TAKES: Final = frozenset((
    _T.BPF_MAP_TYPE_HASH, _T.BPF_MAP_TYPE_PERCPU_HASH, _T.BPF_MAP_TYPE_LRU_HASH,
    _T.BPF_MAP_TYPE_LRU_PERCPU_HASH, _T.BPF_MAP_TYPE_STACK_TRACE, _T.BPF_MAP_TYPE_QUEUE,
    _T.BPF_MAP_TYPE_STACK,
))
_INDEXED: Final = frozenset((
    _T.BPF_MAP_TYPE_ARRAY, _T.BPF_MAP_TYPE_PERCPU_ARRAY, *(OBJECTS - {
        _T.BPF_MAP_TYPE_HASH_OF_MAPS}),
))


class _Room(threading.local):
    """What one operation of one thread needs: a place for a value, a struct shim_run."""

    def __init__(self, session: Session, size: int) -> None:
        from libbpf_shim._native import ffi

        self.value: Any = ffi.new(f"unsigned char[{max(size, 1)}]")
        self.view: Any = ffi.buffer(self.value, size)
        self.run: Any = session.run()


class Memory:
    """A map's file in this process: its descriptor for the runtime, its header and its bytes. It
    keeps the memory, not the map."""

    def __init__(self, session: Session, fd: int) -> None:
        from libbpf_shim._native import ffi, lib

        size = os.fstat(fd).st_size
        own = _reopened(fd)
        with closing_fds([own]):
            self.base: Any = mapped(own, size)
        self.bytes = ffi.buffer(self.base, size)
        self.desc: Any = ffi.new("struct shim_map_desc *")
        if lib.shim_map_desc_init(self.desc, self.base, size) < 0:
            raise ShimError("CM0001", errno.EINVAL, "map: its memory is not that of a map")
        self.desc.ctl = int(ffi.cast("uintptr_t", session.ctl))
        self.desc.perf = int(ffi.cast("uintptr_t", session.perf))
        self.desc.perf_size = session.perf_size
        self.header: Any = ffi.cast("struct shim_map_hdr *", self.base + size - lib.SHIM_PAGE)


def _reopened(fd: int) -> int:
    """A description of the file that does not count as one of the map's."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # no /proc: the mapping then keeps the map alive
        return os.dup(fd)


class BaseMap(Handle):
    """A map. type: BPF_MAP_TYPE_*; key_size, value_size: bytes; max_entries; flags: BPF_F_*."""

    INFO: ClassVar[structs.Fields] = structs.BPF_MAP_INFO
    INFO_SIZE: ClassVar[int] = structs.BPF_MAP_INFO_SIZE
    GET_BY_ID: ClassVar[int] = bpf_cmd.BPF_MAP_GET_FD_BY_ID

    def __init__(self, session: Session, fd: int, memory: Memory, name: str = "") -> None:
        from libbpf_shim._native import ffi, lib

        super().__init__(session, fd, name)
        self._ffi, self._lib, self.memory = ffi, lib, memory
        self._sys_lookup, self._sys_update = lib.shim_map_sys_lookup, lib.shim_map_sys_update
        self._header = memory.header
        desc = self._desc = memory.desc
        self.type, self.flags = int(desc.type), int(desc.map_flags)
        self.key_size, self.value_size = int(desc.key_size), int(desc.value_size)
        self.max_entries = int(desc.max_entries)
        self.holds_objects = self.type in OBJECTS
        self.name = name or ffi.string(self.memory.header.name).decode(errors="replace")
        self.use_types(None, 0, 0)

    def use_types(self, btf: Btf | None, key_type: int, value_type: int) -> None:
        """How keys and values look in Python from here on: types of `btf` by id, 0: bytes."""
        indexed = self.type in _INDEXED
        self.key_codec: Codec = (Number("I") if indexed and self.key_size == 4
                                 else codec(btf, key_type, self.key_size))
        self.value_codec: Codec = codec(btf, value_type, self.value_size)
        if self.type in PER_CPU:
            self.value_codec = PerCpu(self.value_codec, int(self._desc.nr_vcpus))
        elif self.type in OBJECTS:
            self.value_codec = Number("I")
        elif self.type == _T.BPF_MAP_TYPE_STACK_TRACE and self.value_size % 8 == 0:
            self.key_codec, self.value_codec = Number("I"), Addresses(self.value_size)
        self._pack, self._unpack = self.key_codec.pack, self.value_codec.unpack
        self._pack_value = self.value_codec.pack
        self._room = _Room(self.session, self.value_codec.size)

    @property
    def frozen(self) -> bool:
        """Not to be written from outside programs any more."""
        return bool(self.memory.header.frozen)

    def freeze(self) -> None:
        """BPF_MAP_FREEZE. EBUSY."""
        command = Command(bpf_cmd.BPF_MAP_FREEZE, "elem")
        command.fd("map_fd", self.need_fd())
        self.session.must(command, f"map {self.name}: not frozen")

    def may_read(self) -> None:
        """EPERM as the system call: the descriptor is for writing."""
        if self.fd < 0 or self.memory.header.restricted and self._mode() == os.O_WRONLY:
            self.need_fd()
            raise failed(f"map {self.name}: not to be read", -errno.EPERM)

    def may_write(self) -> None:
        """EPERM as the system call: the descriptor is for reading, or the map is frozen."""
        header = self._header
        if self.fd < 0 or header.frozen or header.restricted and self._mode() == os.O_RDONLY:
            self.need_fd()
            raise failed(f"map {self.name}: not to be written", -errno.EPERM)

    def _mode(self) -> int:
        return fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_ACCMODE

    def wrong(self, what: str, err: int) -> ShimError:
        return failed(f"map {self.name}: {what}", err)

    def _locks(self, flags: int) -> None:
        """EINVAL: F_LOCK for values without a lock."""
        if flags & F_LOCK and not self._desc.lock_at:
            raise self.wrong("its values have no lock", -errno.EINVAL)

    @classmethod
    def from_pin(cls, path: str, session: Session | None = None) -> Any:
        """What is pinned at a path below /sys/fs/bpf: a Map, or a Queue."""
        session = session or Session.default()
        return opened(session, handle.from_pin(session, path))

    @classmethod
    def from_id(cls, number: int, session: Session | None = None) -> Any:
        """By id: a Map, or a Queue."""
        session = session or Session.default()
        return opened(session, handle.from_id(session, cls.GET_BY_ID, number))


class Map(BaseMap, MutableMapping[Any, Any]):
    """Keys to values, both typed by BTF (client/values.py).

    m[key], m[key] = value, del m[key], key in m, len(m), m.items() as of a dict; an array's
    elements are always there, and cannot be deleted (EINVAL). Values of per-CPU maps are lists;
    those of maps of maps are ids, and take a Map; a prog array takes a Program; a stack trace is a
    list of addresses.
    """

    __hash__ = Handle.__hash__

    def __getitem__(self, key: Any) -> Any:
        room = self._room  # lookup, once more: a call less
        if self.fd >= 0 and not self._header.restricted and not self._sys_lookup(
                self._desc, self._pack(key), room.value, 0, room.run):
            return self._unpack(room.view)
        return self.lookup(key)

    def lookup(self, key: Any, flags: int = 0) -> Any:
        """The value. KeyError; flags: F_LOCK."""
        room = self._room
        if self.fd < 0 or self._header.restricted:
            self.may_read()
        if flags:
            if flags & ~F_LOCK:
                raise self.wrong(f"lookup with flags {flags:#x}", -errno.EINVAL)
            self._locks(flags)
        err = self._sys_lookup(self._desc, self._pack(key), room.value, flags, room.run)
        if err == -errno.ENOENT:
            raise KeyError(key)
        if err < 0:
            raise self.wrong("lookup", err)
        return self._unpack(room.view)

    def get_bytes(self, key: bytes) -> bytes | None:
        """The value as it lies there, of a key as it lies there; None: absent."""
        if len(key) != self.key_size:
            raise ValueError(f"{len(key)} bytes, keys are {self.key_size}")
        self.may_read()
        room = self._room
        err = self._sys_lookup(self._desc, key, room.value, 0, room.run)
        if err == -errno.ENOENT:
            return None
        if err < 0:
            raise self.wrong("lookup", err)
        return bytes(room.view)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.put(key, value)

    def put(self, key: Any, value: Any, flags: int = ANY) -> None:
        """BPF_MAP_UPDATE_ELEM. flags: ANY, NOEXIST (EEXIST if it is there), EXIST (KeyError if it
        is not), F_LOCK. E2BIG: the map is full."""
        header = self._header
        if self.fd < 0 or header.frozen or header.restricted:
            self.may_write()
        if flags:
            self._locks(flags)
        if self.holds_objects:
            err = self._remote_update(self._pack(key), value, flags)
        else:
            err = self._sys_update(
                self._desc, self._pack(key), self._pack_value(value), flags, self._room.run)
        if err == -errno.ENOENT:
            raise KeyError(key)
        if err < 0:
            raise self.wrong("update", err)

    def insert(self, key: Any, value: Any) -> None:
        """Only if the key is not there; EEXIST."""
        self.put(key, value, NOEXIST)

    def write_bytes(self, data: bytes) -> None:
        """The value of key 0, as it will lie there."""
        if len(data) != self.value_size or self.key_size != 4:
            raise ValueError(f"{len(data)} bytes, values are {self.value_size}")
        err = self._lib.shim_map_sys_update(
            self._desc, bytes(4), data, ANY, self.session.run())
        if err < 0:
            raise self.wrong("update", err)

    def _remote_update(self, key: bytes, value: Any, flags: int) -> int:
        fd = value.need_fd() if isinstance(value, Handle) else int(value)
        command = Command(bpf_cmd.BPF_MAP_UPDATE_ELEM, "elem", flags=flags)
        command.fd("map_fd", self.need_fd())
        command.refs.append(fd)
        command.give("key", key)
        command.give("value", fd.to_bytes(4, "little", signed=True))
        return self.session.bpf(command).ret

    def __delitem__(self, key: Any) -> None:
        self.may_write()
        packed = self._pack(key)
        if self.holds_objects:
            command = Command(bpf_cmd.BPF_MAP_DELETE_ELEM, "elem")
            command.fd("map_fd", self.need_fd())
            command.give("key", packed)
            err = self.session.bpf(command).ret
        else:
            err = self._lib.shim_map_sys_delete(self._desc, packed, self.session.run())
        if err == -errno.ENOENT:
            raise KeyError(key)
        if err < 0:
            raise self.wrong("delete", err)

    _NOTHING: ClassVar[object] = object()

    def pop(self, key: Any, default: Any = _NOTHING) -> Any:
        """Removes the key and gives its value, in one step."""
        self.may_read()
        self.may_write()
        if self.type not in _TAKES:
            raise self.wrong("lookup and delete", -_ENOTSUPP)
        room = self._room
        err = self._lib.shim_map_sys_lookup_and_delete(
            self._desc, self._pack(key), room.value, 0, room.run)
        if err == -errno.ENOENT:
            if default is Map._NOTHING:
                raise KeyError(key)
            return default
        if err < 0:
            raise self.wrong("lookup and delete", err)
        return self._unpack(room.view)

    def __contains__(self, key: object) -> bool:
        try:
            packed = self._pack(key)
        except (ValueError, TypeError, OverflowError):
            return False
        return self.get_bytes(packed) is not None

    def __len__(self) -> int:
        return sum(1 for _ in self._raw_keys())

    def __iter__(self) -> Iterator[Any]:
        return (self.key_codec.unpack(key) for key in self._raw_keys())

    def _raw_keys(self) -> Iterator[bytes]:
        return (key for key, _ in self._raw_items()) if self._batches else self._next_keys()

    def raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values as they lie there."""
        return self._raw_items()

    def items(self) -> Any:
        """(key, value), in batches where the type has them. Elements that come or go meanwhile may
        be missed, none that stays is."""
        return _Items(self)

    def values(self) -> Any:
        return _Values(self)

    @property
    def _batches(self) -> bool:
        none = self._ffi.new("u32 *", 0)
        return not self.holds_objects and self._batch(None, none)[0] != -_ENOTSUPP

    def _raw_items(self) -> Iterator[tuple[bytes, bytes]]:
        if not self._batches:
            for key in self._next_keys():
                if (value := self.get_bytes(key)) is not None:
                    yield key, value
            return
        self.may_read()
        count, size, position = self._ffi.new("u32 *"), _BATCH, None
        while True:
            count[0] = size
            err, keys, values, after = self._batch(position, count)
            if err == -errno.ENOSPC and size <= self.max_entries:  # one bucket holds more
                size *= 2
                continue
            if err < 0 and err != -errno.ENOENT:
                raise self.wrong("batch", err)
            k, v = self.key_size, self.value_codec.size
            for index in range(count[0]):
                yield keys[index * k : (index + 1) * k], values[index * v : (index + 1) * v]
            if err < 0:
                return
            position = after

    def _batch(self, position: Any, count: Any) -> tuple[int, bytes, bytes, Any]:
        """One BPF_MAP_LOOKUP_BATCH: errno, keys, values, the position to go on from."""
        ffi, room = self._ffi, int(count[0])
        keys = ffi.new("char[]", max(room * self.key_size, 1))
        values = ffi.new("char[]", max(room * self.value_codec.size, 1))
        after = ffi.new("char[]", max(int(self._lib.shim_map_position_size(self._desc)), 8))
        err = int(self._lib.shim_map_sys_lookup_batch(
            self._desc, ffi.NULL if position is None else position, after, keys, values, count, 0,
            0, self.session.run()))
        return err, bytes(ffi.buffer(keys)), bytes(ffi.buffer(values)), after

    def _next_keys(self) -> Iterator[bytes]:
        """By BPF_MAP_GET_NEXT_KEY. A key that is deleted meanwhile would start it over: the keys
        are collected first, at most as many as the map holds."""
        self.may_read()
        found: list[bytes] = []
        key: Any = self._ffi.NULL
        while len(found) < self.max_entries:
            after = self._ffi.new("char[]", max(self.key_size, 1))
            err = self._lib.shim_map_sys_next_key(self._desc, key, after, self.session.run())
            if err == -errno.ENOENT:
                break
            if err < 0:
                raise self.wrong("next key", err)
            found.append(bytes(self._ffi.buffer(after, self.key_size)))
            key = after
        return iter(found)


class _Items:
    """A view, as dict.items()."""

    def __init__(self, owner: Map) -> None:
        self._map = owner

    def __len__(self) -> int:
        return len(self._map)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        key, value = self._map.key_codec.unpack, self._map.value_codec.unpack
        return ((key(k), value(v)) for k, v in self._map.raw_items())


class _Values(_Items):
    def __iter__(self) -> Iterator[Any]:
        value = self._map.value_codec.unpack
        return (value(v) for _, v in self._map.raw_items())


class Queue(BaseMap):
    """QUEUE, STACK and BLOOM_FILTER: values without keys."""

    def push(self, value: Any, flags: int = ANY) -> None:
        """Adds a value; E2BIG: full, unless flags is EXIST, which drops the oldest."""
        self.may_write()
        err = self._lib.shim_map_sys_update(
            self._desc, self._ffi.NULL, self.value_codec.pack(value), flags, self.session.run())
        if err < 0:
            raise self.wrong("push", err)

    def pop(self) -> Any:
        """Takes the value whose turn it is; IndexError: empty. ENOTSUPP (524): a filter."""
        self.may_write()
        if self.type not in _TAKES:
            raise self.wrong("lookup and delete", -_ENOTSUPP)
        return self._take(self._lib.shim_map_sys_lookup_and_delete, b"")

    def peek(self) -> Any:
        """The same, and leaves it there."""
        return self._take(self._lib.shim_map_sys_lookup, b"")

    def _take(self, operation: Any, value: bytes) -> Any:
        self.may_read()
        room = self._room
        room.view[: len(value)] = value
        err = operation(self._desc, self._ffi.NULL, room.value, 0, room.run)
        if err == -errno.ENOENT:
            raise IndexError(f"map {self.name}: empty")
        if err < 0:
            raise self.wrong("pop", err)
        return self._unpack(room.view)

    def __contains__(self, value: object) -> bool:
        """A bloom filter's question: False is certain."""
        try:
            self._take(self._lib.shim_map_sys_lookup, self.value_codec.pack(value))
        except IndexError:
            return False
        return True


def opened(session: Session, fd: int, btf: Btf | None = None, name: str = "") -> BaseMap:
    """A map of the class that fits its type, typed by the BTF that it was made with: `btf` if that
    is at hand, else the session's. Takes the descriptor over."""
    from libbpf_shim.btf import sane
    from libbpf_shim.client.btf import blob_of

    try:
        memory = Memory(session, fd)
        kind = Queue if int(memory.desc.type) in KEYLESS else Map
        found: BaseMap = kind(session, fd, memory, name)
    except BaseException:
        os.close(fd)
        raise
    info = found.info()
    if info["btf_id"]:
        types = btf or sane.parse(blob_of(session, int(info["btf_id"])))
        found.use_types(types, int(info["btf_key_type_id"]), int(info["btf_value_type_id"]))
    return found
