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
class SitePlan:
    """vaddr: probed instruction. window: first patched byte. orig: bytes of the window (its
    length). displaced: the whole instructions it covers, in order. at_entry: a function's first
    instruction (flags and red zone are dead). tactic: name of the rung, for `prog list`."""

    vaddr: int
    window: int
    orig: bytes
    displaced: tuple[Displaced, ...]
    at_entry: bool
    tactic: str

    @property
    def single(self) -> bool:
        """One instruction alone: patchable without stopping every thread."""
        return len(self.displaced) == 1

    @property
    def scan(self) -> tuple[int, int]:
        """Virtual addresses [lo, hi) that no thread may come back to when the window is
        written: shim_kp_window's scan_lo and scan_hi less the bias; (0, 0): none."""
        if self.single:
            return 0, 0
        return self.displaced[1].vaddr, self.window + len(self.orig)


@dataclass(frozen=True, slots=True)
class SitePatch:
    """For one process: bytes of the trampoline, bytes of the window, and for each instruction
    boundary inside the window the address of its copy (instruction pointer fix-ups)."""

    tramp: bytes
    window: bytes
    fixups: tuple[tuple[int, int], ...]
