"""Calls of kernel functions: what is checked before, and what a call leaves behind.

kfunc_proto.py reads prototypes from BTF, kfunc_table.py has flags and who may call, kfunc_args.py
checks arguments, a kind each. A function that does more than its prototype says has its part here:
_special() for results, sections.py, graph.py, locks.py and workqueue.py for the rest.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_kfunc_call,
check_special_kfunc. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.isa.insn import CALL, JMP, PSEUDO_KFUNC_CALL, Insn
from libbpf_shim.verifier.call import later, sleep
from libbpf_shim.verifier.env import EACCES, EFAULT, EINVAL, Env, Reject
from libbpf_shim.verifier.granted import denial
from libbpf_shim.verifier.kfuncs import (
    dynptr,
    graph,
    iterators,
    kfunc_args,
    kfunc_proto,
    kfunc_table,
    kfunc_types,
    locks,
    sections,
)
from libbpf_shim.verifier.kfuncs.kfunc_call import Call
from libbpf_shim.verifier.kfuncs.kfunc_types import Kfunc
from libbpf_shim.verifier.memory import record, slots, special
from libbpf_shim.verifier.scalar.bounds import sync
from libbpf_shim.verifier.state import (
    ALLOC,
    BTF_PTR,
    CALLBACK,
    ITER_NEXT,
    MAYBE_NULL,
    MEM,
    NO_REG,
    PERCPU,
    PRUNE,
    RCU,
    RDONLY,
    TRUSTED,
    UNKNOWN,
    UNTRUSTED,
    ZERO_REG,
    Reg,
    Step,
    pointer,
)

_TAKES_LOCK: Final = frozenset(("bpf_res_spin_lock", "bpf_res_spin_lock_irqsave"))
_TRAP: Final = "__bpf_trap"
THROW: Final = "bpf_throw"
PULLS: Final = "bpf_xdp_pull_data"
SET_WORK: Final = "bpf_wq_set_callback_impl"
_TASK_WORK: Final = frozenset((
    "bpf_task_work_schedule_signal_impl", "bpf_task_work_schedule_resume_impl",
))  # fmt: skip
_LATER: Final = frozenset((SET_WORK, *_TASK_WORK))
# What may be called while a bpf_spin_lock is held.
_UNDER_LOCK: Final = frozenset((
    "bpf_list_push_front_impl", "bpf_list_push_back_impl", "bpf_list_pop_front",
    "bpf_list_pop_back", "bpf_list_front", "bpf_list_back", "bpf_rbtree_add_impl",
    "bpf_rbtree_remove", "bpf_rbtree_first", "bpf_rbtree_root", "bpf_rbtree_left",
    "bpf_rbtree_right", "bpf_refcount_acquire_impl", "bpf_iter_num_new", "bpf_iter_num_next",
    "bpf_iter_num_destroy", "bpf_res_spin_lock", "bpf_res_spin_unlock",
    "bpf_res_spin_lock_irqsave", "bpf_res_spin_unlock_irqrestore",
))  # fmt: skip
_PERCPU_MOST: Final = 512  # bytes of an object of each CPU


def is_call(i: Insn) -> bool:
    return i.code == JMP | CALL and i.src == PSEUDO_KFUNC_CALL


def of(env: Env, i: Insn) -> Kfunc | None:
    """The function that the instruction calls, if there is one."""
    return env.kfuncs.get((i.imm, i.off)) if is_call(i) else None


def prune_kind(env: Env, i: Insn) -> int:
    """Env.prune_point of a call."""
    k = of(env, i)
    if k is None:
        return 0
    if k.name == graph.ADD:
        return CALLBACK
    if k.flags & kfunc_table.ITER_NEXT:
        return ITER_NEXT
    return PRUNE if k.name in _LATER else 0


def check_under_lock(env: Env, i: Insn) -> None:
    """Most calls are not allowed while a lock is held."""
    k = of(env, i)
    if k is None or i.off or k.name not in _UNDER_LOCK:
        raise Reject(EINVAL, "function calls are not allowed while holding a lock")


def call(env: Env, i: Insn, step: Step) -> bool:
    """Check and carry out one call. False: the path ends here (bpf_throw). Raises Reject."""
    k = of(env, i)
    if k is None:
        env.kfunc_left = True
        return True
    if not k.allowed:
        raise Reject(EACCES, f"calling kernel function {k.name} is not allowed")
    if env.policy is not None:
        denial.check_kfunc(env, k.name)
    env.called_kfuncs.add(k.name)
    if k.name in _TAKES_LOCK:
        _not_taken(env)
    if k.name == _TRAP:
        raise Reject(EFAULT, "unexpected __bpf_trap() due to uninitialized variable?")
    sleeps = k.flags & kfunc_table.SLEEPABLE != 0
    if sleeps and not sleep.sleepable(env):
        text = f"program must be sleepable to call sleepable kfunc {k.name}"
        raise Reject(EACCES, text)
    c = Call(k)
    kfunc_args.check(env, c, step)
    if k.name == graph.ADD:
        graph.order(env, c, step)
    if k.name in _LATER:
        later.set_callback(env, c, k.name in _TASK_WORK)
    _sections(env, k, sleeps)
    _release(env, c)
    if k.name in graph.INSERTS:
        graph.given_away(env, env.regs()[2].ref)
    if k.name == THROW:
        return False
    regs = env.regs()
    for r in range(6):
        regs[r] = NO_REG
    _result(env, c)
    if k.name == PULLS:
        slots.forget_packets(env)
    if k.flags & kfunc_table.ITER_NEXT:
        iterators.advance(env, c.iter_frame, c.iter_slot, step)
    return True


def _not_taken(env: Env) -> None:
    """The lock may not be had: then nothing has happened, and the result is an error."""
    other = env.push(env.insn_idx + 1)
    regs = other.frames[-1].regs
    for r in range(6):
        regs[r] = NO_REG
    r0 = UNKNOWN.copy()
    r0.s32min, r0.s32max = -4095, -1
    r0.smin, r0.smax = -4095, -1
    sync(r0)
    regs[0] = r0


def _sections(env: Env, k: Kfunc, sleeps: bool) -> None:
    if sleeps:
        sections.check_kfunc(env, k.name)
    sections.kfunc(env, k.name)
    if locks.in_order(env) and k.name in ("bpf_rcu_read_lock", "bpf_rcu_read_unlock"):
        text = "Calling bpf_rcu_read_{lock,unlock} in unnecessary rbtree callback"
        raise Reject(EACCES, text)
    if k.flags & kfunc_table.IN_RCU and not sleep.in_rcu(env):
        text = f"kernel func {k.name} requires RCU critical section protection"
        raise Reject(EACCES, text)


def _release(env: Env, c: Call) -> None:
    if not c.release:
        return
    ref = env.regs()[c.release].ref
    if not env.release(ref):
        k = c.kfunc
        text = f"kfunc {k.name}#{k.id} reference has not been acquired before"
        raise Reject(EINVAL, text)
    slots.forget_reference(env, ref)


def _result(env: Env, c: Call) -> None:
    k = c.kfunc
    if k.result == kfunc_types.NOTHING:
        return
    if k.result == kfunc_types.INTEGER:
        env.regs()[0] = ZERO_REG if k.name in _TAKES_LOCK else UNKNOWN
        return
    if k.target == 0 and not _is_special(k):
        env.regs()[0] = UNKNOWN
        return
    reg = _pointer(env, c)
    if reg.type & UNTRUSTED and not k.flags & kfunc_table.RET_NULL:
        env.regs()[0] = reg
        return
    null = k.flags & kfunc_table.RET_NULL != 0
    if k.name == "bpf_refcount_acquire_impl" and c.owning:
        null = False
    if null:
        reg.type |= MAYBE_NULL
        reg.id = env.new_id()
    if k.flags & kfunc_table.ACQUIRE:
        reg.ref = env.reference(env.insn_idx)
        if null:
            reg.id = reg.ref
    elif k.target_name in (special.RB_NODE, special.LIST_NODE):
        reg = graph.unowned(env, reg)
    if not reg.id and locks.may_lock(env, reg):
        reg.id = env.new_id()
    env.regs()[0] = reg


def _is_special(k: Kfunc) -> bool:
    """A function that returns void * in its prototype, and a pointer to the program."""
    return k.name in (
        "bpf_obj_new_impl", "bpf_percpu_obj_new_impl", "bpf_refcount_acquire_impl",
        "bpf_cast_to_kern_ctx", "bpf_rdonly_cast", "bpf_dynptr_slice", "bpf_dynptr_slice_rdwr",
    )  # fmt: skip


def _pointer(env: Env, c: Call) -> Reg:
    """What a function returns that returns a pointer, but for NULL and references."""
    k = c.kfunc
    if k.name in ("bpf_obj_new_impl", "bpf_percpu_obj_new_impl"):
        return _new(env, c)
    if k.name == "bpf_refcount_acquire_impl":
        reg = pointer(BTF_PTR | ALLOC)
        reg.btf, reg.type_id = c.btf, c.type_id
        return reg
    if k.target_name in (special.RB_NODE, special.LIST_NODE) and c.head is not None:
        return graph.node_reg(c.head)
    if k.name == "bpf_cast_to_kern_ctx":
        return _kernel_ctx(env)
    if k.name == "bpf_rdonly_cast":
        return _cast(env, c)
    if k.name in (dynptr.SLICE, dynptr.SLICE_RDWR):
        return dynptr.slice_of(env, c.dynptr, k.name, c.constant)
    if k.target_kind != kinds.STRUCT and k.target_kind != kinds.UNION:
        if k.size <= 0:
            word = kfunc_types.kind_words(k.target_kind)
            raise Reject(EINVAL, f"kernel function {k.name} returns pointer type {word} "
                                 f"{k.target_name} is not supported")
        reg = pointer(MEM | (0 if k.name == "bpf_session_cookie" else RDONLY))
        reg.mem_size = k.size
        reg.ref = c.ref
        return reg
    if k.name == "bpf_get_kmem_cache":
        flag = UNTRUSTED
    elif k.flags & kfunc_table.ITER_NEXT:
        flag = RCU if iterators.is_rcu(env, c.iter_frame, c.iter_slot) else TRUSTED
    else:
        flag = RCU if k.flags & kfunc_table.IN_RCU else 0
    reg = pointer(BTF_PTR | flag)
    reg.type_id = k.target
    return reg


def _new(env: Env, c: Call) -> Reg:
    """A new object of a structure of the program's."""
    percpu = c.kfunc.name == "bpf_percpu_obj_new_impl"
    what = "bpf_obj_new/bpf_percpu_obj_new"
    if not 0 <= c.constant <= 0xFFFFFFFF:
        raise Reject(EINVAL, "local type ID argument must be in range [0, U32_MAX]")
    infos = env.program.func_count or env.program.line_count
    if env.program.btf is None or not infos:
        raise Reject(EINVAL, f"{what} requires prog BTF")
    btf = env.btf(1)
    try:
        found = btf.type(c.constant)
    except KeyError:
        found = None
    if found is None or found.kind != kinds.STRUCT:
        raise Reject(EINVAL, f"{what} type ID argument must be of a struct")
    if percpu:
        if found.size > _PERCPU_MOST:
            text = f"bpf_percpu_obj_new type size ({found.size}) is greater than {_PERCPU_MOST}"
            raise Reject(EINVAL, text)
        if not kfunc_proto.of_numbers(btf, found.id):
            text = "bpf_percpu_obj_new type ID argument must be of a struct of scalars"
            raise Reject(EINVAL, text)
        if record.of_struct(env, 1, found.id):
            text = "bpf_percpu_obj_new type ID argument must not contain special fields"
            raise Reject(EINVAL, text)
    reg = pointer(BTF_PTR | ALLOC | (PERCPU if percpu else 0))
    reg.btf, reg.type_id = 1, found.id
    return reg


def _kernel_ctx(env: Env) -> Reg:
    """The context as the kernel has it."""
    _, own = kfunc_proto.context_types(env)
    found = env.btf(0).type(own) if own else None
    if found is None or found.kind != kinds.STRUCT:
        raise Reject(EINVAL, f"kern ctx type id {own} is not a struct")
    reg = pointer(BTF_PTR | TRUSTED)
    reg.type_id = found.id
    return reg


def _cast(env: Env, c: Call) -> Reg:
    """Any address as one of a structure of the kernel's, or of bytes: only to be read."""
    if c.constant == 0:
        return pointer(MEM | RDONLY | UNTRUSTED)
    try:
        found = env.btf(0).type(c.constant)
    except KeyError:
        text = f"Unknown type ID {c.constant} passed to kfunc bpf_rdonly_cast"
        raise Reject(EINVAL, text) from None
    if found.kind not in kinds.COMPOSITE:
        text = "kfunc bpf_rdonly_cast type ID argument must be of a struct or void"
        raise Reject(EINVAL, text)
    reg = pointer(BTF_PTR | UNTRUSTED)
    reg.type_id = found.id
    return reg
