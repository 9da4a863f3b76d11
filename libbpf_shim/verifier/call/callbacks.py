"""Functions of a program that helpers call: bpf_loop, bpf_for_each_map_elem,
bpf_user_ringbuf_drain, timers.

How often a helper calls back is not known. So the call is simulated as "not once more", and as
"once more": the callback's body, whose exit leads back to the call itself. That ends because the
state before such a call is always recorded, and a state within one met before is not explored
again (prune.py); scalars that only count rounds are widened. Ready for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, push_callback_call,
prepare_func_exit.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa.insn import LD_IMM64, PSEUDO_FUNC
from libbpf_shim.verifier.env import (
    E2BIG,
    EACCES,
    EFAULT,
    EINVAL,
    ENOMEM,
    Env,
    Reject,
    not_in_range,
)
from libbpf_shim.verifier.kernel import btf_ptr
from libbpf_shim.verifier.kfuncs import dynptr
from libbpf_shim.verifier.log import trace
from libbpf_shim.verifier.path import loops, precision
from libbpf_shim.verifier.state import (
    ENTERED,
    FUNC,
    LEFT,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAX_FRAMES,
    SCALAR,
    STACK,
    UNKNOWN,
    Frame,
    Reg,
    Step,
    pointer,
)

FOR_EACH: Final = 164
LOOP: Final = 181
SET_CALLBACK: Final = 170
DRAIN: Final = 209
FIND_VMA: Final = 180
STATIC: Final = 0  # BTF_FUNC_STATIC


def function(env: Env, entry: int) -> Reg:
    """What ld_imm64 of a function gives: only static functions with BTF may be called back."""
    if not env.linkage:
        raise Reject(EINVAL, "missing btf func_info")
    if env.linkage.get(entry, STATIC) != STATIC:
        raise Reject(EINVAL, "callback function not static")
    reg = pointer(FUNC)
    reg.map = env.sub_of[entry]
    return reg


def enter(env: Env, number: int, map: int, step: Step) -> None:
    """A call of a helper that calls back, its arguments checked: pushes "once more"."""
    caller = env.frame()
    regs = caller.regs
    if number == LOOP:
        _inlined(env, regs)
        if regs[1].type != SCALAR:  # 6.18 takes it for a mistake of its own, and refuses
            raise Reject(EFAULT, "verifier bug: backtracking misuse")
        # how often decides whether the round is the last
        precision.mark_reg(env, 1)
        if caller.depth >= regs[1].umax:
            caller.depth = 0
            if env.log_level & 2:
                number = len(env.cur.frames) - 1
                env.lines.append(f"frame{number} bpf_loop iteration limit reached")
            return
    callee = begun(env, regs[3 if number == FIND_VMA else 2].map, number)
    if number == LOOP:
        callee.regs[1] = UNKNOWN
        callee.regs[2] = regs[3]
    elif number == FOR_EACH:
        element(callee, map)
        callee.regs[4] = regs[3]
    elif number == DRAIN:
        callee.regs[1] = dynptr.constant(env)
        callee.regs[2] = regs[3]
    elif number == FIND_VMA:
        callee.regs[1] = regs[1]
        callee.regs[2] = btf_ptr.kernel_pointer(env, "vm_area_struct", 0)
        callee.regs[3] = regs[4]
    once_more(env, callee, step)
    env.shown.everything = True


def begun(env: Env, subprog: int, number: int) -> Frame:
    """The frame of a function that is called back by that helper, or kernel function."""
    if len(env.cur.frames) >= MAX_FRAMES:
        count = len(env.cur.frames) + 1
        raise Reject(E2BIG, f"the call stack of {count} frames is too deep")
    callee = Frame(env.insn_idx, subprog)
    callee.callback = number
    env.called_back.add(subprog)
    return callee


def once_more(env: Env, callee: Frame, step: Step) -> None:
    """Pushes that the function is called, its arguments set; the path goes on without."""
    top = pointer(STACK)
    top.frame = len(env.cur.frames)
    callee.regs[10] = top
    other = env.push(env.subprogs[callee.subprog], ENOMEM)
    entered = Step(step.insn, step.prev, ENTERED)
    other.history.append(entered)
    other.unroll += 1
    other.frames[-1].depth += 1
    other.frames.append(callee)
    env.frame().depth = 0


def _inlined(env: Env, regs: list[Reg]) -> None:
    """Whether the call has one callback and no flags: then the kernel makes a loop of it, so that
    flags that are 0 decide something."""
    known = env.loops.get(env.insn_idx, regs[2].map)
    if known >= 0 and regs[4].type == SCALAR and not regs[4].tm and not regs[4].tv:
        precision.mark_reg(env, 4)
    else:
        known = -1
    env.loops[env.insn_idx] = known if known == regs[2].map else -1


def element(callee: Frame, map: int) -> None:
    """R1 to R3 of a callback that is given a map and one of its elements."""
    for regno, type in ((1, MAP_PTR), (2, MAP_KEY), (3, MAP_VALUE)):
        reg = pointer(type)
        reg.map = map
        callee.regs[regno] = reg


def set_later(env: Env, map: int) -> None:
    """bpf_timer_set_callback(): the callback is verified by itself, on a stack of its own, as it
    may run at any time. Such a frame is known by its call site, which is none."""
    caller = env.frame()
    env.room()
    callee = Frame(-1, caller.regs[2].map)
    callee.callback = SET_CALLBACK
    callee.round = caller.round + 1
    element(callee, map)
    callee.regs[10] = pointer(STACK)
    env.later.add(callee.subprog)
    env.called_back.add(callee.subprog)
    env.shown.everything = True
    env.push_apart(callee)


def leave(env: Env, step: Step) -> None:
    """The callback's exit: its result, then the call that it came from once more."""
    callee = env.frame()
    result = callee.regs[0]
    if result.type != SCALAR:
        raise Reject(EACCES, "R0 not a scalar value")
    precision.mark_reg(env, 0)
    if result.smin < 0 or result.smax > 1:
        raise not_in_range("At callback return", result, 0, 1)
    if env.log_level & 3:
        trace.returning(env)
    step.kind = LEFT
    env.note(step)
    env.insn_idx = callee.callsite
    env.cur.frames.pop()
    if env.log_level & 3:
        trace.returned(env)
    before = loops.before(env.cur, env.cur.parent, callee.callsite)
    if before is not None:
        loops.widen(before, env.cur)


def check_removed(env: Env) -> None:
    """Functions that no path enters are removed. Where such a one at the program's end is named
    by an instruction that stays, 6.18 finds no function there and refuses, if others are left."""
    bounds = [*env.subprogs, len(env.insns)]
    alive = [any(env.seen[bounds[n] : bounds[n + 1]]) for n in range(len(env.subprogs))]
    if alive[-1] or sum(alive) < 2:
        return
    end = bounds[max(n for n, lives in enumerate(alive) if lives) + 1]
    for at, i in enumerate(env.insns):
        if i.code == LD_IMM64 and i.src == PSEUDO_FUNC and env.seen[at] and at + 1 + i.imm >= end:
            raise Reject(EFAULT, f"verifier bug: No program to jit at insn {end} (subprog < 0)")
