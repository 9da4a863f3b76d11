"""Pointer arithmetic, null checks and packet bounds. Ready for mypyc.

Messages and limits: Linux 6.18, kernel/bpf/verifier.c (adjust_ptr_min_max_vals and around it).
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa.insn import ADD, AND, JGE, JGT, JLE, JLT, OR, SUB, XOR
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject, type_name
from libbpf_shim.verifier.kfuncs import locks
from libbpf_shim.verifier.memory import sockets
from libbpf_shim.verifier.memory.access import MAX_PACKET_OFF
from libbpf_shim.verifier.scalar import domains as d
from libbpf_shim.verifier.scalar.bounds import set_unknown, sync
from libbpf_shim.verifier.scalar.branches import MIRRORED
from libbpf_shim.verifier.scalar.domains import S64_MAX, S64_MIN, U64
from libbpf_shim.verifier.state import (
    ALLOC,
    BTF_PTR,
    BUF,
    CTX,
    DYNPTR,
    FLOW_KEYS,
    FUNC,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAX_OFF,
    MAYBE_NULL,
    MEM,
    NON_OWN,
    PERCPU,
    PKT,
    PKT_END,
    PKT_META,
    RCU,
    SOCK,
    SOCK_COMMON,
    SPILL,
    STACK,
    TCP_SOCK,
    TP_BUFFER,
    TRUSTED,
    TYPE_MASK,
    UNKNOWN,
    UNTRUSTED,
    ZERO_REG,
    Reg,
    Slot,
    State,
)

_MOVABLE: Final = frozenset((
    CTX, MAP_VALUE, MAP_KEY, STACK, PKT_META, PKT, TP_BUFFER, MEM, FUNC, BTF_PTR, DYNPTR, BUF,
))
_NOT_NULL: Final = frozenset((
    MAP_VALUE, MAP_PTR, MAP_KEY, SOCK, SOCK_COMMON, TCP_SOCK,
))
_S32: Final = 0x80000000
# Reg.range of a packet pointer that a comparison found at the packet's end, or beyond it.
AT_END: Final = -1
BEYOND_END: Final = -2
SIGN: Final = {
    0x00: "+=", 0x10: "-=", 0x20: "*=", 0x30: "/=", 0x40: "|=", 0x50: "&=", 0x60: "<<=",
    0x70: ">>=", 0x90: "%=", 0xA0: "^=", 0xC0: "s>>=",
}


def _sane(reg: Reg, off: int, type: int) -> None:
    """Offsets stay far from overflow."""
    name = type_name(type)
    if reg.tm == 0 and not -MAX_OFF < reg.smin < MAX_OFF:
        raise Reject(EINVAL, f"math between {name} pointer and {reg.smin} is not allowed")
    if not -MAX_OFF < off < MAX_OFF:
        raise Reject(EINVAL, f"{name} pointer offset {off} is not allowed")
    if reg.smin == S64_MIN:
        raise Reject(
            EINVAL,
            f"math between {name} pointer and register with unbounded min value is not allowed",
        )
    if not -MAX_OFF < reg.smin < MAX_OFF:
        raise Reject(EINVAL, f"value {reg.smin} makes {name} pointer be out of bounds")


def arithmetic(env: Env, dst: int, opcode: int, ptr: Reg, number: Reg, ptr_is_dst: bool) -> Reg:
    """ptr += number, ptr -= number or number += ptr. Raises Reject."""
    base = ptr.type & TYPE_MASK
    if ptr.type & MAYBE_NULL:
        raise Reject(
            EACCES,
            f"R{dst} pointer arithmetic on {type_name(ptr.type)} prohibited, null-check it first",
        )
    if base == MEM and ptr.type & UNTRUSTED:  # read with care wherever it points
        return ptr if ptr_is_dst else UNKNOWN
    zero = number.tm == 0 and number.smin == 0 and opcode == ADD
    keys = base == FLOW_KEYS and number.tm == 0
    if base not in _MOVABLE and not keys and not (base == MAP_PTR and zero):
        raise Reject(EACCES, f"R{dst} pointer arithmetic on {type_name(ptr.type)} prohibited")
    _sane(number, number.off, ptr.type)
    _sane(ptr, ptr.off, ptr.type)
    if opcode == SUB and not ptr_is_dst:
        raise Reject(EACCES, f"R{dst} tried to subtract pointer from scalar")
    if opcode == SUB and base == STACK:
        raise Reject(EACCES, f"R{dst} subtraction from stack pointer prohibited")
    if opcode in (AND, OR, XOR):
        raise Reject(EACCES, f"R{dst} bitwise operator {SIGN[opcode]} on pointer prohibited")
    if opcode not in (ADD, SUB):
        raise Reject(EACCES, f"R{dst} pointer arithmetic with {SIGN[opcode]} operator prohibited")
    r = ptr.copy()
    sign = 1 if opcode == ADD else -1
    moved = ptr.off + sign * number.smin
    if number.tm == 0 and -_S32 <= moved < _S32:
        r.off = moved  # the proven range is counted from the same base
        if moved < ptr.off and r.range < 0:
            r.range = 0  # no more behind the end; 6.18 forgets that, later kernels do not
        _sane(r, r.off, r.type)
        return r
    _vary(r, ptr, number, opcode)
    if base in (PKT, PKT_META):
        r.id = env.new_id()
        if opcode == ADD or number.smin < 0 or r.range < 0:
            r.range = 0
    sync(r)
    _sane(r, r.off, r.type)
    return r


def _vary(r: Reg, ptr: Reg, number: Reg, opcode: int) -> None:
    """The variable part; the 32-bit halves of addresses mean nothing."""
    set_unknown(r)
    if opcode == ADD:
        r.tv, r.tm = d.t_add(ptr.tv, ptr.tm, number.tv, number.tm, U64)
        r.smin, r.smax = d.s_add(ptr.smin, ptr.smax, number.smin, number.smax, S64_MAX)
        if ptr.umax + number.umax <= U64:  # else anything, as set
            r.umin = ptr.umin + number.umin
            r.umax = ptr.umax + number.umax
    else:
        r.tv, r.tm = d.t_sub(ptr.tv, ptr.tm, number.tv, number.tm, U64)
        r.smin, r.smax = d.s_sub(ptr.smin, ptr.smax, number.smin, number.smax, S64_MAX)
        if ptr.umin >= number.umax:
            r.umin = ptr.umin - number.umax
            r.umax = ptr.umax - number.umin


def null_branch(env: Env, state: State, ident: int, is_null: bool) -> None:
    """Every pointer of one origin is, or is not, NULL in this state."""
    for frame in state.frames:
        for n in range(10):
            reg = frame.regs[n]
            if reg.type & MAYBE_NULL and reg.id == ident:
                frame.regs[n] = resolved(env, reg, is_null)
        for s in range(len(frame.stack)):
            spilled = frame.stack[s].reg
            if spilled is not None and spilled.type & MAYBE_NULL and spilled.id == ident:
                frame.stack[s] = Slot(frame.stack[s].types, resolved(env, spilled, is_null))
    if is_null:
        state.refs = tuple([r for r in state.refs if r[0] != ident])


def resolved(env: Env, reg: Reg, is_null: bool) -> Reg:
    """What a pointer becomes once it is known whether it is NULL."""
    if is_null:
        return ZERO_REG
    r = reg.copy()
    r.type &= ~MAYBE_NULL
    if r.type == MAP_VALUE:
        socket = sockets.found(env.maps[r.map].type)
        if socket:
            r.type, r.map = socket, -1
    if not locks.may_lock(env, r):  # who unlocks must be who locked
        r.id = 0
    return r


def packet_branch(opcode: int, dst: int, src: int, fall: State, taken: State) -> None:
    """A comparison of a packet pointer with the end proves bytes present on one side; on the
    other, that the pointer is at the end or beyond it."""
    regs = fall.frames[-1].regs
    if _pair(regs[dst], regs[src]):
        regno = dst
    elif _pair(regs[src], regs[dst]):
        regno = src
        opcode = MIRRORED[opcode]
    else:
        return
    reg = regs[regno]
    if opcode in (JGT, JGE):
        _proven(fall, reg, opcode == JGE)
        _ended(taken, regno, opcode == JGT)
    elif opcode in (JLT, JLE):
        _proven(taken, reg, opcode == JLT)
        _ended(fall, regno, opcode == JLE)


def _ended(state: State, regno: int, beyond: bool) -> None:
    regs = state.frames[-1].regs
    if regs[regno].type == PKT:
        regs[regno] = _ranged(regs[regno], BEYOND_END if beyond else AT_END)


def end_branch(opcode: int, dst: Reg, src: Reg) -> int:
    """1, 0 or -1 as branches.branch_taken, for a pointer that an earlier comparison has found at
    the packet's end or beyond."""
    if src.type == PKT_END:
        range = dst.range
    elif dst.type == PKT_END:
        range = src.range
        opcode = MIRRORED[opcode]
    else:
        return -1
    if range == BEYOND_END and opcode in (JLE, JGT):
        return 1 if opcode == JGT else 0
    if range < 0 and opcode in (JLT, JGE):
        return 1 if opcode == JGE else 0
    return -1


