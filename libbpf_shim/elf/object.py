"""A .bpf.o file: sections, symbols and relocations of a relocatable ELF64 object for EM_BPF.

Headers are read by pyelftools, after a check that they lie inside the file; contents are slices
of the file, never more than it holds. Source: System V gABI chapter 4, LLVM's BPF target;
libbpf 1.1 (bpf_object__elf_init) for what is refused.
"""

from __future__ import annotations

import errno
import io
import struct
from dataclasses import dataclass
from typing import Any

from libbpf_shim.errors import ShimError

EM_BPF, ET_REL = 247, 1
SHT_NULL, SHT_PROGBITS, SHT_SYMTAB, SHT_NOBITS, SHT_REL = 0, 1, 2, 8, 9
SHF_EXECINSTR = 4
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION = 0, 1, 2, 3
STV_INTERNAL, STV_HIDDEN = 1, 2

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR_SIZE = 64
_SYM = struct.Struct("<IBBHQQ")
_REL = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Section:
    """One section. size: bytes, which NOBITS has without data. link: of a symbol table, the
    section of its names; info: of a REL section, the section that it relocates."""

    index: int
    name: str
    type: int
    flags: int
    size: int
    link: int
    info: int
    file: bytes
    offset: int

    @property
    def data(self) -> bytes:
        """Its contents, copied out of the file."""
        held = self.type not in (SHT_NULL, SHT_NOBITS)
        return self.file[self.offset : self.offset + self.size] if held else b""

    @property
    def executable(self) -> bool:
        """Holds programs."""
        return self.type == SHT_PROGBITS and bool(self.flags & SHF_EXECINSTR)


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol. value: bytes from the start of its section; bind: STB_*, type: STT_*,
    visibility: STV_*; section: index or SHN_*."""

    index: int
    name: str
    value: int
    size: int
    bind: int
    type: int
    visibility: int
    section: int

    @property
    def extern(self) -> bool:
        """Declared here, to be found elsewhere."""
        return (self.section == SHN_UNDEF and self.bind in (STB_GLOBAL, STB_WEAK)
                and self.type == STT_NOTYPE)


@dataclass(frozen=True, slots=True)
class Reloc:
    """offset: bytes into the section; symbol: index into the symbols."""

    offset: int
    symbol: int


class Malformed(ShimError):  # noqa: N818
    """A file that is no object a loader could take: errno EINVAL."""

    def __init__(self, name: str, why: str, code: int = errno.EINVAL, hint: str = "") -> None:
        super().__init__("EO0001", code, f"{name}: not a BPF object: {why}", hint)
        self.why = why

    def of(self, path: str) -> Malformed:
        """The same, of the file as it was asked for."""
        return Malformed(path, self.why, self.errno, self.hint)


class ElfObject:
    """The parsed file. name: what messages call it."""

    def __init__(self, data: bytes, name: str) -> None:
        self.name, self._data = name, data
        self._check_header()
        self.sections = self._sections()
        tables = [s for s in self.sections if s.type == SHT_SYMTAB]
        if len(tables) != 1:
            raise Malformed(name, f"{len(tables)} symbol tables, expected 1")
        self.symbols = self._symbols(tables[0])
        self.relocs: dict[int, tuple[Reloc, ...]] = {}
        for section in self.sections:
            if section.type == SHT_REL:
                before = self.relocs.get(section.info, ())
                self.relocs[section.info] = before + self._relocs(section)

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((s for s in self.sections if s.name == name), None)

    def at(self, index: int) -> Section:
        """A section by index; a special or unknown one is malformed."""
        if not 0 <= index < len(self.sections):
            raise Malformed(self.name, f"no section {index}")
        return self.sections[index]

    def _check_header(self) -> None:
        data, name = self._data, self.name
        if len(data) < _EHDR.size or data[:4] != b"\x7fELF":
            raise Malformed(name, "no ELF header")
        if data[4:6] != b"\x02\x01":
            raise Malformed(name, "not 64-bit little endian")
        (_, kind, machine, _, _, _, shoff, _, _, _, _, entsize, count,
         strings) = _EHDR.unpack_from(data)
        if kind != ET_REL or machine not in (0, EM_BPF):
            raise Malformed(name, f"type {kind}, machine {machine}, not {ET_REL}, {EM_BPF}",
                            hint="compile it with: clang -target bpf -g -O2 -c")
        if entsize != _SHDR_SIZE or not count or shoff + count * entsize > len(data):
            raise Malformed(name, f"{count} section headers at {shoff} of {len(data)} bytes")
        if strings >= count:
            raise Malformed(name, f"section names in section {strings} of {count}")

    def _headers(self) -> list[tuple[str, Any]]:
        from elftools.elf.elffile import ELFFile

        try:
            elf = ELFFile(io.BytesIO(self._data))
            return [(s.name, s.header) for s in elf.iter_sections()]
        except Exception as error:  # what pyelftools' parts raise: construct's, KeyError...
            raise Malformed(self.name, f"section headers: {error}") from error

    def _sections(self) -> list[Section]:
        found = []
        for index, (name, header) in enumerate(self._headers()):
            kind = _number(header["sh_type"])
            offset, size = header["sh_offset"], header["sh_size"]
            if kind not in (SHT_NULL, SHT_NOBITS) and offset + size > len(self._data):
                raise Malformed(self.name, f"section {index}: {size} bytes at {offset}, the file "
                                           f"has {len(self._data)}")
            found.append(Section(index, name, kind, header["sh_flags"], size, header["sh_link"],
                                 header["sh_info"], self._data, offset))
        return found

    def _symbols(self, table: Section) -> list[Symbol]:
        strings = self.at(table.link).data
        found = []
        data = table.data
        whole = len(data) // _SYM.size * _SYM.size
        for index, row in enumerate(_SYM.iter_unpack(data[:whole])):
            at, info, other, section, value, size = row
            if (end := strings.find(b"\0", at)) < 0:
                raise Malformed(self.name, f"symbol {index}: its name is outside the strings")
            name = strings[at:end].decode(errors="replace")
            found.append(
                Symbol(index, name, value, size, info >> 4, info & 15, other & 3, section))
        return found

    def _relocs(self, section: Section) -> tuple[Reloc, ...]:
        data = section.data
        whole = len(data) // _REL.size * _REL.size
        return tuple(Reloc(offset, info >> 32) for offset, info in _REL.iter_unpack(data[:whole]))


def _number(kind: Any) -> int:
    """sh_type as pyelftools gives it: a name where it knows one."""
    from elftools.elf.enums import ENUM_SH_TYPE_BASE

    return kind if isinstance(kind, int) else int(ENUM_SH_TYPE_BASE.get(kind, 0x7FFFFFFF))
