"""BPF_OBJ_GET_INFO_BY_FD: struct bpf_{map,prog,btf,link}_info.

Source: kernel/bpf/syscall.c (bpf_obj_get_info_by_fd and what it calls), linux/bpf.h.
"""

from __future__ import annotations

import errno
import os

from libbpf_shim.attach.event import Uprobe
from libbpf_shim.attach.link import LinkObject
from libbpf_shim.backend.wire import SEG_NESTED, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Struct
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object
from libbpf_shim.uapi import structs

Out = list[tuple[int, int, bytes]]
_PAGE = 4096
_LINK_PERF_EVENT = 7  # BPF_LINK_TYPE_PERF_EVENT
_EVENT_UPROBE, _EVENT_URETPROBE, _EVENT_EVENT = 1, 2, 6  # enum bpf_perf_event_type


def _start(fields: structs.Fields, size: int, given: bytes) -> Struct:
    """bpf_check_uarg_tail_zero(): E2BIG for a tail of ones."""
    if any(given[size:]):
        raise ShimError("BI0001", errno.E2BIG, "information: bytes behind what is known")
    return Struct(fields, size, given)


def _through(what: Struct, name: str, data: bytes, request: BpfRequest) -> Out:
    """Bytes through a pointer inside the structure, as many as fit."""
    where = what.fields[name][0] | SEG_NESTED
    room = request.room(where)
    return [(where, 0, data[:room])] if room else []


def _map(obj: MapObject, given: bytes) -> tuple[Struct, Out]:
    what = _start(structs.BPF_MAP_INFO, structs.BPF_MAP_INFO_SIZE, given)
    what.data[:] = bytes(len(what.data))
    what["type"], what["id"] = obj.type, obj.id
    what["key_size"], what["value_size"] = obj.attr["key_size"], obj.attr["value_size"]
    what["max_entries"], what["map_flags"] = obj.attr["max_entries"], obj.flags
    what["name"], what["map_extra"] = obj.name.encode(), obj.attr["map_extra"]
    if obj.btf:
        what["btf_id"] = obj.btf.id
        what["btf_key_type_id"] = obj.attr["btf_key_type_id"]
        what["btf_value_type_id"] = obj.attr["btf_value_type_id"]
    return what, []


def _prog(obj: ProgObject, given: bytes, request: BpfRequest) -> tuple[Struct, Out]:
    what = _start(structs.BPF_PROG_INFO, structs.BPF_PROG_INFO_SIZE, given)
    ids = b"".join(m.id.to_bytes(4, "little") for m in obj.maps)
    out: Out = []
    out += _through(what, "map_ids", ids, request)
    if what["nr_jited_ksyms"] or what["nr_func_info"] or what["nr_line_info"]:
        what["nr_jited_ksyms"] = what["nr_func_info"] = what["nr_line_info"] = 0
    out += _through(what, "xlated_prog_insns", obj.program.insns, request)
    out += _through(what, "jited_prog_insns", obj.image.text, request)
    what["type"], what["id"], what["tag"] = obj.program.prog_type, obj.id, obj.tag
    what["xlated_prog_len"], what["jited_prog_len"] = len(obj.program.insns), len(obj.image.text)
    what["nr_map_ids"], what["name"] = len(obj.maps), obj.name.encode()
    what["load_time"], what["created_by_uid"] = obj.load_time, os.getuid()
    what["verified_insns"] = obj.verified_insns
    what["run_cnt"], what["run_time_ns"] = obj.runs
    what["btf_id"] = obj.btf.id if obj.btf else 0
    for name in ("nr_jited_func_lens", "nr_jited_line_info", "nr_prog_tags"):
        what[name] = 0
    return what, out


def _btf(obj: BtfObject, given: bytes, request: BpfRequest) -> tuple[Struct, Out]:
    what = _start(structs.BPF_BTF_INFO, structs.BPF_BTF_INFO_SIZE, given)
    out: Out = []
    if what["btf"]:
        out += _through(what, "btf", obj.blob, request)
    name = obj.name.encode() + b"\0"
    if what["name_len"] and what["name"]:
        room = what["name_len"]
        fits = name if len(name) <= room else name[: room - 1] + b"\0"
        out += _through(what, "name", fits, request)
        if len(name) > room:
            raise ShimError("BI0002", errno.ENOSPC, "information: the name does not fit")
    what["btf_size"], what["id"] = len(obj.blob), obj.id
    what["name_len"], what["kernel_btf"] = len(name) - 1, int(obj.kernel)
    return what, out


def _link(obj: LinkObject, given: bytes, request: BpfRequest) -> tuple[Struct, Out]:
    what = _start(structs.BPF_LINK_INFO, structs.BPF_LINK_INFO_SIZE, given)
    what["type"], what["id"], what["prog_id"] = _LINK_PERF_EVENT, obj.id, obj.prog.id
    out: Out = []
    spec = obj.event.spec
    if isinstance(spec, Uprobe):
        what["perf_event.type"] = _EVENT_URETPROBE if spec.ret else _EVENT_UPROBE
        what["perf_event.uprobe.offset"] = spec.offset
        what["perf_event.uprobe.cookie"] = obj.cookie
        name = os.fsencode(spec.path) + b"\0"
        out += _through(what, "perf_event.uprobe.file_name", name, request)
        what["perf_event.uprobe.name_len"] = len(name)
    else:
        what["perf_event.type"] = _EVENT_EVENT
        what["perf_event.event.cookie"] = obj.cookie
    return what, out


def fill(obj: Object, given: bytes, request: BpfRequest, info_at: int) -> tuple[int, Out]:
    """Bytes of the structure that the caller gets, and what goes where. EINVAL for objects that
    have no information; E2BIG for a structure with more in it than is known."""
    if len(given) > _PAGE:
        raise ShimError("BI0001", errno.E2BIG, f"information of {len(given)} bytes")
    if isinstance(obj, MapObject):
        what, out = _map(obj, given)
    elif isinstance(obj, ProgObject):
        what, out = _prog(obj, given, request)
    elif isinstance(obj, BtfObject):
        what, out = _btf(obj, given, request)
    elif isinstance(obj, LinkObject):
        what, out = _link(obj, given, request)
    else:
        raise ShimError("BI0003", errno.EINVAL, "information: not a BPF object")
    size = min(len(given), len(what.data))
    return size, [(info_at, 0, bytes(what.data[:size]))] * bool(size) + out
