"""Lists and trees of a program's own objects: their heads, their nodes, and who owns what.

An object is owned by the program (a reference) or by the list or tree that it is in: then the
program's pointer to it is good while the lock beside the head is held (NON_OWN).

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, process_kf_arg_ptr_to_list_head,
..._graph_root, ..._graph_node, ref_convert_owning_non_owning, set_rbtree_add_callback_state.
Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.call import callbacks
from libbpf_shim.verifier.env import EFAULT, EINVAL, Env, Reject
from libbpf_shim.verifier.kfuncs import locks
from libbpf_shim.verifier.kfuncs.kfunc_call import Call
from libbpf_shim.verifier.memory import record, special
from libbpf_shim.verifier.memory.special import Special
from libbpf_shim.verifier.state import (
    ALLOC,
    BTF_PTR,
    MAP_VALUE,
    NON_OWN,
    RCU,
    SPILL,
    Reg,
    Slot,
    Step,
    pointer,
)

INSERTS: Final = frozenset((
    "bpf_list_push_front_impl", "bpf_list_push_back_impl", "bpf_rbtree_add_impl",
))  # fmt: skip
ADD: Final = "bpf_rbtree_add_impl"


def _offset(regno: int, reg: Reg, name: str) -> int:
    if reg.tm:
        why = f"{name} has to be at the constant offset"
        raise Reject(EINVAL, f"R{regno} doesn't have constant offset. {why}")
    return reg.off + reg.tv


def root(env: Env, call: Call, n: int, reg: Reg, name: str) -> None:
    """The argument is the head of a list or the root of a tree, under its lock."""
    if reg.type != MAP_VALUE and reg.type != BTF_PTR | ALLOC:
        raise Reject(EINVAL, f"arg#{n} expected pointer to map value or allocated object")
    if reg.type == BTF_PTR | ALLOC and not reg.ref:
        raise Reject(EINVAL, "allocated object must be referenced")
    off = _offset(n + 1, reg, name)
    fields = record.of_reg(env, reg)
    found = record.at(fields, off, name)
    if found is None:
        raise Reject(EINVAL, f"{name} not found at offset={off & 0xFFFFFFFF}")
    if not locks.held(env, reg):
        lock = record.named(fields, special.SPIN_LOCK)
        where = lock.off if lock is not None else -22
        text = f"bpf_spin_lock at off={where} must be held for {name}"
        if env.cur.locks:
            text = f"held lock and object are not in the same allocation\n{text}"
        raise Reject(EINVAL, text)
    call.head = found


def node(env: Env, call: Call, n: int, reg: Reg, of_tree: bool) -> None:
    """The argument is the node of an object that may be in the list or tree given before."""
    if of_tree and call.kfunc.name != ADD:
        if not (reg.type & NON_OWN) and not reg.ref:
            text = "can only take non-owning or refcounted bpf_rb_node pointer"
            raise Reject(EINVAL, f"{call.kfunc.name} {text}")
        if locks.in_order(env):
            raise Reject(EINVAL, f"{call.kfunc.name} not allowed in rbtree cb")
    else:
        if reg.type != BTF_PTR | ALLOC:
            raise Reject(EINVAL, f"arg#{n} expected pointer to allocated object")
        if not reg.ref:
            raise Reject(EINVAL, "allocated object must be referenced")
    name = special.RB_NODE if of_tree else special.LIST_NODE
    off = _offset(n + 1, reg, name)
    if record.at(record.of_reg(env, reg), off, name) is None:
        raise Reject(EINVAL, f"{name} not found at offset={off & 0xFFFFFFFF}")
    head = call.head
    if head is None or not head.type_id:
        raise Reject(EFAULT, "verifier bug: a node without a head")
    wanted = env.btf(head.btf).type(head.type_id)
    if (head.btf, head.type_id) != (reg.btf, reg.type_id):
        has = env.btf(reg.btf).type(reg.type_id)
        text = (f"operation on {head.name} expects arg#1 {name} at offset={head.node} in struct "
                f"{wanted.name}, but arg is at offset={off} in struct {has.name}")
        raise Reject(EINVAL, text)
    call.btf, call.type_id = reg.btf, reg.type_id
    if off != head.node:
        text = f"arg#1 offset={off}, but expected {name} at offset={head.node} in struct"
        raise Reject(EINVAL, f"{text} {wanted.name}")


def node_reg(head: Special) -> Reg:
    """A pointer to the node of an object of that list or tree."""
    reg = pointer(BTF_PTR | ALLOC)
    reg.btf, reg.type_id, reg.off = head.btf, head.type_id, head.node
    return reg


def unowned(env: Env, reg: Reg) -> Reg:
    """The same pointer, to an object that the list or tree owns."""
    if not env.cur.locks:
        raise Reject(EFAULT, "verifier bug: a node without a lock")
    r = reg.copy()
    r.type |= NON_OWN
    r.ref = 0
    if record.named(record.of_struct(env, reg.btf, reg.type_id), special.REFCOUNT) is not None:
        r.type |= RCU
    return r


def given_away(env: Env, ref: int) -> None:
    """The object of that reference is in the list or tree now."""
    if not env.release(ref):
        raise Reject(EFAULT, "verifier bug: a node without a reference")
    for frame in env.cur.frames:
        for n in range(10):
            if frame.regs[n].ref == ref:
                frame.regs[n] = unowned(env, frame.regs[n])
        for n in range(len(frame.stack)):
            slot = frame.stack[n]
            if slot.reg is not None and slot.types[0] == SPILL and slot.reg.ref == ref:
                frame.stack[n] = Slot(slot.types, unowned(env, slot.reg))


def order(env: Env, call: Call, step: Step) -> None:
    """bpf_rbtree_add() asks the program which node is less: as often as it likes."""
    try:
        callee = callbacks.begun(env, call.subprog, locks.RBTREE_ADD)
    except Reject as reject:
        name = f"{call.kfunc.name}#{call.kfunc.id}"
        text = f"{reject.message}\nkfunc {name} failed callback verification"
        raise Reject(reject.errno, text) from None
    head = call.head
    if head is None:
        raise Reject(EFAULT, "verifier bug: a tree without a root")
    callee.regs[1] = unowned(env, node_reg(head))
    callee.regs[2] = unowned(env, node_reg(head))
    callbacks.once_more(env, callee, step)
