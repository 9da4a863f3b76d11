"""Which bytes of the host's a class may read and write: a tree of nodes, one for each way to an
object.

A path is walked through fields as offsets grow, and through pointers to nodes of their own; the
pointer itself becomes readable with what it leads to. Denied bytes are taken out afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Member, Type
from libbpf_shim.eim import ctype, lengths
from libbpf_shim.eim.capability import Path
from libbpf_shim.eim.lengths import Declared
from libbpf_shim.verifier.granted import denial
from libbpf_shim.verifier.policy import Bytes, Node, Ranges

READ, WRITE = "read", "write"
_POINTER = 8  # bytes
_ELEMENTS = 16  # of an array, whose pointers are looked at
_NODES = 4096


def added(ranges: Ranges, low: int, high: int) -> Ranges:
    """With low..high too: ascending and apart."""
    found: list[tuple[int, int]] = []
    for a, b in sorted((*ranges, (low, high))):
        if found and a <= found[-1][1]:
            found[-1] = (found[-1][0], max(b, found[-1][1]))
        else:
            found.append((a, b))
    return tuple(found)


def without(ranges: Ranges, low: int, high: int) -> Ranges:
    """Without low..high."""
    found: list[tuple[int, int]] = []
    for a, b in ranges:
        if a < min(b, low):
            found.append((a, min(b, low)))
        if max(a, high) < b:
            found.append((max(a, high), b))
    return tuple(found)


def inside(ranges: Ranges, low: int, high: int) -> bool:
    """All of low..high is in one of them."""
    return any(a <= low and high <= b for a, b in ranges)


@dataclass(slots=True)
class _Node:
    path: str
    type_id: int
    size: int
    nonnull: bool
    reads: Ranges = ()
    writes: Ranges = ()
    links: dict[int, int] = field(default_factory=dict)
    way: tuple[int, int] | None = None  # the node that has the pointer to it, and where
    bytes: Bytes | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes low..high of a node; target: what they point to, if they are a pointer to an
    object."""

    node: int
    low: int
    high: int
    target: int


def _path(path: str, name: str) -> str:
    """Of a field of what path leads to; of all of it."""
    return f"{path.removeprefix('*')}.{name}" if name else path


