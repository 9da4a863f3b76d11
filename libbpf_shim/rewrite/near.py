"""Short branches around a window, and instruction boundaries: found by decoding.

A rel8 branch reaches 128 bytes, and among random bytes every tenth could be one, so here a
superset will not do: functions near the window are decoded in order from their starts. Bytes
that belong to no known function are searched as bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from libbpf_shim.elf import unwind
from libbpf_shim.elf.module import STT_FUNC, Module
from libbpf_shim.rewrite import decode

_REACH = 144  # bytes: 128, and the branch instruction itself with room to spare
_REL8 = frozenset([*range(0x70, 0x80), 0xEB, *range(0xE0, 0xE4)])
_MAX_BODY = 1 << 20  # bytes of one function that are decoded


@dataclass(frozen=True, slots=True)
class Surroundings:
    """targets: of short and long branches near the window. boundaries: instruction starts in
    the function that holds it; empty where that is not known."""

    targets: frozenset[int]
    boundaries: frozenset[int]


def _extents(module: Module, lo: int, hi: int) -> list[tuple[int, int]]:
    """Functions that overlap [lo, hi), by the unwind table and by sized symbols; where there is no
    table, by the nearest start."""
    table = unwind.functions(module)
    found = {(f.start, f.end) for f in table if f.start < hi and f.end > lo}
    for s in module.symbols:
        start, end = s.vaddr, s.vaddr + s.size
        if s.type == STT_FUNC and start < hi and end > lo:
            if all(end <= a or start >= b for a, b in found):
                found.add((start, end))
    if found or table:
        return sorted(found)
    starts = module.starts
    at = max(bisect_right(starts, lo) - 1, 0)
    picked = [s for s in starts[at:] if s < hi]
    ends = [*picked[1:], hi]
    return list(zip(picked, ends, strict=True))


def _decode(
    module: Module, start: int, end: int, lo: int, targets: set[int], boundaries: set[int]
) -> int:
    """Decodes [start, end), notes branch targets from lo on; returns where it stopped."""
    at = start
    for address, size, mnemonic, operands in decode.sweep(module.read(start, end - start), start):
        at = address + size
        if address < lo:
            continue
        boundaries.add(address)
        if operands.startswith("0x") and mnemonic.split()[-1][0] in "jlcx":
            targets.add(int(operands, 16))
    return at


def _bytewise(module: Module, lo: int, hi: int, targets: set[int]) -> None:
    code = module.read(lo, hi - lo)
    for k in range(len(code) - 1):
        if code[k] in _REL8:
            targets.add(lo + k + 2 + int.from_bytes(code[k + 1 : k + 2], "little", signed=True))


def surroundings(module: Module, lo: int, hi: int) -> Surroundings:
    """What short branches do around [lo, hi)."""
    seg = module.executable_at(lo)
    if seg is None:
        return Surroundings(frozenset(), frozenset())
    first = max(lo - _REACH, seg.vaddr)
    last = min(hi + _REACH, seg.vaddr + seg.filesz)
    targets: set[int] = set()
    possible: set[int] = set()
    boundaries: set[int] = set()
    at = first
    for start, end in _extents(module, first, last):
        if end - start > _MAX_BODY:
            continue
        if start > at:
            _bytewise(module, at, start, possible)
        inside: set[int] = set()
        stop = _decode(module, start, min(end, last), first, targets, inside)
        if stop > lo >= start:
            boundaries |= inside
        at = max(at, stop)
    if at < last:
        _bytewise(module, at, last, possible)
    # what only looks like a branch, and into the middle of an instruction, is none
    targets |= possible & boundaries if boundaries else possible
    return Surroundings(frozenset(targets), frozenset(boundaries))
