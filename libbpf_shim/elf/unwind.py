"""Function extents and landing pads from .eh_frame and its language-specific areas.

Only what bounds code is read, and of call frame instructions those that tell whether a function is
called at all. Entries whose augmentation has an 'S' (signal frames) begin one byte before their
function and are left out.
Source: LSB Core, 10.6 (Exception Frames); DWARF 5, 6.4.1; Itanium C++ ABI exception tables.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libbpf_shim.elf.module import Module

PT_LOAD, PT_GNU_EH_FRAME = 1, 0x6474E550
DW_EH_PE_OMIT, DW_EH_PE_INDIRECT = 0xFF, 0x80
_SIZES = {0x00: "<Q", 0x02: "<H", 0x03: "<I", 0x04: "<Q", 0x0A: "<h", 0x0B: "<i", 0x0C: "<q"}


@dataclass(frozen=True, slots=True)
class Function:
    """[start, end) of one FDE; lsda: address of its language-specific area, 0: none. rules: of its
    CIE's call frame instructions and its own, [from, to) each, addresses."""

    start: int
    end: int
    lsda: int
    rules: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class _Cie:
    pointer: int
    lsda: int
    augmented: bool
    signal: bool
    rules: tuple[int, int]


class _Reader:
    """A cursor over bytes that stand at a virtual address."""

    def __init__(self, data: bytes, vaddr: int, at: int = 0) -> None:
        self.data, self.vaddr, self.at = data, vaddr, at

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def leb(self, signed: bool = False) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                break
        if signed and byte & 0x40:
            value -= 1 << shift
        return value

    def pointer(self, encoding: int, base: int = 0) -> int:
        """A DW_EH_PE pointer: absolute, pcrel, or datarel to base. 0 stays 0 (no pointer)."""
        place = self.vaddr + self.at
        form = encoding & 0x0F
        value = self.leb(form == 0x09) if form in (0x01, 0x09) else self.take(_SIZES[form])
        if not value:
            return 0
        relative = {0x10: place, 0x30: base}.get(encoding & 0x70, 0)
        return (value + relative) & (2**64 - 1)


def _cie(reader: _Reader, stop: int) -> _Cie:
    """stop: where the entry ends, its index in the reader's bytes."""
    version = reader.take("<B")
    end = reader.data.index(0, reader.at)
    augmentation = reader.data[reader.at : end]
    reader.at = end + 1
    reader.leb()
    reader.leb(signed=True)
    reader.leb() if version != 1 else reader.take("<B")
    pointer, lsda = 0, DW_EH_PE_OMIT
    if not augmentation.startswith(b"z"):
        return _Cie(pointer, lsda, False, False, (reader.vaddr + reader.at, reader.vaddr + stop))
    behind = reader.leb() + reader.at
    for letter in augmentation[1:]:
        if letter == ord("R"):
            pointer = reader.take("<B")
        elif letter == ord("L"):
            lsda = reader.take("<B")
        elif letter == ord("P"):
            reader.pointer(reader.take("<B"))
    rules = reader.vaddr + behind, reader.vaddr + stop
    return _Cie(pointer, lsda, True, b"S" in augmentation, rules)


def _fde(reader: _Reader, cie: _Cie, stop: int) -> Function:
    """stop: as above."""
    start = reader.pointer(cie.pointer)
    size = reader.pointer(cie.pointer & 0x0F)
    lsda = 0
    if cie.augmented:
        behind = reader.leb() + reader.at
        if cie.lsda != DW_EH_PE_OMIT and not cie.lsda & DW_EH_PE_INDIRECT:
            lsda = reader.pointer(cie.lsda)
        reader.at = behind
    rules = reader.vaddr + reader.at, reader.vaddr + stop
    return Function(start, start + size, lsda, (cie.rules, rules))


def _entries(data: bytes, vaddr: int) -> list[Function]:
    found: list[Function] = []
    cies: dict[int, _Cie] = {}
    at = 0
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        if length in (0, 0xFFFFFFFF):  # the terminator; the 64-bit form is not in use on x86-64
            break
        (delta,) = struct.unpack_from("<I", data, at + 4)
        if delta:
            where = at + 4 - delta
            if where not in cies:
                (size,) = struct.unpack_from("<I", data, where)
                cies[where] = _cie(_Reader(data, vaddr, where + 8), where + 4 + size)
            if not cies[where].signal:
                found.append(_fde(_Reader(data, vaddr, at + 8), cies[where], at + 4 + length))
        at += 4 + length
    return found


