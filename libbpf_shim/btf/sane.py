"""Can a blob be walked? The check before a file's BTF is parsed, weaker than the kernel's.

A compiler's BTF is not yet what BPF_BTF_LOAD accepts (sections without a size), so btf/check.py
cannot judge it. Here: every type is whole, of a known kind, with names and references inside, and
none holds itself by value. Then `Btf` neither fails nor loops.
"""

from __future__ import annotations

import errno
import struct

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.errors import ShimError


def refuse(why: str) -> ShimError:
    return ShimError("BT0002", errno.EINVAL, f"BTF: malformed: {why}")


def parse(blob: bytes, base: Btf | None = None) -> Btf:
    """The blob as `Btf`. ShimError EINVAL with the reason."""
    _header(blob)
    _, _, _, hdr_len, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", blob)
    types = blob[hdr_len + type_off : hdr_len + type_off + type_len]
    first_string = base.end_string if base else 0
    _layout(types, first_string + str_len)
    found = Btf(blob, base)
    _references(found)
    return found


def _header(blob: bytes) -> None:
    if len(blob) < kinds.HEADER_SIZE:
        raise refuse(f"{len(blob)} bytes")
    magic, version, _, hdr_len, type_off, type_len, str_off, str_len = struct.unpack_from(
        "<HBBIIIII", blob)
    if magic != kinds.MAGIC or version != kinds.VERSION:
        raise refuse(f"magic {magic:#x}, version {version}")
    if not kinds.HEADER_SIZE <= hdr_len <= len(blob) or type_off & 3:
        raise refuse(f"header of {hdr_len} bytes, types at {type_off}")
    for start, size in ((type_off, type_len), (str_off, str_len)):
        if hdr_len + start + size > len(blob):
            raise refuse(f"section of {size} bytes at {start} of {len(blob)}")
    strings = blob[hdr_len + str_off : hdr_len + str_off + str_len]
    if not strings or strings[0] or strings[-1]:
        raise refuse("strings that do not begin and end with NUL")


def _layout(types: bytes, end_string: int) -> None:
    """Every type is whole; names lie inside the strings."""
    at, number = 0, 1
    while at < len(types):
        if at + kinds.TYPE_SIZE > len(types):
            raise refuse(f"type {number}: cut off")
        name, info, _ = struct.unpack_from("<III", types, at)
        kind, vlen = kinds.kind_of(info), kinds.vlen_of(info)
        if not kinds.INT <= kind <= kinds.ENUM64:
            raise refuse(f"type {number}: kind {kind}")
        rows, each = at + kinds.TYPE_SIZE, kinds.EACH.get(kind, 0)
        at = rows + kinds.trailer_size(info)
        if at > len(types):
            raise refuse(f"type {number}: cut off")
        names = [name]
        if each and kind != kinds.DATASEC:
            names += [struct.unpack_from("<I", types, rows + i * each)[0] for i in range(vlen)]
        if max(names) >= end_string:
            raise refuse(f"type {number}: a name outside the strings")
        number += 1
    if number > kinds.MAX_TYPE:
        raise refuse("too many types")


_FOLLOWED = frozenset({*kinds.MODIFIERS, kinds.ARRAY, kinds.VAR, kinds.DECL_TAG})


def _references(btf: Btf) -> None:
    """References lead to types; no type holds itself."""
    for found in btf:
        targets = [found.ref, found.extra if found.kind == kinds.ARRAY else 0]
        targets += [m.type for m in found.members]
        if max(targets) >= btf.end_id:
            raise refuse(f"type {found.id}: refers to a type that is not there")
        if found.kind == kinds.DATASEC:
            for row in found.members:
                if not row.type or btf.type(row.type).kind not in (kinds.VAR, kinds.FUNC):
                    raise refuse(f"type {found.id}: holds what is no variable")
    done: set[int] = set()
    for found in btf:
        _holds(btf, found, done)


def _held(found: Type) -> list[int]:
    """Types that lie in this one, or are meant by it."""
    if found.kind in kinds.COMPOSITE:
        return [m.type for m in found.members if m.type]
    return [found.ref] if found.kind in _FOLLOWED and found.ref else []


def _holds(btf: Btf, start: Type, done: set[int]) -> None:
    """Depth first, without recursion: `path` is what the type at its end lies in."""
    if start.id in done or not (first := _held(start)):
        return
    path, pending = {start.id: first}, [start.id]
    while pending:
        at = pending[-1]
        if not path[at]:
            done.add(at)
            del path[pending.pop()]
            continue
        inner = path[at].pop()
        if inner in path:
            raise refuse(f"type {start.id}: holds itself")
        if inner not in done and (rest := _held(btf.type(inner))):
            path[inner] = rest
            pending.append(inner)
