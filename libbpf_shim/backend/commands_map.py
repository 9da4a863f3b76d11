"""MAP_CREATE, MAP_FREEZE, PROG_BIND_MAP.

Source: kernel/bpf/syscall.c, map_create() and what it calls.
"""

from __future__ import annotations

import errno
import os
import socket

from libbpf_shim.backend.command import Family, Table, file_mode
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.btf.parse import Btf
from libbpf_shim.errors import ShimError
from libbpf_shim.object import map as maps
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.fdmap import FD_MAPS, MAPS_OF_MAPS, FdMap, template
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.map_btf import LOCAL, MapTypes
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_map_type

_NUMA_NODE, _TOKEN_FD = 1 << 2, 1 << 16  # BPF_F_*
_ANY_NODE = -1  # NUMA_NO_NODE
_T = bpf_map_type
_EXTRA = (_T.BPF_MAP_TYPE_BLOOM_FILTER, _T.BPF_MAP_TYPE_ARENA)  # that map_extra tells something
_SHA256 = 32  # bytes


def _refused(what: str, code: int = errno.EINVAL) -> ShimError:
    return ShimError("BC0003", code, f"map: {what}")


class MapCommands(Family):
    """Maps as a whole."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_MAP_CREATE: ("map_create", "excl_prog_hash_size", self.map_create),
            c.BPF_MAP_FREEZE: ("elem", "map_fd", self.map_freeze),
            c.BPF_PROG_BIND_MAP: ("prog_bind_map", "flags", self.bind_map),
        }

    def map_create(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_CREATE."""
        kind, flags = attr["map_type"], attr["map_flags"]
        if attr["btf_vmlinux_value_type_id"]:
            if (kind != _T.BPF_MAP_TYPE_STRUCT_OPS or attr["btf_key_type_id"]
                    or attr["btf_value_type_id"]):
                raise _refused("a kernel's value type is for struct_ops")
            raise _refused("struct_ops is not there", errno.EOPNOTSUPP)
        if attr["btf_key_type_id"] and not attr["btf_value_type_id"]:
            raise _refused("BTF without a value type")
        if attr["map_extra"] and kind not in _EXTRA:
            raise _refused(f"map_extra for type {kind}")
        file_mode(flags)
        if flags & _NUMA_NODE and attr.signed("numa_node") not in (_ANY_NODE, *_nodes()):
            raise _refused(f"NUMA node {attr['numa_node']} is not there")
        if kind in LOCAL and not attr["btf_value_type_id"]:
            raise _refused("a storage needs BTF")
        hdr = maps.header(attr, self.session.counters.next("map"), self.session.control)
        if attr["map_ifindex"]:
            _offload(kind, attr["map_ifindex"])
        if flags & _TOKEN_FD:
            self.token(request, attr.signed("map_token_fd"))
        inner = self._inner(request, attr)
        hdr.name = maps.object_name(attr.raw("map_name")).encode()
        btf, types = self._types(request, attr, int(hdr.map_flags))
        if types:
            hdr.lock_at, hdr.timer_at = types.at("bpf_spin_lock"), types.at("bpf_timer")
        exclusive = _exclusive(request, attr)
        number, control, gate = int(hdr.id), self.session.control, self.session.gate
        if self.session.served:
            self.session.served.map(
                kind, int(hdr.file_size),
                [one.file_size for one in self.store.of_kind(MapObject).values()],
                [field.name for field in types.fields] if types else ())
        if gate:
            gate.map(kind, int(hdr.file_size), attr.raw("map_name"), self.store)
        if kind in FD_MAPS:
            obj: MapObject = FdMap(number, hdr, attr, control, inner)
        else:
            obj = MapObject(number, hdr, attr, control)
        obj.exclusive = exclusive
        if btf and types:
            obj.btf, obj.fields = btf, types.fields
            obj.hold(btf)
        if gate:
            gate.made(number, obj.file_size)
        return self.new(obj, flags)

    def _types(
        self, request: BpfRequest, attr: Attr, flags: int
    ) -> tuple[BtfObject, MapTypes] | tuple[None, None]:
        """The BTF of a map to be made, checked against its sizes. EBADF, EINVAL; EACCES: the
        kernel's own."""
        if not attr["btf_value_type_id"]:
            return None, None
        btf = self.store.at(request.key(attr.signed("btf_fd")), BtfObject)
        if btf.kernel:
            raise _refused("BTF of the kernel", errno.EACCES)
        types = MapTypes(
            Btf(btf.blob), attr["map_type"], flags, attr["max_entries"], attr["key_size"],
            attr["value_size"], attr["btf_key_type_id"], attr["btf_value_type_id"])
        types.check()
        return btf, types

    def _inner(self, request: BpfRequest, attr: Attr) -> MapObject | None:
        """The map whose likes a map of maps will hold; EBADF, EINVAL, ENOTSUPP (524)."""
        if attr["map_type"] not in MAPS_OF_MAPS:
            return None
        inner = self.store.at(request.key(attr.signed("inner_map_fd")), MapObject)
        template(inner)
        return inner

    def map_freeze(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_FREEZE."""
        mode = request.mode(attr.signed("map_fd"))
        self.map_at(request, attr).freeze(mode, self.session.loaders())
        return BpfReply()

    def bind_map(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_BIND_MAP."""
        if attr["flags"]:
            raise ShimError("BC0006", errno.EINVAL, "bind: flags")
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        prog.bind(self.map_at(request, attr))
        return BpfReply()


def _nodes() -> set[int]:
    """NUMA nodes that are online."""
    try:
        names = os.listdir("/sys/devices/system/node")
    except OSError:
        return {0}
    return {int(n[4:]) for n in names if n.startswith("node") and n[4:].isdigit()} or {0}


def _offload(kind: int, index: int) -> None:
    """bpf_map_offload_map_alloc(): no device here takes maps."""
    if kind not in (_T.BPF_MAP_TYPE_ARRAY, _T.BPF_MAP_TYPE_HASH):
        raise _refused(f"type {kind} is not offloaded")
    try:
        socket.if_indextoname(index)
    except (OSError, OverflowError) as err:
        raise _refused(f"network device {index} is not there") from err
    raise ShimError("BC0012", errno.EOPNOTSUPP, f"map: network device {index} takes no maps")


def _exclusive(request: BpfRequest, attr: Attr) -> bytes:
    """The SHA-256 of the only program that may use the map; empty: any may."""
    if not attr["excl_prog_hash"]:
        if attr["excl_prog_hash_size"]:
            raise _refused("a hash's size without a hash")
        return b""
    if attr["excl_prog_hash_size"] != _SHA256:
        raise _refused(f"a hash of {attr['excl_prog_hash_size']} bytes, expected {_SHA256}")
    return request.bytes_at(attr.offset("excl_prog_hash"))