def functions(module: Module) -> tuple[Function, ...]:
    """All FDEs of the module's .eh_frame, sorted by start. An unreadable table gives what stands
    before the trouble: callers treat it as one source among several."""
    cached: tuple[Function, ...] | None = module.__dict__.get("_functions")
    if cached is None:
        cached = module.__dict__["_functions"] = _read(module)
    return cached


def _read(module: Module) -> tuple[Function, ...]:
    for seg in module.segments:
        if seg.type != PT_GNU_EH_FRAME:
            continue
        try:
            header = _Reader(module.read(seg.vaddr, seg.filesz), seg.vaddr)
            header.take("<B")
            encoding = header.take("<B")
            header.at += 2
            frame = header.pointer(encoding, seg.vaddr)
            found = _entries(module.read(frame, 1 << 28), frame)
        except (struct.error, IndexError, ValueError, KeyError):
            return ()
        return tuple(sorted(found, key=lambda f: f.start))
    return ()


def enclosing(module: Module, vaddr: int) -> Function | None:
    """The function whose [start, end) holds vaddr."""
    table = functions(module)
    starts: list[int] | None = module.__dict__.get("_fde_starts")
    if starts is None:
        starts = module.__dict__["_fde_starts"] = [f.start for f in table]
    at = bisect_right(starts, vaddr) - 1
    if at >= 0 and table[at].start <= vaddr < table[at].end:
        return table[at]
    return None


# DW_CFA_* of the rules before the first advance_loc: how many LEB128 numbers follow each
_NUMBERS = {0x00: 0, 0x05: 2, 0x06: 1, 0x07: 1, 0x08: 1, 0x09: 2, 0x0A: 0, 0x0B: 0, 0x0C: 2,
            0x0D: 1, 0x0E: 1, 0x11: 2, 0x12: 2, 0x13: 1, 0x14: 2, 0x15: 2, 0x2E: 1}  # fmt: skip
_SIGNED = {0x11: (1,), 0x12: (1,), 0x13: (0,), 0x15: (1,)}
_RSP, _RIP = 7, 16


def is_called(module: Module, function: Function) -> bool:
    """As far as its rules tell: where it begins, the return address is at the stack pointer. Not
    so of what a compiler has put apart of a function, of a stub that binds symbols, of what a new
    context begins with."""
    register, offset = _RSP, 8
    try:
        for op, numbers in _first_rules(module, function):
            if op == 0x0F or (op == 0x07 and numbers[0] == _RIP):
                return False
            if op in (0x0C, 0x0D):
                register = numbers[0]
            if op in (0x0C, 0x0E):
                offset = numbers[-1]
    except (struct.error, IndexError):
        return True
    return (register, offset) == (_RSP, 8)


def _first_rules(module: Module, function: Function) -> Iterator[tuple[int, list[int]]]:
    """Those of its first instruction: operation, operands."""
    for first, last in function.rules:
        reader = _Reader(module.read(first, last - first), first)
        while reader.at < len(reader.data):
            op = reader.take("<B")
            if op >> 6 == 2:  # offset of a register
                reader.leb()
            if op >> 6 > 1:
                continue
            if op not in _NUMBERS:  # an advance_loc, or an expression
                yield op, []
                return
            signed = _SIGNED.get(op, ())
            yield op, [reader.leb(k in signed) for k in range(_NUMBERS[op])]


def landing_pads(module: Module) -> set[int]:
    """Where exceptions continue: the call-site tables of all language-specific areas."""
    pads: set[int] = set()
    for function in functions(module):
        if function.lsda:
            try:
                pads.update(_call_sites(module, function))
            except (struct.error, IndexError, KeyError):
                continue
    return pads


def _call_sites(module: Module, function: Function) -> set[int]:
    reader = _Reader(module.read(function.lsda, 1 << 16), function.lsda)
    encoding = reader.take("<B")
    base = function.start if encoding == DW_EH_PE_OMIT else reader.pointer(encoding)
    if reader.take("<B") != DW_EH_PE_OMIT:
        reader.leb()
    encoding = reader.take("<B")
    length = reader.leb()
    end = reader.at + length
    pads = set()
    while reader.at < end:
        reader.pointer(encoding & 0x0F)
        reader.pointer(encoding & 0x0F)
        pad = reader.pointer(encoding & 0x0F)
        reader.leb()
        if pad:
            pads.add(base + pad)
    return pads
