"""A patch plan: what stands in a module at a site, and how to divert it.

Plans are made once per binary (build-id) and offset, from the file; `render` makes the bytes for
one process. Source of the tactics: docs/architecture.md, the ladder.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Displaced:
    """One instruction of a window: its offset in the module (virtual address in the file's
    terms), its bytes, and how its copy is made."""

    vaddr: int
    code: bytes
    text: str


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


@dataclass(frozen=True, slots=True)
class SitePatch:
    """For one process: bytes of the trampoline, bytes of the window, and for each instruction
    boundary inside the window the address of its copy (instruction pointer fix-ups)."""

    tramp: bytes
    window: bytes
    fixups: tuple[tuple[int, int], ...]
