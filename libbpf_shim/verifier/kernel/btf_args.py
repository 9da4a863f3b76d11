"""Arguments and results of helpers that are pointers to the kernel's structures.

Source: Linux 6.18, kernel/bpf/verifier.c, check_reg_type, check_helper_call.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject, type_name
from libbpf_shim.verifier.kernel import btf_ptr, btf_walk
from libbpf_shim.verifier.state import (
    BTF_PTR,
    MAYBE_NULL,
    MEM,
    PERCPU,
    RCU,
    RDONLY,
    TRUSTED,
    Reg,
    pointer,
)

_SOCK: Final = "sock_common"
_PERCPU: Final = (BTF_PTR | PERCPU, BTF_PTR | PERCPU | RCU, BTF_PTR | PERCPU | TRUSTED)
_PERCPU_WORDS: Final = "percpu_ptr_, percpu_rcu_ptr_, percpu_trusted_ptr_"


def socket(env: Env, regno: int, reg: Reg, words: str, or_null: bool) -> None:
    """A struct sock of the kernel's, where one fits as well as a socket of bpf's."""
    plain = reg.type & ~MAYBE_NULL if or_null else reg.type
    if plain not in (BTF_PTR, BTF_PTR | TRUSTED):
        raise Reject(EACCES, f"R{regno} type={type_name(reg.type)} expected={words}")
    btf_ptr.is_one(env, regno, reg, _SOCK, False)
    btf_ptr.unmoved(regno, reg, True)


def percpu(regno: int, reg: Reg) -> None:
    """A variable of which every CPU has its own."""
    if reg.type not in _PERCPU:
        text = f"R{regno} type={type_name(reg.type)} expected={_PERCPU_WORDS}"
        raise Reject(EACCES, text)
    btf_ptr.unmoved(regno, reg, False)


def of_cpu(env: Env, given: Reg, null: int) -> Reg:
    """One CPU's own of a per-CPU variable. null: 0 or MAYBE_NULL."""
    btf = env.btf(given.btf)
    target = btf.strip(given.type_id)
    if btf_walk.is_struct(target):
        r = pointer(BTF_PTR | null)
        r.btf, r.type_id = given.btf, given.type_id
        return r
    sized = btf_walk.resolve(btf, given.type_id)
    if sized is None:
        name = target.name if target is not None else ""
        raise Reject(EINVAL, f"unable to resolve the size of type '{name}': -22")
    r = pointer(MEM | RDONLY | null)
    r.mem_size = sized.size
    return r
