"""BPF_OBJ_GET_INFO_BY_FD: struct bpf_{map,btf,link}_info, and whose information it is.

Source: kernel/bpf/syscall.c (bpf_obj_get_info_by_fd and what it calls), kernel/bpf/btf.c
(btf_get_info_by_fd), linux/bpf.h.
"""

from __future__ import annotations

import errno
import hashlib
import os

from libbpf_shim.attach.event import TYPE_SOFTWARE, Tracepoint, Uprobe
from libbpf_shim.attach.function import Function
from libbpf_shim.attach.link import LinkObject, PerfLink
from libbpf_shim.attach.multi import MultiLink
from libbpf_shim.backend import info_prog, uprobe_multi
from libbpf_shim.backend.command import RefusedError
from libbpf_shim.backend.info_out import Given
from libbpf_shim.backend.wire import BpfReply
from libbpf_shim.errors import ShimError
from libbpf_shim.object import token
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object
from libbpf_shim.object.token import TokenObject
from libbpf_shim.uapi import structs
from libbpf_shim.uapi.bpf import bpf_link_type, bpf_map_type

_SHA256 = 32  # bytes
# enum bpf_perf_event_type
_EVENT_UPROBE, _EVENT_URETPROBE, _EVENT_TRACEPOINT, _EVENT_EVENT = 1, 2, 5, 6
_EVENT_KPROBE, _EVENT_KRETPROBE = 3, 4


def _refused(what: str, code: int = errno.EINVAL) -> ShimError:
    return ShimError("BI0002", code, f"information: {what}")


def _map(obj: MapObject, given: Given) -> None:
    what = given.what
    wanted, size = what["hash"], what["hash_size"]
    what["type"], what["id"] = obj.type, obj.id
    what["key_size"], what["value_size"] = obj.attr["key_size"], obj.attr["value_size"]
    what["max_entries"], what["map_flags"] = obj.desc.max_entries, obj.flags
    what["name"], what["map_extra"] = obj.name.encode(), obj.attr["map_extra"]
    what["btf_vmlinux_value_type_id"] = 0
    if obj.btf:  # else the caller's stay
        what["btf_id"] = obj.btf.id
        what["btf_key_type_id"] = obj.attr["btf_key_type_id"]
        what["btf_value_type_id"] = obj.attr["btf_value_type_id"]
    if not wanted and size:
        raise _refused("a hash's size without its place")
    if wanted:
        if obj.type != bpf_map_type.BPF_MAP_TYPE_ARRAY or size != _SHA256:
            raise _refused("maps of this type have no hash, or it has another size")
        if not obj.frozen:
            raise _refused("the hash of a map that may change", errno.EPERM)
        what["hash"], what["hash_size"] = wanted, size
        given.through("hash", hashlib.sha256(obj.values()).digest(), _SHA256)


def _btf(obj: BtfObject, given: Given) -> None:
    what = given.what
    given.through("btf", obj.blob, what["btf_size"])
    name, room, where = obj.name.encode() + b"\0", what["name_len"], what["name"]
    if bool(where) != bool(room):
        raise _refused("a name's place without its size")
    what["btf_size"], what["id"] = len(obj.blob), obj.id
    what["name_len"], what["kernel_btf"] = len(name) - 1, int(obj.kernel)
    if room:
        fits = name if len(name) <= room else name[: room - 1] + b"\0"
        given.through("name", fits, len(fits))
        if len(name) > room:
            given.error = _refused("the name does not fit", errno.ENOSPC)


def _name(given: Given, pointer: str, size: str, text: bytes) -> int:
    """A name to where the caller has room for it; its size. EINVAL, ENOSPC."""
    name = text + b"\0"
    where, room = given.what[pointer], given.what[size]
    if bool(where) != bool(room):
        raise _refused("a name's place without its size")
    if where:
        if len(name) > room:
            given.through(pointer, name[: room - 1] + b"\0", room)
            raise RefusedError(_refused("the name does not fit", errno.ENOSPC),
                               BpfReply(out=given.out))
        given.through(pointer, name, len(name))
    return len(name)


