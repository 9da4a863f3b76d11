"""The object's BTF as a loader completes it before anything else is read from it.

The compiler leaves sections without size and places, and externs as externs; the kernel takes
neither. Source: libbpf 1.1 src/libbpf.c, bpf_object__collect_externs and btf_fixup_datasec.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass, replace

from libbpf_shim.btf import kinds, sane
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.elf.object import (
    STB_GLOBAL,
    STB_WEAK,
    STT_OBJECT,
    STV_HIDDEN,
    STV_INTERNAL,
    ElfObject,
    Malformed,
    Symbol,
)
from libbpf_shim.errors import ShimError

KCONFIG, KSYMS = ".kconfig", ".ksyms"
STATIC, ALLOCATED, EXTERN = 0, 1, 2  # BTF_VAR_*; BTF_FUNC_STATIC, _GLOBAL, _EXTERN alike
_BOOL_BITS, _SIGNED_BITS = 4, 1  # BTF_INT_BOOL, BTF_INT_SIGNED
_DUMMY = b"dummy_ksym\0"
_MAX_OPTION = 1 << 16  # bytes of a kconfig string


@dataclass(frozen=True, slots=True)
class Extern:
    """A variable or function that is found at load. form: what a kconfig value is ("bool", "char",
    "int", "tristate", "string"), "" for ksyms. offset: bytes into .kconfig. size, align: bytes.
    type: of a ksym, its local type; 0: an address alone is wanted."""

    name: str
    symbol: int
    weak: bool
    function: bool
    form: str = ""
    size: int = 0
    align: int = 1
    signed: bool = False
    offset: int = 0
    type: int = 0

    @property
    def kconfig(self) -> bool:
        return bool(self.form)


class TypeInfo:
    """btf: completed. externs: kconfig ones in the order of their places, then ksyms."""

    def __init__(self, elf: ElfObject) -> None:
        section = elf.section(".BTF")
        self._elf = elf
        self.btf: Btf | None = None
        self.externs: list[Extern] = []
        if section is None:
            if any(s.extern and s.name for s in elf.symbols):
                raise Malformed(elf.name, "extern symbols without BTF", hint="compile with -g")
            return
        self._blob = bytearray(section.data)
        self._types = sane.parse(section.data)
        self._add_dummy()
        self.externs = self._collect()
        self._place_externs()
        self._lay_out_sections()
        self.btf = Btf(bytes(self._blob))

    def hide(self, name: str) -> None:
        """Makes a function static: the verifier then judges it together with its callers."""
        assert self.btf
        for type_id in self.btf.ids(name):
            found = self.btf.type(type_id)
            if found.kind == kinds.FUNC and found.extra == ALLOCATED:
                self._put(type_id, 4, kinds.FUNC << 24)
                break
        self.btf = Btf(bytes(self._blob))

    def _put(self, type_id: int, at: int, word: int) -> None:
        struct.pack_into("<I", self._blob, self._types.offset(type_id) + at, word)

    def _section(self, name: str) -> Type | None:
        return self._types.find(name, kinds.DATASEC)

    def _int32(self) -> int:
        """An integer of 32 bits, which stands for an extern's type."""
        for found in self._types:
            if found.kind == kinds.INT and found.extra & 0xFF == 32:
                return found.id
        return 0

    def _add_dummy(self) -> None:
        """A variable that stands for functions in .ksyms: a DATASEC of the kernel's holds none."""
        section = self._section(KSYMS)
        if section is None or all(
                self._types.type(m.type).kind != kinds.FUNC for m in section.members):
            return
        blob = self._blob
        _, _, _, hdr, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", blob)
        strings = bytes(blob[hdr + str_off : hdr + str_off + str_len])
        name = strings.find(b"\0" + _DUMMY) + 1 or len(strings)
        strings = strings if name < len(strings) else strings + _DUMMY
        types = bytes(blob[hdr + type_off : hdr + type_off + type_len])
        types += struct.pack("<IIII", name, kinds.VAR << 24, self._int32(), ALLOCATED)
        head = bytearray(blob[:hdr])
        struct.pack_into("<IIII", head, 8, 0, len(types), len(types), len(strings))
        self._blob = head + types + strings
        self._types = Btf(bytes(self._blob))

    # externs

    def _collect(self) -> list[Extern]:
        found = [self._extern(s) for s in self._elf.symbols if s.extern and s.name]
        kconfig = sorted((e for e in found if e.kconfig), key=lambda e: (-e.align, e.size, e.name))
        placed, end = [], 0
        for extern in kconfig:
            start = -(-end // extern.align) * extern.align
            placed.append(replace(extern, offset=start))
            end = start + extern.size
        return placed + sorted((e for e in found if not e.kconfig), key=lambda e: e.name)

    def _extern(self, symbol: Symbol) -> Extern:
        name = symbol.name
        found = next((t for t in map(self._types.type, self._types.ids(name))
                      if t.kind in (kinds.VAR, kinds.FUNC)), None)
        if found is None or found.extra != EXTERN:
            raise Malformed(self._elf.name, f"extern {name}: not in BTF as one")
        section = next((s.name for s in self._types if s.kind == kinds.DATASEC
                        and any(m.type == found.id for m in s.members)), "")
        function, weak = found.kind == kinds.FUNC, symbol.bind == STB_WEAK
        if section == KSYMS:
            # a declaration without a type (void) wants an address and no type
            target = self._types.strip(found.ref)
            return Extern(name, symbol.index, weak, function, type=target.id if target else 0)
        if section == KCONFIG and not function:
            form, signed = self._form(found.ref)
            if not form or self._size(name, found.ref) > _MAX_OPTION:
                raise Malformed(self._elf.name, f"extern {name}: of a type that no option has",
                                errno.ENOTSUP)
            return Extern(name, symbol.index, weak, False, form, self._size(name, found.ref),
                          self._align(found.ref), signed)
        raise Malformed(self._elf.name, f"extern {name}: in section {section or 'none'}",
                        errno.ENOTSUP, "mark it __kconfig or __ksym")

    def _size(self, name: str, type_id: int) -> int:
        try:
            return self._types.sizeof(type_id)
        except KeyError:
            raise Malformed(self._elf.name, f"{name}: its type has no size") from None

    def _align(self, type_id: int) -> int:
        found = self._types.strip(type_id)
        while found and found.kind == kinds.ARRAY:
            found = self._types.strip(found.ref)
        return min(8, found.size) if found and found.size else 1

    def _form(self, type_id: int) -> tuple[str, bool]:
        """find_kcfg_type(): what values the type can hold, and whether they are signed."""
        found = self._types.strip(type_id)
        if found is None:
            return "", False
        if found.kind == kinds.INT:
            encoding = found.extra >> 24 & 15
            signed = bool(encoding & _SIGNED_BITS)
            if encoding & _BOOL_BITS:
                return ("bool" if found.size == 1 else ""), signed
            if found.size == 1:
                return "char", signed
            return ("int" if found.size in (2, 4, 8) else ""), signed
        if found.kind in (kinds.ENUM, kinds.ENUM64):
            fine = found.name == "libbpf_tristate" and (found.kind == kinds.ENUM64
                                                        or found.size == 4)
            return ("tristate" if fine else ""), False
        if found.kind == kinds.ARRAY and found.nelems and self._form(found.ref)[0] == "char":
            return "string", False
        return "", False

    def _place_externs(self) -> None:
        known = {e.name: e for e in self.externs}
        for name in (KSYMS, KCONFIG):
            section = self._section(name)
            if section is None or not any(e.kconfig == (name == KCONFIG) for e in self.externs):
                continue
            end = 0
            for row, member in enumerate(section.members):
                found = self._types.type(member.type)
                extern = known.get(found.name)
                if extern is None:
                    raise Malformed(self._elf.name, f"{name}: {found.name} has no symbol",
                                    errno.ESRCH)
                where = 12 + 12 * row
                if name == KCONFIG:
                    self._put(found.id, 12, ALLOCATED)
                    self._put(section.id, where + 4, extern.offset)
                    end = max(end, extern.offset + extern.size)
                    continue
                self._place_ksym(found, section.id, where)
                self._put(section.id, where + 4, end)
                self._put(section.id, where + 8, 4)
                end += 4
            self._put(section.id, 8, end)

    def _place_ksym(self, found: Type, section: int, where: int) -> None:
        """An extern as a variable of 4 bytes, a function as the dummy one."""
        if found.kind == kinds.VAR:
            self._put(found.id, 12, ALLOCATED)
            self._put(found.id, 8, self._int32())
            return
        dummy = self._types.find("dummy_ksym", kinds.VAR)
        assert dummy
        name = struct.unpack_from("<I", self._blob, self._types.offset(dummy.id))[0]
        proto = self._types.type(found.ref) if found.ref else None
        for row, param in enumerate(proto.members if proto else ()):
            if proto and param.type and not param.name:
                self._put(proto.id, 12 + 8 * row, name)
        self._put(section, where, dummy.id)
        self._put(found.id, 4, kinds.FUNC << 24 | ALLOCATED)

    # sections

    def _lay_out_sections(self) -> None:
        """Sizes and places of variables, from the ELF's symbols; rows in the order of places."""
        symbols = {s.name: s for s in reversed(self._elf.symbols)
                   if s.type == STT_OBJECT and s.bind in (STB_GLOBAL, STB_WEAK)}
        for section in self._types:
            if section.kind != kinds.DATASEC:
                continue
            if section.name not in (KCONFIG, KSYMS):
                self._lay_out(section, symbols)
            at = self._types.offset(section.id) + 12
            end = at + 12 * len(section.members)
            rows = sorted(struct.iter_unpack("<III", self._blob[at:end]), key=lambda r: r[1])
            self._blob[at:end] = b"".join(struct.pack("<III", *row) for row in rows)

    def _lay_out(self, section: Type, symbols: dict[str, Symbol]) -> None:
        place = not section.size
        if place:
            there = self._elf.section(section.name)
            if there is None or not there.size or there.size > 0xFFFFFFFF:
                raise Malformed(self._elf.name, f"BTF section {section.name}: not in the file",
                                errno.ENOENT)
            self._put(section.id, 8, there.size)
        for row, member in enumerate(section.members):
            found = self._types.type(member.type)
            if found.kind != kinds.VAR:
                raise Malformed(self._elf.name, f"BTF section {section.name}: {found.name} is no "
                                                "variable")
            if found.extra in (STATIC, EXTERN):
                continue
            symbol = symbols.get(found.name)
            if symbol is None:
                raise Malformed(self._elf.name, f"variable {found.name}: no symbol", errno.ENOENT)
            if place:
                self._put(section.id, 12 + 12 * row + 4, symbol.value & 0xFFFFFFFF)
            if symbol.visibility in (STV_HIDDEN, STV_INTERNAL):
                self._put(found.id, 12, STATIC)


def btf_of(elf: ElfObject) -> TypeInfo:
    """ShimError EINVAL, ENOENT, ENOTSUP, ESRCH as libbpf refuses."""
    try:
        return TypeInfo(elf)
    except ShimError as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed(elf.name, error.message, error.errno) from error
