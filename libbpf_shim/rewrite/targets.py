"""Where control may arrive in a module: the addresses that must not lie inside a window.

A superset, found without disassembly where that is cheap: every byte position that could be a
rel32 branch counts as one. rel8 branches reach 127 bytes, so they are looked for by decoding
(body.py). Further sources: function starts, landing pads, labels whose address is taken, jump
tables (offsets relative to a table whose address is taken), pointers into text in data and in
relative relocations, immediates in code at fixed addresses, what Go returns to without a call.
Source: docs/architecture.md, the ladder.
"""

from __future__ import annotations

import array
import os
import re
import struct
import sys
from bisect import bisect_left
from collections.abc import Set
from pathlib import Path

from libbpf_shim.elf import unwind
from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.module import ET_EXEC, PT_DYNAMIC, PT_LOAD, Module
from libbpf_shim.rewrite.decode import LEA

# call, jmp, jcc rel32, xbegin: opcode bytes directly before the displacement.
_REL32 = re.compile(rb"[\xe8\xe9]|\x0f[\x80-\x8f]|\xc7\xf8")
# Before an immediate: mov r32 or push; mov to memory, with its operand; lea, with a SIB byte.
_IMMEDIATE = re.compile(
    rb"[\xb8-\xbf\x68]\Z|\xc7.\Z|\xc7..\Z|\xc7...\Z|\xc7.{5,6}\Z|\x8d..\Z", re.S)
_DT_RELA, _DT_RELASZ, _R_RELATIVE, _R_IRELATIVE = 7, 8, 8, 37
_MAX_TABLE = 4096  # entries of one jump table
_MAGIC = b"SHIMJT04"
_memory: dict[str, array.array[int]] = {}


class _Text:
    """The executable ranges of a module, for many membership tests."""

    def __init__(self, module: Module) -> None:
        self.ranges = [(s.vaddr, s.vaddr + s.filesz) for s in module.text]
        self.lo, self.hi = self.ranges[0][0], self.ranges[-1][1]

    def __contains__(self, vaddr: int) -> bool:
        return self.lo <= vaddr < self.hi and any(a <= vaddr < b for a, b in self.ranges)


def _branches(module: Module, text: _Text) -> tuple[set[int], set[int]]:
    """Targets of all possible rel32 branches; addresses that lea may take."""
    found: set[int] = set()
    tables: set[int] = set()
    unpack = struct.Struct("<i").unpack_from
    for seg in module.text:
        code = module.read_at(seg.offset, seg.filesz)
        last = len(code) - 4
        for pattern, sink in ((_REL32, found), (LEA, tables)):
            for match in pattern.finditer(code):
                at = match.end()
                if at > last:
                    break
                target = seg.vaddr + at + 4 + unpack(code, at)[0]
                if target in text:
                    found.add(target)  # by lea too: a label whose address is taken
                if sink is tables:
                    tables.add(target)
    return found, tables


