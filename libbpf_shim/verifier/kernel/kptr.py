"""Pointers that map values and a program's own objects hold: __kptr_untrusted, __kptr,
__percpu_kptr and __uptr. What a load of one yields, what may be stored, and bpf_kptr_xchg().
Ready for mypyc.

A pointer is to a structure of the kernel's if there is one of that name and kind, else to one of
the program's own. Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c,
check_map_kptr_access, map_kptr_match_type, process_kptr_func; kernel/bpf/btf.c, btf_parse_kptr.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.call import sleep
from libbpf_shim.verifier.env import EACCES, EFAULT, EINVAL, Env, Reject, type_name
from libbpf_shim.verifier.kernel import btf_ptr, btf_walk
from libbpf_shim.verifier.memory import record
from libbpf_shim.verifier.memory.special import (
    KPTR,
    KPTR_UNTRUSTED,
    LIST_NODE,
    PERCPU_KPTR,
    POINTERS,
    RB_NODE,
    UPTR,
    Special,
)
from libbpf_shim.verifier.state import (
    ALLOC,
    BTF_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NON_OWN,
    PERCPU,
    RCU,
    SCALAR,
    SPILL,
    TRUSTED,
    TYPE_MASK,
    UNKNOWN,
    UNTRUSTED,
    Reg,
    Slot,
    pointer,
)

XCHG: Final = 194  # BPF_FUNC_kptr_xchg
_READ: Final = 1  # BPF_LDX, BPF_ST, BPF_STX
_STORE_IMM: Final = 2
# Structures of the kernel's that RCU protects (rcu_protected_types).
_PROTECTED: Final = frozenset((
    "prog_test_ref_kfunc", "cgroup", "bpf_cpumask", "task_struct", "bpf_crypto_ctx",
))  # fmt: skip
_PLAIN: Final = (BTF_PTR, BTF_PTR | TRUSTED, BTF_PTR | RCU)


def field_at(env: Env, reg: Reg, off: int) -> Special | None:
    """The pointer's field that an access at reg + off is of, if it is of one."""
    if reg.tm:
        return None
    at = reg.off + off + reg.tv
    for field in record.of_reg(env, reg):
        if field.off == at and field.name in POINTERS:
            return field
    return None


def access(env: Env, field: Special, write: bool, value: Reg | None, value_no: int) -> Reg:
    """The instruction's load from the field, or store into it. Raises Reject."""
    i = env.insns[env.insn_idx]
    env.kernel.add(env.insn_idx)
    if i.code & 0xE0 != op.MODE_MEM:
        text = "kptr in map can only be accessed using BPF_MEM instruction mode"
        raise Reject(EACCES, text)
    if write and field.name in (KPTR, PERCPU_KPTR):
        raise Reject(EACCES, "store to referenced kptr disallowed")
    if write and field.name == UPTR:
        raise Reject(EACCES, "store to uptr disallowed")
    if not write:
        return _loaded(env, field)
    if i.klass == _STORE_IMM:
        if i.imm:
            text = f"BPF_ST imm must be 0 when storing to kptr at off={field.off}"
            raise Reject(EACCES, text)
    elif value is not None and not (value.type == SCALAR and value.tm == 0 and value.tv == 0):
        _match(env, field, value, value_no)
    return UNKNOWN


def _loaded(env: Env, field: Special) -> Reg:
    btf = env.btf(field.btf)
    if field.name == UPTR:
        r = pointer(MEM | MAYBE_NULL)
        r.mem_size = btf.type(field.type_id).size
        r.id = env.new_id()
        return r
    name = btf_walk.type_name(btf, field.type_id)
    own = field.btf != 0
    flags = UNTRUSTED
    safe = field.name == PERCPU_KPTR or (field.name == KPTR and (own or name in _PROTECTED))
    if safe and sleep.in_rcu(env):
        flags = RCU
        if field.name == PERCPU_KPTR:
            flags |= PERCPU
        elif own:
            flags |= ALLOC
        if own and _is_node(env, field):
            flags |= NON_OWN
    r = pointer(BTF_PTR | MAYBE_NULL | flags)
    r.btf, r.type_id = field.btf, field.type_id
    r.id = env.new_id()
    return r


def _is_node(env: Env, field: Special) -> bool:
    """What it points to may be in a list or tree."""
    for inner in record.of_struct(env, field.btf, field.type_id):
        if inner.name in (LIST_NODE, RB_NODE):
            return True
    return False


