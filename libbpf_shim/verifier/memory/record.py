"""Special fields of map values and of a program's own structures, with what they hold: which
structure a list or tree is of, and where in it the node lies.

Source of rules: Linux 6.18, kernel/bpf/btf.c (btf_parse_fields, btf_find_graph_root,
btf_parse_struct_metas). Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.btf import kinds, roots
from libbpf_shim.btf.parse import Type
from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.memory.special import (
    KPTR,
    LIST_HEAD,
    LIST_NODE,
    POINTERS,
    RB_NODE,
    RB_ROOT,
    REFCOUNT,
    RES_SPIN_LOCK,
    SIZES,
    SPIN_LOCK,
    Special,
)
from libbpf_shim.verifier.state import ALLOC, BTF_PTR, MAP_VALUE, TYPE_MASK, Reg

# What a structure that programs allocate may have.
LOCAL: Final = frozenset((
    SPIN_LOCK, RES_SPIN_LOCK, LIST_HEAD, LIST_NODE, RB_ROOT, RB_NODE, REFCOUNT,
    "kptr", "kptr_untrusted", "percpu_kptr",
))  # fmt: skip
_MAX_LEVEL: Final = 31
# Structures of the kernel's that maps may hold references to: those with a destructor.
_DESTROYED: Final = frozenset((
    "task_struct", "cgroup", "bpf_cpumask", "bpf_crypto_ctx", "prog_test_ref_kfunc",
    "prog_test_member",
))  # fmt: skip


def of_type(env: Env, btf: int, type_id: int) -> list[Special]:
    """What is special in a type of that BTF, by offset."""
    key = (btf, type_id)
    found = env.records.get(key)
    if found is None:
        found = []
        _walk(env, btf, type_id, 0, 0, found)
        found.sort(key=_offset)
        for field in found:
            if _destroyed_by_nobody(env, field):
                found = []
                break
        env.records[key] = found
    return found


def of_struct(env: Env, btf: int, type_id: int) -> list[Special]:
    """Of a program's own structure: those with locks, lists, nodes or counts have a record."""
    return [f for f in of_type(env, btf, type_id) if f.name in LOCAL]


def of_reg(env: Env, reg: Reg) -> list[Special]:
    """Of what a map value's address, or an allocated object's, points to."""
    base = reg.type & TYPE_MASK
    if base == MAP_VALUE:
        desc = env.maps[reg.map]
        if not desc.fields or desc.btf is None:
            return []
        return of_type(env, env.btf_index(desc.btf), desc.btf_value_type_id)
    if base == BTF_PTR and reg.type & ALLOC:
        return of_struct(env, reg.btf, reg.type_id)
    return []


def named(fields: list[Special], name: str) -> Special | None:
    """The first of that name."""
    for field in fields:
        if field.name == name:
            return field
    return None


def at(fields: list[Special], off: int, name: str) -> Special | None:
    """That which lies there, if it is of that name."""
    for field in fields:
        if field.off == off and field.name == name:
            return field
    return None


def _offset(field: Special) -> int:
    return field.off


def _walk(
    env: Env, index: int, type_id: int, base: int, level: int, into: list[Special]
) -> None:
    btf = env.btf(index)
    value = btf.strip(type_id)
    if value is None or value.kind not in (kinds.STRUCT, kinds.DATASEC) or level >= _MAX_LEVEL:
        return
    for n, row in enumerate(value.members):
        section = value.kind == kinds.DATASEC
        if not section and row.offset % 8:
            continue
        off = base + (row.offset if section else row.offset // 8)
        owner, part = (row.type, -1) if section else (value.id, n)
        _member(env, index, row.type, off, owner, part, level, into)


def _points(env: Env, index: int, type_id: int, field: Special) -> None:
    """What a pointer is to: the kernel's structure of that name and kind, else the program's."""
    target = env.btf(index).strip(type_id) if type_id else None
    if target is None:
        return
    kernels = env.btf(0).find(target.name, target.kind)
    field.btf, field.type_id = (0, kernels.id) if kernels is not None else (index, target.id)


def _destroyed_by_nobody(env: Env, field: Special) -> bool:
    """A map that holds such a reference would not know how to let go of it: 6.18 then finds no
    special field at all in its values (btf_find_dtor_kfunc)."""
    if field.name != KPTR or field.btf:
        return False
    return env.btf(0).type(field.type_id).name not in _DESTROYED


def _member(
    env: Env, index: int, type_id: int, off: int, owner: int, part: int, level: int,
    into: list[Special],
) -> None:
    btf = env.btf(index)
    found: Type | None = btf.type(type_id) if type_id else None
    if found and found.kind == kinds.VAR:
        found = btf.type(found.ref) if found.ref else None
    if found and found.kind == kinds.VOLATILE:
        inner = btf.type(found.ref) if found.ref else None
        found = inner if inner and inner.kind == kinds.PTR else found
    count = 1
    while found and found.kind == kinds.ARRAY:
        count *= found.nelems
        found = btf.type(found.ref) if found.ref else None
    if found is None or not count:
        return
    if found.kind == kinds.PTR:
        tag = btf.type(found.ref) if found.ref else None
        if tag and tag.kind == kinds.TYPE_TAG and tag.name in POINTERS:
            for n in range(count):
                field = Special(tag.name, off + 8 * n)
                _points(env, index, tag.ref, field)
                into.append(field)
    elif found.kind == kinds.STRUCT and found.name in SIZES:
        size = SIZES[found.name]
        if found.size != size or off % (4 if size == 4 else 8):
            return
        for n in range(count):
            field = Special(found.name, off + size * n)
            if found.name in roots.NODE_OF:
                inside = roots.root(btf, owner, part, found.name)
                if inside is not None:
                    field.btf, field.type_id, field.node = index, inside[0], inside[1]
            into.append(field)
    elif found.kind == kinds.STRUCT:
        before = len(into)
        for n in range(count):
            _walk(env, index, found.id, off + found.size * n, level + 1, into)
            if len(into) == before:
                break
