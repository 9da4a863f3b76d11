"""What LLVM's object must be to become an image: one section of code, two kinds of relocations
(DESIGN.md, images). Source: the ELF and x86-64 ABI specifications."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from libbpf_shim.errors import ShimError

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELA: Final = struct.Struct("<QQq")
_PROGBITS, _SYMTAB, _RELA_TYPE, _NOBITS = 1, 2, 4, 8
_ALLOC: Final = 2
ABS64, PC32, PLT32 = 1, 2, 4  # R_X86_64_64, _PC32, _PLT32


def refused(why: str) -> ShimError:
    return ShimError("JT0003", errno.EOPNOTSUPP, f"tier 2: {why}")


class Section(NamedTuple):
    """One row of the section header table."""

    name: int
    kind: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int


@dataclass(frozen=True, slots=True)
class Object:
    """text: the code. functions: offsets of the symbols in it. symbols: by offset of 8 bytes in
    text, the name whose address goes there, and what is added."""

    text: bytes
    functions: dict[str, int]
    symbols: list[tuple[int, str, int]]


def _name(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def parse(data: bytes) -> Object:
    """ShimError EOPNOTSUPP: it has other sections, or other relocations."""
    head = _HEADER.unpack_from(data)
    shoff, count, strings = head[6], head[12], head[13]
    sections = [Section(*_SECTION.unpack_from(data, shoff + n * _SECTION.size))
                for n in range(count)]
    names = [_name(data, sections[strings].offset + s.name) for s in sections]
    kept = [n for n, s in enumerate(sections) if s.flags & _ALLOC and s.size]
    if len(kept) != 1 or names[kept[0]] != ".text" or sections[kept[0]].align > 16:
        raise refused(f"sections {', '.join(names[n] for n in kept)}")
    code = sections[kept[0]]
    text = bytearray(data[code.offset : code.offset + code.size])
    table = next(s for s in sections if s.kind == _SYMTAB)
    base = sections[table.link].offset
    symbols = [_SYMBOL.unpack_from(data, at)
               for at in range(table.offset, table.offset + table.size, _SYMBOL.size)]
    functions = {_name(data, base + s[0]): s[4] for s in symbols if s[3] == kept[0] and s[1] & 15}
    found = []
    for section in sections:
        if section.kind != _RELA_TYPE or section.info != kept[0]:
            continue
        for at in range(section.offset, section.offset + section.size, _RELA.size):
            place, info, addend = _RELA.unpack_from(data, at)
            symbol, kind = symbols[info >> 32], info & 0xFFFFFFFF
            name = _name(data, base + symbol[0])
            if symbol[3] == kept[0] and kind in (PC32, PLT32):
                far = symbol[4] + addend - place
                text[place : place + 4] = far.to_bytes(4, "little", signed=True)
            elif symbol[3] == 0 and kind == ABS64:
                found.append((place, name, addend))
            else:
                raise refused(f"relocation {kind} against {name or 'a section'}")
    return Object(bytes(text), functions, found)
