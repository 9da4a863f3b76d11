"""Where a function is left: return probes of code whose return addresses must stay as they are.

Go's runtime moves stacks while functions are in progress and reads the return addresses on them,
so none of ours may stand there; a probe of the return is then one of each `ret` instruction.
Source: Go's runtime (stack.go, traceback.go), cmd/internal/obj/x86.
"""

from __future__ import annotations

import errno

from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.body import find
from libbpf_shim.rewrite.returns import Returns

_RET = (b"\xc3", b"\xc2", b"\xf3\xc3")
_JMP = (b"\xe9", b"\xeb")


def ret_sites(module: Module, vaddr: int) -> Returns:
    """The `ret` instructions of the function that begins at vaddr.

    ShimError EOPNOTSUPP: it is not known where it ends, it is left by a jump too (a tail call), or
    never."""
    made = find(module, vaddr)
    if made is None or made.start != vaddr or not made.covers(made.end - 1):
        raise _refused(module, vaddr, "its function is not known")
    found = []
    for at, size in zip(made.addrs, made.sizes, strict=True):
        code = module.read(at, size)
        if code.startswith(_RET):
            found.append(at)
        elif code.startswith(_JMP) and not made.start <= _target(code, at) < made.end:
            raise _refused(module, vaddr, f"its function is left by a jump at {at:#x} too")
    if not found:
        raise _refused(module, vaddr, "its function does not return")
    return Returns(kept=True, leaves=tuple(found))


def _target(code: bytes, at: int) -> int:
    return at + len(code) + int.from_bytes(code[1:], "little", signed=True)


def _refused(module: Module, vaddr: int, why: str) -> ShimError:
    return ShimError("RW0003", errno.EOPNOTSUPP,
                     f"{module.path}+{vaddr:#x}: a return of Go's code cannot be probed: {why}")
