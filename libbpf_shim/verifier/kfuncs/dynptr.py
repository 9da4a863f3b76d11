"""Dynptrs: memory that is described at run time, made and handed on by helpers and kfuncs. Ready
for mypyc.

One takes two slots of the stack (slots.py), or is a callback's or a global function's argument,
which is constant. Memory taken from it (a slice) is void once it is destroyed or released, and a
packet's also when the packet may have moved.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, process_dynptr_func,
mark_stack_slots_dynptr, unmark_stack_slots_dynptr, check_func_arg, check_func_arg_reg_off.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject, tnum, type_name
from libbpf_shim.verifier.memory import access, slots
from libbpf_shim.verifier.state import (
    DYNPTR,
    DYNPTR_NAMES,
    DYNPTR_SLOT,
    EMPTY_SLOT,
    MEM,
    OTHER_SLICE,
    PACKET_SLICE,
    RDONLY,
    STACK,
    Reg,
    Slot,
    Step,
    pointer,
)

_WHOLE: Final = bytes([DYNPTR_SLOT] * 8)


def constant(env: Env) -> Reg:
    """What a callback or a global function is given."""
    reg = pointer(DYNPTR)
    reg.kind = slots.LOCAL
    reg.depth = 1
    reg.id = env.new_id()
    return reg


def unmoved(regno: int, reg: Reg) -> None:
    """A dynptr's own address has no offset; on the stack it may lie anywhere."""
    if reg.type == STACK:
        return
    name = type_name(reg.type)
    if reg.off < 0:
        text = f"negative offset {name} ptr R{regno} off={reg.off} disallowed"
        raise Reject(EACCES, text)
    if reg.off:
        text = f"dereference of modified {name} ptr R{regno} off={reg.off} disallowed"
        raise Reject(EACCES, text)
    if reg.tm or reg.tv:
        text = f"variable {name} access var_off={tnum(reg)} disallowed"
        raise Reject(EACCES, text)


def is_pointer(reg: Reg) -> bool:
    """It may point to a dynptr, or to where one is to be."""
    return reg.type == STACK or reg.type == DYNPTR


def at(env: Env, reg: Reg) -> Reg | None:
    """The dynptr that reg points to, if it is whole. Raises Reject for an address where none can
    be."""
    if reg.type == DYNPTR:
        return reg
    spi = slots.place(env, reg, "dynptr", slots.DYNPTR_SLOTS)
    if spi < 0:
        return None
    env.reads_stack(reg.frame, spi - 1, spi)
    stack = env.cur.frames[reg.frame].stack
    found = stack[spi].reg
    if stack[spi].types != _WHOLE or stack[spi - 1].types != _WHOLE:
        return None
    return found if found is not None and found.depth else None


def existing(env: Env, regno: int, reg: Reg, kind: int, mutable: bool) -> Reg:
    """The dynptr that an argument points to. kind: that it has to be, 0: any. mutable: the callee
    changes it."""
    if reg.type == DYNPTR and mutable:
        text = "cannot pass pointer to const bpf_dynptr, the helper mutates it"
        raise Reject(EINVAL, text)
    text = f"Expected an initialized dynptr as arg #{regno - 1}"
    try:
        found = at(env, reg)
    except Reject as reject:
        raise Reject(EINVAL, f"{reject.message}\n{text}") from None
    if found is None:
        raise Reject(EINVAL, text)
    if kind and found.kind != kind:
        text = f"Expected a dynptr of type {DYNPTR_NAMES[kind]} as arg #{regno - 1}"
        raise Reject(EINVAL, text)
    return found


def create(env: Env, regno: int, reg: Reg, kind: int, ref: int) -> None:
    """The callee makes one where an argument points to. ref: the reference that a ring buffer's
    shares with what it is cloned from, 0: a new one."""
    text = "Dynptr has to be an uninitialized dynptr"
    if reg.type == DYNPTR:
        raise Reject(EINVAL, text)
    try:
        slots.place(env, reg, "dynptr", slots.DYNPTR_SLOTS)
    except Reject as reject:
        raise Reject(EINVAL, f"{reject.message}\n{text}") from None
    written = Step(env.running, env.prev_idx, 0)
    for off in (0, 8):
        access.check(env, regno, off, 8, access.WRITE, None, -1, written)
    frame = env.cur.frames[reg.frame]
    spi = slots.place(env, reg, "dynptr", slots.DYNPTR_SLOTS)
    first = pointer(DYNPTR)
    first.kind = kind
    first.depth = 1
    first.id = env.new_id()
    if kind == slots.RINGBUF:
        first.ref = ref if ref else env.reference(env.insn_idx)
    second = first.copy()
    second.depth = 0
    frame.stack[spi] = Slot(_WHOLE, first)
    frame.stack[spi - 1] = Slot(_WHOLE, second)


