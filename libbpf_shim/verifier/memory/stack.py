"""Loads and stores of the program's stack: what each slot holds, byte by byte.

Messages are those of Linux 6.18 (kernel/bpf/verifier.c: check_stack_read, check_stack_write and
what they call). Ready for mypyc.
"""

from __future__ import annotations

from libbpf_shim.verifier.call import fastcall
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject, tnum
from libbpf_shim.verifier.memory import slots
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.scalar import linked
from libbpf_shim.verifier.state import (
    DYNPTR,
    EMPTY_SLOT,
    INVALID,
    MAX_OFF,
    MISC,
    MISC_SLOT,
    NOT_INIT,
    SCALAR,
    SPILL,
    SPILLED,
    STACK,
    STACK_SIZE,
    TP_BUFFER,
    UNKNOWN,
    ZERO,
    ZERO_REG,
    Frame,
    Reg,
    Slot,
    Step,
)


def bounds(reg: Reg, regno: int, off: int, size: int, what: str, zero_ok: bool) -> None:
    """Every byte in the frame, and the address too if there is none. what: ' read from' or
    ' write to'."""
    if reg.tm == 0:
        low = reg.off + off + reg.smin
        high = low + size
    else:
        if reg.smax >= MAX_OFF or reg.smin <= -MAX_OFF:
            if size == 0 and not zero_ok:
                raise Reject(EACCES, "invalid zero-sized read")
            raise Reject(EACCES, f"invalid unbounded variable-offset{what} stack R{regno}")
        low = reg.off + off + reg.smin
        high = reg.off + off + reg.smax + size
    if size == 0 and not zero_ok:
        raise Reject(EACCES, "invalid zero-sized read")
    if low < -STACK_SIZE or low >= 0 or high > 0:
        beyond = EINVAL if -STACK_SIZE <= low < 0 else EACCES
        off += reg.off
        if reg.tm == 0:
            raise Reject(beyond, f"invalid{what} stack R{regno} off={off} size={size}")
        raise Reject(
            beyond,
            f"invalid variable-offset{what} stack R{regno} var_off={tnum(reg)} off={off} "
            f"size={size}",
        )


def grow(env: Env, frame: Frame, low: int) -> None:
    """The frame has slots down to fp+low."""
    need = (-low + 7) // 8
    while len(frame.stack) < need:
        frame.stack.append(EMPTY_SLOT)
    env.add_depth(frame, -low)


