"""Does a program's code make bpf(2)? By the call's number, as it stands in an instruction."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import Final

_EHDR, _SHDR = 64, 64  # bytes of Elf64_Ehdr, Elf64_Shdr
_PT_LOAD, _PT_DYNAMIC, _PF_X = 1, 2, 1
_DT_NULL, _DT_SONAME = 0, 14
_NUMBER: Final = (321).to_bytes(4, "little")
# mov r32, imm32, but into ecx and edx, where asserts have their line's number; push imm32
_BEFORE: Final = frozenset({0xB8, 0xBB, 0xBC, 0xBD, 0xBE, 0xBF, 0x68})
_BEFORE_GO: Final = frozenset({0xB8})  # eax, Go's first argument
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


def _named(head: bytes, rows: bytes, text: mmap.mmap) -> bool:
    """It has a name of its own, as libraries have: what is executed by itself is a linker."""
    for at, size in segments(head, rows, _PT_DYNAMIC, 0):
        for tag, _ in struct.iter_unpack("<QQ", text[at : at + size - size % 16]):
            if tag in (_DT_NULL, _DT_SONAME):
                return bool(tag == _DT_SONAME)
    return False


def _of_go(head: bytes, text: mmap.mmap) -> bool:
    """By the names of its sections."""
    at, = struct.unpack_from("<Q", head, 40)
    step, _, names = struct.unpack_from("<HHH", head, 58)
    row = text[at + names * step : at + (names + 1) * step]
    if len(row) < _SHDR:
        return False
    lo, size = struct.unpack_from("<QQ", row, 24)
    return text.find(_GO, lo, lo + size) >= 0


def _in(text: mmap.mmap, lo: int, hi: int, before: frozenset[int]) -> bool:
    at = text.find(_NUMBER, lo + 1, hi)
    while at > 0:
        if text[at - 1] in before or _STORE in text[max(at - 1 - _BETWEEN, lo) : at - 1]:
            return True
        at = text.find(_NUMBER, at + 1, hi)
    return False
