"""A binary as a module: segments, build-id, symbols, unwind table, read from the file.

Models ELF64 x86-64 executables and shared objects. Headers are read with struct: this runs at
every attach, where importing a whole ELF library costs more than the reading.
Source: System V ABI (gABI chapters 4, 5), linux/elf.h.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from libbpf_shim.errors import ShimError

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_GNU_EH_FRAME = 1, 2, 3, 4, 0x6474E550
PF_X, PF_W = 1, 2
SHT_SYMTAB, SHT_DYNSYM = 2, 11
ET_EXEC, ET_DYN, EM_X86_64 = 2, 3, 62
STT_OBJECT = 1
STT_FUNC, STT_GNU_IFUNC = 2, 10
NT_GNU_BUILD_ID = 3

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_SYM = struct.Struct("<IBBHQQ")


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header. Sizes and addresses in bytes; flags are PF_*."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int

    @property
    def executable(self) -> bool:
        return self.type == PT_LOAD and bool(self.flags & PF_X)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A defined symbol: st_value (virtual address), st_size in bytes, STT_*."""

    name: str
    vaddr: int
    size: int
    type: int


@dataclass(frozen=True, slots=True)
class Place:
    """A section: its address (0: not loaded), its file offset and size in bytes."""

    address: int
    offset: int
    size: int


def _bad(path: str, why: str) -> ShimError:
    return ShimError("EL0001", errno.EINVAL, f"{path}: not a module that can be probed: {why}")


