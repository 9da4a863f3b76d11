"""Calls of the host's functions, and addresses of its variables, in tier 1.

A call goes through the runtime (csrc/runtime/hostcall.c), which keeps vector registers, aligns the
stack and lets go of the virtual CPU: the arguments are where System V has them already, r10 is the
function and r9 the run. Narrow arguments are extended before, the result behind the call, by their
types: callers extend what is less than 32 bits wide, and nobody what is above that.

The addresses are symbols of the image, `host:NAME` and `state:NAME` by their names in the binary,
which the backend looks up in each process (attach/hostaddr.py).
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.jit import encode as x
from libbpf_shim.jit.emit import REG
from libbpf_shim.jit.encode import RAX
from libbpf_shim.jit.image import OF_HOST, OF_STATE
from libbpf_shim.jit.moves import SIGNED_LOADS
from libbpf_shim.verifier.policy import NUMBER, HostFunction, Policy

FUNC: Final = 217  # SHIM_FUNC_HOST_CALL
_ZERO_EXTENDED: Final = {1: b"\x0f\xb6", 2: b"\x0f\xb7", 4: b"\x8b"}


def function(policy: Policy | None, name: str) -> HostFunction | None:
    """The host's function that facts call so, with OF_HOST before it."""
    if policy is None or not name.startswith(OF_HOST):
        return None
    wanted = name.removeprefix(OF_HOST)
    return next((f for f in policy.functions if f.name == wanted), None)


def variable(policy: Policy | None, type_id: int) -> str:
    """The symbol of the host's variable with that id in the class's BTF; "": there is none."""
    if policy is None:
        return ""
    found = next((node for number, node in policy.state if number == type_id), -1)
    return OF_STATE + policy.nodes[found].path if found >= 0 else ""


def arguments(called: HostFunction) -> bytes:
    """What makes narrow ones as C wants them."""
    found = b""
    for n, param in enumerate(called.params):
        if param.truth:  # test reg8, reg8; setne reg8
            reg = REG[n + 1]
            found += x.rr(b"\x84", reg, reg, False, low_byte=True)
            found += x.rr(b"\x0f\x95", 0, reg, False, low_byte=True)
        if param.kind == NUMBER and param.size < 4:
            found += _extend(REG[n + 1], param.size, param.signed)
    return found


def result(called: HostFunction) -> bytes:
    """What makes rax as the type says."""
    if called.result != NUMBER or called.result_size >= 8:
        return b""
    return _extend(RAX, called.result_size, called.result_signed)


def _extend(reg: int, size: int, signed: bool) -> bytes:
    return extended(reg, reg, size, signed)


def extended(dst: int, src: int, size: int, signed: bool) -> bytes:
    """dst = src, of whose low bytes so many count."""
    if size >= 8:
        return x.mov(dst, src)
    if signed:
        return x.rr(SIGNED_LOADS[size], dst, src, True, low_byte=size == 1)
    return x.rr(_ZERO_EXTENDED[size], dst, src, False, low_byte=size == 1)
