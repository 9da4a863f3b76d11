"""Locks in map values and in allocated objects: bpf_spin_lock, one at a time, and
bpf_res_spin_lock, which may nest in the order in which they are given back. Ready for mypyc.

A lock is known by its kind, by its owner (a map, or the BTF that an object's type is of) and by
the id of the pointer, which every look-up and allocation has of its own.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, process_spin_lock.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject
from libbpf_shim.verifier.memory import record, special
from libbpf_shim.verifier.state import (
    ALLOC,
    BTF_PTR,
    MAP_VALUE,
    NON_OWN,
    SPILL,
    TYPE_MASK,
    UNKNOWN,
    Reg,
    Slot,
)

SPIN: Final = 1
RES: Final = 2
RES_IRQ: Final = 3
RBTREE_ADD: Final = 1001  # Frame.callback of a tree's order


def may_lock(env: Env, reg: Reg) -> bool:
    """What reg points to has a lock: its pointers are told apart."""
    for field in record.of_reg(env, reg):
        if field.name == special.SPIN_LOCK or field.name == special.RES_SPIN_LOCK:
            return True
    return False


def owner(reg: Reg) -> int:
    """A map's index; of an allocated object, below zero, its BTF."""
    return reg.map if reg.type & TYPE_MASK == MAP_VALUE else -1 - reg.btf


def in_order(env: Env) -> bool:
    """A tree's order is being asked for, under the tree's lock."""
    return env.frame().callback == RBTREE_ADD


def spin_lock(env: Env, regno: int, reg: Reg, take: bool, kind: int) -> None:
    """bpf_spin_lock(), bpf_spin_unlock() and their res_ kin. Raises Reject."""
    name = special.SPIN_LOCK if kind == SPIN else special.RES_SPIN_LOCK
    _lies_at(env, regno, reg, name)
    short = name.removesuffix("_lock")
    cur = env.cur
    lock = (kind, owner(reg), reg.id, env.next_id)
    if take:
        if kind == SPIN:
            for held in cur.locks:
                if held[0] == SPIN:
                    raise Reject(EINVAL, "Locking two bpf_spin_locks are not allowed")
        else:
            for held in cur.locks:
                if held[0] != SPIN and held[1:3] == lock[1:3]:
                    text = "Acquiring the same lock again, AA deadlock detected"
                    raise Reject(EINVAL, text)
        cur.locks = (*cur.locks, lock)
        return
    if not cur.locks:
        raise Reject(EINVAL, f"{short}_unlock without taking a lock")
    if lock[:3] not in [held[:3] for held in cur.locks]:
        raise Reject(EINVAL, f"{short}_unlock of different lock")
    if cur.locks[-1][1:3] != lock[1:3]:
        raise Reject(EINVAL, f"{short}_unlock cannot be out of order")
    cur.locks = cur.locks[:-1]
    forget_unowned(env)


def _lies_at(env: Env, regno: int, reg: Reg, name: str) -> None:
    """reg is the address of the lock of its value or object."""
    if reg.tm:
        why = f"{name} has to be at the constant offset"
        raise Reject(EINVAL, f"R{regno} doesn't have constant offset. {why}")
    of_map = reg.type & TYPE_MASK == MAP_VALUE
    if of_map and not env.maps[reg.map].btf:
        text = f"map '{env.maps[reg.map].name}' has to have BTF in order to use {name}"
        raise Reject(EINVAL, text)
    found = record.named(record.of_reg(env, reg), name)
    if found is None:
        what = f"map '{env.maps[reg.map].name}'" if of_map else "local 'kptr'"
        raise Reject(EINVAL, f"{what} has no valid {name}")
    if found.off != reg.tv + reg.off:
        text = f"off {reg.tv + reg.off} doesn't point to 'struct {name}' that is at {found.off}"
        raise Reject(EINVAL, text)


def helper(env: Env, regno: int, reg: Reg, take: bool) -> None:
    """The lock of bpf_spin_lock() and bpf_spin_unlock(). Raises Reject."""
    if in_order(env):
        raise Reject(EACCES, "can't spin_{lock,unlock} in rbtree cb")
    spin_lock(env, regno, reg, take, SPIN)


def forget_unowned(env: Env) -> None:
    """What is in a list or tree may be gone once its lock is given back."""
    for frame in env.cur.frames:
        for n in range(10):
            if _unowned(frame.regs[n]):
                frame.regs[n] = UNKNOWN
        for n in range(len(frame.stack)):
            slot = frame.stack[n]
            if slot.reg is not None and slot.types[0] == SPILL and _unowned(slot.reg):
                frame.stack[n] = Slot(slot.types, UNKNOWN)


def _unowned(reg: Reg) -> bool:
    return reg.type & TYPE_MASK == BTF_PTR and reg.type & (ALLOC | NON_OWN) == ALLOC | NON_OWN


def held(env: Env, reg: Reg) -> bool:
    """The lock of what reg points to is held."""
    for lock in env.cur.locks:
        if lock[1] == owner(reg) and lock[2] == reg.id:
            return True
    return False