def _immediates(module: Module, text: _Text) -> set[int]:
    """Addresses in text as 32-bit immediates, as code at fixed addresses has them: every four
    bytes behind what could be a mov or push of one, or a lea without a base."""
    found: set[int] = set()
    if module.type != ET_EXEC or text.hi >= 1 << 31:
        return found
    for seg in module.text:
        code = module.read_at(seg.offset, seg.filesz)
        for shift in range(4):
            words = array.array("I", code[shift : shift + (len(code) - shift) // 4 * 4])
            for k, word in enumerate(words):
                if text.lo <= word < text.hi and _IMMEDIATE.search(
                    code[max(4 * k + shift - 7, 0) : 4 * k + shift]
                ):
                    found.add(word)
    return found


def _jump_tables(module: Module, text: _Text, tables: set[int]) -> set[int]:
    """Entries of position-independent jump tables: s32 offsets from the table's own address."""
    found: set[int] = set()
    # linked without separate code, read-only data lie in the executable segment
    for seg in module.segments:
        if seg.type != PT_LOAD:
            continue
        data = module.read_at(seg.offset, seg.filesz)
        for table in tables:
            at = table - seg.vaddr
            if at < 0:
                continue  # aligned or not: dav1d's follow words of two bytes
            for k in range(at, min(at + 4 * _MAX_TABLE, len(data) - 3), 4):
                target = table + int.from_bytes(data[k : k + 4], "little", signed=True)
                if target not in text:
                    break
                found.add(target)
    return found


def _pointers(module: Module, text: _Text) -> set[int]:
    """Aligned words of data that are addresses in text, and addends of relative relocations."""
    found: set[int] = set()
    lo, hi = text.lo, text.hi
    for seg in module.segments:
        if seg.type == PT_LOAD:
            skip = -seg.vaddr & 7
            data = module.read_at(seg.offset + skip, seg.filesz - skip)
            words = array.array("Q", data[: len(data) & ~7])
            found.update(w for w in words if lo <= w < hi)
        elif seg.type == PT_DYNAMIC:
            tags = dict(struct.iter_unpack("<qQ", module.read_at(seg.offset, seg.filesz & ~15)))
            table = module.read(tags.get(_DT_RELA, 0), tags.get(_DT_RELASZ, 0))
            for _, info, addend in struct.iter_unpack("<QQq", table[: len(table) // 24 * 24]):
                if info & 0xFFFFFFFF in (_R_RELATIVE, _R_IRELATIVE) and lo <= addend < hi:
                    found.add(addend)
    return found


def _behind_nops(module: Module, taken: Set[int]) -> set[int]:
    """Go's runtime writes, as the return address of a goroutine, that of the function that ends
    it and one more: it begins with a nop of one byte, so that it seems to have been called."""
    return {at + 1 for at in taken if module.read(at, 1) == b"\x90"}


def _collect(module: Module) -> array.array[int]:
    text = _Text(module)
    found, tables = _branches(module, text)
    found |= _jump_tables(module, text, tables)
    found |= _pointers(module, text)
    found |= _immediates(module, text)
    if is_go(module):
        found |= _behind_nops(module, {at for at in tables if at in text})
    found.update(module.starts)
    found |= unwind.landing_pads(module)
    found.update(s.vaddr for s in module.symbols)
    return array.array("Q", sorted(found))


def _load(path: Path) -> array.array[int] | None:
    try:
        if path.stat().st_uid not in (0, os.geteuid()):
            return None
        data = path.read_bytes()
    except OSError:
        return None
    if data[:8] != _MAGIC or len(data) % 8 or sys.byteorder != "little":
        return None
    found = array.array("Q")
    found.frombytes(data[8:])
    return found


def _store(path: Path, found: array.array[int]) -> None:
    """Best effort: a cache that cannot be written costs time only."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        aside.write_bytes(_MAGIC + found.tobytes())
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)


def jump_targets(module: Module, cache: Path | None = None) -> array.array[int]:
    """Sorted virtual addresses. Kept in memory, and in the directory `cache` if one is given
    (private to the user), by the module's key."""
    key = module.key
    if key in _memory:
        return _memory[key]
    path = cache / f"{key}.targets" if cache else None
    found = _load(path) if path else None
    if found is None:
        found = _collect(module)
        if path:
            _store(path, found)
    _memory[key] = found
    return found


def sources(module: Module, targets: Set[int]) -> dict[int, list[int]]:
    """By target: where bytes end that could be a rel32 branch to it."""
    found: dict[int, list[int]] = {}
    unpack = struct.Struct("<i").unpack_from
    for seg in module.text:
        code = module.read_at(seg.offset, seg.filesz)
        for match in _REL32.finditer(code[: max(len(code) - 4, 0)]):
            end = match.end() + 4
            target = seg.vaddr + end + unpack(code, end - 4)[0]
            if target in targets:
                found.setdefault(target, []).append(seg.vaddr + end)
    return found


def inside(targets: array.array[int], lo: int, hi: int) -> int | None:
    """A target in [lo, hi), or None."""
    at = bisect_left(targets, lo)
    return targets[at] if at < len(targets) and targets[at] < hi else None
