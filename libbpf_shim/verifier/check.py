"""Running a program on abstract states: every path, until a recorded state covers it.

One function an instruction class; each reads env.cur, changes it and sets env.insn_idx. A Step of
history is appended after the instruction's own precision marks, which look at what came before.
Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, do_check and what it calls.
Loads and stores: memory/loadstore.py; arithmetic: scalar/arithmetic.py; jumps: scalar/jumps.py.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, imm64
from libbpf_shim.verifier import infos, structure
from libbpf_shim.verifier.call import callbacks, calls, functions, sleep
from libbpf_shim.verifier.env import (
    E2BIG,
    EFAULT,
    EINVAL,
    INSN_LIMIT,
    Env,
    Reject,
    Unfinished,
    not_in_range,
    type_name,
)
from libbpf_shim.verifier.granted import budget, host, hostcalls
from libbpf_shim.verifier.kernel import ksym, tracing
from libbpf_shim.verifier.kfuncs import exceptions, kfunc, sections
from libbpf_shim.verifier.log import trace
from libbpf_shim.verifier.memory import context, loadstore, slots
from libbpf_shim.verifier.path import loops, precision, prune
from libbpf_shim.verifier.scalar import arithmetic, jumps
from libbpf_shim.verifier.scalar.domains import S32_MAX, S32_MIN, U32
from libbpf_shim.verifier.state import (
    ASSUMED,
    CTX,
    MAP_PTR,
    MAP_VALUE,
    MAX_FRAMES,
    NO_REG,
    SCALAR,
    STACK,
    TAILED,
    TYPE_MASK,
    UNKNOWN,
    Frame,
    State,
    Step,
    const_reg,
    pointer,
)

_SPIN_UNLOCK: Final = 94


def begin(env: Env) -> None:
    """env.cur is at the program's entry."""
    frame = Frame(-1, 0)
    frame.regs[1] = pointer(CTX)
    frame.regs[10] = pointer(STACK)
    env.cur = State([frame])
    if env.log_level:
        trace.signature_of_main(env)


def explore(env: Env) -> None:
    """Every path from the program's entry, then from those of global functions that it calls.
    Raises Reject."""
    begin(env)
    _paths(env)
    if env.log_level:
        trace.done(env)
    exceptions.check_callback(env)
    done: set[int] = set()
    while ready := [f for n, f in env.globals.items() if n in env.called and n not in done]:
        done.add(ready[0].entry)
        functions.start(env, ready[0])
        _paths(env)
        env.verified = ready[0]
        if env.log_level:
            trace.verified(env, ready[0])


def _paths(env: Env) -> None:
    """All that go on from env.cur, at the first slot of a function."""
    start(env)
    while True:
        if advance(env):
            continue
        if env.policy is not None:
            budget.ended(env)
        prune.path_ended(env)
        if not resume(env):
            return


def start(env: Env) -> None:
    """What is known of states begins anew: they are those of one function."""
    env.prev_idx = -1
    env.cur.first = env.insn_idx
    env.explored = {}
    env.visits = {}
    env.buckets = [0] * len(env.insns)
    trace.started(env)


def resume(env: Env) -> bool:
    """The path that was left last is the current one; False: there is none."""
    if not env.stack:
        return False
    env.cur, env.insn_idx, env.prev_idx, mark = env.stack.pop()
    if env.log_level & 3:
        trace.resumed(env, mark)
    return True


def advance(env: Env) -> bool:
    """One instruction; False: the path has ended, or is covered."""
    at = env.insn_idx
    if at >= len(env.insns):
        raise Reject(EFAULT, f"invalid insn idx {at} insn_cnt {len(env.insns)}")
    env.processed += 1
    if env.processed > env.limit:
        if env.limit < INSN_LIMIT:
            raise Unfinished
        raise Reject(E2BIG, f"BPF program is too large. Processed {env.processed} insn")
    env.running = at
    if env.prune_point[at] and prune.visited(env):
        if env.log_level & 3:
            trace.safe(env)
        return False
    if env.watch is not None and not env.watch.step(env.cur, at):
        raise Reject(E2BIG, "too many states to watch")
    if env.policy is not None:
        env.cur.count += 1
        if env.policy.counter:
            budget.note(env)
    i = env.insns[at]
    env.seen[at] = 1
    step = Step(at, env.prev_idx, 0)
    if env.log_level & 3:
        trace.instruction(env)
    goes_on = _execute(env, i, step)
    env.prev_idx = at
    return goes_on