class Module:
    """A file opened for reading. Raises ShimError: ENOENT, EACCES, EINVAL (not an ELF64 x86-64
    executable or shared object, truncated)."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as err:
            raise ShimError(
                "EL0002", err.errno or errno.EIO, f"{path}: cannot be opened: {err.strerror}"
            ) from err
        try:
            stat = os.fstat(fd)
            self.dev, self.ino, self.mtime_ns = stat.st_dev, stat.st_ino, stat.st_mtime_ns
            self.data = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        except (ValueError, OSError) as err:
            raise _bad(path, "empty, or not a regular file") from err
        finally:
            os.close(fd)
        try:
            self._read_headers()
        except (struct.error, IndexError) as err:
            raise _bad(path, "truncated headers") from err

    def _read_headers(self) -> None:
        ident, kind, machine, _, entry, phoff, shoff, _, _, phsize, phnum, shsize, shnum, _ = (
            _EHDR.unpack_from(self.data)
        )
        if ident[:4] != b"\x7fELF" or ident[4:6] != b"\x02\x01":
            raise _bad(self.path, "no ELF64 little-endian header")
        if machine != EM_X86_64 or kind not in (ET_EXEC, ET_DYN):
            raise _bad(self.path, f"machine {machine}, type {kind}")
        if phnum and phsize != _PHDR.size:
            raise _bad(self.path, f"program header size {phsize}, expected {_PHDR.size}")
        self.type = kind
        self.entry = entry
        self.segments = tuple(
            Segment(p[0], p[1], p[2], p[3], p[5], p[6])
            for p in (_PHDR.unpack_from(self.data, phoff + i * phsize) for i in range(phnum))
        )
        self._sections: list[tuple[int, ...]] = []
        if shoff and shsize == _SHDR.size and shoff + shnum * shsize <= len(self.data):
            self._sections = [
                _SHDR.unpack_from(self.data, shoff + i * shsize) for i in range(shnum)
            ]
        if not self.text:
            raise _bad(self.path, "no executable segment")

    @cached_property
    def text(self) -> tuple[Segment, ...]:
        """Executable PT_LOAD segments, in address order."""
        return tuple(sorted((s for s in self.segments if s.executable), key=lambda s: s.vaddr))

    @cached_property
    def load_base(self) -> int:
        """Page-rounded vaddr of the first PT_LOAD."""
        return min(s.vaddr for s in self.segments if s.type == PT_LOAD) & ~0xFFF

    @cached_property
    def build_id(self) -> bytes:
        """Descriptor of the NT_GNU_BUILD_ID note, or b""."""
        for seg in self.segments:
            if seg.type != PT_NOTE:
                continue
            at, end = seg.offset, min(seg.offset + seg.filesz, len(self.data))
            while at + 12 <= end:
                namesz, descsz, kind = struct.unpack_from("<III", self.data, at)
                name = at + 12
                desc = name + (namesz + 3 & ~3)
                if kind == NT_GNU_BUILD_ID and self.data[name : name + 4] == b"GNU\0":
                    return bytes(self.data[desc : min(desc + descsz, end)])
                at = desc + (descsz + 3 & ~3)
        return b""

    @cached_property
    def key(self) -> str:
        """Names the contents: build-id in hex, else device, inode, size and time of the file."""
        if self.build_id:
            return self.build_id.hex()
        return f"{self.dev:x}-{self.ino:x}-{len(self.data):x}-{self.mtime_ns:x}"

    def executable_at(self, vaddr: int) -> Segment | None:
        """The executable segment whose file bytes hold vaddr."""
        for seg in self.text:
            if seg.vaddr <= vaddr < seg.vaddr + seg.filesz:
                return seg
        return None

    def offset_to_vaddr(self, offset: int) -> int:
        """Virtual address of a file offset in an executable segment. ShimError EINVAL: none."""
        for seg in self.text:
            if seg.offset <= offset < seg.offset + seg.filesz:
                return seg.vaddr + offset - seg.offset
        raise ShimError(
            "EL0003", errno.EINVAL, f"{self.path}+{offset:#x}: not in an executable segment"
        )

    def vaddr_to_offset(self, vaddr: int) -> int:
        """File offset of a virtual address in any loaded segment. ShimError EINVAL: none."""
        for seg in self.segments:
            if seg.type == PT_LOAD and seg.vaddr <= vaddr < seg.vaddr + seg.filesz:
                return seg.offset + vaddr - seg.vaddr
        raise ShimError("EL0004", errno.EINVAL, f"{self.path}: {vaddr:#x}: not in the file")

    def read(self, vaddr: int, size: int) -> bytes:
        """At most size bytes from vaddr, shorter at the segment's end; b"" where nothing is."""
        for seg in self.segments:
            if seg.type == PT_LOAD and seg.vaddr <= vaddr < seg.vaddr + seg.filesz:
                at = seg.offset + vaddr - seg.vaddr
                return bytes(self.data[at : min(at + size, seg.offset + seg.filesz)])
        return b""

    def read_at(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def section(self, name: str) -> Place | None:
        """The first section of that name; None where there is none, or no section table."""
        index = _EHDR.unpack_from(self.data)[-1]
        if index >= len(self._sections):
            return None
        names = self._sections[index]
        for section in self._sections:
            start = names[4] + section[0]
            end = self.data.find(b"\0", start)
            if self.data[start:end] == name.encode():
                return Place(section[3], section[4], section[5])
        return None

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """Defined symbols of .symtab and .dynsym with a nonzero address."""
        return tuple(self._each_symbol())

    def _each_symbol(self) -> Iterator[Symbol]:
        for section in self._sections:
            if section[1] in (SHT_SYMTAB, SHT_DYNSYM) and section[6] < len(self._sections):
                yield from self._section_symbols(section, self._sections[section[6]])

    def _section_symbols(
        self, section: tuple[int, ...], strings: tuple[int, ...]
    ) -> list[Symbol]:
        table = self.data[section[4] : section[4] + section[5]]
        table = table[: len(table) - len(table) % _SYM.size]
        names = self.data[strings[4] : strings[4] + strings[5]]
        found = []
        for name, info, _, shndx, value, size in _SYM.iter_unpack(table):
            if shndx and value:
                end = names.find(b"\0", name)
                text = names[name:end].decode("utf-8", "replace")
                found.append(Symbol(text, value, size, info & 15))
        return found

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Sorted addresses where code begins: functions of the symbol tables and of the unwind
        table, the entry point."""
        from libbpf_shim.elf.unwind import functions

        found = {f.start for f in functions(self)}
        found.update(s.vaddr for s in self.symbols if s.type in (STT_FUNC, STT_GNU_IFUNC))
        found.add(self.entry)
        return tuple(sorted(v for v in found if self.executable_at(v)))

    def find(self, name: str) -> Symbol | None:
        """The function of that name (a default version's if several)."""
        return self._find(name, (STT_FUNC, STT_GNU_IFUNC))

    def find_object(self, name: str) -> Symbol | None:
        """The variable of that name."""
        return self._find(name, (STT_OBJECT,))

    def _find(self, name: str, types: tuple[int, ...]) -> Symbol | None:
        # what is exported is found without the table of all, which comes behind
        known = self.__dict__.get("symbols") or self._each_symbol()
        for symbol in known:
            if symbol.name == name and symbol.type in types:
                return symbol
        return None
