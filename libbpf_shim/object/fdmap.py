"""Maps whose values are objects, which loaders name by descriptors: PROG_ARRAY, PERF_EVENT_ARRAY,
CGROUP_ARRAY, ARRAY_OF_MAPS, HASH_OF_MAPS.

An element holds its object. What stands in shared memory is the object's id (perf events: the
place of the ring), written last. What must be in processes before is attach/elements.py's.

Source: kernel/bpf/arraymap.c (bpf_fd_array_map_update_elem() and the map types around it),
kernel/bpf/hashtab.c, kernel/bpf/map_in_map.c, kernel/bpf/core.c (bpf_prog_map_compatible()).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from typing import Any, NoReturn

from libbpf_shim.errors import ShimError
from libbpf_shim.object import descriptors
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.control import Control
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object
from libbpf_shim.uapi.bpf import BPF_F_INNER_MAP, BPF_F_PRESERVE_ELEMS, bpf_map_type
from libbpf_shim.verifier.program import MapDesc, Program

PROG_ARRAY = bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY
PERF_EVENT_ARRAY = bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY
CGROUP_ARRAY = bpf_map_type.BPF_MAP_TYPE_CGROUP_ARRAY
HASH_OF_MAPS = bpf_map_type.BPF_MAP_TYPE_HASH_OF_MAPS
MAPS_OF_MAPS = (bpf_map_type.BPF_MAP_TYPE_ARRAY_OF_MAPS, HASH_OF_MAPS)
FD_MAPS = (PROG_ARRAY, PERF_EVENT_ARRAY, CGROUP_ARRAY, *MAPS_OF_MAPS)
_ENOTSUPP = 524  # the kernel's own, as bpf(2) answers it
_PERMANENT_FLAGS = ~(3 << 3)  # without BPF_F_RDONLY, BPF_F_WRONLY: those are of a descriptor
_XDP_HAS_FRAGS = 1 << 5  # BPF_F_XDP_HAS_FRAGS


def _no(code: int, what: str) -> NoReturn:
    raise ShimError("OB0015", code, what)


class FdMap(MapObject):
    """elements: by key. owner: of a PROG_ARRAY, what programs must have in common with the first
    that met it; None: none has. inner: what is like the maps of a map of maps."""

    def __init__(
        self, number: int, header: Any, attr: Attr, control: Control, inner: MapObject | None
    ) -> None:
        self.inner: MapDesc | None = template(inner) if inner else None
        self._inner_meta = _meta(inner) if inner else ()
        super().__init__(number, header, attr, control)
        self.elements: dict[bytes, Object] = {}
        self.owner: tuple[int, int, bool, str] | None = None
        self._of_descriptors = (self.type == PERF_EVENT_ARRAY
                                and not self.desc.map_flags & BPF_F_PRESERVE_ELEMS)  # fmt: skip
        self._came_by: dict[bytes, int] = {}

    @property
    def contents(self) -> Iterable[MapObject | ProgObject] | None:
        """The objects that processes must have which have the map."""
        if self.type != PROG_ARRAY and self.type not in MAPS_OF_MAPS:
            return None
        return [o for o in self.elements.values() if isinstance(o, MapObject | ProgObject)]

    def describe(self) -> MapDesc:
        described = super().describe()
        return described.with_inner(self.inner) if self.inner else described

    def check(self, key: bytes, flags: int) -> None:
        """What bpf_fd_array_map_update_elem() looks at before the descriptor: EINVAL, E2BIG."""
        if self.type == HASH_OF_MAPS:
            return
        if flags:
            _no(errno.EINVAL, f"map {self.id}: flags {flags:#x}")
        if int.from_bytes(key, "little") >= self.desc.max_entries:
            _no(errno.E2BIG, f"map {self.id}: no such index")

    def check_inner(self, other: MapObject) -> None:
        """bpf_map_meta_equal(): EINVAL."""
        meta = _meta(other)
        if meta != self._inner_meta:
            _no(errno.EINVAL, f"map {self.id}: map {other.id} is not like its inner maps: "
                f"{meta}, expected {self._inner_meta}")  # fmt: skip

    def check_prog(self, program: Program, overrides: bool = False) -> None:
        """bpf_prog_map_compatible(): the first program decides, of isolated ones its class too.
        EINVAL."""
        if overrides:
            _no(errno.EINVAL, f"map {self.id}: programs that override are called by nobody")
        frags = bool(program.prog_flags & _XDP_HAS_FRAGS)
        policy = program.policy
        within = policy.name if policy and policy.isolation else ""
        kind = (program.prog_type, program.expected_attach_type, frags, within)
        if self.owner is None:
            self.owner = kind
        elif self.owner != kind:
            _no(errno.EINVAL, f"map {self.id}: of programs {self.owner}, not {kind}")

    def put(self, key: bytes, obj: Object, value: bytes, flags: int) -> Object | None:
        """The element is obj from now on; what it was before, to be collected. The errno of the
        update: it is as it was."""
        self.update(key, value, flags)
        before = self.elements.get(key)
        self.elements[key] = obj
        self.hold(obj)
        obj.placed(self, key)
        if before:
            self._let(key, before)
        return before

    def drop(self, key: bytes) -> Object | None:
        """The element is gone; what it was. ENOENT, E2BIG."""
        self.delete(key)
        return self._forget(key)

    def _forget(self, key: bytes) -> Object | None:
        before = self.elements.pop(key, None)
        self._came_by.pop(key, None)
        if before:
            self._let(key, before)
        return before

    def _let(self, key: bytes, obj: Object) -> None:
        obj.taken(self, key)
        self.let_go(obj)

    def _clear(self) -> list[Object]:
        keys = list(self.elements)
        return [obj for key in keys if (obj := self.drop(key))]

    def hand_out(self, mode: int) -> int:
        fd = super().hand_out(mode)
        if self._of_descriptors:
            descriptors.mark(fd, mode)
        return fd

    def came_by(self, key: bytes, pid: int, fd: int) -> None:
        """The element was put through a descriptor of that process."""
        if self._of_descriptors:
            self._came_by[key] = descriptors.mark_of(pid, fd)

    def closed(self) -> list[Object]:
        """perf_event_fd_array_release(): elements go with the descriptor they came by."""
        marks = {mark for mark in self._came_by.values() if not descriptors.held(self.fd, mark)}
        keys = [key for key, mark in self._came_by.items() if mark in marks]
        return [obj for key in keys if (obj := self.drop(key))]

    def unused(self) -> list[Object]:
        """prog_array_map_clear(): else programs and the arrays they use would hold each other."""
        return self._clear() if self.type == PROG_ARRAY else []

    def end(self) -> None:
        for key, obj in self.elements.items():
            obj.taken(self, key)
        self.elements.clear()
        super().end()


def template(inner: MapObject) -> MapDesc:
    """bpf_map_meta_alloc(): what programs may believe of every inner map. EINVAL: it has inner
    maps itself; ENOTSUPP: its type cannot be one."""
    if inner.type in MAPS_OF_MAPS:
        _no(errno.EINVAL, "map: maps of maps of maps are not there")
    if inner.type == PROG_ARRAY:
        _no(_ENOTSUPP, "map: a PROG_ARRAY cannot be an inner map")
    return inner.describe().without_contents()


def _meta(inner: MapObject) -> tuple[int, ...]:
    """What inner maps of one map have in common. Arrays: also their length, unless each lookup
    looks at it (BPF_F_INNER_MAP)."""
    desc = inner.desc
    fixed = (inner.type == bpf_map_type.BPF_MAP_TYPE_ARRAY
             and not desc.map_flags & BPF_F_INNER_MAP)  # fmt: skip
    return (inner.type, inner.attr["key_size"], inner.attr["value_size"],
            desc.map_flags & _PERMANENT_FLAGS, desc.lock_at, desc.timer_at,
            desc.max_entries if fixed else 0)  # fmt: skip
