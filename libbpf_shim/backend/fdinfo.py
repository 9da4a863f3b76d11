"""What /proc/PID/fdinfo/N says of a BPF descriptor: bpftool reads memory and owners from it.

Source: kernel/bpf/syscall.c (bpf_map_show_fdinfo, bpf_prog_show_fdinfo, bpf_link_show_fdinfo),
kernel/bpf/token.c (bpf_token_show_fdinfo).
"""

from __future__ import annotations

from libbpf_shim.attach.event import Tracepoint, Uprobe
from libbpf_shim.attach.function import Function
from libbpf_shim.attach.link import LinkObject, PerfLink
from libbpf_shim.attach.multi import RETURN, MultiLink
from libbpf_shim.backend import uprobe_multi
from libbpf_shim.object import token
from libbpf_shim.object.fdmap import FdMap
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object
from libbpf_shim.object.token import TokenObject

_PAGE = 4096
_O_RDWR_CLOEXEC = 0o2000002


def _map(obj: MapObject) -> dict[str, object]:
    rows = {
        "map_type": obj.type, "key_size": obj.attr["key_size"],
        "value_size": obj.attr["value_size"], "max_entries": obj.desc.max_entries,
        "map_flags": hex(obj.flags), "map_extra": hex(obj.attr["map_extra"]),
        "memlock": obj.file_size, "map_id": obj.id, "frozen": int(obj.frozen),
    }  # fmt: skip
    if isinstance(obj, FdMap) and obj.owner:
        rows |= {"owner_prog_type": obj.owner[0], "owner_jited": 1}
    return rows


def _prog(obj: ProgObject) -> dict[str, object]:
    count, time = obj.runs
    rows: dict[str, object] = {
        "prog_type": obj.program.prog_type, "prog_jited": int(bool(obj.image.machine_code)),
        "prog_tag": obj.tag.hex(),
        "memlock": -(-len(obj.image.text) // _PAGE) * _PAGE, "prog_id": obj.id,
        "run_time_ns": time, "run_cnt": count, "recursion_misses": 0,
        "verified_insns": obj.verified_insns,
    }  # fmt: skip
    return rows | {"ended": obj.ended} if obj.facts.counted >= 0 else rows  # ours


def _link(obj: LinkObject) -> dict[str, object]:
    rows: dict[str, object] = {"link_type": "perf", "link_id": obj.id,
                               "prog_tag": obj.prog.tag.hex(), "prog_id": obj.prog.id}
    if isinstance(obj, MultiLink):
        ret = obj.spec.flags & RETURN
        return rows | {"link_type": "uretprobe_multi" if ret else "uprobe_multi"}
    spec = obj.event.spec if isinstance(obj, PerfLink) else None
    if isinstance(spec, Tracepoint) and spec.raw:
        return rows | {"link_type": "raw_tracepoint", "tp_name": spec.name, "cookie": obj.cookie}
    if isinstance(spec, Uprobe):
        rows |= {"name": spec.name or spec.path, "offset": hex(spec.offset),
                 "ref_ctr_offset": hex(spec.given_ref),
                 "event_type": "uretprobe" if spec.ret else "uprobe", "cookie": obj.cookie}
    if isinstance(spec, Function):
        rows |= {"name": spec.name, "offset": hex(0), "missed": 0, "addr": hex(0),
                 "event_type": "kretprobe" if spec.ret else "kprobe", "cookie": obj.cookie}
    return rows


def text(obj: Object) -> str:
    """The lines, `name:\tvalue` each."""
    rows: dict[str, object] = {"pos": 0, "flags": f"{_O_RDWR_CLOEXEC:08o}"}
    if isinstance(obj, MapObject):
        rows |= _map(obj)
    elif isinstance(obj, ProgObject):
        rows |= _prog(obj)
    elif isinstance(obj, LinkObject):
        rows |= _link(obj)
    elif isinstance(obj, TokenObject):
        rows |= dict.fromkeys(token.ALLOWED, "any")
    found = "".join(f"{name}:\t{value}\n" for name, value in rows.items())
    return found + uprobe_multi.fdinfo(obj) if isinstance(obj, MultiLink) else found
