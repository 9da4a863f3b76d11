"""Open-coded iterators: bpf_iter_NAME_new(), _next(), _destroy() on an object in the stack.

One takes as many slots as its structure has words; the first has a reference, which destroy gives
back (slots.py). A call of next goes on two ways: an element came, and the iterator is a round
deeper, or it is drained. The former is a loop that ends as loops.py says. Ready for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, process_iter_arg,
process_iter_next_call, mark_stack_slots_iter, is_iter_reg_valid_init.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.call import sleep
from libbpf_shim.verifier.env import EINVAL, ENOMEM, Env, Reject
from libbpf_shim.verifier.memory import access, slots
from libbpf_shim.verifier.path import loops
from libbpf_shim.verifier.state import (
    EMPTY_SLOT,
    ITER_SLOT,
    MAYBE_NULL,
    RCU,
    STACK,
    UNTRUSTED,
    ZERO_REG,
    Frame,
    Reg,
    Slot,
    State,
    Step,
    pointer,
)

# States of an iterator, Reg.kind.
ACTIVE: Final = 1
DRAINED: Final = 2
_WHOLE: Final = bytes([ITER_SLOT] * 8)
_PREFIX: Final = "bpf_"
_TRACING: Final = 26
_LSM: Final = 29
_TRACE_ITER: Final = 28  # expected_attach_type BPF_TRACE_ITER
EPROTO: Final = 71


def on_stack(reg: Reg, n: int) -> None:
    """Argument n of a kernel function."""
    if reg.type != STACK:
        raise Reject(EINVAL, f"arg#{n} expected pointer to an iterator on stack")


def create(
    env: Env, regno: int, reg: Reg, name: str, type_id: int, size: int, protected: bool
) -> None:
    """A new one where an argument points to: of struct name, bpf_iter_num and the like. protected:
    it is valid in the RCU section only."""
    count = size // 8
    text = f"expected uninitialized {name.removeprefix(_PREFIX)} as arg #{regno - 1}"
    try:
        top = count == 1 and slots.at_top(reg)
        used = min(len(env.cur.frames[reg.frame].stack), 1) - 1
        spi = used if top else slots.place(env, reg, "iter", count)
    except Reject as reject:
        raise Reject(EINVAL, f"{reject.message}\n{text}") from None
    frame = env.cur.frames[reg.frame]
    for n in range(count if spi >= 0 else 0):
        if ITER_SLOT in frame.stack[spi - n].types:
            raise Reject(EINVAL, text)
    written = Step(env.running, env.prev_idx, 0)
    for n in range(count):
        access.check(env, regno, 8 * n, 8, access.WRITE, None, -1, written)
    spi = slots.place(env, reg, "iter", count)
    flag = 0
    if protected:
        flag = RCU if sleep.in_rcu(env) else UNTRUSTED
    ref = env.reference(env.insn_idx)
    for n in range(count):
        part = pointer(STACK | flag)
        part.kind = ACTIVE
        part.type_id = type_id
        part.ref = ref if n == 0 else 0
        frame.stack[spi - n] = Slot(_WHOLE, part)


def existing(
    env: Env, regno: int, reg: Reg, name: str, type_id: int, size: int, function: str
) -> int:
    """The first slot of the one that an argument points to."""
    count = size // 8
    text = f"expected an initialized {name.removeprefix(_PREFIX)} as arg #{regno - 1}"
    try:
        spi = slots.place(env, reg, "iter", count)
    except Reject as reject:
        raise Reject(EINVAL, f"{reject.message}\n{text}") from None
    if spi < 0:
        raise Reject(EINVAL, text)
    env.reads_stack(reg.frame, spi - count + 1, spi)
    stack = env.cur.frames[reg.frame].stack
    for n in range(count):
        part = stack[spi - n].reg
        if part is not None and part.type & UNTRUSTED:
            raise Reject(EPROTO, f"expected an RCU CS when using {function}")
        if part is None or (part.ref != 0) != (n == 0) or part.type_id != type_id:
            raise Reject(EINVAL, text)
        if stack[spi - n].types != _WHOLE:
            raise Reject(EINVAL, text)
    return spi


def reference(env: Env, reg: Reg, spi: int) -> int:
    """Of the iterator whose first slot that is."""
    part = env.cur.frames[reg.frame].stack[spi].reg
    return part.ref if part is not None else 0


def destroy(env: Env, reg: Reg, spi: int, size: int) -> None:
    """It is over, and what was got from it void."""
    ref = reference(env, reg, spi)
    env.release(ref)
    slots.forget_reference(env, ref)
    for n in range(size // 8):
        env.cur.frames[reg.frame].stack[spi - n] = EMPTY_SLOT


def css_task_allowed(env: Env) -> bool:
    """Where tasks of a cgroup may be gone through: its lock would be taken."""
    if env.prog_type == _LSM:
        return True
    if env.prog_type == _TRACING and env.program.expected_attach_type == _TRACE_ITER:
        return True
    return sleep.sleepable(env)


def is_rcu(env: Env, frame: int, spi: int) -> bool:
    """Its elements are valid in the RCU section only."""
    part = env.cur.frames[frame].stack[spi].reg
    return part is not None and part.type & RCU != 0


def advance(env: Env, frame: int, spi: int, step: Step) -> None:
    """A call of next, R0 the element or NULL: pushes the way on which there is one."""
    part = env.cur.frames[frame].stack[spi].reg
    if part is None:
        return
    if part.kind == ACTIVE:
        here = env.cur.parent  # recorded at this instruction
        past = loops.before(env.cur, here.parent, env.insn_idx) if here is not None else None
        goes_on = env.push(env.insn_idx + 1, ENOMEM)
        if env.jump_point[step.insn]:
            goes_on.history.append(Step(step.insn, step.prev, 0))
        _set(goes_on.frames[frame], spi, ACTIVE, part.depth + 1)
        if past is not None:
            loops.widen(past, goes_on)
        regs = goes_on.frames[-1].regs
        element = regs[0].copy()
        element.type &= ~MAYBE_NULL
        regs[0] = element
    _set(env.cur.frames[frame], spi, DRAINED, part.depth)
    env.regs()[0] = ZERO_REG


def _set(frame: Frame, spi: int, kind: int, depth: int) -> None:
    old = frame.stack[spi].reg
    if old is None:
        return
    part = old.copy()
    part.kind = kind
    part.depth = depth
    frame.stack[spi] = Slot(_WHOLE, part)


def active(state: State) -> bool:
    """The iterator that R1 of the frame on top points to is active."""
    reg = state.frames[-1].regs[1]
    if reg.type != STACK or reg.tm:
        return False
    spi = (-reg.off - reg.smin - 1) // 8
    stack = state.frames[reg.frame].stack
    if not 0 <= spi < len(stack) or stack[spi].types[0] != ITER_SLOT:
        return False
    part = stack[spi].reg
    return part is not None and part.kind == ACTIVE


def depths_differ(old: State, new: State) -> bool:
    """Some active iterator has gone on meanwhile, so that the path does not loop for ever."""
    for f in range(len(old.frames)):
        a, b = old.frames[f].stack, new.frames[f].stack
        for s in range(min(len(a), len(b))):
            was, now = a[s].reg, b[s].reg
            if a[s].types[0] != ITER_SLOT or was is None or was.kind != ACTIVE:
                continue
            if now is None or now.depth != was.depth:
                return True
    return False
