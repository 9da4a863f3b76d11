"""Diverting control at an instruction: plans from the file, bytes for one process."""

from __future__ import annotations

from libbpf_shim.rewrite.plan import CopyKind, Displaced, Hole, SitePatch, SitePlan
from libbpf_shim.rewrite.region import find_gap
from libbpf_shim.rewrite.render import render, trampoline_size
from libbpf_shim.rewrite.site import plan_site

__all__ = [
    "CopyKind", "Displaced", "Hole", "SitePatch", "SitePlan", "find_gap", "plan_site", "render",
    "trampoline_size",
]
