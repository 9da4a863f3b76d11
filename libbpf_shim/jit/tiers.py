"""Which compiler a program goes through: tier 1, or LLVM (tier 2, extra [llvm]), or the one at its
load and the other later; or none (tier 0, an interpreter in the image)."""

from __future__ import annotations

import errno
import functools
import logging
import os
import struct
from dataclasses import replace
from typing import Final

from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.tier2 import available, where
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import MPK, SFI
from libbpf_shim.verifier.program import Program

VARIABLE: Final = "LIBBPF_SHIM_TIER"
_INSN: Final = struct.Struct("<BBhi")  # code, registers, off, imm
# Of isa/insn.py, for which the compiled engine would be loaded.
_JMP, _JMP32, _JA, _CALL, _EXIT = 5, 6, 0, 0x80, 0x90
_log = logging.getLogger(__name__)
_LARGE: Final = 256  # slots of a program without loops for which LLVM pays
_LARGEST: Final = 1 << 15  # slots: LLVM takes a tenth of a millisecond for each
# bpf_timer_set_callback: what is set is an address in the image
_KEEPS_ADDRESS: Final = frozenset((170,))
_LOOPS: Final = frozenset((164, 181))  # bpf_for_each_map_elem, bpf_loop


def check() -> None:
    """EINVAL: the variable names no tier, and whoever set it wants one."""
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "0", "1", "2"):
        raise ShimError("JT0005", errno.EINVAL, f"{VARIABLE}={asked}: no tier: 0, 1 or 2",
                        f"{VARIABLE}=1")


def chosen() -> int:
    """By what a program is compiled at its load."""
    asked = os.environ.get(VARIABLE)
    return 2 if asked == "2" and available() else 0 if asked == "0" else 1


def improves() -> bool:
    """Whether programs are compiled by tier 2 afterwards."""
    return os.environ.get(VARIABLE, "") not in ("0", "1", "2") and available()


def isolated(program: Program) -> bool:
    """Its class says that it is to stay within a window of its own (jit/isolated.py)."""
    return program.policy is not None and program.policy.isolation == SFI


def hardened(program: Program) -> bool:
    """Its class says `spectre`, which tier 1 alone has code for (jit/speculation.py): LLVM turns
    arithmetic into branches, and what it knows from branches into less of it."""
    return program.policy is not None and bool(program.policy.spectre)


def pays(program: Program, facts: Facts) -> bool:
    """Whether a program that is used for long is worth tier 2: it has loops, functions of its own,
    or is large. Of those that are isolated, or hardened, there is tier 1's code alone."""
    slots = len(program.insns) // 8
    if isolated(program) or hardened(program) or slots > _LARGEST:
        return False
    if facts.helpers & _KEEPS_ADDRESS:
        return False
    loops = bool(facts.helpers & _LOOPS) or _goes_back(program.insns, facts.seen)
    return loops or len(facts.subprogs) > 1 or slots >= _LARGE


def _goes_back(insns: bytes, seen: bytes) -> bool:
    """Some jump that runs leads back. A load may wait for this, so no Insn is made."""
    for at, (code, _, off, imm) in enumerate(_INSN.iter_unpack(insns)):
        if code & 7 in (_JMP, _JMP32) and code & 0xF0 not in (_CALL, _EXIT) and seen[at] \
                and (imm if code == _JMP32 | _JA else off) < 0:
            return True
    return False


@functools.cache
def name(tier: int) -> str:
    """What the code of a tier depends on, beside this package."""
    if tier == 0:
        from libbpf_shim.jit import tier0

        return f"0 {tier0.name()}"
    if tier == 1:
        return "1"
    return f"2 {where()} {os.stat(where()).st_mtime_ns}"


def compile_by(tier: int, program: Program, facts: Facts) -> Image:
    """The image of a verified program, and how it is to be held where it runs. As _compile_by."""
    image = _compile_by(tier, program, facts)
    keyed = program.policy is not None and program.policy.isolation == MPK
    return replace(image, keyed=True) if keyed else image


def _compile_by(tier: int, program: Program, facts: Facts) -> Image:
    """The image of a verified program. What LLVM cannot do or makes unusable is tier 1's.
    ShimError EOPNOTSUPP: what stands in the way of both."""
    from libbpf_shim.jit import tier0, tier1

    if isolated(program):  # whichever tier was asked for
        from libbpf_shim.jit import isolated as within

        return within.compile_program(program, facts)
    if hardened(program):
        return tier1.compile_program(program, facts)
    if tier == 0:
        return tier0.compile_program(program, facts)
    if tier == 2:
        from libbpf_shim.jit.tier2 import apart, machine

        try:
            return machine.compile_program(program, facts, emit=apart.emitted)
        except ShimError as error:
            _log.debug("program %s: %s", program.name, error.message)
    return tier1.compile_program(program, facts)
