"""Special fields: structures and pointers of the kernel's inside a program's own structures.

Locks, timers, lists and pointers to kernel objects, found by name (or type tag) where they lie.
One that has another size or alignment than the kernel's is none.
Restated from kernel/bpf/btf.c (btf_parse_fields, btf_parse_struct_metas).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from . import kinds, roots
from .members import refuse
from .parse import Btf, Type

_MAX_LEVEL = 31  # of structures inside structures
_MANY = 11  # BTF_FIELDS_MAX
# name: (bytes, alignment, how many there may be)
_STRUCTS: Final = {
    "bpf_spin_lock": (4, 4, 1), "bpf_res_spin_lock": (4, 4, 1), "bpf_timer": (16, 8, 1),
    "bpf_wq": (16, 8, 1), "bpf_task_work": (8, 8, 1), "bpf_refcount": (4, 4, 1),
    "bpf_list_head": (16, 8, _MANY), "bpf_list_node": (24, 8, _MANY),
    "bpf_rb_root": (16, 8, _MANY), "bpf_rb_node": (32, 8, _MANY),
}  # fmt: skip
KPTR_TAGS: Final = frozenset(("kptr", "kptr_untrusted", "percpu_kptr", "uptr"))
# What makes a structure one that programs may allocate: it is looked at when BTF is loaded.
_ALLOCATED: Final = frozenset((
    "bpf_spin_lock", "bpf_res_spin_lock", "bpf_list_head", "bpf_list_node", "bpf_rb_root",
    "bpf_rb_node", "bpf_refcount",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """A special field: its structure's name or its pointer's tag, offset in bytes."""

    name: str
    offset: int


class Finder:
    """The special fields of one type. wanted: the names that are looked for."""

    def __init__(self, btf: Btf, wanted: frozenset[str]) -> None:
        self._btf, self._wanted = btf, wanted
        self._found: list[Field] = []

    def of(self, value: Type) -> list[Field]:
        """By offset. EINVAL; E2BIG: more than there may be."""
        self._walk(value, 0, 0)
        return sorted(self._found, key=lambda field: field.offset)

    def _walk(self, value: Type, base: int, level: int) -> None:
        rows = value.members if value.kind in (kinds.STRUCT, kinds.DATASEC) else ()
        bits = 1 if value.kind == kinds.DATASEC else 8
        for number, row in enumerate(rows) if level < _MAX_LEVEL else ():
            if row.offset % bits:
                raise refuse(f"{row.name}: not byte aligned beside a special field")
            head = (row.type, -1) if value.kind == kinds.DATASEC else (value.id, number)
            self._one(row.type, base + row.offset // bits, level, head)

    def _one(self, type_id: int, offset: int, level: int, head: tuple[int, int]) -> None:
        btf, count = self._btf, 1
        found = btf.type(type_id) if type_id else None
        if found and found.kind == kinds.VAR:
            found = btf.type(found.ref) if found.ref else None
        if found and found.kind == kinds.VOLATILE:  # of a pointer; a struct is not looked for
            pointer = btf.type(found.ref) if found.ref else None
            found = pointer if pointer and pointer.kind == kinds.PTR else found
        while found and found.kind == kinds.ARRAY:
            count *= found.nelems
            found = btf.type(found.ref) if found.ref else None
        if found is None or not count:
            return
        if found.kind == kinds.PTR:
            tag = btf.type(found.ref) if found.ref else None
            if tag and tag.kind == kinds.TYPE_TAG and tag.name in KPTR_TAGS & self._wanted:
                for n in range(count):
                    self._add(tag.name, 8, offset + 8 * n, _MANY)
        elif found.kind == kinds.STRUCT and found.name in _STRUCTS:
            size, align, most = _STRUCTS[found.name]
            if found.name in self._wanted and found.size == size:
                if count > 1 and most == 1:
                    raise refuse(f"an array of {found.name}", errno.E2BIG)
                if found.name in roots.NODE_OF and not roots.root(btf, *head, found.name):
                    raise refuse(f"a {found.name} of what is no structure with such a node")
                for n in range(count):
                    self._add(found.name, align, offset + size * n, most)
        elif found.kind == kinds.STRUCT:
            before = len(self._found)
            for n in range(count):
                self._walk(found, offset + found.size * n, level + 1)
                if len(self._found) == before:
                    break

    def _add(self, name: str, align: int, offset: int, most: int) -> None:
        if offset % align:
            return
        if sum(field.name == name for field in self._found) >= most:
            raise refuse(f"more than {most} {name}", errno.E2BIG)
        if len(self._found) >= _MANY:
            raise refuse(f"more than {_MANY} special fields", errno.E2BIG)
        self._found.append(Field(name, offset))


def check(btf: Btf, types: Iterable[Type]) -> None:
    """Structures that hold locks, lists or counts hold them rightly. EINVAL, E2BIG, EFAULT."""
    special = {found.id for found in types
               if found.kind == kinds.STRUCT and found.name in _ALLOCATED}
    for found in types if special else ():
        if found.kind == kinds.STRUCT and any(m.type in special for m in found.members):
            if not Finder(btf, _ALLOCATED).of(found):
                raise refuse(f"type {found.id}: its special fields are none", errno.EFAULT)
