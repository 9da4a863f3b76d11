"""BTF as text, a line a type: what BPF_BTF_LOAD writes into its log.

The words are the kernel's (kernel/bpf/btf.c, btf_verifier_log_type() and each kind's log), for
people and tools that compare. A refused blob's log ends with the reason.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from . import kinds
from .parse import Btf, Member, Type

_NAMES = {
    kinds.INT: "INT", kinds.PTR: "PTR", kinds.ARRAY: "ARRAY", kinds.STRUCT: "STRUCT",
    kinds.UNION: "UNION", kinds.ENUM: "ENUM", kinds.FWD: "FWD", kinds.TYPEDEF: "TYPEDEF",
    kinds.VOLATILE: "VOLATILE", kinds.CONST: "CONST", kinds.RESTRICT: "RESTRICT",
    kinds.FUNC: "FUNC", kinds.FUNC_PROTO: "FUNC_PROTO", kinds.VAR: "VAR",
    kinds.DATASEC: "DATASEC", kinds.FLOAT: "FLOAT", kinds.DECL_TAG: "DECL_TAG",
    kinds.TYPE_TAG: "TYPE_TAG", kinds.ENUM64: "ENUM64",
}  # fmt: skip
_ENCODINGS = {0: "(none)", 1: "SIGNED", 2: "CHAR", 4: "BOOL"}
_ANONYMOUS = "(anon)"


def header(blob: bytes) -> Iterator[str]:
    """The header's fields."""
    magic, version, flags, hdr_len, *sections = struct.unpack_from("<HBBIIIII", blob)
    yield from (f"magic: {magic:#x}", f"version: {version}", f"flags: {flags:#x}",
                f"hdr_len: {hdr_len}")
    names = ("type_off", "type_len", "str_off", "str_len")
    yield from (f"{name}: {value}" for name, value in zip(names, sections, strict=True))
    yield f"btf_total_size: {len(blob)}"


def _details(found: Type) -> str:
    kind, rows = found.kind, len(found.members)
    if kind == kinds.INT:
        bits, start, encoding = found.extra & 255, found.extra >> 16 & 255, found.extra >> 24
        return (f"size={found.size} bits_offset={start} nr_bits={bits} "
                f"encoding={_ENCODINGS.get(encoding, 'UNKN')}")
    if kind in (*kinds.COMPOSITE, kinds.ENUM, kinds.ENUM64, kinds.DATASEC):
        return f"size={found.size} vlen={rows}"
    if kind == kinds.ARRAY:
        return f"type_id={found.ref} index_type_id={found.extra} nr_elems={found.nelems}"
    if kind == kinds.FUNC_PROTO:
        return f"return={found.ref} args=({_arguments(found)})"
    if kind == kinds.VAR:
        return f"type_id={found.ref} linkage={found.extra}"
    if kind == kinds.DECL_TAG:
        return f"type={found.ref} component_idx={found.extra}"
    if kind == kinds.FLOAT:
        return f"size={found.size}"
    if kind == kinds.FWD:
        return "union" if found.extra else "struct"
    return f"type_id={found.ref}"


def _arguments(found: Type) -> str:
    if not found.members:
        return "void"
    told = [f"{row.type} {row.name or _ANONYMOUS}" for row in found.members]
    if not found.members[-1].type:
        told[-1] = "vararg"
    return ", ".join(told)


def _row(owner: Type, row: Member) -> str:
    if owner.kind in (kinds.ENUM, kinds.ENUM64):
        return f"\t{row.name} val={row.value}"
    if owner.kind == kinds.DATASEC:
        return f"\t type_id={row.type} offset={row.offset} size={row.size}"
    width = f"bitfield_size={row.bits} " if owner.extra else ""
    return f"\t{row.name or _ANONYMOUS} type_id={row.type} {width}bits_offset={row.offset}"


def types(btf: Btf) -> Iterator[str]:
    """Every type, with its members, enumerators or variables."""
    for found in btf:
        yield f"[{found.id}] {_NAMES[found.kind]} {found.name or _ANONYMOUS} {_details(found)}"
        if found.kind != kinds.FUNC_PROTO:
            yield from (_row(found, row) for row in found.members)


def accepted(btf: Btf) -> str:
    """The log of a blob that was taken."""
    return "\n".join([*header(btf.blob), *types(btf), ""])
