"""Function extents and landing pads from .eh_frame and its language-specific areas.

Only what bounds code is read: no call frame instruction is decoded. Entries whose augmentation
has an 'S' (signal frames) begin one byte before their function and are left out.
Source: LSB Core, 10.6 (Exception Frames); DWARF 5, 6.4.1; Itanium C++ ABI exception tables.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libbpf_shim.elf.module import Module

PT_LOAD, PT_GNU_EH_FRAME = 1, 0x6474E550
DW_EH_PE_OMIT, DW_EH_PE_INDIRECT = 0xFF, 0x80
_SIZES = {0x00: "<Q", 0x02: "<H", 0x03: "<I", 0x04: "<Q", 0x0A: "<h", 0x0B: "<i", 0x0C: "<q"}


@dataclass(frozen=True, slots=True)
class Function:
    """[start, end) of one FDE; lsda: address of its language-specific area, 0: none."""

    start: int
    end: int
    lsda: int


@dataclass(frozen=True, slots=True)
class _Cie:
    pointer: int
    lsda: int
    augmented: bool
    signal: bool


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


def _cie(reader: _Reader) -> _Cie:
    version = reader.take("<B")
    end = reader.data.index(0, reader.at)
    augmentation = reader.data[reader.at : end]
    reader.at = end + 1
    reader.leb()
    reader.leb(signed=True)
    reader.leb() if version != 1 else reader.take("<B")
    pointer, lsda = 0, DW_EH_PE_OMIT
    if not augmentation.startswith(b"z"):
        return _Cie(pointer, lsda, False, False)
    reader.leb()
    for letter in augmentation[1:]:
        if letter == ord("R"):
            pointer = reader.take("<B")
        elif letter == ord("L"):
            lsda = reader.take("<B")
        elif letter == ord("P"):
            reader.pointer(reader.take("<B"))
    return _Cie(pointer, lsda, True, b"S" in augmentation)


def _fde(reader: _Reader, cie: _Cie) -> Function:
    start = reader.pointer(cie.pointer)
    size = reader.pointer(cie.pointer & 0x0F)
    lsda = 0
    if cie.augmented:
        reader.leb()
        if cie.lsda != DW_EH_PE_OMIT and not cie.lsda & DW_EH_PE_INDIRECT:
            lsda = reader.pointer(cie.lsda)
    return Function(start, start + size, lsda)


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
                cies[where] = _cie(_Reader(data, vaddr, where + 8))
            if not cies[where].signal:
                found.append(_fde(_Reader(data, vaddr, at + 8), cies[where]))
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
    starts: list[int] = module.__dict__.setdefault("_fde_starts", [f.start for f in table])
    at = bisect_right(starts, vaddr) - 1
    if at >= 0 and table[at].start <= vaddr < table[at].end:
        return table[at]
    return None


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
