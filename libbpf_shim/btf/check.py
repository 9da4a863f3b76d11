"""Is a blob the BTF that BPF_BTF_LOAD accepts? Header, strings, every type, every reference.

Facts restated from kernel/bpf/btf.c (btf_parse): what is judged and with which errno. What is not
judged here: alignment of members against their integers beyond size, and kernel-only rules.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Callable

from ..errors import ShimError
from . import kinds
from .parse import Btf, Type

ENOTSUPP = 524  # include/linux/errno.h: not one of user space's errnos
# isalpha() of the kernel takes Latin-1 letters
IDENTIFIER = re.compile(
    rb"[A-Za-z_.\xC0-\xD6\xD8-\xF6\xF8-\xFF][A-Za-z0-9_.\xC0-\xD6\xD8-\xF6\xF8-\xFF]*"
)
PRINTABLE = re.compile(rb"[ -~\xA0-\xFF]+")
MAX_RESOLVE_DEPTH = 32
MAX_NAME = 511  # KSYM_NAME_LEN - 1


def refuse(why: str, code: int = errno.EINVAL) -> ShimError:
    return ShimError("BT0001", code, f"BTF: refused: {why}")


def check_header(blob: bytes) -> None:
    """Magic, version, and two sections that tile the rest of the blob."""
    if len(blob) > kinds.MAX_SIZE:
        raise refuse(f"{len(blob)} bytes, at most {kinds.MAX_SIZE}", errno.E2BIG)
    if len(blob) < 8:
        raise refuse("hdr_len not found")
    magic, version, flags, hdr_len = struct.unpack_from("<HBBI", blob)
    if len(blob) < hdr_len or hdr_len < 8:
        raise refuse("btf_header not found")
    if any(blob[kinds.HEADER_SIZE : hdr_len]):
        raise refuse("unsupported btf_header", errno.E2BIG)
    header = blob[:hdr_len].ljust(kinds.HEADER_SIZE, b"\0")
    type_off, type_len, str_off, str_len = struct.unpack_from("<IIII", header, 8)
    if magic != kinds.MAGIC:
        raise refuse("invalid magic")
    if version != kinds.VERSION:
        raise refuse(f"unsupported version {version}", ENOTSUPP)
    if flags:
        raise refuse(f"unsupported flags {flags:#x}", ENOTSUPP)
    if len(blob) == hdr_len:
        raise refuse("no data")
    if type_off & 3:
        raise refuse("unaligned type_off")
    total, expected = len(blob) - hdr_len, 0
    for start, size in sorted(((type_off, type_len), (str_off, str_len))):
        if start < expected:
            raise refuse("section overlap found")
        if start > expected:
            raise refuse("unsupported section found")
        if size > total - start:
            raise refuse("total section length too long")
        expected = start + size
    if expected < total:
        raise refuse("unsupported section found")
    strings = blob[hdr_len + str_off : hdr_len + str_off + str_len]
    if str_off + str_len != total:
        raise refuse("string section is not at the end")
    if not strings or strings[0] or strings[-1]:
        raise refuse("invalid string section")
    check_layout(blob[hdr_len + type_off : hdr_len + type_off + type_len], strings)


def check_layout(types: bytes, strings: bytes) -> None:
    """Every type header is whole, of a known kind, with names inside the strings."""
    at, count = 0, 0
    while at < len(types):
        if len(types) - at < kinds.TYPE_SIZE:
            raise refuse(f"type {count + 1}: truncated")
        name_off, info, word = struct.unpack_from("<III", types, at)
        kind, vlen = kinds.kind_of(info), kinds.vlen_of(info)
        count += 1
        where = f"type {count}"
        if info & ~0x9F00FFFF:
            raise refuse(f"{where}: invalid btf_info {info:#x}")
        if not kinds.INT <= kind <= kinds.ENUM64:
            raise refuse(f"{where}: invalid kind {kind}")
        if name_off >= len(strings):
            raise refuse(f"{where}: invalid name_offset {name_off}")
        size = kinds.trailer_size(info)
        at += kinds.TYPE_SIZE
        if len(types) - at < size:
            raise refuse(f"{where}: meta_left {len(types) - at} meta_needed {size}")
        check_row_names(where, kind, vlen, types[at : at + size], strings)
        end = strings.index(0, name_off)
        named(where, kind, name_off, strings[name_off:end])
        check_meta(where, info, word, types[at : at + size])
        at += size
    if count > kinds.MAX_TYPE:
        raise refuse("too many types", errno.E2BIG)


def check_row_names(where: str, kind: int, vlen: int, rows: bytes, strings: bytes) -> None:
    """Names of members, parameters and enumerators: inside the strings, identifiers or none."""
    each = kinds.EACH.get(kind, 0)
    if kind == kinds.DATASEC or not each:
        return
    enumerators = kind in (kinds.ENUM, kinds.ENUM64)
    for row in range(vlen):
        name_off = struct.unpack_from("<I", rows, row * each)[0]
        if name_off >= len(strings):
            raise refuse(f"{where}: invalid member name_offset {name_off}")
        name = strings[name_off : strings.index(0, name_off)]
        if (name_off or enumerators) and not identifier(name):
            raise refuse(f"{where}: invalid name")


def identifier(name: bytes) -> bool:
    return len(name) <= MAX_NAME and bool(IDENTIFIER.fullmatch(name))


# Kinds by what their name must be; any other kind must have name_off 0.
NEEDS_IDENTIFIER = frozenset({kinds.FWD, kinds.TYPEDEF, kinds.FUNC, kinds.VAR})
MAY_HAVE_IDENTIFIER = frozenset({kinds.STRUCT, kinds.UNION, kinds.ENUM, kinds.ENUM64})
NEEDS_TEXT = frozenset({kinds.DECL_TAG, kinds.TYPE_TAG})
ANY_NAME = frozenset({kinds.INT, kinds.FLOAT})


def named(where: str, kind: int, name_off: int, name: bytes) -> None:
    """Whether this kind must, may or must not have a name, and whether it is an identifier."""
    if kind in ANY_NAME:
        return
    if kind in NEEDS_IDENTIFIER or (kind in MAY_HAVE_IDENTIFIER and name_off):
        fine = bool(name_off) and identifier(name)
    elif kind in NEEDS_TEXT:
        fine = bool(name)
    elif kind == kinds.DATASEC:
        fine = bool(PRINTABLE.fullmatch(name))
    else:
        fine = not name_off
    if not fine:
        raise refuse(f"{where}: invalid name")


def check_meta(where: str, info: int, word: int, rest: bytes) -> None:
    """One type by itself: vlen, flags and sizes that need no other type."""
    kind, vlen, kflag = kinds.kind_of(info), kinds.vlen_of(info), kinds.kflag_of(info)
    if vlen and not kinds.EACH.get(kind) and kind != kinds.FUNC:
        raise refuse(f"{where}: vlen != 0")
    flagged = (
        kinds.STRUCT,
        kinds.UNION,
        kinds.FWD,
        kinds.ENUM,
        kinds.ENUM64,
        kinds.DECL_TAG,
        kinds.TYPE_TAG,
    )
    if kflag and kind not in flagged:
        raise refuse(f"{where}: invalid btf_info kind_flag")
    rule = META.get(kind)
    if rule:
        rule(where, word, vlen, kflag, rest)


def meta_int(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    data = int.from_bytes(rest, "little")
    bits, offset, encoding = data & 0xFF, (data >> 16) & 0xFF, (data >> 24) & 0xF
    if data & ~0x0FFFFFFF:
        raise refuse(f"{where}: invalid int_data {data:#x}")
    if bits + offset > 128 or (bits + offset + 7) // 8 > size:
        raise refuse(f"{where}: nr_bits {bits} does not fit in {size} bytes")
    if encoding not in (0, 1, 2, 4):
        raise refuse(f"{where}: unsupported encoding", ENOTSUPP)


def meta_struct(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    last = 0
    for _, _, offset in struct.iter_unpack("<III", rest):
        start = offset & 0xFFFFFF if kflag else offset
        if (start + 7) // 8 > size:
            raise refuse(f"{where}: member bits_offset {start} exceeds its size {size}")
        if start < last:
            raise refuse(f"{where}: invalid member bits_offset")
        last = start


def meta_union(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    for _, _, offset in struct.iter_unpack("<III", rest):
        if offset & (0xFFFFFF if kflag else 0xFFFFFFFF):
            raise refuse(f"{where}: invalid member bits_offset")


def meta_enum(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    if size not in (1, 2, 4, 8):
        raise refuse(f"{where}: unexpected size {size}")


def meta_float(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    if size not in (2, 4, 8, 12, 16):
        raise refuse(f"{where}: invalid type_size {size}")


def meta_array(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    element, index, _ = struct.unpack("<III", rest)
    if size:
        raise refuse(f"{where}: size != 0")
    if not element or not index:
        raise refuse(f"{where}: invalid elem or index")


def meta_func(where: str, word: int, vlen: int, kflag: bool, rest: bytes) -> None:
    if vlen > 2:
        raise refuse(f"{where}: invalid func linkage")


def meta_var(where: str, word: int, vlen: int, kflag: bool, rest: bytes) -> None:
    if int.from_bytes(rest, "little") > 2:
        raise refuse(f"{where}: linkage not supported")


def meta_datasec(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    end = used = 0
    if not size:
        raise refuse(f"{where}: size == 0")
    for type_id, offset, length in struct.iter_unpack("<III", rest):
        if not type_id or offset < end or offset >= size or not length or length > size:
            raise refuse(f"{where}: invalid variable at offset {offset}")
        end = offset + length
        used += length
    if end > size or used > size:
        raise refuse(f"{where}: section size {size} exceeded")


META: dict[int, Callable[[str, int, int, bool, bytes], None]] = {
    kinds.INT: meta_int,
    kinds.STRUCT: meta_struct,
    kinds.UNION: meta_union,
    kinds.ENUM: meta_enum,
    kinds.ENUM64: meta_enum,
    kinds.FLOAT: meta_float,
    kinds.ARRAY: meta_array,
    kinds.FUNC: meta_func,
    kinds.VAR: meta_var,
    kinds.DATASEC: meta_datasec,
}


def check_references(btf: Btf) -> None:
    """Every reference leads to a type that may stand there, and no type contains itself."""
    for found in btf:
        where = f"type {found.id}"
        ids = [m.type for m in found.members if found.kind not in (kinds.ENUM, kinds.ENUM64)]
        for target in [found.ref, found.extra if found.kind == kinds.ARRAY else 0, *ids]:
            if target >= btf.end_id:
                raise refuse(f"{where}: invalid type_id {target}")
        check_target(btf, found, where)
    done: set[int] = set()
    for found in btf:
        containment(btf, found.id, done, ())
    for found in btf:
        if found.kind in kinds.COMPOSITE:
            check_members(btf, found, f"type {found.id}")
        if found.kind == kinds.FUNC:
            check_func(btf, found)


def check_target(btf: Btf, found: Type, where: str) -> None:
    """Kinds that a type of this kind may refer to."""
    target = btf.type(found.ref) if found.ref else None
    if found.kind == kinds.FUNC and (not target or target.kind != kinds.FUNC_PROTO):
        raise refuse(f"{where}: invalid type_id {found.ref}")
    if (
        found.kind in (kinds.TYPEDEF, kinds.VAR)
        and target
        and target.kind in (kinds.FUNC, kinds.VAR, kinds.DATASEC)
    ):
        raise refuse(f"{where}: invalid type_id {found.ref}")
    if found.kind == kinds.DECL_TAG:
        if not target or target.kind not in (
            kinds.STRUCT,
            kinds.UNION,
            kinds.FUNC,
            kinds.VAR,
            kinds.TYPEDEF,
        ):
            raise refuse(f"{where}: invalid type_id {found.ref}")
        if found.extra < -1:
            raise refuse(f"{where}: invalid component_idx {found.extra}")
    if found.kind == kinds.DATASEC:
        for row in found.members:
            if btf.type(row.type).kind not in (kinds.VAR, kinds.FUNC):
                raise refuse(f"{where}: not a VAR kind member")


def check_func(btf: Btf, found: Type) -> None:
    """A function's parameters all have names and types with a size; a void one ends the list."""
    for index, param in enumerate(btf.type(found.ref).members):
        if not param.type and index == len(btf.type(found.ref).members) - 1:
            return  # variadic
        if not param.name:
            raise refuse(f"type {found.id}: arg#{index} has no name")


