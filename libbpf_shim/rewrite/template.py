"""A trampoline made once and filled in for each process: what `render` makes of a plan, as bytes
and where in them an address of the process stands.

For the usual rungs of the ladder alone, whose window is five bytes of jmp to the trampoline. The
bytes are those of `render`, which makes the template and is what tests compare it with. What like
places have in common, as functions that begin alike, is a Shape, of which there is one.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, NamedTuple

from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.plan import TRAP, CopyKind, SitePlan

if TYPE_CHECKING:
    from typing import Any

_JMP = struct.Struct("<Bi")
# Addresses of no process, by which render's literals are told apart
_SITE, _ENTER, _LEAN, _BIAS = 1 << 62 | 1, 1 << 62 | 2, 1 << 62 | 3, 1 << 40
_JUMP = 5  # bytes of jmp rel32
_OPCODE = 0xE9
_LEADING_NOWHERE = (CopyKind.PLAIN, CopyKind.STAYS)
_WORDS = {4: "i", 8: "Q"}  # by their bytes


class Row(NamedTuple):
    """orig, tactic, single: as in SitePlan; so are lead (of vaddr) and scan, which count from the
    window. code: as if it lay at the window, with displacements at `outwards`. site, enter: where
    literals of 64 bits stand that are the process's; own: where such of the module's do, and
    virtual addresses, which count from the multiple of 16 before the window. lean: `enter` is the
    lean one. fixups: boundaries inside the window, counted from it, and the offsets of what stands
    for them."""

    orig: bytes
    tactic: str
    lead: int
    single: bool
    scan: tuple[int, int]
    code: bytes
    outwards: tuple[int, ...]
    site: int
    enter: int
    lean: bool
    own: tuple[tuple[int, int], ...]
    fixups: tuple[tuple[int, int], ...]


class Shape:
    """What a row says, and the means to fill it in. size: bytes that the trampoline takes, a
    multiple of 16."""

    __slots__ = ("_args", "_far", "_ours", "_pack", "_theirs", "fixups", "lead", "lean", "orig",
                 "row", "scan", "single", "size", "tactic")

    def __init__(self, row: Row) -> None:
        self.row, self.orig, self.tactic, self.lead = row, row.orig, row.tactic, row.lead
        self.single, self.scan, self.lean, self.fixups = (
            row.single, row.scan, row.lean, row.fixups)
        self.size = len(row.code) + 15 & ~15
        code = row.code.ljust(self.size, b"\xcc")
        words = dict.fromkeys(row.outwards, 4)
        words |= dict.fromkeys((row.site, row.enter, *(at for at, _ in row.own)), 8)
        form, end, place = "<", 0, dict[int, int]()
        args: list[Any] = []
        for at in sorted(words):
            form += f"{at - end}s{_WORDS[words[at]]}"
            place[at] = len(args) + 1
            args += [code[end:at], int.from_bytes(code[at : at + 4], "little", signed=True)]
            end = at + words[at]
        self._pack = struct.Struct(f"{form}{self.size - end}s").pack
        self._args = [*args, code[end:]]
        # which of them are displacements, as if it lay at the window; site and enter; `own`
        self._far = [(place[at], args[place[at]]) for at in row.outwards]
        self._ours = place[row.site], place[row.enter]
        self._theirs = [(place[at], vaddr) for at, vaddr in row.own]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shape) and self.row == other.row

    def __hash__(self) -> int:
        return hash(self.row)

    def fill(self, base: int, tramp: int, site: int, enter: int) -> bytes:
        """The trampoline at tramp, padded to `size`. base: the multiple of 16 before the window,
        in the process. ERANGE: out of reach."""
        args, move = self._args, base - tramp
        for at, delta in self._far:
            args[at] = delta + move
        at, behind = self._ours
        args[at], args[behind] = site, enter
        for at, vaddr in self._theirs:
            args[at] = vaddr + base
        try:
            return self._pack(*args)
        except struct.error:
            raise _far(tramp) from None

    def jump(self, window: int, tramp: int) -> bytes:
        """What is written over the window, which is at that address of the process. ERANGE."""
        try:
            return _JMP.pack(_OPCODE, tramp - (window + _JUMP)) + self.orig[_JUMP:]
        except struct.error:
            raise _far(tramp) from None


class Template(NamedTuple):
    """window: virtual address."""

    window: int
    shape: Shape

    @property
    def vaddr(self) -> int:
        """Of the probed instruction."""
        return self.window + self.shape.lead

    def fill(self, bias: int, tramp: int, site: int, enter: int) -> bytes:
        return self.shape.fill(bias + (self.window & ~15), tramp, site, enter)

    def jump(self, bias: int, tramp: int) -> bytes:
        return self.shape.jump(self.window + bias, tramp)


def _far(tramp: int) -> ShimError:
    return ShimError("RW0002", errno.ERANGE, f"trampoline at {tramp:#x}: out of reach")


# By what makes their code: the same again costs no rendering
_shapes: dict[tuple[object, ...], Shape | None] = {}
_MOST = 4096


def template(plan: SitePlan) -> Template | None:
    """Of a plan; None: its window is not a whole jump alone."""
    if plan.tactic == TRAP or plan.hole or plan.fixed or plan.carrier or len(plan.orig) < _JUMP:
        return None
    window = plan.window
    key = (
        plan.orig, plan.tactic, plan.vaddr - window, plan.at_entry, window & 15,
        tuple((d.vaddr - window, d.code, d.kind, d.disp_at, d.ends,
               0 if d.kind in _LEADING_NOWHERE else d.target - window) for d in plan.displaced))
    if key not in _shapes:
        if len(_shapes) >= _MOST:
            _shapes.clear()
        _shapes[key] = _shape(plan)
    shape = _shapes[key]
    return Template(window, shape) if shape else None


def _shape(plan: SitePlan) -> Shape | None:
    from libbpf_shim.rewrite.render import lay_out  # most are kept

    window, base = plan.window, plan.window & ~15
    tramp = base + _BIAS
    made, code = lay_out(plan, _BIAS, tramp, _SITE, _ENTER, False, _LEAN)
    words: dict[int, int] = {value: at for at, value in code.words}
    lean = _LEAN in words
    if _SITE not in words or (_ENTER in words) == lean:
        return None
    own = tuple((at, value - tramp) for value, at in words.items()
                if value not in (_SITE, _ENTER, _LEAN))
    blank = bytearray(made.tramp)
    for at in words.values():
        blank[at : at + 8] = bytes(8)
    lo, hi = plan.scan
    return Shape(Row(
        plan.orig, plan.tactic, plan.vaddr - window, plan.single,
        (lo - window, hi - window) if hi else (0, 0), bytes(blank),
        tuple(code.outwards), words[_SITE], words[_LEAN if lean else _ENTER], lean, own,
        tuple((at - _BIAS - window, copy - tramp) for at, copy in made.fixups)))
