"""CO-RE's three notions of sameness between a local and a target type.

`fields_fit`: a member may be read as the other; `compatible`: a type is there; `matches`: it is
there and looks alike. Names compare without flavors. Source: libbpf 1.1 src/relo_core.c
(bpf_core_fields_are_compat, bpf_core_types_are_compat, bpf_core_types_match).
"""

from __future__ import annotations

import re
from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type

DEPTH: Final = 32  # pointers, arrays and results followed; calls nested
ENUMS: Final = frozenset({kinds.ENUM, kinds.ENUM64})
VOID: Final = Type(0, kinds.UNKN, "")
_FLAVOR = re.compile(r"[^_]___[^_]")


class Unfit(Exception):  # noqa: N818
    """The question has no answer: types nested too deep, or not there."""


def essential(name: str) -> str:
    """The name without its last flavor: `task_struct___old` is `task_struct`."""
    for at in range(len(name) - 5, -1, -1):
        if _FLAVOR.match(name, at):
            return name[: at + 1]
    return name


def skip(btf: Btf, type_id: int) -> Type:
    """The type behind typedefs and qualifiers; VOID for none."""
    try:
        return btf.strip(type_id) or VOID
    except KeyError:
        raise Unfit(f"no type {type_id}") from None


def same_kind(mine: Type, theirs: Type) -> bool:
    return mine.kind == theirs.kind or (mine.kind in ENUMS and theirs.kind in ENUMS)


def _plain(integer: Type) -> bool:
    """Not an old bit field: its bits start at 0."""
    return not integer.extra >> 16 & 0xFF


def fields_fit(local: Btf, local_id: int, target: Btf, target_id: int) -> bool:
    """Any structure for any structure, integers for integers, arrays by their elements."""
    while True:
        mine, theirs = skip(local, local_id), skip(target, target_id)
        if mine.kind in kinds.COMPOSITE and theirs.kind in kinds.COMPOSITE:
            return True
        if not same_kind(mine, theirs):
            return False
        if mine.kind == kinds.ARRAY:
            local_id, target_id = mine.ref, theirs.ref
            continue
        if mine.kind in (kinds.PTR, kinds.FLOAT):
            return True
        if mine.kind in ENUMS or mine.kind == kinds.FWD:
            a, b = essential(mine.name), essential(theirs.name)
            return not a or not b or a == b
        return mine.kind == kinds.INT and _plain(mine) and _plain(theirs)


def _raw(btf: Btf, type_id: int) -> Type:
    try:
        return btf.type(type_id) if type_id else VOID
    except KeyError:
        raise Unfit(f"no type {type_id}") from None


def compatible(
    local: Btf, local_id: int, target: Btf, target_id: int, level: int = DEPTH
) -> bool:
    """The same kinds all along pointers, arrays and prototypes; names and members do not count."""
    if not same_kind(_raw(local, local_id), _raw(target, target_id)):
        return False
    for _ in range(DEPTH):
        mine, theirs = skip(local, local_id), skip(target, target_id)
        if not same_kind(mine, theirs):
            return False
        if mine.kind in (kinds.UNKN, *kinds.COMPOSITE, *ENUMS, kinds.FWD):
            return True
        if mine.kind == kinds.INT:
            return _plain(mine) and _plain(theirs)
        if mine.kind == kinds.FUNC_PROTO:
            if len(mine.members) != len(theirs.members) or level <= 0:
                if level <= 0:
                    raise Unfit("prototypes nested too deep")
                return False
            for a, b in zip(mine.members, theirs.members, strict=True):
                if not compatible(local, skip(local, a.type).id, target,
                                  skip(target, b.type).id, level - 1):
                    return False
        elif mine.kind not in (kinds.PTR, kinds.ARRAY):
            return False
        local_id, target_id = mine.ref, theirs.ref
    raise Unfit("types nested too deep")


def _names_match(mine: str, theirs: str) -> bool:
    return not mine if not theirs else essential(mine) == essential(theirs)


def matches(
    local: Btf, local_id: int, target: Btf, target_id: int, behind_pointer: bool = False,
    level: int = DEPTH,
) -> bool:
    """Names, sizes and signs agree, and every local member or enumerator is there; behind a
    pointer a structure need only be one."""
    if level <= 0:
        raise Unfit("types nested too deep")
    for _ in range(DEPTH):
        mine, theirs = skip(local, local_id), skip(target, target_id)
        if not _names_match(mine.name, theirs.name):
            return False
        if mine.kind == kinds.FWD or (mine.kind in kinds.COMPOSITE and behind_pointer):
            return _declared_alike(mine, theirs, behind_pointer)
        if mine.kind in ENUMS:
            return theirs.kind in ENUMS and _enumerators_match(mine, theirs)
        if mine.kind != theirs.kind:
            return False
        if mine.kind == kinds.UNKN:
            return True
        if mine.kind in kinds.COMPOSITE:
            return _members_match(local, mine, target, theirs, level)
        if mine.kind == kinds.INT:
            return mine.size == theirs.size and not (mine.extra ^ theirs.extra) >> 24 & 1
        if mine.kind == kinds.PTR:
            behind_pointer = True
        elif mine.kind == kinds.ARRAY:
            if mine.nelems != theirs.nelems:
                return False
        elif mine.kind == kinds.FUNC_PROTO:
            if len(mine.members) != len(theirs.members):
                return False
            for a, b in zip(mine.members, theirs.members, strict=True):
                if not matches(local, a.type, target, b.type, behind_pointer, level - 1):
                    return False
        else:
            return False
        local_id, target_id = mine.ref, theirs.ref
    raise Unfit("types nested too deep")


def _declared_alike(mine: Type, theirs: Type, behind_pointer: bool) -> bool:
    """Forward declarations, and behind a pointer structures: union or not is what counts."""
    if mine.kind == theirs.kind:
        return mine.kind != kinds.FWD or mine.extra == theirs.extra
    if not behind_pointer:
        return False
    either = {mine.kind, theirs.kind}
    union = mine.extra if mine.kind == kinds.FWD else theirs.extra
    return either == {kinds.FWD, kinds.UNION if union else kinds.STRUCT}


def _enumerators_match(mine: Type, theirs: Type) -> bool:
    if mine.size != theirs.size or len(mine.members) > len(theirs.members):
        return False
    names = [row.name for row in theirs.members]
    return all(any(_names_match(row.name, name) for name in names) for row in mine.members)


def _members_match(local: Btf, mine: Type, target: Btf, theirs: Type, level: int) -> bool:
    if len(mine.members) > len(theirs.members):
        return False
    return all(
        any(_names_match(a.name, b.name)
            and matches(local, a.type, target, b.type, False, level - 1) for b in theirs.members)
        for a in mine.members
    )