def check_members(btf: Btf, found: Type, where: str) -> None:
    """Members lie inside their structure; what is no integer starts on a byte."""
    for member in found.members:
        target = btf.strip(member.type)
        if target is None:
            raise refuse(f"{where}: invalid member type")
        if target.kind == kinds.INT and not member.bits:
            bits = target.extra & 0xFF
            if bits + member.offset % 8 > 128:
                raise refuse(f"{where}: member of {bits} bits at bit {member.offset}")
        else:
            bits = member.bits or btf_bits(btf, member.type, where)
            if member.offset % 8 and not member.bits:
                raise refuse(f"{where}: member is not byte aligned")
        if member.offset + bits > found.size * 8:
            raise refuse(f"{where}: member exceeds struct_size {found.size}")


def btf_bits(btf: Btf, type_id: int, where: str) -> int:
    try:
        return btf.sizeof(type_id) * 8
    except KeyError:
        raise refuse(f"{where}: member without a size") from None


def containment(btf: Btf, type_id: int, done: set[int], path: tuple[int, ...]) -> None:
    """Follows what a type holds by value, and chains of pointers and modifiers; a loop is refused.
    Behind a pointer only such chains are followed: structures may point at themselves."""
    if type_id in path:
        raise refuse(f"type {type_id}: loop detected", errno.ELOOP)
    if type_id in done or not type_id:
        return
    if len(path) > MAX_RESOLVE_DEPTH:
        raise refuse(f"type {type_id}: too deep", errno.E2BIG)
    found = btf.type(type_id)
    inner: list[int] = []
    if found.kind in (*kinds.MODIFIERS, kinds.ARRAY, kinds.VAR):
        inner = [found.ref]
    elif found.kind in kinds.COMPOSITE:
        inner = [m.type for m in found.members]
    elif found.kind == kinds.PTR:
        inner = [i for i in (behind_pointer(btf, found.ref),) if i]
    for target_id in inner:
        containment(btf, target_id, done, (*path, type_id))
    done.add(type_id)


def behind_pointer(btf: Btf, type_id: int) -> int:
    """The next pointer of a chain of pointers and modifiers, or 0 where the chain ends."""
    for _ in range(MAX_RESOLVE_DEPTH):
        if not type_id:
            return 0
        found = btf.type(type_id)
        if found.kind == kinds.PTR:
            return type_id
        if found.kind not in kinds.MODIFIERS:
            return 0
        type_id = found.ref
    raise refuse(f"type {type_id}: loop detected", errno.ELOOP)


def check(blob: bytes) -> Btf:
    """The blob, parsed, if BPF_BTF_LOAD would accept it. Raises ShimError: EINVAL, E2BIG, ELOOP,
    ENOTSUPP (524) with the reason."""
    check_header(blob)
    header = struct.unpack_from("<HBBI", blob)
    if header[3] < kinds.HEADER_SIZE:
        raise refuse("btf_header too short")
    btf = Btf(blob)
    check_references(btf)
    return btf
