"""Pointers to the kernel's structures: what may be read through them, what a load yields, and
which of them helpers take.

A pointer is trusted (valid while the program runs), RCU (valid in the RCU section), untrusted
(perhaps dangling: a load that faults gives 0) or of the old kind without a flag, which helpers
still take. Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c,
check_ptr_to_btf_access, check_ptr_to_map_access, check_reg_type, __check_ptr_off_reg.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.call import sleep
from libbpf_shim.verifier.env import EACCES, EINVAL, ENOTSUPP, Env, Reject, tnum, type_name
from libbpf_shim.verifier.kernel import btf_walk, struct_ops
from libbpf_shim.verifier.kernel.btf_walk import Found
from libbpf_shim.verifier.state import (
    ALLOC,
    BTF_PTR,
    MAYBE_NULL,
    MEM,
    NON_OWN,
    PERCPU,
    RCU,
    SCALAR,
    TRUSTED,
    TYPE_MASK,
    UNKNOWN,
    UNTRUSTED,
    USER,
    Reg,
    pointer,
)

_TRUST: Final = ALLOC | TRUSTED | NON_OWN
# What a map pointer points to, by map type (map_btf_id of its operations).
_MAP_STRUCTS: Final = {
    1: "bpf_htab", 2: "bpf_array", 3: "bpf_array", 4: "bpf_array", 5: "bpf_htab", 6: "bpf_array",
    7: "bpf_stack_map", 8: "bpf_array", 9: "bpf_htab", 10: "bpf_htab", 11: "lpm_trie",
    12: "bpf_array", 13: "bpf_htab", 14: "bpf_dtab", 15: "bpf_stab", 16: "bpf_cpu_map",
    17: "xsk_map", 18: "bpf_shtab", 19: "bpf_cgroup_storage_map", 20: "reuseport_array",
    21: "bpf_cgroup_storage_map", 22: "bpf_queue_stack", 23: "bpf_queue_stack",
    24: "bpf_local_storage_map", 25: "bpf_dtab", 26: "bpf_struct_ops_map", 27: "bpf_ringbuf_map",
    28: "bpf_local_storage_map", 29: "bpf_local_storage_map", 30: "bpf_bloom_filter",
    31: "bpf_ringbuf_map", 32: "bpf_local_storage_map", 33: "bpf_arena",
}


def struct_name(env: Env, reg: Reg) -> str:
    """The name of what a BTF_PTR points to."""
    return btf_walk.type_name(env.btf(reg.btf), reg.type_id)


def is_trusted(reg: Reg) -> bool:
    """Valid as long as the program runs."""
    if reg.ref:
        return True
    flags = reg.type & ~TYPE_MASK
    return flags & _TRUST != 0 and not flags & ~_TRUST


def access(env: Env, reg: Reg, regno: int, off: int, size: int, write: bool) -> Reg:
    """A load or store of size bytes at reg.off + off. Returns what a load yields."""
    off += reg.off
    btf = env.btf(reg.btf)
    name = struct_name(env, reg)
    if not reg.btf and not env.program.gpl_compatible:
        text = f"Cannot access kernel 'struct {name}' from non-GPL compatible program"
        raise Reject(EINVAL, text)
    if off < 0:
        raise Reject(EACCES, f"R{regno} is ptr_{name} invalid negative access: off={off}")
    if reg.tm or reg.tv:
        text = f"R{regno} is ptr_{name} invalid variable offset: off={off}, var_off={tnum(reg)}"
        raise Reject(EACCES, text)
    if reg.type & USER:
        raise Reject(EACCES, f"R{regno} is ptr_{name} access user memory: off={off}")
    if reg.type & PERCPU:
        raise Reject(EACCES, f"R{regno} is ptr_{name} access percpu memory: off={off}")
    if write:
        _write(env, reg, name, off, size)
        return UNKNOWN
    found = btf_walk.access(btf, reg.type_id, off, size)
    if not reg.btf:
        env.kernel.add(env.insn_idx)
        env.typed.add(env.insn_idx)
    if not is_trusted(reg) and not reg.type & RCU:
        env.probe_mem.add(env.insn_idx)
    return _loaded(env, reg, found)


def _loaded(env: Env, reg: Reg, found: Found) -> Reg:
    if found.kind == SCALAR:
        return UNKNOWN
    if found.kind == MEM:
        return pointer(MEM | found.flags)
    flags = _flags(env, reg, found)
    r = pointer(BTF_PTR | flags)
    r.btf, r.type_id = reg.btf, found.type_id
    if flags & MAYBE_NULL:
        r.id = env.new_id()
    return r


def _flags(env: Env, reg: Reg, found: Found) -> int:
    """How far a pointer is to be trusted that was loaded through reg."""
    flags = found.flags
    if reg.type & UNTRUSTED:
        return UNTRUSTED
    if not is_trusted(reg) and not reg.type & RCU:
        return flags & ~(_TRUST | RCU)
    if _listed(env, reg, found, "__safe_trusted"):
        return flags | TRUSTED
    if _listed(env, reg, found, "__safe_trusted_or_null"):
        return flags | TRUSTED | MAYBE_NULL
    if not sleep.in_rcu(env) or reg.type & MAYBE_NULL:
        return UNTRUSTED
    if _listed(env, reg, found, "__safe_rcu"):
        return flags | RCU
    or_null = _listed(env, reg, found, "__safe_rcu_or_null")
    if flags & RCU or or_null:
        return (flags & ~UNTRUSTED if or_null else flags) | RCU | MAYBE_NULL
    if flags & (PERCPU | USER):
        return flags
    return flags & ~(_TRUST | RCU)


def _listed(env: Env, reg: Reg, found: Found, suffix: str) -> bool:
    return btf_walk.listed(env.btf(reg.btf), reg.type_id, found.field, found.type_id, suffix)


def _write(env: Env, reg: Reg, name: str, off: int, size: int) -> None:
    """Programs write to no structure of the kernel's, but to one field of conntrack's, and to
    those that struct_ops.py knows."""
    if env.prog_type == 27:  # STRUCT_OPS
        struct_ops.check_write(env, name, off, size)
        return
    if env.prog_type in (3, 4, 6):  # SCHED_CLS, SCHED_ACT, XDP
        _conntrack(env, name, off, size)
        return
    raise Reject(EACCES, "only read is supported")


def _conntrack(env: Env, name: str, off: int, size: int) -> None:
    """_nf_conntrack_btf_struct_access(), where conntrack is there."""
    found = env.btf(0).find("nf_conn", 4)
    if found is None or env.btf(0).find("nf_conn___init", 4) is None:
        raise Reject(EACCES, "")
    if name not in ("nf_conn", "nf_conn___init"):
        raise Reject(EACCES, "only read is supported")
    for m in found.members:
        if m.name == "mark" and m.offset // 8 == off:
            end = off + env.btf(0).sizeof(m.type)
            if off + size > end:
                text = f"write access at off {off} with size {size} beyond the member of nf_conn"
                raise Reject(EACCES, f"{text} ended at {end}")
            return
    raise Reject(EACCES, f"no write support to nf_conn at off {off}")


def map_field(env: Env, reg: Reg, regno: int, off: int, size: int, write: bool) -> Reg:
    """A load through a map's own pointer: fields of struct bpf_map, and of what is around it."""
    type = env.maps[reg.map].type
    name = _MAP_STRUCTS.get(type, "")
    off += reg.off
    if not name:
        text = f"map_ptr access not supported for map type {type}"
        raise Reject(ENOTSUPP, text)
    if off < 0:
        raise Reject(EACCES, f"R{regno} is {name} invalid negative access: off={off}")
    if write:
        raise Reject(EACCES, f"only read from {name} is supported")
    found = env.btf(0).find(name, 4)
    if found is None:
        raise Reject(ENOTSUPP, f"R{regno} fields of struct {name} are not supported here")
    env.kernel.add(env.insn_idx)
    env.probe_mem.add(env.insn_idx)
    got = btf_walk.access(env.btf(0), found.id, off, size)
    if got.kind == SCALAR:
        return UNKNOWN
    r = pointer(got.kind | got.flags)
    if got.kind == BTF_PTR:
        r.type_id = got.type_id
    return r


