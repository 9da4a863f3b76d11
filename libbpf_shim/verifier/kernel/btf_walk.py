"""From an offset in a structure to the field that lies there, by BTF.

A walk goes into structures, unions, arrays and flexible arrays until it finds a number or a
pointer. What the program then holds is btf_ptr.py's to say.

Source of rules and messages: Linux 6.18, kernel/bpf/btf.c, btf_struct_walk, btf_struct_access,
btf_struct_ids_match, btf_nested_type_is_trusted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Member, Type
from libbpf_shim.verifier.env import EACCES, EFAULT, EINVAL, Reject
from libbpf_shim.verifier.state import (
    BTF_PTR,
    MEM,
    PERCPU,
    RCU,
    RDONLY,
    SCALAR,
    UNTRUSTED,
    USER,
)

_STRUCTS: Final = (kinds.STRUCT, kinds.UNION)
_SIZED: Final = (kinds.STRUCT, kinds.UNION, kinds.INT, kinds.ENUM, kinds.ENUM64, kinds.FLOAT)
_TAGS: Final = {"user": USER, "percpu": PERCPU, "rcu": RCU}
_NESTED: Final = -1  # the walk ended at a structure
_DEPTH: Final = 32  # MAX_RESOLVE_DEPTH


@final
class Found:
    """What an access yields. kind: SCALAR, BTF_PTR or MEM, with flags; type_id: of what the
    pointer points to; field: the member's name."""

    __slots__ = ("kind", "type_id", "flags", "field")

    def __init__(self, kind: int, type_id: int = 0, flags: int = 0, field: str = "") -> None:
        self.kind: int = kind
        self.type_id: int = type_id
        self.flags: int = flags
        self.field: str = field


NUMBER: Final = Found(SCALAR)
ANYWHERE: Final = Found(MEM, 0, RDONLY | UNTRUSTED)  # a pointer to no structure


@final
class Sized:
    """A member's type behind its names: the size of all of it, of one element, what it is."""

    __slots__ = ("size", "array", "count", "type", "type_id", "element_id")

    def __init__(self, size: int, array: bool, count: int, type: Type, ids: tuple[int, int]):
        self.size: int = size
        self.array: bool = array
        self.count: int = count
        self.type: Type = type
        self.type_id: int = ids[0]
        self.element_id: int = ids[1]


def type_name(btf: Btf, type_id: int) -> str:
    """The name of a type, "" if it has none."""
    try:
        return btf.type(type_id).name
    except KeyError:
        return ""


def shown(name: str) -> str:
    """A name in the messages of a walk."""
    return name or "(anon)"


def is_struct(found: Type | None) -> bool:
    return found is not None and found.kind in _STRUCTS


def resolve(btf: Btf, type_id: int) -> Sized | None:
    """The size of a type and what its elements are; None: it has no size (btf_resolve_size)."""
    at, element, array, count = type_id, 0, False, 1
    for _ in range(_DEPTH):
        try:
            found = btf.type(at)
        except KeyError:
            return None
        if found.kind == kinds.ARRAY:
            array, count, element = True, count * found.nelems, found.ref
            at = found.ref
        elif found.kind in kinds.MODIFIERS:
            at = found.ref
        elif found.kind == kinds.PTR:
            return Sized(8 * count, array, count, found, (at, element))
        elif found.kind in _SIZED:
            return Sized(found.size * count, array, count, found, (at, element))
        else:
            return None
    return None


@lru_cache(maxsize=4096)
def access(btf: Btf, type_id: int, off: int, size: int) -> Found:
    """What size bytes at off of a structure are. Raises Reject."""
    flags, at = 0, type_id
    while True:
        found, flags = _walk(btf, at, off, size, flags)
        if found.kind == BTF_PTR:
            return Found(BTF_PTR, found.type_id, flags | found.flags, found.field)
        if found.kind != _NESTED:
            return found
        at, off = found.type_id, 0


@lru_cache(maxsize=4096)
def same(btf: Btf, type_id: int, off: int, wanted: int, strict: bool) -> bool:
    """The structure, or one inside it at off, is the wanted one of the same BTF."""
    if off == 0 and type_id == wanted:
        return True
    if strict:
        return False
    at = type_id
    while True:
        try:
            found, _ = _walk(btf, at, off, 1, 0)
        except Reject:
            return False
        if found.kind != _NESTED:
            return False
        if found.type_id == wanted:
            return True
        at, off = found.type_id, 0


