"""Stack slots that hold an object of the kernel's: a dynptr, an iterator, saved interrupts.
Programs hand them to helpers and kfuncs and may not look into them. Ready for mypyc.

An object takes one slot or more; the highest in memory has what is known of it (Slot.reg: kind,
depth, id, ref). A store to a part of a dynptr destroys it and the slices taken from it, if it does
not hold a reference; of another object it just makes plain bytes, so that it cannot be given back.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, stack_slot_obj_get_spi,
destroy_if_dynptr_stack_slot, scrub_special_slot, check_stack_range_initialized.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject
from libbpf_shim.verifier.scalar.domains import to_s64
from libbpf_shim.verifier.state import (
    DYNPTR_SLOT,
    EMPTY_SLOT,
    INVALID,
    IRQ_SLOT,
    ITER_SLOT,
    MAYBE_NULL,
    MEM,
    MISC,
    PACKET_SLICE,
    PKT,
    PKT_END,
    PKT_META,
    SPILL,
    TYPE_MASK,
    UNKNOWN,
    Frame,
    Reg,
    Slot,
)

# Dynptr types, Reg.kind (enum bpf_dynptr_type); Reg.depth is 1 in the first slot, else 0.
LOCAL: Final = 1
RINGBUF: Final = 2
SKB: Final = 3
XDP: Final = 4
SKB_META: Final = 5
DYNPTR_SLOTS: Final = 2
_SPECIAL: Final = (DYNPTR_SLOT, ITER_SLOT, IRQ_SLOT)
_REFERENCE: Final = 1
_PACKETS: Final = 2
_SLICES: Final = 3


def special(types: bytes) -> bool:
    """The slot is part of an object; it is as a whole."""
    return types[7] in _SPECIAL


def scrubbed(slot: Slot) -> bytes:
    """Byte types once what the slot held as a whole is gone: also zeroes beside a spilled number
    are then just bytes."""
    if special(slot.types) or slot.types[0] == SPILL:
        return bytes([MISC if t != INVALID else t for t in slot.types])
    return slot.types


def place(env: Env, reg: Reg, what: str, count: int) -> int:
    """The slot at which an object of so many slots begins, the highest one of them: frame.stack's
    index of the first in memory. -1: it is not on the stack used so far. Raises Reject."""
    if reg.tm:
        raise Reject(EINVAL, f"{what} has to be at a constant offset")
    off = reg.off + to_s64(reg.tv)
    spi = (-off - 1) // 8
    if off % 8 or spi + 1 < count:
        raise Reject(EINVAL, f"cannot pass in {what} at an offset={off}")
    if spi >= len(env.cur.frames[reg.frame].stack):
        return -1
    return spi


def at_top(reg: Reg) -> bool:
    """It points behind the highest slot: 6.18 takes that for the slot, until it is written."""
    return reg.tm == 0 and reg.off + to_s64(reg.tv) == 0


def destroy_dynptr(env: Env, frame: Frame, spi: int) -> None:
    """Something is about to be stored into slot spi."""
    if spi < 0 or spi >= len(frame.stack) or frame.stack[spi].types[0] != DYNPTR_SLOT:
        return
    reg = frame.stack[spi].reg
    if reg is not None and not reg.depth:
        spi += 1
        reg = frame.stack[spi].reg
    if reg is None or reg.kind == RINGBUF:
        raise Reject(EINVAL, "cannot overwrite referenced dynptr")
    frame.stack[spi] = EMPTY_SLOT
    frame.stack[spi - 1] = EMPTY_SLOT
    forget_slices(env, reg.id)


def destroy_dynptrs(env: Env, frame: Frame, low: int, high: int) -> None:
    """Something is about to be stored somewhere into fp+low..fp+high."""
    for spi in range((-high) // 8, (-low - 1) // 8 + 1):
        destroy_dynptr(env, frame, spi)


def check_bytes(frame: Frame, reg: Reg, regno: int, low: int, high: int, size: int) -> None:
    """A helper reads fp+low..fp+high: no byte of an object."""
    for s in range(-high // 8, (-low - 1) // 8 + 1):
        if special(frame.stack[s].types):
            break
    else:
        return
    for at in range(low, high):
        types = frame.stack[(-at - 1) // 8].types
        if types[at & 7] not in _SPECIAL:
            continue
        if not reg.tm:
            text = f"invalid read from stack R{regno} off {low}+{at - low} size {size}"
        else:
            offset = f"(0x{reg.tv:x}; 0x{reg.tm:x})"
            text = f"invalid read from stack R{regno} var_off {offset}+{at - low} size {size}"
        raise Reject(EACCES, text)


def check_filled(frame: Frame, low: int, high: int) -> None:
    """A helper fills fp+low..fp+high, which may not be where a dynptr is that it is given too."""
    for at in range(low, high):
        spi = (-at - 1) // 8
        if spi < len(frame.stack) and frame.stack[spi].types[at & 7] == DYNPTR_SLOT:
            raise Reject(EACCES, f"potential write to dynptr at off={at} disallowed")


def forget_slices(env: Env, ident: int) -> None:
    """The dynptr of that id is gone, and the memory taken from it with it."""
    _in_all(env, _SLICES, ident)


def forget_reference(env: Env, ref: int) -> None:
    """After a release no copy of the pointer may be used."""
    _in_all(env, _REFERENCE, ref)


def forget_packets(env: Env) -> None:
    """After the packet may have moved."""
    _in_all(env, _PACKETS, 0)


def _in_all(env: Env, why: int, ident: int) -> None:
    """Registers and spilled ones that this holds for hold a number."""
    for frame in env.cur.frames:
        for r in range(10):
            if _hit(frame.regs[r], why, ident):
                frame.regs[r] = UNKNOWN
        for s in range(len(frame.stack)):
            slot = frame.stack[s]
            reg = slot.reg
            if reg is not None and slot.types[0] == SPILL and _hit(reg, why, ident):
                frame.stack[s] = Slot(slot.types, UNKNOWN)


def _hit(reg: Reg, why: int, ident: int) -> bool:
    if why == _REFERENCE:
        return reg.ref == ident
    if why == _SLICES:
        return reg.type & ~MAYBE_NULL == MEM and reg.kind == ident
    base = reg.type & TYPE_MASK
    return base in (PKT, PKT_META, PKT_END) or (base == MEM and reg.type & PACKET_SLICE != 0)
