"""Numbers that are added to pointers, for programs whose class says `spectre`: between what
bounds, so that the compiler can hold a processor to them that runs ahead of a branch.

One place of the program has one pair of bounds, over all states. They say enough where no pointer
and number of different states go together beyond what one state has by itself; else the program is
refused. Source of that rule: kernel/bpf/verifier.c, update_alu_sanitation_state. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.env import EACCES, Env, Reject
from libbpf_shim.verifier.granted.denial import policy
from libbpf_shim.verifier.granted.index import Index
from libbpf_shim.verifier.state import Reg

_UNLIKE: Final = "different objects, or pointers and numbers that exclude one another"


def note(env: Env, kind: int, ptr: Reg, number: Reg, ptr_is_dst: bool) -> None:
    """A number in a register is added to a pointer, or subtracted from it."""
    at = env.running
    if not env.insns[at].code & 8:
        return
    found = Index(ptr, number, ptr_is_dst, 1 if kind == op.ADD else -1)
    known = env.indices.get(at)
    if known is None:
        env.indices[at] = found
    else:
        known.join(found)


def finish(env: Env) -> None:
    """When all paths are explored. Raises Reject."""
    for at in sorted(env.indices):
        if not env.indices[at].holds():
            name = policy(env).name
            raise Reject(EACCES, f"class {name}: spectre: insn {at} adds numbers to pointers on "
                                 f"paths that have {_UNLIKE}, so that no bounds hold all of them"
                                 "\nhint: write it once for each path")
