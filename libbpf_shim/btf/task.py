"""Where the fields of a task lie, by the BTF that loaders are shown (csrc/include/shim_task.h)."""

from __future__ import annotations

from typing import Final

from . import kinds
from .parse import Btf, Type

_RENAMED: Final = {"task_struct.state": "__state"}  # since Linux 5.14


def place(btf: Btf, name: str) -> tuple[int, int]:
    """Offset and size, bytes, of a field: "STRUCT__MEMBER", "STRUCT__MEMBER__MEMBER". An array of
    no length counts as one element. (0, 0): there is none."""
    owner, *path = name.split("__")
    found: Type | None = btf.find(owner, kinds.STRUCT)
    at = 0
    for member in path:
        names = (_RENAMED.get(f"{owner}.{member}", member), member)
        inner = next((hit for n in names if found and (hit := _member(btf, found, n))), None)
        if inner is None:
            return 0, 0
        at += inner[0]
        found = btf.strip(inner[1])
    size = _size(btf, found)
    return (at, size) if found and at + size <= 0xFFFF else (0, 0)


def _size(btf: Btf, found: Type | None) -> int:
    if found is None:
        return 0
    if found.kind == kinds.ARRAY and not found.nelems:
        return btf.sizeof(found.ref)
    return btf.sizeof(found.id)


def _member(btf: Btf, owner: Type, name: str) -> tuple[int, int] | None:
    """Offset and type of a member, also of one in a structure without a name."""
    for member in owner.members:
        if member.name == name and not member.bits and not member.offset % 8:
            return member.offset // 8, member.type
        inner = btf.strip(member.type) if not member.name else None
        if inner and (found := _member(btf, inner, name)):
            return member.offset // 8 + found[0], found[1]
    return None