def _pair(reg: Reg, end: Reg) -> bool:
    if reg.type == PKT and end.type == PKT_END:
        return True
    plain = end.type == PKT and end.off == 0 and end.tm == 0 and end.tv == 0 and end.id == 0
    return reg.type == PKT_META and plain


def _proven(state: State, reg: Reg, open: bool) -> None:
    """reg <= end (open: reg < end) holds in state."""
    if reg.off < 0 or (reg.off == 0 and open):
        return
    if reg.umax > MAX_PACKET_OFF or reg.umax + reg.off > MAX_PACKET_OFF:
        return
    size = reg.off + (1 if open else 0)
    for frame in state.frames:
        for n in range(10):
            have = frame.regs[n]
            if have.type == reg.type and have.id == reg.id and have.range < size:
                frame.regs[n] = _ranged(have, size)
        for s in range(len(frame.stack)):
            slot = frame.stack[s]
            spilled = slot.reg
            if spilled is not None and slot.types[0] == SPILL:
                if spilled.type == reg.type and spilled.id == reg.id and spilled.range < size:
                    frame.stack[s] = Slot(slot.types, _ranged(spilled, size))


def _ranged(reg: Reg, size: int) -> Reg:
    r = reg.copy()
    r.range = size
    return r


def never_null(reg: Reg) -> bool:
    """A pointer that the kernel takes for certainly not NULL (reg_not_null(): context, stack and
    packet are not among them)."""
    base = reg.type & TYPE_MASK
    if reg.type & MAYBE_NULL:
        return False
    if base == BTF_PTR:
        trusted = reg.ref != 0 or reg.type & (TRUSTED | ALLOC | NON_OWN) != 0
        return trusted and not reg.type & (UNTRUSTED | PERCPU | RCU)
    if base == MEM:
        return not reg.type & UNTRUSTED
    return base in _NOT_NULL
