"""Functions decoded: instruction boundaries, what each instruction does to control, branches.

A rel8 branch reaches 128 bytes, and among random bytes every tenth could be one, so here a
superset will not do: functions are decoded in order from their starts, each once. Bytes that
belong to no known function, or do not decode, are searched as bytes.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field

from libbpf_shim.elf import unwind
from libbpf_shim.elf.module import STT_FUNC, Module
from libbpf_shim.rewrite import decode
from libbpf_shim.rewrite.decode import LEA

REACH = 144  # bytes: 128, and the branch instruction itself with room to spare
ENDS, CALL, PAD, BARRIER = 1, 2, 4, 8  # of Body.flags
_REL8 = frozenset([*range(0x70, 0x80), 0xEB, *range(0xE0, 0xE4)])
_MAX_BODY = 1 << 20  # bytes of one function that are decoded
_KEPT = 4096  # decoded functions of a module; gaps between them
_UNKNOWN = 1 << 12  # of what nothing tells of: a window's neighbours are in that
_JUMP = re.compile(rb"\xff[\xe0-\xe7]")  # to what a register holds
_FAR = 1 << 16  # bytes of padding looked through behind a function
# Its bytes are matched by unwinders (libgcc, gdb): the signal restorer stays as it is.
_RESTORER = bytes.fromhex("48c7c00f0000000f05")

_flags: dict[str, int] = {}


def _classify(mnemonic: str, operands: str) -> int:
    known = _flags.get(mnemonic)
    if known is None:
        word = mnemonic.split()[-1]
        known = (ENDS * (word in decode.ENDS) | CALL * (word in ("call", "lcall"))
                 | PAD * (word in ("nop", "int3")) | BARRIER * decode.stays(word))
        _flags[mnemonic] = known
    if operands == "ax, ax" and mnemonic == "xchg":
        return PAD
    return known


@dataclass(slots=True)
class Body:
    """One function: addresses, sizes, flags of its instructions; jumps: where its branches lead.
    near: that, and where its neighbours' lead. computed: it takes the address of a label of its
    own, and jumps to what a register holds: any instruction may be reached. unknown: its parts
    that do not decode."""

    start: int
    end: int
    addrs: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    jumps: set[int] = field(default_factory=set)
    near: set[int] = field(default_factory=set)
    computed: bool = False
    settled: bool = False
    unknown: list[tuple[int, int]] = field(default_factory=list)

    def index(self, vaddr: int) -> int | None:
        """Of the instruction that begins there; None: none does."""
        at = bisect_left(self.addrs, vaddr)
        return at if at < len(self.addrs) and self.addrs[at] == vaddr else None

    def covers(self, vaddr: int) -> bool:
        """Decoding has passed vaddr."""
        at = bisect_right(self.addrs, vaddr) - 1
        return at >= 0 and vaddr < self.addrs[at] + self.sizes[at]


def extents(module: Module) -> list[tuple[int, int]]:
    """[start, end) of the functions, sorted: by the unwind table and by sized symbols; where there
    is neither, from each start to the next."""
    known: list[tuple[int, int]] | None = module.__dict__.get("_extents")
    if known is None:
        known = module.__dict__["_extents"] = _extents(module)
    return known


def _extents(module: Module) -> list[tuple[int, int]]:
    found = sorted({(f.start, f.end) for f in unwind.functions(module) if f.end > f.start})
    sized = sorted({(s.vaddr, s.vaddr + s.size) for s in module.symbols
                    if s.type == STT_FUNC and s.size and module.executable_at(s.vaddr)})
    starts = [a for a, _ in found]
    more = []
    last = 0
    for a, b in sized:
        at = bisect_right(starts, a) - 1
        over = at >= 0 and found[at][1] > a or at + 1 < len(found) and found[at + 1][0] < b
        if not over and a >= last:
            more.append((a, b))
            last = b
    if found or more:
        return sorted(found + more)
    begins = module.starts
    ends = []
    for k, begin in enumerate(begins):
        seg = module.executable_at(begin)
        assert seg
        stop = seg.vaddr + seg.filesz
        ends.append(min(stop, begins[k + 1]) if k + 1 < len(begins) else stop)
    return list(zip(begins, ends, strict=True))


def overlapping(module: Module, lo: int, hi: int) -> list[tuple[int, int]]:
    """The extents that [lo, hi) meets."""
    table = extents(module)
    at = bisect_left(table, (lo, 0))
    while at and table[at - 1][1] > lo:
        at -= 1
    found = []
    while at < len(table) and table[at][0] < hi:
        found.append(table[at])
        at += 1
    return found


def body(module: Module, start: int, end: int) -> Body:
    """That function, decoded; an empty one if it is too large."""
    kept: OrderedDict[tuple[int, int], Body] = module.__dict__.setdefault("_bodies", OrderedDict())
    known = kept.get((start, end))
    if known is not None:
        kept.move_to_end((start, end))
        return known
    made = Body(start, end)
    if end - start <= _MAX_BODY:
        _decode(module, made)
    else:
        made.unknown.append((start, end))
        made.computed = _computes(module, made)
    kept[start, end] = made
    if len(kept) > _KEPT:
        kept.popitem(last=False)
    return made


def _decode(module: Module, made: Body) -> None:
    """From the start; where something does not decode, again from the next known start."""
    code = module.read(made.start, made.end - made.start)
    at, size = made.start, 0
    jumps = label = False
    while at < made.start + len(code):
        for address, size, mnemonic, operands in decode.sweep(code[at - made.start :], at):
            flags = _classify(mnemonic, operands)
            if flags & BARRIER:
                size = decode.true_size(code[address - made.start :], size)
            made.addrs.append(address)
            made.sizes.append(size)
            made.flags.append(flags)
            if operands.startswith("0x") and mnemonic.split()[-1][0] in "jlcx":
                made.jumps.add(int(operands, 16))
            elif mnemonic == "lea" and "rip" in operands:
                label = label or made.start < _address(operands, address + size) < made.end
            elif "jmp" in mnemonic and "[" not in operands:
                jumps = True
            at = address + size
            if flags & BARRIER:
                break  # the next may begin elsewhere than it seems
        else:
            starts = module.starts
            next_start = bisect_right(starts, at)
            after = starts[next_start] if next_start < len(starts) else made.end
            if at < made.start + len(code):
                made.unknown.append((at, min(after, made.end)))
            at = after
    if code.startswith(decode.UD2):  # what is never to be called: nobody asks where its trap is
        made.flags[0] &= ~BARRIER
    made.computed = jumps and label or bool(made.unknown) and _computes(module, made)
    found = code.find(_RESTORER)
    if found >= 0 and (index := made.index(made.start + found)) is not None:
        made.flags[index] |= BARRIER


def _address(operands: str, after: int) -> int:
    """Where `reg, [rip + disp]` points."""
    sign, _, number = operands.partition("rip ")[2].rstrip("]").partition(" ")
    return after + (int(number, 16) if sign == "+" else -int(number or "0", 16))


def _computes(module: Module, made: Body) -> bool:
    """The same of one that does not decode, from its bytes: it could."""
    code = module.read(made.start, made.end - made.start)
    places = (found.end() for found in LEA.finditer(code, 0, max(len(code) - 4, 0)))
    return bool(_JUMP.search(code)) and any(
        made.start < made.start + at + 4 + int.from_bytes(code[at : at + 4], "little", signed=True)
        < made.end for at in places)


def _bytewise(module: Module, lo: int, hi: int) -> tuple[int, ...]:
    """Where branches of the bytes there could lead. Neighbours ask for the same bytes."""
    known: dict[tuple[int, int], tuple[int, ...]] = module.__dict__.setdefault("_gaps", {})
    found = known.get((lo, hi))
    if found is None:
        code = module.read(lo, hi - lo)
        found = tuple(lo + k + 2 + (code[k + 1] ^ 0x80) - 0x80
                      for k in range(len(code) - 1) if code[k] in _REL8)
        if len(known) >= _KEPT:
            known.clear()
        known[lo, hi] = found
    return found


def settled(module: Module, made: Body) -> Body:
    """The body with `near` filled in, and with BARRIER where a branch leads into the middle of an
    instruction (over a lock prefix)."""
    if made.settled:
        return made
    seg = module.executable_at(made.start)
    lo, hi = made.start - REACH, made.end + REACH
    if seg:
        lo, hi = max(lo, seg.vaddr), min(hi, seg.vaddr + seg.filesz)
    possible: set[int] = set()
    at = lo
    for start, end in sorted({*overlapping(module, lo, hi), (made.start, made.end)}):
        if start > at:
            possible.update(_bytewise(module, at, start))
        other = made if (start, end) == (made.start, made.end) else body(module, start, end)
        made.near |= other.jumps
        for a, b in other.unknown:
            possible.update(_bytewise(module, max(a, lo), min(b, hi)))
            made.computed = made.computed or other.computed and a <= made.start < b
        at = max(at, end)
    if at < hi:
        possible.update(_bytewise(module, at, hi))
    # what only looks like a branch, and into the middle of an instruction, is none
    made.near |= {t for t in possible if made.index(t) is not None}
    for target in made.near:
        if made.covers(target) and made.index(target) is None:
            made.flags[bisect_right(made.addrs, target) - 1] |= BARRIER
    made.settled = True
    return made


def find(module: Module, vaddr: int) -> Body | None:
    """The function that vaddr lies in, decoded as far as vaddr; None: not known."""
    for start, end in overlapping(module, vaddr, vaddr + 1):
        made = body(module, start, end)
        if made.covers(vaddr):
            return settled(module, made)
    return None


def begun(module: Module, vaddr: int) -> Body | None:
    """Where no function is known to be: what begins there, as the caller says, up to the next that
    is known or begins, decoded; None: it does not decode."""
    seg = module.executable_at(vaddr)
    if seg is None:
        return None
    end = min(seg.vaddr + seg.filesz, vaddr + _UNKNOWN)
    for starts in (module.starts, [start for start, _ in extents(module)]):
        at = bisect_right(starts, vaddr)
        end = min(end, starts[at]) if at < len(starts) else end
    made = body(module, vaddr, end)
    if not made.covers(vaddr):
        return None
    if module.read(vaddr, len(_RESTORER)) == _RESTORER:
        made.flags[0] &= ~BARRIER  # who names the restorer itself (attach/quick.py) has it
    return settled(module, made)


def padding(module: Module, vaddr: int, most: int = _FAR) -> int:
    """Bytes of fill that stand at vaddr, up to the first other instruction or known function."""
    table = extents(module)
    at = bisect_left(table, (vaddr, 0))
    stop = min(vaddr + most, table[at][0] if at < len(table) else vaddr + most)
    end = vaddr
    for address, size, mnemonic, operands in decode.sweep(module.read(vaddr, stop - vaddr), vaddr):
        if not _classify(mnemonic, operands) & PAD:
            break
        end = address + size
    return end - vaddr
