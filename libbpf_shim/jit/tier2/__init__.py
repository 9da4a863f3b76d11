"""Tier 2: LLVM's code for programs that are worth it (extra [llvm], llvmlite).

The rooms: body.py a function's text on its way, arith.py, access.py, control.py, lookup.py what
the instructions mean as LLVM IR, frames.py which registers point into the stack, module.py the
whole program, emit.py LLVM itself (apart.py: in another process), elf.py its object, machine.py
from a program to an image. None is imported before somebody asks for this tier.

What LLVM may not know is not said: sums may wrap, addresses are integers until they are used, all
registers begin as 0. Memory that others see (maps, packets, contexts) is volatile, so that each
access of the program is one access of its width, in the program's order; atomics are the
instructions that tier 1 uses, in inline assembly. The program's stack is the function's own.
"""

from __future__ import annotations

import functools
import os
import sys


@functools.cache
def where() -> str:
    """The file of llvmlite; "": it is not installed."""
    for place in sys.path:  # most packages lie so, and no folder need be read
        if os.access(found := f"{place}/llvmlite/__init__.py", os.R_OK):
            return found
    import importlib.util

    spec = importlib.util.find_spec("llvmlite")
    return spec.origin or "" if spec else ""


def available() -> bool:
    """llvmlite is installed."""
    return bool(where())
