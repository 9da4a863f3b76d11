"""The `syscall` instructions of a module, found by decoding its functions from their starts.

A byte pair 0f 05 is one only if decoding arrives there: operands hold such pairs too, and the
unwind entry of a signal restorer begins one byte early (elf/unwind.py leaves it out). Code that
no table names (stripped, assembler, what follows the unwind entry of clone) is decoded from the
end of what lies before it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from libbpf_shim.elf import unwind
from libbpf_shim.elf.module import STT_FUNC, Module
from libbpf_shim.rewrite import decode

SYSCALL = b"\x0f\x05"
ENDS = ("ret", "jmp", "hlt", "ud2")
PADDING = ("nop", "int3")
_FAR = 1 << 20  # bytes of one function that are decoded
_SHORT = 144  # bytes: what a rel8 branch reaches, and the branch itself
_MOST = 16384  # bytes of unnamed code that are decoded before a candidate


@dataclass(frozen=True, slots=True)
class Insn:
    """An instruction as far as it matters here: [at, at + size), its last word (prefixes are
    separate ones), and where a direct branch leads (0: it is none)."""

    at: int
    size: int
    name: str
    target: int

    @property
    def end(self) -> int:
        return self.at + self.size


@dataclass(frozen=True, slots=True)
class Body:
    """A run of instructions: a function, or what lies between two. targets: of its branches."""

    insns: tuple[Insn, ...]
    starts: tuple[int, ...]
    targets: frozenset[int]

    def index(self, vaddr: int) -> int | None:
        """Of the instruction that begins there."""
        at = bisect_right(self.starts, vaddr) - 1
        return at if at >= 0 and self.starts[at] == vaddr else None


def _decode(module: Module, start: int, end: int) -> Body:
    insns = []
    code = module.read(start, min(end - start, _FAR))
    for at, size, mnemonic, operands in decode.sweep(code, start):
        name = "nop" if operands == "ax, ax" else mnemonic.split()[-1]
        branch = operands.startswith("0x") and name[0] in "jlcx"
        insns.append(Insn(at, size, name, int(operands, 16) if branch else 0))
    targets = frozenset(i.target for i in insns if i.target)
    return Body(tuple(insns), tuple(i.at for i in insns), targets)


@dataclass(slots=True)
class Code:
    """A module's code, decoded as far as it was asked for."""

    module: Module
    extents: list[tuple[int, int]] = field(default_factory=list)  # functions; sorted, disjoint
    _bodies: dict[tuple[int, int], Body] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """By the unwind table, then those that only symbols know."""
        found = sorted((f.start, f.end) for f in unwind.functions(self.module)
                       if f.end > f.start)
        starts = [start for start, _ in found]
        for symbol in self.module.symbols:
            if symbol.type != STT_FUNC or not symbol.size:
                continue
            at = bisect_right(starts, symbol.vaddr)
            before = at and found[at - 1][1] > symbol.vaddr
            behind = at < len(found) and starts[at] < symbol.vaddr + symbol.size
            if not before and not behind:
                found.insert(at, (symbol.vaddr, symbol.vaddr + symbol.size))
                starts.insert(at, symbol.vaddr)
        self.extents = found

    def body(self, start: int, end: int) -> Body:
        if (start, end) not in self._bodies:
            self._bodies[start, end] = _decode(self.module, start, end)
        return self._bodies[start, end]

    def around(self, vaddr: int) -> Body | None:
        """The body that holds vaddr."""
        segment = self.module.executable_at(vaddr)
        if segment is None:
            return None
        at = bisect_right(self.extents, (vaddr, 1 << 64)) - 1
        if at >= 0 and self.extents[at][1] > vaddr:
            return self.body(*self.extents[at])
        last = segment.vaddr + segment.filesz
        end = min(self.extents[at + 1][0] if at + 1 < len(self.extents) else last, last)
        start = max(self.extents[at][1] if at >= 0 else 0, segment.vaddr, vaddr - _MOST)
        starts = self.module.starts
        known = bisect_right(starts, vaddr) - 1
        if known >= 0 and starts[known] > start:
            start = starts[known]
        elif at >= 0 and start == self.extents[at][1]:
            start = self.extents[at][0]  # what follows an unwind entry goes on from it
        return self.body(start, min(end, vaddr + _MOST))

    def near(self, lo: int, hi: int) -> Iterator[Body]:
        """Functions whose short branches reach [lo, hi)."""
        at = max(bisect_right(self.extents, (lo - _SHORT, 0)) - 1, 0)
        for start, end in self.extents[at:]:
            if start >= hi + _SHORT:
                break
            if end > lo - _SHORT:
                yield self.body(start, end)

    def padding(self, lo: int, hi: int, size: int) -> Iterator[range]:
        """Where fill of at least so many bytes lies near [lo, hi): between functions, behind an
        instruction from which control does not go on."""
        at = max(bisect_right(self.extents, (lo, 0)) - 1, 0)
        for (_, end), (start, _) in zip(self.extents[at:], self.extents[at + 1 :], strict=False):
            if end >= hi:
                break
            if end > start or start < lo:
                continue
            first = None
            over = True
            for insn in (*self.body(end, start).insns, Insn(start, 0, "", 0)):
                if insn.name in PADDING and over:
                    first = insn.at if first is None else first
                    continue
                if first is not None and insn.at - first >= size:
                    yield range(first, insn.at)
                first, over = None, insn.name in ENDS

    def dead(self, vaddr: int) -> int:
        """How many bytes of zeros or fill follow a function that ends there."""
        segment = self.module.executable_at(vaddr)
        if segment is None:
            return 0
        at = bisect_right(self.module.starts, vaddr - 1)
        end = segment.vaddr + segment.filesz
        if at < len(self.module.starts):
            end = min(end, self.module.starts[at])
        code = self.module.read(vaddr, min(end - vaddr, 16))
        return len(code) - len(code.lstrip(b"\0\x90\xcc"))

    def calls(self) -> Iterator[tuple[Body, int]]:
        """Each call site's body, and the index of its `syscall` there; by address."""
        for segment in self.module.text:
            code = self.module.read_at(segment.offset, segment.filesz)
            for match in re.finditer(re.escape(SYSCALL), code):
                vaddr = segment.vaddr + match.start()
                body = self.around(vaddr)
                index = body.index(vaddr) if body else None
                if body and index is not None and body.insns[index].name == "syscall":
                    yield body, index
