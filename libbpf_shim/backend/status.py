"""SHIM_OP_STATUS: a session's objects as JSON, for `bpf-shim prog|map|link|btf list` and doctor;
and one program's code, for its dumps."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from libbpf_shim.attach.event import Tracepoint, Uprobe
from libbpf_shim.attach.function import Function
from libbpf_shim.attach.link import LinkObject, PerfLink
from libbpf_shim.attach.multi import RETURN, MultiLink
from libbpf_shim.backend.session import Session
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject, type_name
from libbpf_shim.object.store import Object
from libbpf_shim.uapi.bpf import bpf_map_type

T = TypeVar("T", bound=Object)


def _map_type(number: int) -> str:
    try:
        return bpf_map_type(number).name.removeprefix("BPF_MAP_TYPE_").lower()
    except ValueError:
        return str(number)


def _prog(obj: ProgObject, tactics: dict[int, list[str]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": obj.id, "type": type_name(obj.program.prog_type), "name": obj.name,
        "tag": obj.tag.hex(), "gpl_compatible": obj.program.gpl_compatible,
        "bytes_xlated": len(obj.program.insns), "jited": bool(obj.image.machine_code),
        "bytes_jited": len(obj.image.machine_code), "map_ids": [m.id for m in obj.maps],
        "sites": tactics.get(obj.id, []),
    }  # fmt: skip
    return row | {"ended": obj.ended} if obj.facts.counted >= 0 else row


def _map(obj: MapObject) -> dict[str, Any]:
    return {
        "id": obj.id, "type": _map_type(obj.type), "name": obj.name,
        "flags": obj.attr["map_flags"], "bytes_key": obj.attr["key_size"],
        "bytes_value": obj.attr["value_size"], "max_entries": int(obj.desc.max_entries),
        "bytes_memlock": obj.file_size, "frozen": int(obj.frozen),
    }  # fmt: skip


def _link(obj: LinkObject, session: Session) -> dict[str, Any]:
    row: dict[str, Any] = {"id": obj.id, "type": "perf_event", "prog_id": obj.prog.id}
    if isinstance(obj, MultiLink):
        return row | {"type": "uprobe_multi", "path": obj.spec.file.path,
                      "count": len(obj.spec.places), "retprobe": bool(obj.spec.flags & RETURN),
                      "pid": obj.spec.pid, "missed": session.control.missed(obj.index)}
    if not isinstance(obj, PerfLink):
        return row
    spec = obj.event.spec
    if isinstance(spec, Uprobe):
        row |= {"path": spec.path, "offset": spec.offset, "retprobe": spec.ret,
                "pid": spec.pid, "cookie": obj.cookie}
    if isinstance(spec, Function):
        row |= {"function": spec.name, "retprobe": spec.ret, "cookie": obj.cookie}
    if isinstance(spec, Tracepoint):
        row |= {"tracepoint": f"{spec.category}:{spec.name}", "cookie": obj.cookie}
        row["type"] = "raw_tracepoint" if spec.raw else "perf_event"
        row["tracepoint"] = row["tracepoint"].removeprefix(":")
    if obj.event.attached:
        row["missed"] = session.control.missed(obj.event.attached.index)
    return row


def _btf(obj: BtfObject, session: Session) -> dict[str, Any]:
    def users(cls: type[ProgObject] | type[MapObject]) -> list[int]:
        return [n for n, o in session.store.of_kind(cls).items() if obj in o.holds]

    row: dict[str, Any] = {"id": obj.id, "name": obj.name, "kernel": obj.kernel}
    if not obj.kernel:
        row["size"] = len(obj.blob)
    return row | {"prog_ids": users(ProgObject), "map_ids": users(MapObject)}


def code(session: Session, number: int) -> bytes:
    """What was loaded and compiled: instructions and machine code in hexadecimal, relocations,
    and what their BTF says of lines and functions, by instruction. ENOENT."""
    obj = session.store.with_id(number, ProgObject)
    image, program = obj.image, obj.program
    names, lines = _sources(obj)
    import json

    return json.dumps({
        "id": obj.id, "name": obj.name, "tag": obj.tag.hex(), "insns": program.insns.hex(),
        "map_ids": [m.id for m in obj.maps], "functions": names, "lines": lines,
        "text": image.machine_code.hex(), "insn_offsets": image.insn_offsets,
        "relocs": [(r.offset, r.symbol, r.addend) for r in image.relocs],
    }).encode()  # fmt: skip


def _sources(obj: ProgObject) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    from libbpf_shim.btf.parse import Btf

    if not obj.btf:
        return [], []
    btf, program = Btf(obj.btf.blob), obj.program
    names = [(at, btf.type(number).name) for at, number in
             _records("<II", program.func_info, program.func_info_rec_size)]
    lines = [(at, btf.string(text).strip()) for at, _, text in
             _records("<III", program.line_info, program.line_info_rec_size)]
    return names, lines


def _records(form: str, rows: bytes, size: int) -> Iterator[tuple[int, ...]]:
    return (struct.unpack_from(form, rows, at) for at in range(0, len(rows), size or 1))


def status(session: Session) -> bytes:
    """One JSON object."""
    store = session.store
    tactics = session.delivery.tactics() if session.attached else {}
    pinned: dict[Object, list[str]] = {}
    for obj, path in session.pins.paths():
        pinned.setdefault(obj, []).append(path)

    def rows(cls: type[T], row: Callable[[T], dict[str, Any]]) -> list[dict[str, Any]]:
        return [row(o) | ({"pinned": sorted(pinned[o])} if o in pinned else {})
                for o in store.of_kind(cls).values()]

    import json

    return json.dumps({
        "session": session.id, "pid": os.getpid(), "keeper": session.keeper_pid,
        "progs": rows(ProgObject, lambda prog: _prog(prog, tactics)),
        "maps": rows(MapObject, _map),
        "links": rows(LinkObject, lambda link: _link(link, session)),
        "btfs": rows(BtfObject, lambda btf: _btf(btf, session)),
        "processes": session.delivery.processes() if session.attached else [],
        "newcomers": session.newcomers(),
        "inert": session.delivery.inert() if session.attached else [],
    }).encode()  # fmt: skip
