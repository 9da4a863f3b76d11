"""DWARF as BTF: the types that functions, variables and named types of a program lead to.

Of C and what looks like it: no members of base classes, no static members; a function type is
without its arguments, since nothing is granted through one.
Source: DWARF 5, sections 5 and 7.8; linux/btf.h.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import BOOL, SIGNED, Writer
from libbpf_shim.eim.types import TypesError

_MOST = 60_000  # types
_NAMED = ("DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_union_type", "DW_TAG_typedef",
          "DW_TAG_enumeration_type", "DW_TAG_base_type")
_STRUCTS = {"DW_TAG_structure_type": kinds.STRUCT, "DW_TAG_class_type": kinds.STRUCT,
            "DW_TAG_union_type": kinds.UNION}
_QUALIFIERS = {"DW_TAG_const_type": kinds.CONST, "DW_TAG_volatile_type": kinds.VOLATILE,
               "DW_TAG_restrict_type": kinds.RESTRICT, "DW_TAG_atomic_type": kinds.VOLATILE}
_POINTERS = ("DW_TAG_pointer_type", "DW_TAG_reference_type", "DW_TAG_rvalue_reference_type")
_BOOLEAN, _FLOAT, _COMPLEX = 2, 4, 3  # DW_ATE_*
_SIGNED_ATE = (5, 6, 13)
_FIRST = 2  # the id of the first type: 1 is the type of arrays' indices


@functools.lru_cache(maxsize=4)
def convert(path: str, _stamp: tuple[int, int], functions: tuple[str, ...],
            variables: tuple[str, ...], names: tuple[str, ...]) -> bytes:
    """TypesError: no DWARF, or too many types. What is not found is left out."""
    from elftools.common.exceptions import DWARFError, ELFError
    from elftools.elf.elffile import ELFFile

    with open(path, "rb") as file:
        try:
            elf = ELFFile(file)
            if not elf.has_dwarf_info():
                raise TypesError(f"{path}: no DWARF in it; install its -dbgsym, or use a header")
            found = _Index(elf.get_dwarf_info())
            return _Converter(found).blob(functions, variables, names)
        except (ELFError, DWARFError) as error:
            raise TypesError(f"{path}: {error}") from error


def _name(die: Any) -> str:
    value = die.attributes.get("DW_AT_name")
    return value.value.decode(errors="replace") if value else ""


def _number(die: Any, attribute: str, otherwise: int = 0) -> int:
    value = die.attributes.get(attribute)
    return value.value if value and isinstance(value.value, int) else otherwise


class _Index:
    """What stands at the top of every unit: definitions by name."""

    def __init__(self, info: Any) -> None:
        self.functions: dict[str, Any] = {}
        self.variables: dict[str, Any] = {}
        self.types: dict[str, Any] = {}
        for unit in info.iter_CUs():
            for die in unit.get_top_DIE().iter_children():
                self._add(die)

    def _add(self, die: Any) -> None:
        tag = die.tag
        if tag == "DW_TAG_subprogram":
            rows = self.functions
        elif tag == "DW_TAG_variable":
            rows = self.variables
        elif tag in _NAMED:
            rows = self.types
        else:
            return
        name = _name(die)
        if name and "DW_AT_declaration" not in die.attributes:
            rows.setdefault(_key(tag, name), die)


def _key(tag: str, name: str) -> str:
    return f"{_STRUCTS.get(tag, tag)}:{name}" if tag in _STRUCTS else name


class _Converter:
    """Types are numbered as they are met, and written in that order afterwards."""

    def __init__(self, index: _Index) -> None:
        self._index = index
        self._ids: dict[int, int] = {}
        self._order: list[Any] = []

    def blob(self, functions: tuple[str, ...], variables: tuple[str, ...],
             names: tuple[str, ...]) -> bytes:
        index = self._index
        protos = [(n, index.functions[n]) for n in functions if n in index.functions]
        placed = [(n, index.variables[n]) for n in variables if n in index.variables]
        for _, die in protos:
            self._reference(die)
            for param in _params(die):
                self._reference(param)
        for _, die in placed:
            self._reference(die)
        for name in names:
            for key in (name, f"{kinds.STRUCT}:{name}", f"{kinds.UNION}:{name}"):
                if key in index.types:
                    self._id(index.types[key])
        at = 0
        while at < len(self._order):  # grows
            for inner in self._inner(self._order[at]):
                self._reference(inner)
            at += 1
        return self._written(protos, placed)

    def _written(self, protos: list[tuple[str, Any]], placed: list[tuple[str, Any]]) -> bytes:
        out = Writer()
        out.integer("__ARRAY_SIZE_TYPE__", 4)
        for die in self._order:
            self._write(out, die)
        for name, die in protos:
            rows = [(_name(p), self._reference(p)) for p in _params(die)]
            out.func(name, out.proto(self._reference(die), rows))
        for name, die in placed:
            out.variable(name, self._reference(die))
        return out.blob()

    def _id(self, die: Any) -> int:
        """Of a type; declarations stand for their definitions."""
        if die.tag == "DW_TAG_unspecified_type":
            return 0
        if "DW_AT_declaration" in die.attributes and die.tag in _STRUCTS:
            die = self._index.types.get(_key(die.tag, _name(die)), die)
        found = self._ids.get(die.offset)
        if found is None:
            found = self._ids[die.offset] = _FIRST + len(self._order)
            self._order.append(die)
            if len(self._order) > _MOST:
                raise TypesError(f"more than {_MOST} types")
        return found

    def _reference(self, die: Any) -> int:
        """The id of the type that the DIE is of; 0: void."""
        if "DW_AT_type" not in die.attributes:
            return 0
        return self._id(die.get_DIE_from_attribute("DW_AT_type"))

    def _inner(self, die: Any) -> Iterator[Any]:
        if die.tag in _STRUCTS:
            yield from _members(die)
        elif die.tag not in ("DW_TAG_subroutine_type", "DW_TAG_base_type",
                             "DW_TAG_enumeration_type"):
            yield die

    def _write(self, out: Writer, die: Any) -> None:
        tag, name, size = die.tag, _name(die), _number(die, "DW_AT_byte_size")
        if tag in _STRUCTS and "DW_AT_declaration" in die.attributes:
            out.fwd(name)
        elif tag in _STRUCTS:
            rows = [(_name(m), self._reference(m), *_place(m)) for m in _members(die)]
            out.fields(name, size, rows, _STRUCTS[tag])
        elif tag in _POINTERS:
            out.ref(kinds.PTR, self._reference(die))
        elif tag == "DW_TAG_typedef":
            out.ref(kinds.TYPEDEF, self._reference(die), name)
        elif tag in _QUALIFIERS:
            out.ref(_QUALIFIERS[tag], self._reference(die))
        elif tag == "DW_TAG_array_type":
            out.array(self._reference(die), 1, _count(die))
        elif tag == "DW_TAG_enumeration_type":
            values = [(_name(e), _number(e, "DW_AT_const_value"))
                      for e in die.iter_children() if e.tag == "DW_TAG_enumerator"]
            out.enum(name, values, size or 4)
        elif tag == "DW_TAG_base_type":
            _base(out, die, name, size)
        elif tag == "DW_TAG_subroutine_type":
            out.proto(0, [])
        else:  # of another language: as large as it is, and nothing inside
            out.struct(name, size, [])


def _base(out: Writer, die: Any, name: str, size: int) -> None:
    encoding = _number(die, "DW_AT_encoding")
    if encoding == _FLOAT and size in (2, 4, 8, 12, 16):
        out.floating(name, size)
    elif encoding in (_FLOAT, _COMPLEX) or size not in (1, 2, 4, 8, 16):
        out.struct(name, size, [])
    else:
        bits = BOOL if encoding == _BOOLEAN else SIGNED if encoding in _SIGNED_ATE else 0
        out.integer(name, size, bits)


def _params(die: Any) -> Iterator[Any]:
    for child in die.iter_children():
        if child.tag == "DW_TAG_formal_parameter":
            yield child


def _members(die: Any) -> Iterator[Any]:
    for child in die.iter_children():
        if child.tag == "DW_TAG_member" and "DW_AT_external" not in child.attributes:
            yield child


def _place(die: Any) -> tuple[int, int]:
    """Offset in bits, and the width of a bit field."""
    start = 8 * _number(die, "DW_AT_data_member_location")
    bits = _number(die, "DW_AT_bit_size")
    if not bits:
        return start, 0
    if "DW_AT_data_bit_offset" in die.attributes:
        return _number(die, "DW_AT_data_bit_offset"), bits
    if "DW_AT_bit_offset" in die.attributes:  # DWARF 3: from the other end of its unit
        unit = 8 * _number(die, "DW_AT_byte_size", 4)
        return start + unit - _number(die, "DW_AT_bit_offset") - bits, bits
    return start, bits


def _count(die: Any) -> int:
    """Elements; of several dimensions, all of them."""
    total = 1
    for child in die.iter_children():
        if child.tag == "DW_TAG_subrange_type":
            if "DW_AT_count" in child.attributes:
                total *= _number(child, "DW_AT_count")
            else:
                total *= _number(child, "DW_AT_upper_bound", -1) + 1
    return total
