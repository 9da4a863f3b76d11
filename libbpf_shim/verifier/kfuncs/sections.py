"""Sections in which a program may not sleep: of RCU, of disabled preemption, of disabled
interrupts. What opens and closes them, what they forbid, and what their end does to pointers.
Ready for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_kfunc_call,
check_helper_call, check_resource_leak, process_irq_flag.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject
from libbpf_shim.verifier.memory import access, slots
from libbpf_shim.verifier.state import (
    INVALID,
    IRQ_SLOT,
    ITER_SLOT,
    MAYBE_NULL,
    RCU,
    SPILL,
    STACK,
    UNTRUSTED,
    Frame,
    Reg,
    Slot,
    Step,
    pointer,
)

NATIVE: Final = 1  # kind of an IRQ_SLOT: bpf_local_irq_save()
LOCKED: Final = 2  # bpf_res_spin_lock_irqsave()
_IRQ: Final = bytes([IRQ_SLOT] * 8)


def check_helper(env: Env, name: str, number: int) -> None:
    """A helper that may sleep is called in no section."""
    text = f"sleepable helper {name}#{number} in "
    if env.cur.rcu:
        raise Reject(EINVAL, text + "rcu_read_lock region")
    if env.cur.preempt:
        raise Reject(EINVAL, text + "non-preemptible region")
    if env.cur.irq:
        raise Reject(EINVAL, text + "IRQ-disabled region")


def check_kfunc(env: Env, name: str) -> None:
    """A kernel function that may sleep is called in no section."""
    text = f"kernel func {name} is sleepable within "
    if env.cur.rcu:
        raise Reject(EACCES, text + "rcu_read_lock region")
    if env.cur.preempt:
        raise Reject(EACCES, text + "non-preemptible region")
    if env.cur.irq:
        raise Reject(EACCES, text + "IRQ-disabled region")


def check_left(env: Env, what: str, thrown: bool = False) -> None:
    """Nothing is held, and no section is open, where the program ends or is left. A function that
    was called may leave references to its caller, unless it throws."""
    cur = env.cur
    if cur.locks:
        raise Reject(EINVAL, f"{what} cannot be used inside bpf_spin_lock-ed region")
    if cur.refs and (thrown or len(cur.frames) == 1):
        lines = [f"Unreleased reference id={ident} alloc_insn={at}" for ident, at in cur.refs]
        raise Reject(EINVAL, "\n".join([*lines, f"{what} would lead to reference leak"]))
    text = ""
    if cur.irq:
        text = "bpf_local_irq_save-ed region"
    elif cur.rcu:
        text = "bpf_rcu_read_lock-ed region"
    elif cur.preempt:
        text = "bpf_preempt_disable-ed region"
    if text:
        raise Reject(EINVAL, f"{what} cannot be used inside {text}")


def kfunc(env: Env, name: str) -> None:
    """What the kernel functions that open and close sections do; others do nothing."""
    cur = env.cur
    if name == "bpf_rcu_read_lock":
        if cur.rcu:
            raise Reject(EINVAL, f"nested rcu read lock (kernel function {name})")
        cur.rcu = 1
    elif name == "bpf_rcu_read_unlock":
        if not cur.rcu:
            raise Reject(EINVAL, f"unmatched rcu read unlock (kernel function {name})")
        cur.rcu = 0
        for frame in cur.frames:
            _rcu_ends(frame)
    elif name == "bpf_preempt_disable":
        cur.preempt += 1
    elif name == "bpf_preempt_enable":
        if not cur.preempt:
            text = f"unmatched attempt to enable preemption (kernel function {name})"
            raise Reject(EINVAL, text)
        cur.preempt -= 1


def _rcu_ends(frame: Frame) -> None:
    """Pointers that were good in the section may dangle now."""
    for n in range(10):
        if frame.regs[n].type & RCU:
            frame.regs[n] = _dangling(frame.regs[n])
    for n in range(len(frame.stack)):
        slot = frame.stack[n]
        if slot.reg is not None and slot.reg.type & RCU:
            if slot.types[0] == SPILL or slot.types[7] == ITER_SLOT:
                frame.stack[n] = Slot(slot.types, _dangling(slot.reg))


def _dangling(reg: Reg) -> Reg:
    r = reg.copy()
    r.type = r.type & ~(RCU | MAYBE_NULL) | UNTRUSTED
    return r


# saved interrupt states


def _place(env: Env, reg: Reg, text: str) -> int:
    """The stack slot that reg points to; -1: it is not on the stack used so far."""
    try:
        return slots.place(env, reg, "irq_flag", 1)
    except Reject as reject:
        raise Reject(EINVAL, f"{reject.message}\n{text}") from None


def irq_save(env: Env, regno: int, reg: Reg, kind: int) -> None:
    """The interrupt state is saved in the stack slot that reg points to."""
    frame = env.cur.frames[reg.frame]
    text = f"expected uninitialized irq flag as arg#{regno - 1}"
    at = min(len(frame.stack), 1) - 1 if slots.at_top(reg) else _place(env, reg, text)
    if at >= 0 and IRQ_SLOT in frame.stack[at].types:
        raise Reject(EINVAL, text)
    step = Step(env.running, env.prev_idx, 0)
    access.check(env, regno, 0, 8, access.WRITE, None, -1, step)
    at = _place(env, reg, text)
    flag = pointer(STACK)
    flag.ref = env.new_id()
    flag.kind = kind
    frame.stack[at] = Slot(_IRQ, flag)
    env.cur.irq = flag.ref
    env.cur.irqs = (*env.cur.irqs, (flag.ref, env.insn_idx))


def irq_restore(env: Env, regno: int, reg: Reg, kind: int) -> None:
    """The state saved last is taken back from its slot."""
    frame = env.cur.frames[reg.frame]
    text = f"expected an initialized irq flag as arg#{regno - 1}"
    at = _place(env, reg, text)
    flag = frame.stack[at].reg if at >= 0 else None
    if flag is None or frame.stack[at].types != _IRQ:
        raise Reject(EINVAL, text)
    env.reads_stack(reg.frame, at, at)
    if flag.kind != kind:
        names = {NATIVE: "native", LOCKED: "lock"}
        text = f"irq flag acquired by {names[flag.kind]} kfuncs cannot be restored with "
        raise Reject(EINVAL, f"{text}{names[kind]} kfuncs")
    if flag.ref != env.cur.irq:
        ident, since = env.cur.irqs[-1] if env.cur.irqs else (0, 0)
        raise Reject(EACCES, f"cannot restore irq state out of order, expected id={ident} "
                             f"acquired at insn_idx={since}")
    env.cur.irqs = env.cur.irqs[:-1]
    env.cur.irq = env.cur.irqs[-1][0] if env.cur.irqs else 0
    frame.stack[at] = Slot(bytes([INVALID] * 8), None)
