"""Keys of arrays that are known: the element is there, if it is in the array.

Source of rules: Linux 6.18, kernel/bpf/verifier.c, get_constant_map_key. Compiled by mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.scalar.domains import to_s64
from libbpf_shim.verifier.state import SCALAR, SPILL, STACK, ZERO, Reg

ARRAYS: Final = (2, 6)  # ARRAY, PERCPU_ARRAY


def constant(env: Env, key: Reg, size: int) -> int:
    """The number in the size bytes of stack that key points to, -1 where it is not known: zeroes,
    or what was spilled in that size."""
    if key.type != STACK or key.tm:
        return -1
    at = key.off + to_s64(key.tv)
    slot = (-at - 1) // 8
    content = env.cur.frames[key.frame].stack[slot]
    first = at & 7
    behind = content.types[first:]
    if _leading(behind, ZERO) >= size:
        return 0
    reg = content.reg
    if reg is None or reg.type != SCALAR or content.types[0] != SPILL:
        return -1
    if _leading(behind, SPILL) != size or reg.tm:
        return -1
    precision.mark_slot(env, key.frame, slot)
    return to_s64(reg.tv)


def _leading(types: bytes, kind: int) -> int:
    """How many bytes of that kind it begins with."""
    count = 0
    while count < len(types) and types[count] == kind:
        count += 1
    return count