def _execute(env: Env, i: Insn, step: Step) -> bool:
    klass = i.code & 7
    if klass == op.ALU or klass == op.ALU64:
        arithmetic.alu(env, i)
    elif klass == op.LDX:
        loadstore.load(env, i, step)
    elif klass == op.STX or klass == op.ST:
        env.wrote = 0
        if klass == op.STX:
            loadstore.store(env, i, step)
        else:
            loadstore.store_imm(env, i, step)
        env.chain(env.cur, len(env.cur.frames) - 1).writes(
            env.running, env.wrote_frame, env.wrote
        )
    elif klass == op.LD and i.code != op.LD_IMM64:
        loadstore.packet_load(env, i, step)
        return True
    elif klass == op.LD:
        _constant(env, i)
    else:
        return _jump(env, i, step)
    env.note(step)
    env.insn_idx += 1
    return True


def _constant(env: Env, i: Insn) -> None:
    high = env.insns[env.insn_idx + 1]
    if i.off:
        raise Reject(EINVAL, "BPF_LD_IMM64 uses reserved fields")
    if i.src == 0:
        reg = const_reg(imm64(i, high))
    elif i.src == op.PSEUDO_BTF_ID and high.imm:
        reg = host.variable(env, i.imm)
    elif i.src == op.PSEUDO_BTF_ID:
        reg = ksym.value(env, i.imm)
    elif i.src == op.PSEUDO_FUNC:
        reg = callbacks.function(env, env.insn_idx + 1 + i.imm)
    else:
        value = i.src in (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE)
        reg = pointer(MAP_VALUE if value else MAP_PTR)
        reg.map = i.imm
        if value:
            reg.off = high.imm & U32
        if value and env.maps[i.imm].type == structure.ARENA_MAP:
            reg = UNKNOWN  # an address of the user's
    env.write_reg(i.dst, reg)
    env.seen[env.insn_idx + 1] = 1
    env.insn_idx += 1


def _jump(env: Env, i: Insn, step: Step) -> bool:
    kind = i.code & 0xF0
    if kfunc.is_call(i):
        return _kernel_function(env, i, step)
    if kind == op.CALL:
        _call(env, i, step)
        return True
    if kind == op.EXIT:
        return _exit(env, i, step)
    if kind == op.JA:
        near = i.klass == op.JMP
        if i.code & 8 or i.src or i.dst or (i.imm if near else i.off):
            raise Reject(EINVAL, "BPF_JA uses reserved fields")
        env.note(step)
        env.jumps += 1
        env.insn_idx = structure.target(i, env.insn_idx)
        return True
    if kind == op.JCOND:
        env.jumps += 1
        env.note(step)
        loops.may_goto(env, i)
        return True
    at = env.insn_idx
    jumps.conditional(env, i, step)
    if env.log_level & 3:
        trace.after(env, at)
    return True


def _call(env: Env, i: Insn, step: Step) -> None:
    if i.code & 8 or i.off or i.dst or i.src not in (0, op.PSEUDO_CALL):
        raise Reject(EINVAL, "BPF_CALL uses reserved fields")
    env.jumps += 1
    if env.cur.locks:
        _call_under_lock(env, i)
    if i.src == 0:
        env.wrote = 0
        where = env.chain(env.cur, len(env.cur.frames) - 1)
        calls.helper(env, i.imm, step)
        where.writes(env.running, env.wrote_frame, env.wrote)
        env.insn_idx += 1
        if i.imm == infos.TAIL_CALL and len(env.cur.frames) > 1:
            _tail_called(env, step)
        env.note(step)
        return
    frames = env.cur.frames
    caller, entry = frames[-1], env.insn_idx + 1 + i.imm
    if entry in env.globals:
        _may_call(env, entry)
        functions.called(env, env.globals[entry])
        env.unbounded("a call of a global function")
        if functions.moves_packets(env, entry):
            slots.forget_packets(env)
        step.kind = ASSUMED
        env.note(step)
        env.insn_idx += 1
        return
    if len(frames) >= MAX_FRAMES:
        raise Reject(E2BIG, f"the call stack of {len(frames) + 1} frames is too deep")
    callee = Frame(env.insn_idx, env.sub_of[entry])
    for r in range(1, 6):
        callee.regs[r] = caller.regs[r]
        if caller.regs[r].type & TYPE_MASK == CTX:
            env.ctx_escapes = True
    for r in range(6):
        caller.regs[r] = NO_REG
    top = pointer(STACK)
    top.frame = len(frames)
    callee.regs[10] = top
    frames.append(callee)
    env.note(step)
    if env.log_level & 3:
        trace.entered(env)
    env.insn_idx = entry


def _may_call(env: Env, entry: int) -> None:
    """A global function that may sleep is called where the program may."""
    cur = env.cur
    awake = cur.rcu or cur.preempt or cur.irq or not sleep.sleepable(env)
    if awake and functions.may_sleep(env, entry):
        raise Reject(EINVAL, "global functions that may sleep are not allowed in non-sleepable "
                             "context,\ni.e., in a RCU/IRQ/preempt-disabled section, or in\n"
                             "a non-sleepable BPF program context")