def _match(env: Env, field: Special, reg: Reg, regno: int) -> None:
    """map_kptr_match_type(): the register's pointer suits the field."""
    name = btf_walk.type_name(env.btf(field.btf), field.type_id)
    flags = reg.type & ~TYPE_MASK
    known = ""
    if reg.type & TYPE_MASK == BTF_PTR:
        if reg.btf:
            allowed = MAYBE_NULL | ALLOC | (PERCPU if field.name == PERCPU_KPTR else 0)
        else:
            allowed = MAYBE_NULL | TRUSTED | RCU
            allowed |= UNTRUSTED if field.name == KPTR_UNTRUSTED else 0
        if not flags & ~allowed:
            known = btf_ptr.struct_name(env, reg)
            btf_ptr.unmoved(regno, reg, True)
            strict = field.name != KPTR_UNTRUSTED
            same = btf_walk.same(env.btf(reg.btf), reg.type_id, reg.off, field.type_id, strict)
            if reg.btf == field.btf and same:
                return
    text = f"invalid kptr access, R{regno} type={type_name(reg.type)}{known} expected=ptr_{name}"
    if field.name == KPTR_UNTRUSTED:
        text += f" or untrusted_ptr_{name}"
    raise Reject(EACCES, text)


# bpf_kptr_xchg()


def place(env: Env, regno: int, reg: Reg) -> Special:
    """Its first argument: the address of a field that holds a reference."""
    if reg.type not in (MAP_VALUE, BTF_PTR | ALLOC):
        text = f"R{regno} type={type_name(reg.type)} expected=map_value, ptr_"
        raise Reject(EACCES, text)
    if reg.type != MAP_VALUE:
        btf_ptr.unmoved(regno, reg, True)
    elif env.maps[reg.map].btf is None:
        text = f"map '{env.maps[reg.map].name}' has to have BTF in order to use bpf_kptr_xchg"
        raise Reject(EINVAL, text)
    if reg.tm:
        why = "kptr has to be at the constant offset"
        raise Reject(EINVAL, f"R{regno} doesn't have constant offset. {why}")
    fields = [f for f in record.of_reg(env, reg) if f.name in POINTERS and f.name != UPTR]
    if not fields:
        raise Reject(EINVAL, f"R{regno} has no valid kptr")
    at = reg.off + reg.tv
    for field in fields:
        if field.off == at:
            if field.name == KPTR_UNTRUSTED:
                raise Reject(EACCES, f"off={at} kptr isn't referenced kptr")
            return field
    raise Reject(EACCES, f"off={at} doesn't point to kptr")


def given(env: Env, field: Special, regno: int, reg: Reg) -> None:
    """Its second argument, not NULL: an owned pointer of the field's type."""
    plain = reg.type & ~MAYBE_NULL
    if plain & ALLOC:
        plain &= ~(ALLOC | PERCPU)
    if plain not in _PLAIN:
        words = "ptr_, trusted_ptr_, rcu_ptr_"
        raise Reject(EACCES, f"R{regno} type={type_name(reg.type)} expected={words}")
    if reg.type & MAYBE_NULL:
        if reg.type & ALLOC:  # 6.18 takes it for a mistake of its own
            why = "invalid PTR_TO_BTF_ID register for type match"
            raise Reject(EFAULT, f"verifier bug: {why}")
        raise Reject(EACCES, f"Possibly NULL pointer passed to helper arg{regno}")
    _match(env, field, reg, regno)
    if reg.off:
        why = "must have zero offset when passed to release func or trusted arg to kfunc"
        raise Reject(EINVAL, f"R{regno} {why}")
    btf_ptr.unmoved(regno, reg, False)
    if not reg.ref:
        raise Reject(EINVAL, f"R{regno} must be referenced when passed to release function")


def release(env: Env, ref: int) -> None:
    """The reference is the map's now: a per-CPU object may be looked at until the RCU section
    ends, others not at all."""
    if not env.release(ref):
        raise Reject(EINVAL, f"func bpf_kptr_xchg#{XCHG} reference has not been acquired before")
    rcu = sleep.in_rcu(env)
    for frame in env.cur.frames:
        for n in range(10):
            if frame.regs[n].ref == ref:
                frame.regs[n] = _left(frame.regs[n], rcu)
        for s in range(len(frame.stack)):
            slot = frame.stack[s]
            if slot.reg is not None and slot.types[0] == SPILL and slot.reg.ref == ref:
                frame.stack[s] = Slot(slot.types, _left(slot.reg, rcu))


def _left(reg: Reg, rcu: bool) -> Reg:
    if not (rcu and reg.type & ALLOC and reg.type & PERCPU):
        return UNKNOWN
    r = reg.copy()
    r.ref = 0
    r.type = r.type & ~ALLOC | RCU
    return r


def taken(env: Env, field: Special) -> Reg:
    """Its result: what was there, the program's own now, or NULL."""
    flags = MAYBE_NULL
    if field.btf:
        flags |= ALLOC | (PERCPU if field.name == PERCPU_KPTR else 0)
    r = pointer(BTF_PTR | flags)
    r.btf, r.type_id = field.btf, field.type_id
    r.ref = env.reference(env.insn_idx)
    r.id = r.ref
    return r
