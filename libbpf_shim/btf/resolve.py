"""Does every type of a blob lead to types that may stand there, without containing itself?

The order in which types are visited, where a visit stops (a sink) and how deep it may go decide
which errno a wrong blob gets, so they are the kernel's. Restated from kernel/bpf/btf.c
(btf_check_all_types and what it calls); sizes in bytes, member offsets in bits.
"""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable

from libbpf_shim.btf import kinds, members
from libbpf_shim.btf.members import refuse
from libbpf_shim.btf.parse import Type

_MAX_DEPTH = 32  # MAX_RESOLVE_DEPTH; also of a chain of modifiers
_U32 = 0xFFFFFFFF
_SIZED = frozenset((kinds.INT, kinds.STRUCT, kinds.UNION, kinds.ENUM, kinds.DATASEC, kinds.FLOAT,
                    kinds.ENUM64))
_SIZELESS = frozenset((kinds.UNKN, kinds.FWD, kinds.FUNC, kinds.FUNC_PROTO, kinds.DECL_TAG))
_SOURCES = frozenset((kinds.VAR, kinds.DECL_TAG, kinds.DATASEC))  # nothing may refer to them
_COMPOSED = frozenset((kinds.STRUCT, kinds.UNION, kinds.ARRAY))
_REFERRING = kinds.MODIFIERS | _COMPOSED | _SOURCES | {kinds.PTR, kinds.FUNC}
# Kinds that a visit goes through, by what it began with: anything, a pointer, a composed type.
_THROUGH = {None: _REFERRING, kinds.PTR: kinds.MODIFIERS | {kinds.PTR},
            kinds.ARRAY: kinds.MODIFIERS | _COMPOSED}
_TAGGED = frozenset((kinds.FUNC, kinds.STRUCT, kinds.UNION, kinds.VAR, kinds.TYPEDEF))
VOID = Type(0, kinds.UNKN, "")
Visit = Generator[int, None, tuple[int, int]]  # asks for types; the id it leads to, and a size


