"""System calls in code that is in no file: made by the program itself, and executable since now.

Nothing names its functions, so it is decoded from its beginning, and only the commonest call is
met: a constant number put into eax directly before it, whole instructions behind it.
"""

from __future__ import annotations

import hashlib

from libbpf_shim.elf.module import PF_X, PT_LOAD, Module, Segment
from libbpf_shim.rewrite.syscalls import CallPlan, make_plan


class Memory(Module):
    """Bytes of a process as a module; they begin at virtual address BASE."""

    BASE = 0x1000

    def __init__(self, text: bytes) -> None:
        self.path, self.dev, self.ino, self.mtime_ns = "", 0, 0, 0
        self.data = text  # type: ignore[assignment]
        self.type, self.entry = 0, self.BASE
        self._sections = []
        self.segments = (Segment(PT_LOAD, PF_X, 0, self.BASE, len(text), len(text)),)
        self.__dict__["build_id"] = hashlib.sha256(text).digest()[:20]


def plan_memory(module: Memory) -> CallPlan:
    """Its calls."""
    plan = make_plan(module)
    sites = tuple(
        s for s in plan.sites
        if s.before and s.after and s.nr >= 0 and not s.inside and not s.before.island
        and not s.after.island and s.before.single and s.after.window == s.vaddr + 2)
    return CallPlan(plan.key, sites, ())