def kernel_pointer(env: Env, name: str, flags: int) -> Reg:
    """A pointer to a structure of the kernel's of that name, its id to be set. Reject: its BTF has
    none."""
    found = env.btf(0).find(name, 4)
    if found is None:
        raise Reject(ENOTSUPP, f"struct {name}: not in the kernel's BTF, not supported here")
    r = pointer(BTF_PTR | flags)
    r.type_id = found.id
    return r


def unmoved(regno: int, reg: Reg, fixed_ok: bool) -> None:
    """The pointer is where it was made; fixed_ok: or at a known place after it."""
    name = type_name(reg.type)
    if reg.off < 0:
        text = f"negative offset {name} ptr R{regno} off={reg.off} disallowed"
        raise Reject(EACCES, text)
    if not fixed_ok and reg.off:
        text = f"dereference of modified {name} ptr R{regno} off={reg.off} disallowed"
        raise Reject(EACCES, text)
    if reg.tm or reg.tv:
        text = f"variable {name} access var_off={tnum(reg)} disallowed"
        raise Reject(EACCES, text)


def argument(env: Env, regno: int, reg: Reg, wanted: str, or_null: bool) -> None:
    """A helper's argument: a pointer to a structure of that name, or to one in it."""
    plain = reg.type & ~MAYBE_NULL if or_null else reg.type
    if plain not in (BTF_PTR, BTF_PTR | TRUSTED, BTF_PTR | RCU):
        words = "ptr_, trusted_ptr_, rcu_ptr_"
        raise Reject(EACCES, f"R{regno} type={type_name(reg.type)} expected={words}")
    is_one(env, regno, reg, wanted, False)
    unmoved(regno, reg, True)


def is_one(env: Env, regno: int, reg: Reg, wanted: str, strict: bool) -> None:
    """reg points to the structure of that name, or (not strict) to one that it begins or has at
    that place."""
    found = env.btf(0).find(wanted, 4, 5)
    if found is None:
        raise Reject(ENOTSUPP, f"struct {wanted}: not in the kernel's BTF, not supported here")
    fits = not reg.btf and btf_walk.same(env.btf(0), reg.type_id, reg.off, found.id, strict)
    if not fits:
        text = f"R{regno} is of type {struct_name(env, reg)} but {wanted} is expected"
        raise Reject(EACCES, text)