def _tracepoint(obj: LinkObject, spec: Tracepoint, given: Given) -> None:
    what, name = given.what, spec.name.encode()
    if spec.raw:
        what["type"] = bpf_link_type.BPF_LINK_TYPE_RAW_TRACEPOINT
        what["raw_tracepoint.tp_name_len"] = _name(
            given, "raw_tracepoint.tp_name", "raw_tracepoint.tp_name_len", name)
        what["raw_tracepoint.cookie"] = obj.cookie
        return
    what["perf_event.tracepoint.name_len"] = _name(
        given, "perf_event.tracepoint.tp_name", "perf_event.tracepoint.name_len", name)
    what["perf_event.type"] = _EVENT_TRACEPOINT
    what["perf_event.tracepoint.cookie"] = obj.cookie


def _function(obj: LinkObject, spec: Function, given: Given, missed: int) -> None:
    """bpf_perf_link_fill_kprobe(); addresses of the kernel are 0, as for who may not see them."""
    what = given.what
    what["perf_event.kprobe.name_len"] = _name(
        given, "perf_event.kprobe.func_name", "perf_event.kprobe.name_len", spec.name.encode())
    what["perf_event.type"] = _EVENT_KRETPROBE if spec.ret else _EVENT_KPROBE
    what["perf_event.kprobe.missed"] = missed
    what["perf_event.kprobe.cookie"] = obj.cookie


def _link(obj: PerfLink, given: Given, missed: int) -> None:
    what, spec = given.what, obj.event.spec
    what["type"] = bpf_link_type.BPF_LINK_TYPE_PERF_EVENT
    what["id"], what["prog_id"] = obj.id, obj.prog.id
    if isinstance(spec, Tracepoint):
        _tracepoint(obj, spec, given)
        return
    if isinstance(spec, Function):
        _function(obj, spec, given, missed)
        return
    if not isinstance(spec, Uprobe):
        what["perf_event.type"] = _EVENT_EVENT
        what["perf_event.event.type"], what["perf_event.event.config"] = TYPE_SOFTWARE, 0
        what["perf_event.event.cookie"] = obj.cookie
        return
    length = _name(given, "perf_event.uprobe.file_name", "perf_event.uprobe.name_len",
                   os.fsencode(spec.name or spec.path))
    what["perf_event.type"] = _EVENT_URETPROBE if spec.ret else _EVENT_UPROBE
    what["perf_event.uprobe.name_len"] = length
    what["perf_event.uprobe.offset"] = spec.offset
    what["perf_event.uprobe.cookie"] = obj.cookie
    what["perf_event.uprobe.ref_ctr_offset"] = spec.given_ref


def fill(obj: Object, given: Given, missed: int) -> BpfReply:
    """The reply: the structure, cut to the caller's size, and what its pointers lead to. missed:
    runs of a program that were left out. EINVAL for objects that have no information; E2BIG for a
    structure with more in it than is known."""
    if isinstance(obj, MapObject):
        given.begin(structs.BPF_MAP_INFO, structs.BPF_MAP_INFO_SIZE)
        _map(obj, given)
    elif isinstance(obj, ProgObject):
        given.begin(structs.BPF_PROG_INFO, structs.BPF_PROG_INFO_SIZE)
        info_prog.fill(obj, given, missed)
    elif isinstance(obj, BtfObject):
        given.begin(structs.BPF_BTF_INFO, structs.BPF_BTF_INFO_SIZE)
        _btf(obj, given)
    elif isinstance(obj, PerfLink):
        given.begin(structs.BPF_LINK_INFO, structs.BPF_LINK_INFO_SIZE)
        _link(obj, given, missed)
    elif isinstance(obj, MultiLink):
        given.begin(structs.BPF_LINK_INFO, structs.BPF_LINK_INFO_SIZE)
        uprobe_multi.info(obj, given)
    elif isinstance(obj, TokenObject):
        given.begin(structs.BPF_TOKEN_INFO, structs.BPF_TOKEN_INFO_SIZE)
        for what in token.ALLOWED:
            given.what[what] = token.ANY
    else:
        raise ShimError("BI0003", errno.EINVAL, "information: not a BPF object")
    reply = given.reply()
    if given.error:
        raise RefusedError(given.error, reply)
    return reply
