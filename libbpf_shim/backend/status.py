"""SHIM_OP_STATUS: a session's objects as JSON, for `bpf-shim prog|map|link list` and doctor."""

from __future__ import annotations

import json
import os
from typing import Any

from libbpf_shim.attach.event import Uprobe
from libbpf_shim.attach.link import LinkObject
from libbpf_shim.backend.session import Session
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject, type_name
from libbpf_shim.uapi.bpf import bpf_map_type


def _map_type(number: int) -> str:
    try:
        return bpf_map_type(number).name.removeprefix("BPF_MAP_TYPE_").lower()
    except ValueError:
        return str(number)


def _prog(obj: ProgObject) -> dict[str, Any]:
    return {
        "id": obj.id, "type": type_name(obj.program.prog_type), "name": obj.name,
        "tag": obj.tag.hex(), "gpl_compatible": obj.program.gpl_compatible,
        "bytes_xlated": len(obj.program.insns), "jited": True,
        "bytes_jited": len(obj.image.text), "map_ids": [m.id for m in obj.maps],
    }  # fmt: skip


def _map(obj: MapObject) -> dict[str, Any]:
    return {
        "id": obj.id, "type": _map_type(obj.type), "name": obj.name,
        "flags": obj.attr["map_flags"], "bytes_key": obj.attr["key_size"],
        "bytes_value": obj.attr["value_size"], "max_entries": obj.attr["max_entries"],
        "bytes_memlock": obj.file_size, "frozen": int(obj.frozen),
    }  # fmt: skip


def _link(obj: LinkObject, session: Session) -> dict[str, Any]:
    row: dict[str, Any] = {"id": obj.id, "type": "perf_event", "prog_id": obj.prog.id}
    spec = obj.event.spec
    if isinstance(spec, Uprobe):
        row |= {"path": spec.path, "offset": spec.offset, "retprobe": spec.ret,
                "pid": spec.pid, "cookie": obj.cookie}
    if obj.event.attached:
        row["missed"] = session.control.missed(obj.event.attached.index)
    return row


def status(session: Session) -> bytes:
    """One JSON object."""
    store = session.store
    return json.dumps({
        "session": session.id, "pid": os.getpid(), "keeper": session.keeper_pid,
        "progs": [_prog(o) for o in store.of_kind(ProgObject).values()],
        "maps": [_map(o) for o in store.of_kind(MapObject).values()],
        "links": [_link(o, session) for o in store.of_kind(LinkObject).values()],
        "processes": session.delivery.processes() if session.attached else [],
        "inert": session.delivery.inert() if session.attached else [],
    }).encode()  # fmt: skip
