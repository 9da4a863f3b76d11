"""Does a program's code make bpf(2)? By the call's number, as it stands in an instruction."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import Final

_EHDR, _SHDR = 64, 64  # bytes of Elf64_Ehdr, Elf64_Shdr
_PT_LOAD, _PT_DYNAMIC, _PF_X = 1, 2, 1
_DT_NULL, _DT_SONAME = 0, 14
_SHT_DYNSYM, _SYMBOL = 11, "<IBBHQQ"  # Elf64_Sym
_NUMBER: Final = (321).to_bytes(4, "little")
# mov r32, imm32, but into ecx and edx, where asserts have their line's number; push imm32
_BEFORE: Final = frozenset({0xB8, 0xBB, 0xBC, 0xBD, 0xBE, 0xBF, 0x68})
_BEFORE_GO: Final = frozenset({0xB8})  # eax, Go's first argument
_BEFORE_LIBC: Final = frozenset({0xBF})  # edi, that of C
_NEEDS, _CALLS = b"\0libbpf.so", b"syscall\0"
_GO: Final = b".go.buildinfo\0"  # src/debug/buildinfo/buildinfo.go: a section
_STORE: Final = 0xC7  # mov r/m, imm32: its ModRM, SIB and one byte's displacement stand between
_BETWEEN: Final = 3


def segments(
    head: bytes, rows: bytes, wanted: int = _PT_LOAD, flag: int = _PF_X
) -> Iterator[tuple[int, int]]:
    """Offset and size of what is executable; head: struct Elf64_Ehdr, rows: what `table` names."""
    step, _ = struct.unpack_from("<HH", head, 54)
    for at in range(0, len(rows) - step + 1, step):
        kind, flags, offset = struct.unpack_from("<IIQ", rows, at)
        size, = struct.unpack_from("<Q", rows, at + 32)
        if kind == wanted and flags & flag == flag:
            yield offset, size


def table(head: bytes) -> tuple[int, int]:
    """Offset and size of the program headers."""
    at, = struct.unpack_from("<Q", head, 32)
    step, count = struct.unpack_from("<HH", head, 54)
    return at, step * count


def asks(path: str, alone: bool = True) -> bool:
    """Some instruction of the ELF file may have bpf(2)'s number in it, for a system call of the
    program's own: of one that is not `alone`, but linked to libc, only Go makes such, and the
    number is not libc's first argument. A dynamic linker that is called by hand makes none. What
    is no such instruction may look like one; what takes its number from memory does not.
    OSError."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        head = text[:_EHDR]
        if not alone and not _of_go(head, text):
            return False
        at, size = table(head)
        rows = text[at : at + size]
        return not _named(head, rows, text) and any(
            _in(text, lo, lo + length, _BEFORE if alone else _BEFORE_GO)
            for lo, length in segments(head, rows))


def has_asked(path: str) -> bool:
    """A program of Go, linked to libc, may have a libbpf make bpf(2) by that: it is in there, or a
    library beside it. What Go's own code does for it (limits, files, events) passes libc by.
    OSError."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        head = text[:_EHDR]
        if not _of_go(head, text):
            return False
        needs, calls = _linked(head, text)
        at, size = table(head)
        return needs or calls and any(
            _in(text, lo, lo + length, _BEFORE_LIBC)
            for lo, length in segments(head, text[at : at + size]))


def _named(head: bytes, rows: bytes, text: mmap.mmap) -> bool:
    """It has a name of its own, as libraries have: what is executed by itself is a linker."""
    for at, size in segments(head, rows, _PT_DYNAMIC, 0):
        for tag, _ in struct.iter_unpack("<QQ", text[at : at + size - size % 16]):
            if tag in (_DT_NULL, _DT_SONAME):
                return bool(tag == _DT_SONAME)
    return False


def _section(head: bytes, text: mmap.mmap, number: int) -> bytes:
    """Its header, an Elf64_Shdr; empty: there is none."""
    at, = struct.unpack_from("<Q", head, 40)
    step, count, _ = struct.unpack_from("<HHH", head, 58)
    row = text[at + number * step : at + (number + 1) * step]
    return row if number < count and len(row) >= _SHDR else b""


def _content(row: bytes) -> tuple[int, int]:
    """Where a section's bytes begin and end."""
    at, size = struct.unpack_from("<QQ", row, 24) if row else (0, 0)
    return at, at + size


def _of_go(head: bytes, text: mmap.mmap) -> bool:
    """By the names of its sections."""
    lo, hi = _content(_section(head, text, struct.unpack_from("<H", head, 62)[0]))
    return text.find(_GO, lo, hi) >= 0


def _linked(head: bytes, text: mmap.mmap) -> tuple[bool, bool]:
    """To a libbpf; to libc's syscall(). By the names of its symbols, in whose table those of its
    libraries are too."""
    for number in range(struct.unpack_from("<H", head, 60)[0]):
        row = _section(head, text, number)
        if row and struct.unpack_from("<I", row, 4)[0] == _SHT_DYNSYM:
            lo, hi = _content(row)
            at, end = _content(_section(head, text, struct.unpack_from("<I", row, 40)[0]))
            names = text[at:end]
            return _NEEDS in names, any(
                names.startswith(_CALLS, name)
                for name, *_ in struct.iter_unpack(_SYMBOL, text[lo : hi - (hi - lo) % 24]))
    return False, False


def _in(text: mmap.mmap, lo: int, hi: int, before: frozenset[int]) -> bool:
    at = text.find(_NUMBER, lo + 1, hi)
    while at > 0:
        if text[at - 1] in before or _STORE in text[max(at - 1 - _BETWEEN, lo) : at - 1]:
            return True
        at = text.find(_NUMBER, at + 1, hi)
    return False
