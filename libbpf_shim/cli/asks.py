"""Does a program's code make bpf(2)? By the call's number, as it stands in an instruction."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from typing import Final

_EHDR: Final = 64
_PT_LOAD, _PF_X = 1, 1
_NUMBER: Final = (321).to_bytes(4, "little")
# mov r32, imm32, but into ecx and edx, where asserts have their line's number; push imm32
_BEFORE: Final = frozenset({0xB8, 0xBB, 0xBC, 0xBD, 0xBE, 0xBF, 0x68})
_STORE: Final = 0xC7  # mov r/m, imm32: its ModRM, SIB and one byte's displacement stand between
_BETWEEN: Final = 3


def segments(head: bytes, rows: bytes) -> Iterator[tuple[int, int]]:
    """Offset and size of what is executable; head: struct Elf64_Ehdr, rows: what `table` names."""
    step, _ = struct.unpack_from("<HH", head, 54)
    for at in range(0, len(rows) - step + 1, step):
        kind, flags, offset = struct.unpack_from("<IIQ", rows, at)
        size, = struct.unpack_from("<Q", rows, at + 32)
        if kind == _PT_LOAD and flags & _PF_X:
            yield offset, size


def table(head: bytes) -> tuple[int, int]:
    """Offset and size of the program headers."""
    at, = struct.unpack_from("<Q", head, 32)
    step, count = struct.unpack_from("<HH", head, 54)
    return at, step * count


def asks(path: str) -> bool:
    """Some instruction of the ELF file may have bpf(2)'s number in it. What is no such instruction
    may look like one; what takes its number from memory does not. OSError."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        head = text[:_EHDR]
        at, size = table(head)
        return any(_in(text, lo, lo + length)
                   for lo, length in segments(head, text[at : at + size]))


def _in(text: mmap.mmap, lo: int, hi: int) -> bool:
    at = text.find(_NUMBER, lo + 1, hi)
    while at > 0:
        if text[at - 1] in _BEFORE or _STORE in text[max(at - 1 - _BETWEEN, lo) : at - 1]:
            return True
        at = text.find(_NUMBER, at + 1, hi)
    return False
