"""A patch plan: what stands in a module at a site, and how to divert it.

Plans are made once per binary (build-id) and offset, from the file; `render` makes the bytes for
one process. Source of the tactics: docs/architecture.md, the ladder.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class CopyKind(Enum):
    """How an instruction's copy is made in the trampoline."""

    PLAIN = "plain"  # the same bytes
    RIP = "rip"  # the same bytes with another disp32 at disp_at, to reach target
    JMP = "jmp"  # jmp rel32 to target
    JCC = "jcc"  # jcc rel32 to target, condition in code
    LOOP = "loop"  # loop, loope, loopne, jrcxz: a two-jump island to target
    CALL = "call"  # push of the original return address, jmp to target
    CALL_INDIRECT = "call-indirect"  # the same, jmp through the call's operand
    STAYS = "stays"  # none: it stands beside the window (endbr64 before, syscall behind)


@dataclass(frozen=True, slots=True)
class Displaced:
    """One instruction of a window: its offset in the module (virtual address in the file's
    terms), its bytes, and how its copy is made. target: virtual address that a branch or a
    RIP-relative operand leads to; disp_at: where in code its disp32 stands."""

    vaddr: int
    code: bytes
    text: str
    kind: CopyKind = CopyKind.PLAIN
    target: int = 0
    disp_at: int = 0
    ends: bool = False  # control never goes on to the next instruction


@dataclass(frozen=True, slots=True)
class Hole:
    """Five dead bytes that a short jump reaches: virtual address and what stands there."""

    vaddr: int
    orig: bytes


TRAP = "int3"  # the last rung
DEAD = "dead"  # no window: nobody comes there
JUMP = 5  # bytes of jmp rel32


@dataclass(frozen=True, slots=True)
class SitePlan:
    """vaddr: probed instruction. window: first patched byte. orig: bytes of the window (its
    length). displaced: the whole instructions it covers, in order, and what STAYS beside them; a
    probe of any of these is served by this window. at_entry: a function's first instruction
    (flags and red zone are dead). tactic: name of the rung, for `prog list`. hole: where a short
    jump leads. carrier: plan without a probe (vaddr 0) whose window the hole lies in. fixed:
    bytes behind the window that end a punned jump and must stay as they are. others: what to do
    instead where this one cannot be in a process, best first."""

    vaddr: int
    window: int
    orig: bytes
    displaced: tuple[Displaced, ...]
    at_entry: bool
    tactic: str
    hole: Hole | None = None
    fixed: bytes = b""
    carrier: SitePlan | None = None
    others: tuple[SitePlan, ...] = ()

    @property
    def end(self) -> int:
        """Behind the window."""
        return self.window + len(self.orig)

    @property
    def dead(self) -> int:
        """Where its instructions end: what is left of the window is not executed."""
        last = next(d for d in reversed(self.displaced) if d.kind is not CopyKind.STAYS)
        return last.vaddr + len(last.code)

    @property
    def inner(self) -> tuple[int, ...]:
        """Instructions that begin inside the window, where a thread may stand."""
        return tuple(d.vaddr for d in self.displaced if self.window < d.vaddr < self.end)

    @property
    def single(self) -> bool:
        """Nobody can stand inside: patchable without stopping every thread."""
        return not self.inner

    @property
    def scan(self) -> tuple[int, int]:
        """Virtual addresses [lo, hi) that no thread may come back to when the window is
        written: shim_kp_window's scan_lo and scan_hi less the bias; (0, 0): none."""
        return (self.inner[0], self.end) if self.inner else (0, 0)

    @property
    def resume(self) -> int:
        """Where control goes on behind the copies; 0: the last of them leads elsewhere."""
        last = self.displaced[-1]
        if last.ends or last.kind in (CopyKind.CALL, CopyKind.CALL_INDIRECT):
            return 0
        return last.vaddr if last.kind is CopyKind.STAYS else last.vaddr + len(last.code)

    def serves(self, vaddr: int) -> bool:
        """A probe of the instruction at vaddr finds its place in this plan's trampoline."""
        return any(d.vaddr == vaddr for d in self.displaced)


@dataclass(frozen=True, slots=True)
class SitePatch:
    """For one process: bytes of the trampoline, bytes of the window, for each instruction
    boundary inside the window the address that stands for it (instruction pointer fix-ups), and
    for each instruction but the probed one its slot: 8 bytes of nop before the copy, which a jump
    to another trampoline may replace."""

    tramp: bytes
    window: bytes
    fixups: tuple[tuple[int, int], ...]
    slots: tuple[tuple[int, int], ...] = ()
