"""Is a blob the BTF that BPF_BTF_LOAD accepts? Header, strings, every type, every reference.

Facts restated from kernel/bpf/btf.c (btf_parse): what is judged and with which errno. Each type by
itself here; how they refer to each other in resolve.py; structures with kernel objects in
fields.py.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

from . import fields, kinds
from .members import refuse
from .parse import Btf
from .resolve import Resolver

ENOTSUPP = 524  # include/linux/errno.h: not one of user space's errnos
# isalpha() of the kernel takes Latin-1 letters
_DIGITS = b"0123456789"
_IN_NAME = bytes((*range(0x41, 0x5B), *range(0x61, 0x7B), *_DIGITS, *b"_.", *range(0xC0, 0xD7),
                  *range(0xD8, 0xF7), *range(0xF8, 0x100)))
_PRINTABLE = bytes((*range(0x20, 0x7F), *range(0xA0, 0x100)))
MAX_NAME = 511  # KSYM_NAME_LEN - 1


def check_header(blob: bytes) -> set[tuple[int, int]]:
    """Magic, version, and two sections that tile the rest of the blob. As check_layout."""
    if len(blob) > kinds.MAX_SIZE:
        raise refuse(f"{len(blob)} bytes, at most {kinds.MAX_SIZE}", errno.E2BIG)
    if len(blob) < 8:
        raise refuse("hdr_len not found")
    hdr_len, = struct.unpack_from("<I", blob, 4)
    if len(blob) < hdr_len:
        raise refuse("btf_header not found")
    if any(blob[kinds.HEADER_SIZE : hdr_len]):
        raise refuse("unsupported btf_header", errno.E2BIG)
    header = blob[:hdr_len].ljust(kinds.HEADER_SIZE, b"\0")
    magic, version, flags, _, type_off, type_len, str_off, str_len = struct.unpack_from(
        "<HBBIIIII", header)
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
    if not type_len:
        raise refuse("no type found")
    strings = blob[hdr_len + str_off : hdr_len + str_off + str_len]
    if str_off + str_len != total:
        raise refuse("string section is not at the end")
    if not strings or strings[0] or strings[-1]:
        raise refuse("invalid string section")
    return check_layout(blob[hdr_len + type_off : hdr_len + type_off + type_len], strings)


def check_layout(types: bytes, strings: bytes) -> set[tuple[int, int]]:
    """Every type header is whole, of a known kind, with names inside the strings. Parameters whose
    names are none, as (type, index): the kernel comes to them later."""
    at, count = 0, 0
    nameless: set[tuple[int, int]] = set()
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
        wrong = check_row_names(where, kind, vlen, types[at : at + size], strings)
        nameless |= {(count, row) for row in wrong}
        end = strings.index(0, name_off)
        named(where, kind, name_off, strings[name_off:end])
        check_meta(where, info, word, types[at : at + size])
        at += size
    if count > kinds.MAX_TYPE:
        raise refuse("too many types", errno.E2BIG)
    return nameless


def check_row_names(where: str, kind: int, vlen: int, rows: bytes, strings: bytes) -> list[int]:
    """Names of members, parameters and enumerators: inside the strings, identifiers or none.
    Those of parameters that are not."""
    each, wrong = kinds.EACH.get(kind, 0), []
    if kind == kinds.DATASEC or not each:
        return []
    enumerators = kind in (kinds.ENUM, kinds.ENUM64)
    for row in range(vlen):
        name_off = struct.unpack_from("<I", rows, row * each)[0]
        if name_off >= len(strings):
            raise refuse(f"{where}: invalid member name_offset {name_off}")
        name = strings[name_off : strings.index(0, name_off)]
        if (name_off or enumerators) and not identifier(name):
            if kind != kinds.FUNC_PROTO:
                raise refuse(f"{where}: invalid name")
            wrong.append(row)
    return wrong


def identifier(name: bytes) -> bool:
    return (0 < len(name) <= MAX_NAME and name[0] not in _DIGITS
            and not name.translate(None, _IN_NAME))


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
        fine = bool(name) and not name.translate(None, _PRINTABLE)
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


def member_type(where: str, type_id: int) -> None:
    if not 0 < type_id <= kinds.MAX_TYPE:
        raise refuse(f"{where}: invalid member type_id {type_id}")


def meta_struct(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    last = 0
    for _, type_id, offset in struct.iter_unpack("<III", rest):
        member_type(where, type_id)
        start = offset & 0xFFFFFF if kflag else offset
        if (start + 7) // 8 > size:
            raise refuse(f"{where}: member bits_offset {start} exceeds its size {size}")
        if start < last:
            raise refuse(f"{where}: invalid member bits_offset")
        last = start


def meta_union(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    for _, type_id, offset in struct.iter_unpack("<III", rest):
        member_type(where, type_id)
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
    if not 0 < element <= kinds.MAX_TYPE or not 0 < index <= kinds.MAX_TYPE:
        raise refuse(f"{where}: invalid elem or index")


def meta_func(where: str, word: int, vlen: int, kflag: bool, rest: bytes) -> None:
    if vlen > 1:
        raise refuse(f"{where}: invalid func linkage")


def meta_var(where: str, word: int, vlen: int, kflag: bool, rest: bytes) -> None:
    meta_ref(where, word, vlen, kflag, rest)
    if int.from_bytes(rest, "little") > 1:
        raise refuse(f"{where}: linkage not supported")


def meta_datasec(where: str, size: int, vlen: int, kflag: bool, rest: bytes) -> None:
    end = used = 0
    if not size:
        raise refuse(f"{where}: size == 0")
    for type_id, offset, length in struct.iter_unpack("<III", rest):
        inside = end <= offset < size and 0 < length <= size
        if not 0 < type_id <= kinds.MAX_TYPE or not inside:
            raise refuse(f"{where}: invalid variable at offset {offset}")
        end = offset + length
        used += length
    if end > size or used > size:
        raise refuse(f"{where}: section size {size} exceeded")


def meta_ref(where: str, word: int, vlen: int, kflag: bool, rest: bytes) -> None:
    if word > kinds.MAX_TYPE:
        raise refuse(f"{where}: invalid type_id")


def meta_fwd(where: str, word: int, vlen: int, kflag: bool, rest: bytes) -> None:
    if word:
        raise refuse(f"{where}: type != 0")


META: dict[int, Callable[[str, int, int, bool, bytes], None]] = {
    kinds.INT: meta_int,
    kinds.STRUCT: meta_struct,
    kinds.UNION: meta_union,
    kinds.ENUM: meta_enum,
    kinds.ENUM64: meta_enum,
    kinds.FLOAT: meta_float,
    kinds.ARRAY: meta_array,
    kinds.FUNC: meta_func,
    kinds.FWD: meta_fwd,
    **dict.fromkeys((kinds.PTR, *kinds.MODIFIERS), meta_ref),
    kinds.VAR: meta_var,
    kinds.DATASEC: meta_datasec,
}


def check(blob: bytes) -> Btf:
    """The blob, parsed, if BPF_BTF_LOAD would accept it. Raises ShimError: EINVAL, E2BIG, ELOOP,
    ENOTSUPP (524) with the reason."""
    nameless = check_header(blob)
    header = struct.unpack_from("<HBBI", blob)
    if header[3] < kinds.HEADER_SIZE:
        raise refuse("btf_header too short")
    btf = Btf(blob)
    types = list(btf)  # decoded once
    Resolver(types, nameless).check()
    fields.check(btf, types)
    return btf
