"""Diverting control at an instruction: plans from the file, bytes for one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from libbpf_shim.rewrite.plan import CopyKind, Displaced, Hole, SitePatch, SitePlan
from libbpf_shim.rewrite.region import find_gap
from libbpf_shim.rewrite.render import render, trampoline_size

if TYPE_CHECKING:
    from libbpf_shim.rewrite.site import plan_site

__all__ = [
    "CopyKind", "Displaced", "Hole", "SitePatch", "SitePlan", "find_gap", "plan_site", "render",
    "trampoline_size",
]


def __getattr__(name: str) -> Any:
    """What makes plans is loaded when it is asked for: most are kept."""
    if name != "plan_site":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from libbpf_shim.rewrite.site import plan_site

    return plan_site