class Tree:
    """roots: by name, the node; `FUNCTION()` for what a function returns. bytes: pointers that
    lead to as many bytes as another field says."""

    def __init__(self, btf: Btf, bytes: tuple[Declared, ...] = ()) -> None:
        self._btf, self._bytes = btf, {(row.type_id, row.pointer): row for row in bytes}
        self._nodes: list[_Node] = []
        self.roots: dict[str, int] = {}

    def root(self, name: str, type_id: int, nonnull: bool) -> int:
        """A pointer to a type; the same one again if it is there."""
        if name not in self.roots:
            self.roots[name] = self._new(name, type_id, nonnull)
        return self.roots[name]

    def _new(self, path: str, type_id: int, nonnull: bool = False) -> int:
        if len(self._nodes) >= _NODES:
            raise ValueError(f"more than {_NODES} ways to objects are granted")
        self._nodes.append(_Node(path, type_id, ctype.sized(self._btf, type_id), nonnull))
        return len(self._nodes) - 1

    def _behind(self, at: int, off: int, target: int, path: str) -> int:
        """A node for what the pointer at off leads to."""
        new = self._new(path, target)
        row, self._nodes[at].links[off] = self._nodes[new], new
        row.way = (at, off)
        for outer, base in lengths.enclosing(self._btf, self._nodes[at].type_id, off):
            if found := self._bytes.get((outer, off - base)):
                row.size = found.most
                row.bytes = Bytes((), off, base + found.length, found.size, found.signed,
                                  found.most, self._sibling(path, found))
        return new

    @staticmethod
    def _sibling(path: str, found: Declared) -> str:
        return f"{path.removeprefix('*').rpartition('.')[0]}.{found.length_name}"

    def grant(self, kind: str, path: Path, text: str) -> None:
        """ValueError: there is no such field."""
        place = self._place(path, text, True)
        assert place is not None
        row = self._nodes[place.node]
        if row.bytes and kind != READ:
            raise ValueError(f"{text}: bytes up to a length are read, never written")
        if kind == READ:
            row.reads = added(row.reads, place.low, place.high)
        else:
            row.writes = added(row.writes, place.low, place.high)

    def deny(self, kind: str, path: Path, text: str) -> None:
        """ValueError: there is no such field. What was not granted is not denied."""
        place = self._place(path, text, False)
        if place is None:
            return
        row = self._nodes[place.node]
        if kind == READ:
            row.reads = without(row.reads, place.low, place.high)
        else:
            row.writes = without(row.writes, place.low, place.high)

    def place(self, path: Path, text: str) -> Place:
        """Where a path leads, without granting it. ValueError."""
        found = self._place(path, text, True)
        assert found is not None
        return found

    def root_type(self, name: str) -> int:
        """What the root points to."""
        return self._nodes[self.roots[name]].type_id

    def granted(self, name: str) -> bool:
        """Some byte of the root, or behind it, is granted."""
        return name in self.roots and self._some(self.roots[name])

    def _some(self, node: int) -> bool:
        row = self._nodes[node]
        return bool(row.reads or row.writes) or any(map(self._some, row.links.values()))

    def offered(self, other: Tree, name: str) -> list[str]:
        """Paths below the root that are granted here and not there."""
        mine, theirs = self.roots.get(name), other.roots.get(name)
        return [] if mine is None else list(self._beyond(mine, other, theirs))

    def _beyond(self, node: int, other: Tree, theirs: int | None) -> Iterator[str]:
        row = self._nodes[node]
        there = other._nodes[theirs] if theirs is not None else None
        for kind, mine, has in ((READ, row.reads, there.reads if there else ()),
                                (WRITE, row.writes, there.writes if there else ())):
            for low, high in mine:
                if not inside(has, low, high):
                    name = denial.field(self._btf, row.type_id, low, high - low)
                    yield f"{kind}({_path(row.path, name)})"
        for off, child in row.links.items():
            yield from self._beyond(child, other, there.links.get(off) if there else None)

    def _place(self, path: Path, text: str, make: bool) -> Place | None:
        name = f"{path.root}()" if path.result else path.root
        at = self.roots[name]
        row = self._nodes[at]
        if not path.parts and not path.deref:
            return Place(at, 0, row.size, 0)
        off, type_id, name = 0, row.type_id, row.path.removeprefix("*")
        size = row.size
        for part in path.parts:
            found = self._btf.strip(type_id)
            if found is not None and found.kind == kinds.PTR and isinstance(part, str):
                step = self._through(at, off, found, name, make)
                if step is None:
                    return None
                at, off = step, 0
                type_id = self._nodes[at].type_id
                found = self._btf.strip(type_id)
            start, type_id, size = self._part(found, part, text)
            off += start
            name += f"[{part}]" if isinstance(part, int) else f".{part}"
        found = self._btf.strip(type_id)
        leads = ctype.target(self._btf, found) if found and found.kind == kinds.PTR else 0
        if path.deref:
            if found is None or found.kind != kinds.PTR:
                raise ValueError(f"{text}: {name} is no pointer")
            step = self._through(at, off, found, name, make)
            return None if step is None else Place(step, 0, self._nodes[step].size, 0)
        return Place(at, off, off + size, leads)

    def _through(self, at: int, off: int, pointer: Type, name: str, make: bool) -> int | None:
        """The node that the pointer at off leads to; it can then be read itself."""
        row = self._nodes[at]
        leads = ctype.target(self._btf, pointer)
        if not leads:
            raise ValueError(f"{name}: what it points to has no definition in the types")
        if off not in row.links:
            if not make:
                return None
            self._behind(at, off, leads, f"*{name}")
        if make:
            row.reads = added(row.reads, off, off + _POINTER)
        return row.links[off]

    def _part(self, found: Type | None, part: str | int, text: str) -> tuple[int, int, int]:
        """(offset, type, bytes) of a field or an element."""
        if isinstance(part, int):
            if found is None or found.kind != kinds.ARRAY:
                raise ValueError(f"{text}: [{part}] of what is no array")
            if part >= found.nelems:
                raise ValueError(f"{text}: [{part}], and the array has {found.nelems} elements")
            each = ctype.sized(self._btf, found.ref)
            return part * each, found.ref, each
        if found is None or found.kind not in kinds.COMPOSITE:
            raise ValueError(f"{text}: .{part} of what is no structure")
        member = self._member(found, part, 0)
        if member is None:
            names = [m.name for m in found.members if m.name]
            near = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise ValueError(f"{text}: {ctype.words(self._btf, found.id)} has no field {part} "
                             f"(it has {near})")
        bits, row = member
        if row.bits:
            low, high = bits // 8, (bits + row.bits + 7) // 8
            return low, 0, high - low
        return bits // 8, row.type, ctype.sized(self._btf, row.type)

    def _member(self, found: Type, name: str, base: int) -> tuple[int, Member] | None:
        """Its offset in bits; also of one in a nameless structure."""
        for row in found.members:
            if row.name == name:
                return base + row.offset, row
            inner = None if row.name else self._btf.strip(row.type)
            if inner is not None and inner.kind in kinds.COMPOSITE:
                if deeper := self._member(inner, name, base + row.offset):
                    return deeper
        return None

    def _way(self, at: int, registers: dict[str, int]) -> tuple[int, ...]:
        """To the object with the pointer that leads to a node: of the register that holds the
        entry's argument, and of pointers on the way, where they are; (): from nowhere else."""
        found: list[int] = []
        way = self._nodes[at].way
        assert way
        at = way[0]
        while way := self._nodes[at].way:
            at = way[0]
            found.insert(0, way[1])
        name = next((name for name, root in self.roots.items() if root == at), "")
        return (registers[name], *found) if name in registers else ()

    def unreachable(self, registers: dict[str, int]) -> str:
        """Why bytes that are granted cannot be checked when they are read; "": all can."""
        for at, row in enumerate(self._nodes):
            if row.bytes is None or not row.reads:
                continue
            way = self._way(at, registers)
            places = (*way, row.bytes.pointer, row.bytes.length)
            if not way:
                return f"read({row.path}): its length can only be checked behind an argument"
            if len(way) > 1 + lengths.WAY or max(places) >= lengths.FAR:
                return (f"read({row.path}): more than {lengths.WAY} pointers on the way, or an "
                        f"offset of {lengths.FAR} bytes")
        return ""

    def nodes(self, registers: dict[str, int]) -> tuple[Node, ...]:
        """As the verifier has them; registers: of arguments, where they are in the context. A
        pointer that can be read leads to a node even where nothing
        is granted of that: so it can be handed to functions, and a refusal names it."""
        for at in range(len(self._nodes)):
            row = self._nodes[at]
            for off, target, name in self._pointers(row.type_id, 0, ""):
                if off not in row.links and inside(row.reads, off, off + _POINTER):
                    self._behind(at, off, target, f"*{row.path.removeprefix('*')}{name}")
        return tuple(
            Node(row.path, row.type_id, row.size, row.nonnull, row.reads, row.writes,
                 tuple((off, child) for off, child in sorted(row.links.items())
                       if inside(row.reads, off, off + _POINTER)),
                 row.bytes and replace(row.bytes, way=self._way(at, registers)))
            for at, row in enumerate(self._nodes))

    def _pointers(self, type_id: int, base: int, name: str) -> Iterator[tuple[int, int, str]]:
        """Fields that point to objects: (offset, type, how a path goes on)."""
        found = self._btf.strip(type_id)
        if found is None:
            return
        if found.kind == kinds.PTR:
            if leads := ctype.target(self._btf, found):
                yield base, leads, name
        elif found.kind in kinds.COMPOSITE:
            for row in found.members:
                if not row.bits:
                    more = f".{row.name}" if row.name else ""
                    yield from self._pointers(row.type, base + row.offset // 8, name + more)
        elif found.kind == kinds.ARRAY and found.nelems <= _ELEMENTS:
            each = ctype.sized(self._btf, found.ref)
            for n in range(found.nelems):
                yield from self._pointers(found.ref, base + n * each, f"{name}[{n}]")
