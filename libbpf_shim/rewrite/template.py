"""A trampoline made once and filled in for each process: what `render` makes of a plan, as bytes
and where in them an address of the process stands.

For the usual rungs of the ladder alone, whose window is five bytes of jmp to the trampoline. The
bytes are those of `render`, which makes the template and is what tests compare it with.
"""

from __future__ import annotations

import errno
import struct
from typing import Any, NamedTuple

from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.plan import TRAP, SitePlan
from libbpf_shim.rewrite.render import lay_out

_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")
# Addresses of no process, by which render's literals are told apart
_SITE, _ENTER, _LEAN, _BIAS = 1 << 62 | 1, 1 << 62 | 2, 1 << 62 | 3, 1 << 40
_JUMP = 5  # bytes of jmp rel32


class Template(NamedTuple):
    """vaddr, window, orig, tactic, single, scan: as in SitePlan. code: as if it lay
    at the window, with displacements at `outwards`. site, enter: where literals of 64 bits
    stand that are the process's; own: where such of the module's do, and virtual addresses.
    lean: `enter` is the lean one. fixups: boundaries inside the window (virtual addresses), and
    the offsets of what stands for them."""

    vaddr: int
    window: int
    orig: bytes
    tactic: str
    single: bool
    scan: tuple[int, int]
    code: bytes
    outwards: tuple[int, ...]
    site: int
    enter: int
    lean: bool
    own: tuple[tuple[int, int], ...]
    fixups: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Bytes that the trampoline takes, a multiple of 16."""
        return len(self.code) + 15 & ~15

    def fill(self, bias: int, tramp: int, site: int, enter: int) -> bytes:
        """The trampoline at tramp, padded to `size`. ERANGE: out of reach."""
        out = bytearray(self.code)
        move = bias + (self.window & ~15) - tramp
        try:
            for at in self.outwards:
                _I32.pack_into(out, at, _I32.unpack_from(out, at)[0] + move)
        except struct.error:
            raise _far(tramp) from None
        _U64.pack_into(out, self.site, site)
        _U64.pack_into(out, self.enter, enter)
        for at, vaddr in self.own:
            _U64.pack_into(out, at, vaddr + bias)
        return bytes(out) + b"\xcc" * (-len(out) % 16)

    def jump(self, bias: int, tramp: int) -> bytes:
        """What is written over the window. ERANGE."""
        try:
            jump = _I32.pack(tramp - (self.window + bias + _JUMP))
        except struct.error:
            raise _far(tramp) from None
        return b"\xe9" + jump + self.orig[_JUMP:]

    def plain(self) -> tuple[Any, ...]:
        """For marshal; Template(*row) makes it again."""
        return tuple(self)


def _far(tramp: int) -> ShimError:
    return ShimError("RW0002", errno.ERANGE, f"trampoline at {tramp:#x}: out of reach")


def template(plan: SitePlan) -> Template | None:
    """Of a plan; None: its window is not a whole jump alone."""
    if plan.tactic == TRAP or plan.hole or plan.fixed or plan.carrier or len(plan.orig) < _JUMP:
        return None
    tramp = (plan.window & ~15) + _BIAS
    made, code = lay_out(plan, _BIAS, tramp, _SITE, _ENTER, False, _LEAN)
    words: dict[int, int] = {value: at for at, value in code.words}
    lean = _LEAN in words
    if _SITE not in words or (_ENTER in words) == lean:
        return None
    own = tuple((at, value - _BIAS) for value, at in words.items()
                if value not in (_SITE, _ENTER, _LEAN))
    return Template(
        plan.vaddr, plan.window, plan.orig, plan.tactic, plan.single, plan.scan, made.tramp,
        tuple(code.outwards), words[_SITE], words[_LEAN if lean else _ENTER], lean, own,
        tuple((at - _BIAS, copy - tramp) for at, copy in made.fixups))
