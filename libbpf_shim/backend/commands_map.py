"""MAP_CREATE, MAP_FREEZE, PROG_BIND_MAP.

Source: kernel/bpf/syscall.c, map_create() and what it calls.
"""

from __future__ import annotations

import errno

from libbpf_shim.backend.command import Family, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object import map as maps
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_map_type

_MAP_CREATE_FLAGS = 0x7FFFF  # what some map type knows; each type refuses the rest
_NUMA_NODE = 1 << 2  # BPF_F_NUMA_NODE


class MapCommands(Family):
    """Maps as a whole."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_MAP_CREATE: ("map_create", "map_token_fd", self.map_create),
            c.BPF_MAP_FREEZE: ("elem", "map_fd", self.map_freeze),
            c.BPF_PROG_BIND_MAP: ("prog_bind_map", "flags", self.bind_map),
        }

    def map_create(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_CREATE."""
        if attr["map_flags"] & ~_MAP_CREATE_FLAGS:
            raise ShimError("BC0003", errno.EINVAL, f"map: flags {attr['map_flags']:#x}")
        if attr["btf_vmlinux_value_type_id"]:
            raise ShimError("BC0003", errno.EOPNOTSUPP, "map: struct_ops is not there")
        if attr["btf_key_type_id"] and not attr["btf_value_type_id"]:
            raise ShimError("BC0003", errno.EINVAL, "map: BTF without a value type")
        if attr["numa_node"] and not attr["map_flags"] & _NUMA_NODE:
            raise ShimError("BC0003", errno.EINVAL, "map: a NUMA node without its flag")
        maps.object_name(attr.raw("map_name"))
        btf = None
        if attr["btf_value_type_id"]:
            btf = self.store.at(request.key(attr.signed("btf_fd")), BtfObject)
            if attr["map_type"] in (bpf_map_type.BPF_MAP_TYPE_STACK_TRACE,
                                    bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY):
                raise ShimError("BC0003", 524, "map: this type takes no BTF")  # ENOTSUPP
        hdr = maps.header(attr, self.session.counters.next("map"), self.session.control)
        obj = MapObject(int(hdr.id), hdr, attr, self.session.control)
        if btf:
            obj.btf = btf
            obj.hold(btf)
        return self.new(obj)

    def map_freeze(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_FREEZE."""
        self.map_at(request, attr).freeze()
        return BpfReply()

    def bind_map(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_BIND_MAP."""
        if attr["flags"]:
            raise ShimError("BC0006", errno.EINVAL, "bind: flags")
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        found = self.map_at(request, attr)
        if found not in prog.holds:
            prog.hold(found)
        return BpfReply()
