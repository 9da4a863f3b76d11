"""Elements whose values are objects: descriptor arrays.

Elements of plain maps never come here: the surface does them in shared memory.
Source: kernel/bpf/syscall.c (map_update_elem() and its neighbours).
"""

from __future__ import annotations

import errno

from libbpf_shim.attach.link import RingObject
from libbpf_shim.backend.command import Family, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_map_type


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

    def map_update(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_UPDATE_ELEM of an array of descriptors."""
        found = self.map_at(request, attr)
        if found.type == bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY:
            key = request.bytes_at(attr.offset("key"))
            fd = int.from_bytes(request.bytes_at(attr.offset("value")), "little", signed=True)
            ring = self.store.at(request.key(fd), RingObject)
            before = [r for r in self.store.of_kind(RingObject).values() if r.is_in(found, key)]
            ring.put_into(found, key, attr["flags"])
            for old in before:
                old.take_out(found, key)
                self.store.collect(old)
            return BpfReply()
        fd = int.from_bytes(request.bytes_at(attr.offset("value")), "little", signed=True)
        if request.key(fd) == (0, 0):
            raise ShimError("BC0005", errno.EBADF, f"descriptor {fd}: not open")
        raise ShimError("BC0005", errno.EOPNOTSUPP, "map: descriptors cannot be put into it")

    def map_delete(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_DELETE_ELEM of an array of descriptors."""
        found = self.map_at(request, attr)
        key = request.bytes_at(attr.offset("key"))
        found.delete(key)
        for ring in list(self.store.of_kind(RingObject).values()):
            if ring.is_in(found, key):
                ring.take_out(found, key)
                self.store.collect(ring)
        return BpfReply()
