"""ld_imm64 of a variable or function of the kernel: BPF_PSEUDO_BTF_ID.

A function that userspace lacks is not there for who asks (`bpf_ksym_exists`), as in a kernel that
lacks it: the program's other way is verified, and runs.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, __check_pseudo_btf_id,
check_ld_imm.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier.env import EINVAL, Env, Reject
from libbpf_shim.verifier.kernel import btf_walk
from libbpf_shim.verifier.program import Program
from libbpf_shim.verifier.state import BTF_PTR, MEM, PERCPU, RDONLY, Reg, const_reg, pointer

_ENOENT: Final = 2
_PERCPU_SECTION: Final = ".data..percpu"


def check(env: Env, at: int) -> None:
    """Before any path is looked at: the symbol at slot at is one."""
    type_id, fd = env.insns[at].imm, env.insns[at + 1].imm
    if fd and env.policy is not None and any(type_id == n for n, _ in env.policy.state):
        return
    if fd:
        raise Reject(EINVAL, "invalid module BTF object FD specified.")
    found = _type(env.btf(0), type_id)
    if found is None:
        raise Reject(_ENOENT, f"ldimm64 insn specifies invalid btf_id {type_id}.")
    if found.kind not in (kinds.VAR, kinds.FUNC):
        raise Reject(EINVAL, f"pseudo btf_id {type_id} in ldimm64 isn't KIND_VAR or KIND_FUNC")
    if not env.program.kernel_btf.has_symbol(found.name):
        text = "ldimm64 failed to find the address for kernel symbol"
        raise Reject(_ENOENT, f"{text} '{found.name}'.")
    value(env, type_id)


def value(env: Env, type_id: int) -> Reg:
    """The register that the instruction sets."""
    btf = env.btf(0)
    found = btf.type(type_id)
    if found.kind == kinds.FUNC:
        return pointer(MEM | RDONLY) if _there(env.program, found.name) else const_reg(0)
    if type_id in _percpu(btf):
        r = pointer(BTF_PTR | PERCPU)
        r.type_id = found.ref
        return r
    target = btf.strip(found.ref) if found.ref else None
    if btf_walk.is_struct(target):
        r = pointer(BTF_PTR)
        r.type_id = found.ref
        return r
    sized = btf_walk.resolve(btf, found.ref)
    if sized is None:
        name = target.name if target is not None else ""
        raise Reject(EINVAL, f"ldimm64 unable to resolve the size of type '{name}': -22")
    r = pointer(MEM | RDONLY)
    r.mem_size = sized.size
    return r


def function(program: Program, type_id: int) -> int:
    """What a compiled program gets for a function of the kernel, which has no address here: 1, or
    0 if it is not there. -1: it is none."""
    found = _type(program.kernel_btf.btf, type_id)
    if found is None or found.kind != kinds.FUNC:
        return -1
    return int(_there(program, found.name))


def _there(program: Program, name: str) -> bool:
    return program.kfuncs is None or name in program.kfuncs


def _type(btf: Btf, type_id: int) -> Type | None:
    try:
        return btf.type(type_id)
    except KeyError:
        return None


@lru_cache(maxsize=4)
def _percpu(btf: Btf) -> frozenset[int]:
    """The variables of which every CPU has its own."""
    section = btf.find(_PERCPU_SECTION, kinds.DATASEC)
    return frozenset(m.type for m in section.members) if section is not None else frozenset()