def access(
    env: Env,
    reg: Reg,
    regno: int,
    off: int,
    size: int,
    writes: bool,
    value: Reg | None,
    value_no: int,
    step: Step,
) -> Reg:
    """One access of size bytes at regno + off, as access.check has it."""
    what = " write to" if writes else " read from"
    bounds(reg, regno, off, size, what, False)
    frame = env.cur.frames[reg.frame]
    if reg.tm:
        low = reg.off + off + reg.smin
        high = reg.off + off + reg.smax + size
        grow(env, frame, low)
        fastcall.touched(env, frame.subprog, low)
        if writes:
            slots.destroy_dynptrs(env, frame, low, high)
            if value is not None and value.type == SCALAR and value.tm == 0 and value.tv == 0:
                _write_zero_somewhere(env, frame, low, high, value_no)
            else:
                clobber(frame, low, high, False)
            return UNKNOWN
        env.reads_stack(reg.frame, -high // 8, (-low - 1) // 8)
        slots.check_bytes(frame, reg, regno, low, high, size)
        note_unset(env, frame, low, high)
        return _read_bytes(frame, low, high, size)
    low = reg.off + off + reg.smin
    grow(env, frame, low)
    slot = (-low - 1) // 8
    # 6.18 takes a load for one of the current function's own stack
    owner = frame if writes else env.frame()
    fastcall.touched(env, owner.subprog, low)
    if writes:
        if size == 8:
            env.writes_stack(reg.frame, slot)
        _write_fixed(env, frame, reg, low, size, value, value_no)
        if frame.stack[slot].types[low & 7] == SPILL:
            step.stack = reg.frame << 8 | slot
        return UNKNOWN
    env.reads_stack(reg.frame, slot, slot)
    if frame.stack[slot].types[low & 7] == SPILL:
        step.stack = reg.frame << 8 | slot
    return _read_fixed(env, frame, low, size, slot, step)


def note_unset(env: Env, frame: Frame, low: int, high: int) -> None:
    """Bytes fp+low..fp+high are read; some were perhaps never written."""
    if env.reads_unset:
        return
    for at in range(low, high):
        if frame.stack[(-at - 1) // 8].types[at & 7] == INVALID:
            env.reads_unset = True
            return


def clobber(frame: Frame, low: int, high: int, must: bool) -> None:
    """Bytes fp+low..fp+high hold unknown data (must: certainly written; else perhaps)."""
    for s in range(-high // 8, (-low - 1) // 8 + 1):
        base = -8 * (s + 1)
        first = max(low, base) - base
        last = min(high, base + 8) - base
        if first >= last:
            continue
        old = frame.stack[s]
        if old is MISC_SLOT:
            continue
        if must and last - first == 8:
            frame.stack[s] = MISC_SLOT
            continue
        types = bytearray(slots.scrubbed(old) if must or not slots.special(old.types)
                          else old.types)
        for b in range(first, last):
            types[b] = MISC
        frame.stack[s] = Slot(bytes(types), None)


def _write_zero_somewhere(env: Env, frame: Frame, low: int, high: int, value_no: int) -> None:
    """Zero may be written anywhere in fp+low..fp+high: what is zero there stays so."""
    used = False
    for at in range(low, high):
        s = (-at - 1) // 8
        slot = frame.stack[s]
        types = bytearray(slot.types)
        was = types[at & 7]
        spilled = slot.reg
        if was == SPILL and spilled is not None and spilled.type == SCALAR:
            if spilled.tm == 0 and spilled.tv == 0:
                used = True
                continue
        if was == ZERO:
            used = True
            continue
        types = bytearray(slots.scrubbed(slot))
        types[at & 7] = MISC
        frame.stack[s] = Slot(bytes(types), None)
    if used and value_no >= 0:
        precision.mark_reg(env, value_no)


def _write_fixed(
    env: Env, frame: Frame, reg: Reg, low: int, size: int, value: Reg | None, value_no: int
) -> None:
    slot = (-low - 1) // 8
    first = low & 7
    slots.destroy_dynptr(env, frame, slot)
    if value is not None and value.type in (DYNPTR, TP_BUFFER):
        value = None  # not among the types that the kernel spills: a number
    if value is not None and value.type != SCALAR and value.type != NOT_INIT:
        if size != 8:
            raise Reject(EACCES, "invalid size of register spill")
        if value.type == STACK and reg.frame != len(env.cur.frames) - 1:
            raise Reject(EINVAL, "cannot spill pointers to stack into stack frame of the caller")
        frame.stack[slot] = Slot(SPILLED, value)
        return
    if value is not None and value.type == SCALAR and first == 0:
        _spill_scalar(env, frame, slot, size, value, value_no)
        return
    zero = value is not None and value.tm == 0 and value.tv == 0
    if zero and value_no >= 0:
        precision.mark_reg(env, value_no)
    types = bytearray(slots.scrubbed(frame.stack[slot]))
    for b in range(first, first + size):
        types[b] = ZERO if zero else MISC
    frame.stack[slot] = Slot(bytes(types), None)


def _spill_scalar(env: Env, frame: Frame, slot: int, size: int, value: Reg, value_no: int) -> None:
    fits = value.umax < 1 << size * 8
    if fits and value_no >= 0:
        value = linked.named(env, value_no)
    if size == 8:
        frame.stack[slot] = Slot(SPILLED, value)
        return
    if not fits and value.id:
        value = value.copy()
        value.id = 0
        value.off = 0
    old = frame.stack[slot].types
    types = bytearray(8)
    for b in range(8):
        types[b] = SPILL if b < size else old[b] if old[b] in (ZERO, INVALID) else MISC
    frame.stack[slot] = Slot(bytes(types), value)


def _read_fixed(env: Env, frame: Frame, low: int, size: int, slot: int, step: Step) -> Reg:
    content = frame.stack[slot]
    first = low & 7
    types = content.types
    if types[0] == SPILL:
        reg = content.reg
        if reg is None:
            raise Reject(EACCES, "verifier bug: spilled slot without a register")
        if types == SPILLED and size == 8:
            return reg
        if reg.type != SCALAR:
            raise Reject(EACCES, "invalid size of register fill")
        width = 8
        while width > 1 and types[width - 1] != SPILL:
            width -= 1
        if first == 0 and size <= width:
            if reg.umax >= 1 << size * 8 and reg.id:
                reg = reg.copy()
                reg.id = 0
                reg.off = 0
            return reg
        if reg.tm == 0 and reg.tv == 0 and first + size <= width:
            return ZERO_REG
    needed = types[first : first + size]
    if INVALID in needed:
        env.reads_unset = True
    if slots.special(types):
        for b in range(size):
            if needed[b] > ZERO:
                raise Reject(EACCES, f"invalid read from stack off {low}+{b} size {size}")
    for t in needed:
        if t != ZERO:
            return UNKNOWN
    return ZERO_REG


def _read_bytes(frame: Frame, low: int, high: int, size: int) -> Reg:
    for at in range(low, high):
        if frame.stack[(-at - 1) // 8].types[at & 7] != ZERO:
            return UNKNOWN
    return ZERO_REG
