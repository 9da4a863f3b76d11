"""Kinds of BTF types and the layout of what follows each type header (linux/btf.h)."""

from __future__ import annotations

from typing import Final

MAGIC: Final = 0xEB9F
VERSION: Final = 1
HEADER_SIZE: Final = 24  # bytes of struct btf_header
TYPE_SIZE: Final = 12  # bytes of struct btf_type
MAX_SIZE: Final = 16 << 20  # bytes: BTF_MAX_SIZE of kernel/bpf/btf.c
MAX_TYPE: Final = 0xFFFFF  # BTF_MAX_TYPE

(
    UNKN,
    INT,
    PTR,
    ARRAY,
    STRUCT,
    UNION,
    ENUM,
    FWD,
    TYPEDEF,
    VOLATILE,
    CONST,
    RESTRICT,
    FUNC,
    FUNC_PROTO,
    VAR,
    DATASEC,
    FLOAT,
    DECL_TAG,
    TYPE_TAG,
    ENUM64,
) = range(20)

# Bytes after struct btf_type: once, and for each of its vlen members.
FIXED: Final = {INT: 4, ARRAY: 12, VAR: 4, DECL_TAG: 4}
EACH: Final = {STRUCT: 12, UNION: 12, ENUM: 8, FUNC_PROTO: 8, DATASEC: 12, ENUM64: 12}

MODIFIERS: Final = frozenset({TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG})
COMPOSITE: Final = frozenset({STRUCT, UNION})


def kind_of(info: int) -> int:
    """BTF_INFO_KIND."""
    return (info >> 24) & 0x1F


def vlen_of(info: int) -> int:
    """BTF_INFO_VLEN."""
    return info & 0xFFFF


def kflag_of(info: int) -> bool:
    """BTF_INFO_KFLAG."""
    return bool(info >> 31)


def trailer_size(info: int) -> int:
    """Bytes that follow the type header of a type with this info word."""
    kind = kind_of(info)
    return FIXED.get(kind, 0) + EACH.get(kind, 0) * vlen_of(info)
