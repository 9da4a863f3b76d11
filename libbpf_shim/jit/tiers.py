"""Which compiler a program goes through: tier 1, or LLVM (tier 2, extra [llvm])."""

from __future__ import annotations

import functools
import logging
import os
from typing import Final

from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.tier2 import available
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

VARIABLE: Final = "LIBBPF_SHIM_TIER"
_log = logging.getLogger(__name__)


def chosen() -> int:
    """By the environment: 1 or 2; anything else is tier 1."""
    return 2 if os.environ.get(VARIABLE) == "2" and available() else 1


@functools.cache
def name(tier: int) -> str:
    """What the code of a tier depends on, beside this package."""
    if tier == 1:
        return "1"
    from importlib.metadata import version

    return f"2 {version('llvmlite')}"


def compile_by(tier: int, program: Program, facts: Facts) -> Image:
    """The image of a verified program. What LLVM cannot do or makes unusable is tier 1's.
    ShimError EOPNOTSUPP: what stands in the way of both."""
    from libbpf_shim.jit import tier1

    if tier == 2:
        from libbpf_shim.jit.tier2 import machine

        try:
            return machine.compile_program(program, facts)
        except ShimError as error:
            _log.debug("program %s: %s", program.name, error.message)
    return tier1.compile_program(program, facts)