def _walk(btf: Btf, type_id: int, off: int, size: int, flags: int) -> tuple[Found, int]:
    """One step of btf_struct_walk(): a field, or the structure that begins at off."""
    at = btf.strip(type_id)
    while True:
        if at is None or at.kind not in _STRUCTS:
            name = shown(at.name) if at else "void"
            raise Reject(EINVAL, f"Type '{name}' is not a struct")
        if at.kind == kinds.UNION and len(at.members) != 1:
            flags |= UNTRUSTED
        if off + size > at.size:
            inside = _flexible(btf, at, off, size)
            if inside is None:
                return NUMBER, flags
            at, off = inside
            continue
        found = _member(btf, at, off, size, flags)
        if found is None:
            raise Reject(EINVAL, f"struct {shown(at.name)} doesn't have field at offset {off}")
        if found.kind != _NESTED or found.flags == off:
            if found.kind == _NESTED:
                return Found(_NESTED, found.type_id), flags
            return found, flags
        off -= found.flags
        at = btf.strip(found.type_id)


def _flexible(btf: Btf, at: Type, off: int, size: int) -> tuple[Type, int] | None:
    """Beyond a structure that ends in an array of no length: the element and the offset in it,
    None: a number."""
    beyond = Reject(EACCES, f"access beyond struct {shown(at.name)} at off {off} size {size}")
    last = btf.strip(at.members[-1].type) if at.members and at.members[-1].type else None
    if last is None or last.kind != kinds.ARRAY or last.nelems:
        raise beyond
    start = at.members[-1].offset // 8
    if off < start:
        raise beyond
    element = btf.strip(last.ref)
    if element is not None and element.kind == kinds.INT:
        return None
    if element is None or element.kind not in _STRUCTS or not element.size:
        raise beyond
    return element, (off - start) % element.size


def _member(btf: Btf, at: Type, off: int, size: int, flags: int) -> Found | None:
    """The member at off, None: there is none. Of a structure: _NESTED, its place in flags."""
    for m in at.members:
        start = m.offset // 8
        if off + size <= start:
            return None
        if m.bits:
            if off <= start and (m.offset + m.bits + 7) // 8 <= off + size:
                return NUMBER
            continue
        if off < start:
            return None
        sized = resolve(btf, m.type)
        if sized is None:
            raise Reject(EFAULT, f"field {shown(m.name)} doesn't have size")
        end = start + sized.size
        if off >= end:
            continue
        if sized.array:
            each = sized.size // sized.count
            start += (off - start) // each * each
        inner = sized.type
        if inner.kind in _STRUCTS:
            return Found(_NESTED, sized.element_id if sized.array else sized.type_id, start)
        if inner.kind == kinds.PTR:
            if size != 8 or off != start:
                text = f"cannot access ptr member {shown(m.name)} with moff {start} in struct "
                raise Reject(EACCES, f"{text}{shown(at.name)} with off {off} size {size}")
            return _pointer(btf, inner, m)
        if off + size > end and not flags & UNTRUSTED:
            text = f"access beyond the end of member {shown(m.name)} (mend:{end}) in struct "
            raise Reject(EACCES, f"{text}{shown(at.name)} with off {off} size {size}")
        return NUMBER
    return None


def _pointer(btf: Btf, inner: Type, m: Member) -> Found:
    """What a pointer in a structure points to."""
    flags = tag(btf, inner.ref)
    target = btf.strip(inner.ref)
    if target is None or target.kind not in _STRUCTS:
        return ANYWHERE
    return Found(BTF_PTR, target.id, flags, m.name)


def tag(btf: Btf, type_id: int) -> int:
    """USER, PERCPU or RCU, as the first type tag of a pointer's type says; else 0."""
    if not type_id:
        return 0
    found = btf.type(type_id)
    return _TAGS.get(found.name, 0) if found.kind == kinds.TYPE_TAG else 0


@lru_cache(maxsize=1024)
def listed(btf: Btf, type_id: int, field: str, target: int, suffix: str) -> bool:
    """The kernel's BTF lists the field among those to be trusted: there is a structure of the
    type's name and the suffix with a pointer of that name to that type."""
    walked = btf.type(type_id)
    safe = btf.find(walked.name + suffix, walked.kind)
    if safe is None:
        return False
    for m in safe.members:
        pointer = btf.type(m.type) if m.type else None
        if pointer is None or pointer.kind != kinds.PTR or m.name != field:
            continue
        found = btf.strip(pointer.ref)
        if found is not None and found.id == target:
            return True
    return False