def released(env: Env, regno: int, reg: Reg) -> None:
    """Whether an argument is one that can be released: a program's own, with a reference."""
    if reg.type == DYNPTR:
        raise Reject(EINVAL, "cannot release unowned const bpf_dynptr")
    text = f"arg {regno} is an unacquired reference"
    try:
        spi = slots.place(env, reg, "dynptr", slots.DYNPTR_SLOTS)
    except Reject as reject:
        raise Reject(EINVAL, f"{reject.message}\n{text}") from None
    if spi >= 0:
        env.reads_stack(reg.frame, spi - 1, spi)
    found = env.cur.frames[reg.frame].stack[spi].reg if spi >= 0 else None
    if found is None or not found.ref:
        raise Reject(EINVAL, text)


def release(env: Env, reg: Reg) -> None:
    """It is submitted or discarded: its clones and slices go with it."""
    spi = slots.place(env, reg, "dynptr", slots.DYNPTR_SLOTS)
    found = env.cur.frames[reg.frame].stack[spi].reg
    if found is None or not found.ref:
        return
    env.release(found.ref)
    slots.forget_reference(env, found.ref)
    for frame in env.cur.frames:
        for s in range(len(frame.stack)):
            held = frame.stack[s].reg
            if held is None or frame.stack[s].types[0] != DYNPTR_SLOT:
                continue
            if held.ref == found.ref:
                frame.stack[s] = EMPTY_SLOT




# kernel functions

_MADE_BY: Final = {
    "bpf_dynptr_from_skb": slots.SKB, "bpf_dynptr_from_xdp": slots.XDP,
    "bpf_dynptr_from_skb_meta": slots.SKB_META,
}  # fmt: skip
SLICE: Final = "bpf_dynptr_slice"
SLICE_RDWR: Final = "bpf_dynptr_slice_rdwr"
CLONE: Final = "bpf_dynptr_clone"
# Program types that may write packets where they lie: tc, XDP, LWT_XMIT, SK_SKB, SK_MSG; the
# options of sockets.
_WRITES_PACKETS: Final = frozenset((3, 4, 6, 12, 14, 16, 25))


def kfunc_argument(
    env: Env, regno: int, reg: Reg, name: str, uninit: bool, parent: Reg
) -> Reg:
    """An argument of the kernel function of that name: the dynptr that is there, or what parent is
    if one is made. parent: the dynptr that the function was given before."""
    if not is_pointer(reg):
        text = f"arg#{regno - 1} expected pointer to stack or const struct bpf_dynptr"
        raise Reject(EINVAL, text)
    if not uninit:
        return existing(env, regno, reg, 0, False)
    kind = parent.kind if name == CLONE else _MADE_BY.get(name, 0)
    create(env, regno, reg, kind, parent.ref if name == CLONE else 0)
    return parent


def slice_of(env: Env, given: Reg, name: str, size: int) -> Reg:
    """What a slice function returns, but for NULL. size: constant, of its buffer. A dynptr that is
    overwritten leaves it valid, as its memory is; a record that is given back does not (in 6.18 it
    does, which is a bug)."""
    if name == SLICE_RDWR and env.prog_type not in _WRITES_PACKETS:
        raise Reject(EINVAL, "the prog does not allow writes to packet data")
    packet = given.kind in (slots.SKB, slots.XDP, slots.SKB_META)
    r = pointer(MEM | (PACKET_SLICE if packet else OTHER_SLICE) | (RDONLY if name == SLICE else 0))
    r.mem_size = size
    r.kind = -given.id  # so that it is told apart from another's, and not forgotten
    r.ref = given.ref
    return r