class Resolver:
    """One blob's visits. nameless: parameters, as (type, index), whose names are no identifiers.
    done: of each type seen to its end, the id and the size it comes to."""

    def __init__(self, types: Iterable[Type], nameless: set[tuple[int, int]]) -> None:
        self._nameless = nameless
        self._types = {found.id: found for found in types}
        self._types[0] = VOID
        self._done: dict[int, tuple[int, int]] = {}
        self._begun: set[int] = set()
        self._mode: int | None = None

    def check(self) -> None:
        """Everything. EINVAL, E2BIG, EEXIST (a loop), ELOOP (a chain of modifiers)."""
        for type_id, found in self._types.items():
            if found.kind in _REFERRING and type_id not in self._done:
                self._visit(type_id)
            if found.kind == kinds.FUNC_PROTO:
                self._prototype(found)
        for found in self._types.values():
            self._tags(found)

    def _get(self, type_id: int, why: str, *refused: frozenset[int]) -> Type:
        """The type of an id, of none of the kinds refused."""
        found = self._types.get(type_id)
        if found is None or any(found.kind in some for some in refused):
            raise refuse(why)
        return found

    # visits

    def _visit(self, type_id: int) -> None:
        self._mode = None
        stack: list[tuple[int, Visit]] = []
        self._push(stack, type_id)
        while stack:
            at, visit = stack[-1]
            try:
                self._push(stack, next(visit))
            except StopIteration as end:
                self._done[at] = end.value
                stack.pop()
        self._settled(self._types[type_id])

    def _push(self, stack: list[tuple[int, Visit]], type_id: int) -> None:
        if len(stack) == _MAX_DEPTH:
            raise refuse(f"type {type_id}: exceeded max resolving depth", errno.E2BIG)
        if type_id in self._begun:
            raise refuse(f"type {type_id}: loop detected", errno.EEXIST)
        self._begun.add(type_id)
        found = self._types[type_id]
        if self._mode is None:
            self._mode = (kinds.PTR if found.kind == kinds.PTR
                          else kinds.ARRAY if found.kind in _COMPOSED else None)
        stack.append((type_id, self._of_kind(found)))

    def _of_kind(self, found: Type) -> Visit:
        if found.kind in kinds.COMPOSITE:
            return self._composite(found)
        if found.kind == kinds.ARRAY:
            return self._array(found)
        if found.kind == kinds.DATASEC:
            return self._section(found)
        if found.kind == kinds.FUNC:
            return self._function(found)
        if found.kind == kinds.DECL_TAG:
            return self._tag(found)
        return self._reference(found)

    def _open(self, type_id: int) -> bool:
        """The type must be seen to its end first."""
        return self._types[type_id].kind in _THROUGH[self._mode] and type_id not in self._done

    def _size(self, type_id: int) -> tuple[Type, int] | None:
        """The type with a size that type_id leads to, and the size (btf_type_id_size)."""
        found = self._types[type_id]
        if found.kind in kinds.MODIFIERS or found.kind == kinds.VAR:
            type_id = self._done.get(type_id, (0, 0))[0]
            found = self._types[type_id]
        if found.kind in _SIZED:
            return found, found.size
        if found.kind == kinds.ARRAY:
            return found, self._done.get(type_id, (0, 0))[1]
        return (found, 8) if found.kind == kinds.PTR else None

    def _led_to(self, type_id: int) -> int:
        """The id with a size behind a modifier or variable, else the id itself."""
        found = self._types[type_id]
        return self._done.get(type_id, (0, 0))[0] if (
            found.kind in kinds.MODIFIERS or found.kind == kinds.VAR) else type_id

    def _reference(self, found: Type) -> Visit:
        """Modifiers, pointers, variables."""
        why = f"type {found.id}: invalid type_id {found.ref}"
        target = self._get(found.ref, why, _SOURCES)
        if self._open(found.ref):
            yield found.ref
        if found.kind not in kinds.MODIFIERS and target.kind in kinds.MODIFIERS:
            # what stopped at a pointer inside a structure goes on from there
            behind = self._done[found.ref][0] if found.ref in self._done else 0
            if self._types[behind].kind == kinds.PTR and self._open(behind):
                yield behind
        if self._size(found.ref):
            return self._led_to(found.ref), 0
        last = self._types[self._done[found.ref][0]] if found.ref in self._done else target
        last_id = self._done[found.ref][0] if found.ref in self._done else found.ref
        if found.kind == kinds.VAR or last.kind not in (
                kinds.UNKN, kinds.FWD, kinds.FUNC_PROTO):
            raise refuse(why)
        return last_id, 0

    def _array(self, found: Type) -> Visit:
        for type_id, what in ((found.extra, "index"), (found.ref, "elem")):
            why = f"type {found.id}: invalid {what}"
            self._get(type_id, why, _SIZELESS, _SOURCES)
            if self._open(type_id):
                yield type_id
            sized = self._size(type_id)
            if sized is None or (what == "index" and not members.regular(sized[0])):
                raise refuse(why)
        element = self._size(found.ref)
        assert element
        if element[0].kind == kinds.INT and not members.regular(element[0]):
            raise refuse(f"type {found.id}: invalid array of int")
        if found.nelems and element[1] > _U32 // found.nelems:
            raise refuse(f"type {found.id}: array size overflows U32_MAX")
        return self._led_to(found.ref), element[1] * found.nelems

    def _composite(self, found: Type) -> Visit:
        for member in found.members:
            why = f"type {found.id}: {member.name}: invalid member"
            self._get(member.type, why, _SIZELESS, _SOURCES)
            if self._open(member.type):
                yield member.type
            sized = self._size(member.type)
            if sized is None:
                raise refuse(why)
            members.check(found, member, *sized)
        return 0, 0

    def _section(self, found: Type) -> Visit:
        self._mode = None
        for row in found.members:
            variable = self._types.get(row.type)
            if variable is None or variable.kind != kinds.VAR:
                raise refuse(f"type {found.id}: not a VAR kind member")
            if self._open(row.type):
                yield row.type
                self._mode = None
                continue  # it goes on with the next one
            sized = self._size(variable.ref)
            if sized is None or row.size < sized[1]:
                raise refuse(f"type {found.id}: invalid size")
        return 0, 0

    def _function(self, found: Type) -> Visit:
        proto = self._types.get(found.ref)
        if proto is None or proto.kind != kinds.FUNC_PROTO:
            raise refuse(f"type {found.id}: invalid type_id {found.ref}")
        for index, param in enumerate(proto.members):
            if not param.name and param.type:
                raise refuse(f"type {found.id}: invalid arg#{index}")
        yield from ()
        return found.ref, 0

    def _tag(self, found: Type) -> Visit:
        target = self._types.get(found.ref)
        if target is None or target.kind not in _TAGGED:
            raise refuse(f"type {found.id}: invalid type_id {found.ref}")
        if self._open(found.ref):
            yield found.ref
        if found.extra != -1:
            if target.kind in (kinds.VAR, kinds.TYPEDEF):
                raise refuse(f"type {found.id}: invalid component_idx")
            rows = self._types[target.ref] if target.kind == kinds.FUNC else target
            if not 0 <= found.extra < len(rows.members):
                raise refuse(f"type {found.id}: invalid component_idx")
        return found.ref, 0

    def _settled(self, found: Type) -> None:
        """btf_resolve_valid(): the visit came to something that such a type may come to."""
        fine = True
        if found.kind in kinds.MODIFIERS or found.kind in (kinds.PTR, kinds.VAR):
            last = self._types[self._done[found.id][0]]
            fine = last.kind not in kinds.MODIFIERS | {kinds.VAR, kinds.DATASEC}
        elif found.kind == kinds.ARRAY:
            element = self._size(found.ref)
            fine = element is not None and element[0].kind not in kinds.MODIFIERS
        if not fine:
            raise refuse(f"type {found.id}: invalid resolve state")

    # prototypes and tags

    def _prototype(self, found: Type) -> None:
        """A function's result and parameters have sizes; a last one without type is "..."."""
        if found.ref:
            self._passed(found.ref, f"type {found.id}: invalid return type")
        params = list(found.members)
        if params and not params[-1].type:
            if params[-1].name:
                raise refuse(f"type {found.id}: invalid arg#{len(params)}")
            params.pop()
        for index, param in enumerate(params):
            why = f"type {found.id}: invalid arg#{index + 1}"
            self._get(param.type, why, _SOURCES)
            if (found.id, index) in self._nameless:
                raise refuse(why)
            self._passed(param.type, why)

    def _passed(self, type_id: int, why: str) -> None:
        found = self._get(type_id, why, _SOURCES)
        if found.kind in _REFERRING and type_id not in self._done:
            self._visit(type_id)
        if self._size(type_id) is None:
            raise refuse(why)

    def _tags(self, found: Type) -> None:
        """Type tags come before other modifiers; chains of modifiers end."""
        tags, left = found.kind == kinds.TYPE_TAG, _MAX_DEPTH
        where = found.id
        while found.kind in kinds.MODIFIERS:
            if not left:
                raise refuse(f"type {where}: max chain length or cycle detected", errno.ELOOP)
            left -= 1
            if found.kind != kinds.TYPE_TAG:
                tags = False
            elif not tags:
                raise refuse(f"type {where}: type tags don't precede modifiers")
            found = self._types[found.ref]
