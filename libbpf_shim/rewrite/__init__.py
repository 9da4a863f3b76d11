"""Diverting control at an instruction: plans from the file, bytes for one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from libbpf_shim.rewrite.plan import CopyKind, Displaced, Hole, SitePatch, SitePlan

if TYPE_CHECKING:
    from libbpf_shim.rewrite.region import find_gap
    from libbpf_shim.rewrite.render import render, trampoline_size
    from libbpf_shim.rewrite.site import plan_site

__all__ = [
    "CopyKind", "Displaced", "Hole", "SitePatch", "SitePlan", "find_gap", "plan_site", "render",
    "trampoline_size",
]
# What makes plans and code is loaded when it is asked for: most plans are kept.
_LATER = {"find_gap": "region", "plan_site": "site", "render": "render",
          "trampoline_size": "render"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
