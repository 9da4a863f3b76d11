"""Calls of the host's functions: as kernel functions of the application's BTF.

What has to hold before is proved of the arguments, what holds after is assumed of the result; a
resource that one gives, another takes back, on every path. Kernel functions proper are granted by
name. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa.insn import CALL, JMP, Insn
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject, type_name
from libbpf_shim.verifier.granted import allowed, host
from libbpf_shim.verifier.granted.denial import denied, policy
from libbpf_shim.verifier.memory import access, slots
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.policy import (
    CONSTANT,
    ENTRY,
    HOST,
    NUMBER,
    PARAMETER,
    RESULT,
    VOID,
    WRITES,
    HostFunction,
    HostParam,
    Rule,
)
from libbpf_shim.verifier.scalar.bounds import sync
from libbpf_shim.verifier.state import (
    BTF_PTR,
    MAX_OFF,
    MAYBE_NULL,
    NO_REG,
    SCALAR,
    TYPE_MASK,
    UNKNOWN,
    UNTRUSTED,
    Reg,
)

_DRAIN: Final = 209  # BPF_FUNC_user_ringbuf_drain
_RESERVES: Final = frozenset((131, 198))  # BPF_FUNC_ringbuf_reserve, ringbuf_reserve_dynptr


def of(env: Env, i: Insn) -> HostFunction | None:
    """The host's function that the instruction calls, if it does: calls of the kernel's own have
    an off of 0 (libbpf puts the BTF's place in fd_array there)."""
    if env.policy is None or i.off <= 0:
        return None
    for found in policy(env).functions:
        if found.id == i.imm:
            return found
    return None


def call(env: Env, function: HostFunction) -> None:
    """Check and carry out one call. Raises Reject."""
    if not function.granted:
        raise denied(env, f"calling host function {function.name}", f"call({function.name})")
    if function.gpl and not env.program.gpl_compatible:
        text = f"cannot call host function {function.name} from non-GPL compatible program"
        raise Reject(EINVAL, text)
    _nothing_held(env, function)
    given = [env.read_reg(n + 1) for n in range(len(function.params))]
    for n in range(len(function.params)):
        _argument(env, function, n, given)
    for rule in function.pre:
        _prove(env, function, rule, given)
    if function.releases >= 0:
        _release(env, function, given[function.releases])
    regs = env.regs()
    for r in range(6):
        regs[r] = NO_REG
    _result(env, function, given)


def _nothing_held(env: Env, function: HostFunction) -> None:
    """The function may wait, or not come back: nothing that others wait for is held meanwhile.
    (Under a lock no kernel function may be called at all.)"""
    cur = env.cur
    if cur.rcu or cur.preempt or cur.irq:
        raise Reject(EINVAL, f"{function.name} may sleep: not in an RCU, IRQ or preempt-disabled "
                             "section")
    for frame in cur.frames:
        if frame.callback == _DRAIN:
            raise Reject(EINVAL, f"{function.name} may sleep: not in a callback of "
                                 "bpf_user_ringbuf_drain")
    for _, at in cur.refs:
        i = env.insns[at]
        if i.code == JMP | CALL and i.src == 0 and i.imm in _RESERVES:
            raise Reject(EINVAL, f"{function.name} may sleep: not while a ring buffer's record "
                                 f"is reserved (insn {at})")


def _argument(env: Env, function: HostFunction, n: int, given: list[Reg]) -> None:
    param, reg, regno = function.params[n], given[n], n + 1
    what = f"R{regno}, {param.name} of {function.name}"
    if param.kind == NUMBER:
        if reg.type != SCALAR:
            raise Reject(EACCES, f"{what}: a number is expected, not {type_name(reg.type)}")
        return
    null = reg.type == SCALAR and not reg.tm and not reg.tv
    if null and not param.nonnull:
        precision.mark_reg(env, regno)
        return
    if param.kind == HOST:
        _object(env, what, param, reg)
        return
    if null:
        raise Reject(EACCES, f"{what}: NULL, where it may not be")
    size = param.size
    if size < 0:
        size = _size(env, function, param.size_of, given[param.size_of])
    how = access.WRITE if param.kind == WRITES else access.READ
    access.indirect(env, regno, size, how, True, False, "fp")


def _size(env: Env, function: HostFunction, n: int, reg: Reg) -> int:
    """The most that the parameter which says how much memory there is can be."""
    param = function.params[n]
    if reg.type != SCALAR:
        return 0  # refused where it is looked at itself
    precision.mark_reg(env, n + 1)
    low, high = allowed.bounds(reg, param.size, param.signed)
    if low < 0 or high >= MAX_OFF:
        text = f"R{n + 1}, {param.name} of {function.name}: in [{low}, {high}], unbounded"
        raise Reject(EACCES, f"{text} size of memory, use 'if (var < const)'")
    return high


def _object(env: Env, what: str, param: HostParam, reg: Reg) -> None:
    """A pointer to an object of the host's, at its beginning."""
    if not host.is_host(env, reg):
        name = type_name(reg.type)
        raise Reject(EACCES, f"{what}: an object of the host's is expected, not {name}")
    if reg.type != BTF_PTR | UNTRUSTED:
        raise Reject(EACCES, f"{what}: may be NULL, test it first")
    if reg.off or reg.tm or reg.tv:
        raise Reject(EACCES, f"{what}: not at the beginning of the object, off={reg.off}")
    if param.type_id and reg.type_id != param.type_id:
        btf = env.btf(reg.btf)
        has, wants = btf.type(reg.type_id).name, btf.type(param.type_id).name
        raise Reject(EACCES, f"{what}: of type {has}, {wants} is expected")
    if param.nonnull and not reg.range:
        raise Reject(EACCES, f"{what}: may be NULL, test it first")


def _prove(env: Env, function: HostFunction, rule: Rule, given: list[Reg]) -> None:
    """A condition on arguments holds for all that they may be. Raises Reject."""
    reg, param = given[rule.left], function.params[rule.left]
    text = f"{function.name}: {rule.text} is not proved: R{rule.left + 1}"
    if rule.kind == ENTRY:
        if host.is_host(env, reg) and reg.map == rule.value and not reg.off and not reg.tm \
                and not reg.tv:
            return
        raise Reject(EACCES, f"{text} is not the argument of the entry")
    if reg.type != SCALAR:
        if rule.op == "!=" and rule.kind == CONSTANT and rule.value == 0:
            if not host.is_host(env, reg) or reg.range:
                return
        raise Reject(EACCES, f"{text} is {type_name(reg.type)}")
    precision.mark_reg(env, rule.left + 1)
    low, high = allowed.bounds(reg, param.size, param.signed)
    if rule.op == "in":
        fits = any(a <= low and high <= b for a, b in rule.ranges)
    elif rule.kind == PARAMETER:
        other, row = given[rule.value], function.params[rule.value]
        if other.type != SCALAR:
            raise Reject(EACCES, f"{text} is compared with {type_name(other.type)}")
        precision.mark_reg(env, rule.value + 1)
        least, most = allowed.bounds(other, row.size, row.signed)
        same = reg.id != 0 and reg.id == other.id and reg.off == other.off
        fits = holds(rule.op, low, high, least, most)
        fits = fits or (same and rule.op in ("==", "<=", ">="))
    else:
        fits = holds(rule.op, low, high, rule.value, rule.value)
    if not fits:
        shown = str(low) if low == high else f"in [{low}, {high}]"
        raise Reject(EACCES, f"{text} is {shown}")


def holds(op: str, low: int, high: int, least: int, most: int) -> bool:
    """Every number of the first interval compares so with every one of the second."""
    if op == "==":
        return low == high == least == most
    if op == "!=":
        return high < least or most < low
    if op == "<":
        return high < least
    if op == "<=":
        return high <= least
    return low > most if op == ">" else low >= most


def _release(env: Env, function: HostFunction, reg: Reg) -> None:
    if not reg.ref or not env.release(reg.ref):
        text = f"{function.name}: what it releases has not been acquired before"
        raise Reject(EINVAL, f"{text}: unacquired reference")
    slots.forget_reference(env, reg.ref)


def _result(env: Env, function: HostFunction, given: list[Reg]) -> None:
    if function.result == VOID:
        return
    if function.result == NUMBER:
        env.regs()[0] = _number(function, given)
        return
    r = host.register(env, function.node, MAYBE_NULL if function.may_fail else 0)
    if function.may_fail or any(_not_null(rule) for rule in function.post):
        r.range = 1  # where it may be NULL, once that was tested
    if function.acquires:
        r.id = r.ref = env.reference(env.insn_idx)
    env.regs()[0] = r


def _not_null(rule: Rule) -> bool:
    return rule.left == RESULT and rule.op == "!=" and rule.kind == CONSTANT and not rule.value


def _number(function: HostFunction, given: list[Reg]) -> Reg:
    """What the function returns, as its conditions have it."""
    size, signed = function.result_size, function.result_signed
    top = 1 << 8 * min(size, 8)
    low, high = (-top // 2, top // 2 - 1) if signed else (0, top - 1)
    for rule in function.post:
        a, b = _limits(function, rule, given)
        low, high = max(low, a), min(high, b)
    r = UNKNOWN.copy()
    if low > high:
        return r  # the conditions contradict each other: nothing is known
    if size == 8 and signed:
        r.smin, r.smax = low, high
    elif size == 8:
        r.umin, r.umax = low, high
    elif size == 4 and signed:
        r.s32min, r.s32max = low, high
    elif size == 4:
        r.u32min, r.u32max = low, high
    else:
        return r  # the upper bytes of the register are not the function's to set
    sync(r)
    return r


def _limits(function: HostFunction, rule: Rule, given: list[Reg]) -> tuple[int, int]:
    """Between what the condition puts the result."""
    least, most = -(1 << 64), 1 << 64
    if rule.op == "in":
        return min([a for a, _ in rule.ranges]), max([b for _, b in rule.ranges])
    low = high = rule.value
    if rule.kind == PARAMETER:
        reg, param = given[rule.value], function.params[rule.value]
        if reg.type & TYPE_MASK != SCALAR:
            return least, most
        low, high = allowed.bounds(reg, param.size, param.signed)
    if rule.op == "==":
        return low, high
    if rule.op in ("<", "<="):
        return least, high - (1 if rule.op == "<" else 0)
    if rule.op in (">", ">="):
        return low + (1 if rule.op == ">" else 0), most
    return least, most
