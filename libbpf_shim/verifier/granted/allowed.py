"""Helpers under a class: which may be called, and what those that read and write any memory may be
given. Ready for mypyc.

Reading is one capability in all its forms: the bytes that a load may read, bpf_probe_read() and
its kin may read too, and the pointer that they copy stays one (CO-RE reads chains that way).
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier import infos, structure
from libbpf_shim.verifier.call import formats, helpers
from libbpf_shim.verifier.call.arguments import Call
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject
from libbpf_shim.verifier.granted import host, lengths
from libbpf_shim.verifier.granted.denial import beyond, denied, policy
from libbpf_shim.verifier.memory import access
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.state import (
    BTF_PTR,
    CTX,
    MAP_KEY,
    MAP_VALUE,
    MEM,
    RINGBUF,
    SCALAR,
    SPILLED,
    STACK,
    TYPE_MASK,
    UNTRUSTED,
    Reg,
    Slot,
)

# probe_read, probe_read_str, probe_read_user, probe_read_kernel and the latter's _str: (dst, size,
# src)
READS: Final = frozenset((4, 45, 112, 113, 114, 115))
STRINGS: Final = frozenset((45, 114, 115))
WRITE: Final = 36  # probe_write_user(dst, src, size)
OVERRIDE: Final = 58  # override_return(ctx, value)
_COPIES: Final = frozenset((148, 191))  # copy_from_user, copy_from_user_task
_FORMATS: Final[dict[int, int]] = {6: 1, 126: 2, 165: 3, 177: 1}  # argument that is the format
_TAIL_CALL: Final = 12
_LATER: Final = 170  # timer_set_callback
_WHOLE: Final = frozenset((STACK, MAP_VALUE, MAP_KEY))
_S64: Final = (-(1 << 63), (1 << 63) - 1)


def check(env: Env, call: Call) -> None:
    """Once the kernel's own rules hold for the call's arguments. Raises Reject."""
    p = policy(env)
    number = call.number
    if number in READS:
        _read(env, call)
    elif number == WRITE:
        _write(env)
    elif number == OVERRIDE:
        _override(env)
    elif p.helpers is not None and number not in p.helpers:
        name = helpers.name(number).removeprefix("bpf_")
        raise denied(env, f"calling helper {helpers.name(number)}", f"helper({name})")
    if number in _COPIES and not p.untyped_reads:
        raise denied(env, f"{helpers.name(number)} reads any memory", host.ANY_READ)
    if number in _FORMATS and not p.untyped_reads:
        _format(env, number)
    if number == infos.TAIL_CALL:
        env.unbounded("a tail call goes on in another program")
    if number in structure.CALLS_BACK or number == _LATER:
        env.unbounded(f"helper {helpers.name(number)} calls back as often as it is told to")
    if number == _TAIL_CALL:
        env.unbounded("helper bpf_tail_call goes on in another program")


def _read(env: Env, call: Call) -> None:
    reg = env.regs()[3]
    size = call.size_max
    name = helpers.name(call.number)
    if host.is_host(env, reg):
        if reg.type != BTF_PTR | UNTRUSTED:
            raise Reject(EACCES, f"R3 may be NULL: test it before it is given to {name}")
        if policy(env).nodes[reg.map].bytes and not policy(env).untyped_reads:
            lengths.read(env, reg.map, size, name)
            return
        lengths.same(env, lengths.NONE)
        if size:
            host.check(env, reg, 3, 0, size, False)
        _copied(env, call, reg)
        return
    lengths.same(env, lengths.NONE)
    if policy(env).untyped_reads:
        return
    if reg.type in _WHOLE or reg.type & TYPE_MASK == MEM and not reg.type & ~(MEM | RINGBUF):
        access.indirect(env, 3, size, access.READ, True, False, "fp")
        return
    if reg.type == CTX:
        if reg.tm or reg.tv or policy(env).registers is False:
            raise denied(env, f"{name} of the context", host.REGS)
        access.check_unmoved_ctx(reg, 3)
        if size > 168:
            raise Reject(EACCES, f"{name} of {size} bytes of the context, which has 168")
        return
    what = "a number" if reg.type == SCALAR else "no object of the host's"
    raise denied(env, f"{name} of R3, which is {what}", host.ANY_READ)


def _copied(env: Env, call: Call, src: Reg) -> None:
    """A pointer that is copied whole to a place of its own on the stack can be read through."""
    regs = env.regs()
    dst, size = regs[1], regs[2]
    if call.number in STRINGS or dst.type != STACK or dst.tm or size.tm or size.tv != 8:
        return
    low = dst.off + dst.smin
    if src.tm or src.tv or low % 8:
        return
    found = host.led_to(env, src, 0)
    if found.type != SCALAR:
        frame = env.cur.frames[dst.frame]
        frame.stack[(-low - 1) // 8] = Slot(SPILLED, found)


def _write(env: Env) -> None:
    p = policy(env)
    regs = env.regs()
    dst, size = regs[1], regs[3]
    if host.is_host(env, dst):
        if dst.type != BTF_PTR | UNTRUSTED:
            raise Reject(EACCES, "R1 may be NULL: test it before it is given to "
                                 "bpf_probe_write_user")
        host.check(env, dst, 1, 0, size.umax, True)
        return
    if not p.untyped_writes:
        raise denied(env, "bpf_probe_write_user to R1, which is no object of the host's",
                     host.ANY_WRITE)


def _override(env: Env) -> None:
    """The value is one that the class allows."""
    p = policy(env)
    reg = env.regs()[2]
    if p.override is None:
        raise beyond(env, "bpf_override_return", "override", "override: true")
    if reg.type != SCALAR:
        if p.override == (_S64,):
            return
        raise Reject(EACCES, "R2 is a pointer: the host would be given an address")
    precision.mark_reg(env, 2)
    size, signed = p.result
    low, high = bounds(reg, size, signed)
    for start, end in p.override:
        if start <= low and high <= end:
            return
    shown = f"{low}" if low == high else f"in [{low}, {high}]"
    allowed = ", ".join(f"{a}" if a == b else f"[{a}, {b}]" for a, b in p.override)
    text = f"bpf_override_return with R2 {shown}; it is to be one of {allowed}"
    raise beyond(env, text, "override", f"override: {shown}")


def bounds(reg: Reg, size: int, signed: bool) -> tuple[int, int]:
    """The least and the most that a number of size bytes in the register may be."""
    if size == 8:
        return (reg.smin, reg.smax) if signed else (reg.umin, reg.umax)
    if size == 4:
        return (reg.s32min, reg.s32max) if signed else (reg.u32min, reg.u32max)
    top = 1 << 8 * size
    low, high = (-top // 2, top // 2 - 1) if signed else (0, top - 1)
    if not reg.tm & (top - 1):
        value = reg.tv & (top - 1)
        value -= top if signed and value > high else 0
        return value, value
    if reg.smin >= low and reg.smax <= high:
        return reg.smin, reg.smax
    return low, high


def _format(env: Env, number: int) -> None:
    """A format that prints what an argument points to reads any memory."""
    regno = _FORMATS[number]
    reg = env.regs()[regno]
    text = _known_text(env, reg)
    if text is None:
        raise denied(env, f"{helpers.name(number)} with a format that is not known",
                     host.ANY_READ)
    if formats.reads_memory(text):
        raise denied(env, f"{helpers.name(number)} prints what an argument points to",
                     host.ANY_READ)


def _known_text(env: Env, reg: Reg) -> bytes | None:
    """The constant string that the register points to."""
    if reg.type != MAP_VALUE or reg.tm:
        return None
    desc = env.maps[reg.map]
    at = reg.off + reg.tv
    if desc.contents is None or not desc.map_flags & access.RDONLY_PROG:
        return None
    if not 0 <= at < desc.value_size:
        raise Reject(EINVAL, "a format outside of its map")
    end = desc.contents.find(b"\0", at)
    return desc.contents[at:end] if end >= 0 else None
