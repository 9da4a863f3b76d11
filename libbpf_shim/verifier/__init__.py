"""The verifier: the kernel's algorithm on abstract states (DESIGN.md, verifier engine).

Which room holds what: docs/architecture.md. Facts and programs are values that everybody needs;
what judges is loaded when `verify` is asked for.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libbpf_shim.verifier.verify import verify

__all__ = ["verify"]


class _Package(ModuleType):
    """Its `verify` is the function, also where the module of that name was loaded by itself."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "verify" and isinstance(value, ModuleType):
            value = value.verify
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name != "verify":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from libbpf_shim.verifier.verify import verify

    return verify
