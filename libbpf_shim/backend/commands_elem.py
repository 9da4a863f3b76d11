"""Elements whose values are objects: descriptor arrays.

Elements of plain maps never come here: the surface does them in shared memory, as it does what
only reads these. Source: kernel/bpf/syscall.c (map_update_elem() and its neighbours),
kernel/bpf/arraymap.c (*_fd_get_ptr()).
"""

from __future__ import annotations

import errno

from libbpf_shim.attach.link import EventObject, RingObject
from libbpf_shim.backend.command import Family, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object import fdmap
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.fdmap import FdMap
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object
from libbpf_shim.uapi.bpf import bpf_cmd


class ElemCommands(Family):
    """Elements that the backend keeps."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_MAP_LOOKUP_ELEM: ("elem", "flags", self.map_other),
            c.BPF_MAP_UPDATE_ELEM: ("elem", "flags", self.map_update),
            c.BPF_MAP_DELETE_ELEM: ("elem", "key", self.map_delete),
            c.BPF_MAP_GET_NEXT_KEY: ("elem", "next_key", self.map_other),
        }

    def map_other(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """Lookups come here only before a session has maps: what is wrong is the descriptor."""
        self.map_at(request, attr)
        raise ShimError("BC0004", errno.EOPNOTSUPP, "map: its values are not for system calls")

    def _fd_map(self, request: BpfRequest, attr: Attr) -> FdMap:
        found = self.map_at(request, attr)
        if not isinstance(found, FdMap):
            raise ShimError("BC0004", errno.EOPNOTSUPP, "map: its values are the loader's own")
        return found

    def map_update(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_UPDATE_ELEM: the object is where programs can reach it before it is found."""
        found = self._fd_map(request, attr)
        key = request.bytes_at(attr.offset("key"))
        fd = int.from_bytes(request.bytes_at(attr.offset("value")), "little", signed=True)
        found.check(key, attr["flags"])
        obj = self._object(found, request.key(fd))
        if isinstance(obj, RingObject | EventObject):
            value = obj.slot()
        else:
            value = obj.id.to_bytes(4, "little")
            self.session.bring(found, obj)
        before = found.put(key, obj, value, attr["flags"])
        found.came_by(key, loader, attr.signed("map_fd"))
        if before:
            self.store.collect(before)
        return BpfReply()

    def _object(
        self, found: FdMap, key: tuple[int, int]
    ) -> ProgObject | MapObject | RingObject | EventObject:
        """What a descriptor may stand for in that map: EBADF, EINVAL."""
        if found.type == fdmap.PROG_ARRAY:
            prog = self.store.at(key, ProgObject)
            found.check_prog(prog.program, prog.overrides)
            prog.require_runnable()
            return prog
        if found.type in fdmap.MAPS_OF_MAPS:
            inner = self.store.at(key, MapObject)
            found.check_inner(inner)
            return inner
        event = self.store.at(key, Object, errno.EBADF)
        if found.type == fdmap.PERF_EVENT_ARRAY and isinstance(event, RingObject | EventObject):
            return event
        raise ShimError("BC0005", errno.EBADF, f"map {found.id}: no event behind that descriptor")

    def map_delete(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_DELETE_ELEM."""
        found = self._fd_map(request, attr)
        before = found.drop(request.bytes_at(attr.offset("key")))
        if before:
            self.store.collect(before)
        return BpfReply()
