"""The maps of an object: those of SEC(".maps"), and those behind global variables.

Source: libbpf 1.1 src/libbpf.c, parse_btf_map_def, bpf_object__init_internal_map and
bpf_object__create_map: names, sizes, flags and what is refused.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Member, Type
from libbpf_shim.elf.object import SHT_NOBITS, SHT_PROGBITS, ElfObject, Malformed, Section
from libbpf_shim.elf.typeinfo import ALLOCATED, KCONFIG, STATIC, Extern
from libbpf_shim.uapi.bpf import bpf_map_type

MAPS: Final = ".maps"
PAGE: Final = 4096
NAME_LEN: Final = 16  # BPF_OBJ_NAME_LEN, NUL included
RDONLY_PROG, MMAPABLE = 1 << 7, 1 << 10  # BPF_F_*
PIN_NONE, PIN_BY_NAME = 0, 1  # enum libbpf_pin_type
_T = bpf_map_type
_OF_MAPS = (_T.BPF_MAP_TYPE_ARRAY_OF_MAPS, _T.BPF_MAP_TYPE_HASH_OF_MAPS)
_RINGS = (_T.BPF_MAP_TYPE_RINGBUF, _T.BPF_MAP_TYPE_USER_RINGBUF)
# Types that the kernel takes no BTF for.
PLAIN: Final = frozenset((
    _T.BPF_MAP_TYPE_PERF_EVENT_ARRAY, _T.BPF_MAP_TYPE_CGROUP_ARRAY, _T.BPF_MAP_TYPE_STACK_TRACE,
    _T.BPF_MAP_TYPE_ARRAY_OF_MAPS, _T.BPF_MAP_TYPE_HASH_OF_MAPS, _T.BPF_MAP_TYPE_DEVMAP,
    _T.BPF_MAP_TYPE_DEVMAP_HASH, _T.BPF_MAP_TYPE_CPUMAP, _T.BPF_MAP_TYPE_XSKMAP,
    _T.BPF_MAP_TYPE_SOCKMAP, _T.BPF_MAP_TYPE_SOCKHASH, _T.BPF_MAP_TYPE_QUEUE,
    _T.BPF_MAP_TYPE_STACK,
))


@dataclass(slots=True)
class MapSpec:
    """One map as MAP_CREATE will make it. May be changed until then.

    section, offset: where a relocation finds it. internal: the ELF section behind global
    variables, "" for maps of .maps. contents: the first bytes of an internal map's value, zero
    behind them. slots: what stands in it from the start: names of maps or programs by index.
    value_type of an internal map: the DATASEC of its variables. autocreate: it is made; where it
    is not, programs may not reach an instruction that names it.
    """

    name: str
    type: int = 0
    key_size: int = 0
    value_size: int = 0
    max_entries: int = 0
    flags: int = 0
    extra: int = 0
    numa_node: int = 0
    key_type: int = 0
    value_type: int = 0
    pinning: int = PIN_NONE
    inner: MapSpec | None = None
    section: int = 0
    offset: int = 0
    internal: str = ""
    contents: bytes = b""
    slots: dict[int, str] = field(default_factory=dict)
    slots_at: int = 0
    autocreate: bool = True

    @property
    def frozen(self) -> bool:
        """Its value is fixed at load: constants."""
        return self.internal.startswith(".rodata") or self.internal == KCONFIG

    @property
    def typed(self) -> bool:
        """MAP_CREATE carries BTF."""
        return self.type not in PLAIN


class _Definition:
    """One structure of .maps, or the inner one behind `values`."""

    def __init__(self, owner: str, btf: Btf, name: str, inner: bool) -> None:
        self.owner, self.btf, self.inner = owner, btf, inner
        self.spec = MapSpec(name)

    def wrong(self, why: str, code: int = errno.EINVAL) -> Malformed:
        return Malformed(self.owner, f"map {self.spec.name}: {why}", code)

    def read(self, shape: Type) -> MapSpec:
        for index, member in enumerate(shape.members):
            last = index == len(shape.members) - 1
            if member.name in _NUMBERS:
                setattr(self.spec, _NUMBERS[member.name], self.number(member))
            elif member.name in ("key_size", "value_size"):
                self.size(member.name, self.number(member))
            elif member.name in ("key", "value"):
                self.typed(member)
            elif member.name == "values":
                self.values(member, last)
            elif member.name == "pinning":
                self.pinning(member)
            else:
                raise self.wrong(f"unknown field {member.name!r}", errno.ENOTSUP)
        if not self.spec.type:
            raise self.wrong("its type is not given")
        if self.spec.type in _RINGS:
            self.spec.max_entries = ring_size(self.spec.max_entries)
        return self.spec

    def number(self, member: Member) -> int:
        """__uint(): a pointer to an array of that many."""
        pointer = self.btf.strip(member.type)
        array = self.btf.type(pointer.ref) if pointer and pointer.ref else None
        if pointer is None or pointer.kind != kinds.PTR or not array or array.kind != kinds.ARRAY:
            raise self.wrong(f"{member.name}: not written with __uint()")
        return array.nelems

    def size(self, name: str, value: int) -> None:
        """key_size, value_size: may be said twice, but not differently."""
        held = getattr(self.spec, name)
        if held and held != value:
            raise self.wrong(f"{name} {value}, but {held} before")
        setattr(self.spec, name, value)

    def typed(self, member: Member) -> None:
        pointer = self.btf.type(member.type) if member.type else None
        if pointer is None or pointer.kind != kinds.PTR:
            raise self.wrong(f"{member.name}: not written with __type()")
        try:
            size = self.btf.sizeof(pointer.ref)
        except KeyError:
            raise self.wrong(f"{member.name}: a type without a size") from None
        self.size(f"{member.name}_size", size)
        setattr(self.spec, f"{member.name}_type", pointer.ref)

    def values(self, member: Member, last: bool) -> None:
        """__array(values, ...): what map in map or prog array holds."""
        spec = self.spec
        if self.inner:
            raise self.wrong("an inner map with values", errno.ENOTSUP)
        if not last:
            raise self.wrong("values is not its last field")
        if spec.type not in (*_OF_MAPS, _T.BPF_MAP_TYPE_PROG_ARRAY):
            raise self.wrong("values of a map that holds neither maps nor programs", errno.ENOTSUP)
        self.size("value_size", 4)
        array = self.btf.type(member.type) if member.type else None
        if array is None or array.kind != kinds.ARRAY or array.nelems:
            raise self.wrong("values: not written with __array()")
        pointer = self.btf.strip(array.ref)
        if pointer is None or pointer.kind != kinds.PTR:
            raise self.wrong("values: not of pointers")
        spec.slots_at = member.offset // 8
        target = self.btf.strip(pointer.ref)
        wanted = (kinds.FUNC_PROTO if spec.type == _T.BPF_MAP_TYPE_PROG_ARRAY else kinds.STRUCT)
        if target is None or target.kind != wanted:
            raise self.wrong("values: of a type that it cannot hold")
        if wanted == kinds.STRUCT:
            inner = _Definition(self.owner, self.btf, f"{spec.name}.inner", inner=True)
            spec.inner = inner.read(target)

    def pinning(self, member: Member) -> None:
        if self.inner:
            raise self.wrong("an inner map cannot be pinned")
        self.spec.pinning = self.number(member)
        if self.spec.pinning not in (PIN_NONE, PIN_BY_NAME):
            raise self.wrong(f"pinning {self.spec.pinning}")


_NUMBERS: Final = {"type": "type", "max_entries": "max_entries", "map_flags": "flags",
                   "numa_node": "numa_node", "map_extra": "extra"}


def ring_size(size: int) -> int:
    """Rounded up to a power of two of pages. 0 stays, as libbpf leaves it to the kernel."""
    if not size or (size & size - 1 == 0 and size % PAGE == 0):
        return size
    fitting = PAGE
    while fitting <= size:
        fitting *= 2
    return fitting if fitting <= 0xFFFFFFFF else size


def defined(elf: ElfObject, btf: Btf | None) -> list[MapSpec]:
    """The maps of SEC(".maps"), in the order of their places."""
    if elf.section("maps"):
        raise Malformed(elf.name, "maps in section 'maps': libbpf 1.0 and later refuse them",
                        errno.ENOTSUP, 'define them in SEC(".maps")')
    section = elf.section(MAPS)
    if section is None:
        return []
    if btf is None:
        raise Malformed(elf.name, f"{MAPS} without BTF", errno.ENOENT, "compile with -g")
    rows = btf.find(MAPS, kinds.DATASEC)
    if rows is None:
        raise Malformed(elf.name, f"{MAPS}: not in BTF", errno.ENOENT)
    return [_defined(elf, btf, section, row) for row in rows.members]


def _defined(elf: ElfObject, btf: Btf, section: Section, row: Member) -> MapSpec:
    var = btf.type(row.type)
    name = var.name
    shape = btf.strip(var.ref) if var.kind == kinds.VAR else None
    if not name or row.offset + row.size > section.size:
        raise Malformed(elf.name, f"map {name!r}: outside its section")
    if var.kind != kinds.VAR or var.extra != ALLOCATED:
        raise Malformed(elf.name, f"map {name}: not a global variable", errno.EOPNOTSUPP)
    if shape is None or shape.kind != kinds.STRUCT:
        raise Malformed(elf.name, f"map {name}: no structure")
    if shape.size > row.size:
        raise Malformed(elf.name, f"map {name}: structure of {shape.size} bytes in {row.size}")
    spec = _Definition(elf.name, btf, name, inner=False).read(shape)
    spec.section, spec.offset = section.index, row.offset
    return spec


# Global data.


def internal_name(obj: str, section: str) -> str:
    """The object's name and the section's in 15 bytes; a section of two dots keeps its own."""
    tail = min(max(7, len(section)), NAME_LEN - 1)
    head = 0 if "." in section[1:] else min(NAME_LEN - tail - 1, len(obj))
    return re.sub(r"[^0-9A-Za-z_.]", "_", (obj[:head] + section[:tail])[: NAME_LEN - 1])


def _data_sections(elf: ElfObject) -> Iterator[Section]:
    for section in elf.sections:
        stem = "." + section.name[1:].split(".", 1)[0] if section.name.startswith(".") else ""
        if not section.size:
            continue
        if section.type == SHT_NOBITS and stem == ".bss":
            yield section
        elif section.type == SHT_PROGBITS and not section.executable and stem in (
                ".data", ".rodata"):
            yield section


def internal(elf: ElfObject, btf: Btf | None, externs: list[Extern]) -> list[MapSpec]:
    """One map a section of global data, and one for kconfig values if any are wanted."""
    found = [_internal(elf, btf, s.name, s.index, s.size, s.data) for s in _data_sections(elf)]
    end = max((e.offset + e.size for e in externs if e.kconfig), default=0)
    if end:
        table = next(s.index for s in elf.sections if s.type == 2)
        found.append(_internal(elf, btf, KCONFIG, table, end, b""))
    return found


def _internal(
    elf: ElfObject, btf: Btf | None, name: str, index: int, size: int, data: bytes
) -> MapSpec:
    if size > 0xFFFFFFFF:
        raise Malformed(elf.name, f"{name}: {size} bytes")
    spec = MapSpec(internal_name(elf.name, name), _T.BPF_MAP_TYPE_ARRAY, 4, size, 1,
                   section=index, internal=name, contents=data)
    if spec.frozen:
        spec.flags |= RDONLY_PROG
    rows = btf.find(name) if btf else None
    if rows and btf:
        spec.value_type = rows.id
        shared = rows.kind == kinds.DATASEC and any(
            btf.type(m.type).kind == kinds.VAR and btf.type(m.type).extra != STATIC
            for m in rows.members)
        spec.flags |= MMAPABLE if shared else 0
    return spec


def fill_slots(elf: ElfObject, maps: list[MapSpec]) -> None:
    """`values` initialisers: the relocations of .maps. Names of maps and programs by index."""
    section = elf.section(MAPS)
    for reloc in elf.relocs.get(section.index, ()) if section else ():
        if reloc.symbol >= len(elf.symbols):
            raise Malformed(elf.name, f".rel{MAPS}: symbol {reloc.symbol}")
        symbol = elf.symbols[reloc.symbol]
        owner = next((m for m in maps if section and m.section == section.index
                      and m.offset <= reloc.offset < m.offset + _span(elf, m, maps)), None)
        if owner is None:
            raise Malformed(elf.name, f".rel{MAPS}: nothing at {reloc.offset}")
        holds_maps = owner.type in _OF_MAPS
        if holds_maps and symbol.section != owner.section:
            raise Malformed(elf.name, f"map {owner.name}: {symbol.name} in it is no map")
        if not holds_maps and owner.type != _T.BPF_MAP_TYPE_PROG_ARRAY:
            raise Malformed(elf.name, f"map {owner.name}: has values, but is of type {owner.type}")
        place = reloc.offset - owner.offset - owner.slots_at
        if place < 0 or place % 8 or not owner.slots_at:
            raise Malformed(elf.name, f"map {owner.name}: a value at byte {place}")
        owner.slots[place // 8] = symbol.name


def _span(elf: ElfObject, spec: MapSpec, maps: list[MapSpec]) -> int:
    """Bytes until the next map of the section, or its end."""
    later = [m.offset for m in maps if m.section == spec.section and m.offset > spec.offset]
    return min([*later, elf.at(spec.section).size]) - spec.offset