def _kernel_function(env: Env, i: Insn, step: Step) -> bool:
    if i.dst:
        raise Reject(EINVAL, "BPF_CALL uses reserved fields")
    env.jumps += 1
    if env.cur.locks:
        kfunc.check_under_lock(env, i)
    env.wrote = 0
    where = env.chain(env.cur, len(env.cur.frames) - 1)
    function = hostcalls.of(env, i)
    if function is not None:
        hostcalls.call(env, function)
        env.host_calls[env.insn_idx] = function.name
        where.writes(env.running, env.wrote_frame, env.wrote)
        env.note(step)
        env.insn_idx += 1
        return True
    if not kfunc.call(env, i, step):
        if env.exception < 0:
            _check_result(env, 1)
        exceptions.thrown(env)
        return False
    where.writes(env.running, env.wrote_frame, env.wrote)
    env.note(step)
    env.insn_idx += 1
    return True


def _tail_called(env: Env, step: Step) -> None:
    """A tail call of a function that was called: the other program ends it, with any result. What
    follows if there is no other program is pushed."""
    other = env.push(env.insn_idx)
    if env.jump_point[step.insn]:
        other.history.append(Step(step.insn, step.prev, 0))
    step.kind = TAILED
    slots.forget_packets(env)
    frames = env.cur.frames
    frames[-1].regs[0] = UNKNOWN
    if frames[-1].callback:  # its result would have to be precise; what 6.18 says of that
        raise Reject(EFAULT, "verifier bug: callback unexpected regs 1")
    if env.log_level & 3:
        trace.returning(env)
    env.insn_idx = frames[-1].callsite + 1
    frames.pop()
    frames[-1].regs[0] = UNKNOWN
    if env.log_level & 3:
        trace.tail_called(env, step.insn)


def _call_under_lock(env: Env, i: Insn) -> None:
    if i.src == 0 and i.imm != _SPIN_UNLOCK:
        raise Reject(EINVAL, "function calls are not allowed while holding a lock")
    if i.src and env.linkage.get(env.insn_idx + 1 + i.imm, 0):
        text = "global function calls are not allowed while holding a lock,"
        raise Reject(EINVAL, text + "\nuse static function instead")


def _exit(env: Env, i: Insn, step: Step) -> bool:
    if i.code & 8 or i.imm or i.src or i.dst or i.klass == op.JMP32:
        raise Reject(EINVAL, "BPF_EXIT uses reserved fields")
    env.jumps += 1
    frames = env.cur.frames
    if len(frames) > 1:
        result = frames[-1].regs[0]
        if result.type & TYPE_MASK == STACK:
            raise Reject(EINVAL, "cannot return stack pointer to the caller")
        if frames[-1].callback:
            callbacks.leave(env, step)
            return True
        env.note(step)
        if env.log_level & 3:
            trace.returning(env)
        env.insn_idx = frames[-1].callsite + 1
        frames.pop()
        frames[-1].regs[0] = result
        if env.log_level & 3:
            trace.returned(env)
        return True
    sections.check_left(env, "BPF_EXIT instruction in main prog")
    if env.target is not None and tracing.returns_nothing(env, env.target):
        return False
    _check_result(env, 0)
    return False


def _check_result(env: Env, regno: int) -> None:
    reg = env.read_reg(regno)
    if env.target is not None:
        allowed = tracing.return_range(env, env.target)
    else:
        allowed = context.return_range(env.prog_type, env.program.expected_attach_type)
    when = "At program exit"
    if env.frame().callback and len(env.cur.frames) == 1:
        allowed, when = (0, 0), "At async callback return"
        if env.frame().callback == sleep.TASK_WORK:
            allowed = (S32_MIN, S32_MAX)
    elif env.frame().subprog and env.frame().subprog != env.exception:
        if reg.type != SCALAR:
            text = f"the register R{regno} is not a scalar value ({type_name(reg.type)})"
            raise Reject(EINVAL, f"At subprogram exit {text}")
        return
    if allowed is None:
        return
    if reg.type != SCALAR:
        text = f"{when} the register R{regno} is not a known value ({type_name(reg.type)})"
        raise Reject(EINVAL, text)
    precision.mark_reg(env, regno)
    low, high = reg.smin, reg.smax
    if env.target is not None and tracing.returns_int(env):
        low, high = reg.s32min, reg.s32max
    if low < allowed[0] or high > allowed[1]:
        raise not_in_range(when, reg, allowed[0], allowed[1], regno)
