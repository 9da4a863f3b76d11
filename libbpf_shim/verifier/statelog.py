"""The verifier's state as the kernel's log prints it: ``R1=ctx() R10=fp0 fp-8=mmmmmmmm``.

Source: observed logs of Linux 6.18 (log levels 1 and 2).
"""

from __future__ import annotations

from libbpf_shim.verifier.domains import S32_MAX, S32_MIN, S64_MAX, S64_MIN, U32, U64
from libbpf_shim.verifier.dynptr import TYPES
from libbpf_shim.verifier.env import Env, type_name
from libbpf_shim.verifier.state import (
    ADD_CONST,
    CTX,
    DYNPTR_SLOT,
    INVALID,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MEM,
    NOT_INIT,
    PKT,
    PKT_META,
    SCALAR,
    SPILL,
    STACK,
    TYPE_MASK,
    Frame,
    Reg,
    Slot,
)

_BYTE = "?rm0dif"


def _number(value: int) -> str:
    """Decimal where short, hexadecimal where the kernel finds it clearer."""
    if -65536 < value < 65536:
        return str(value)
    return hex(value & U64) if value >= 0 else str(value)


def _bounds(reg: Reg) -> list[str]:
    out = []
    rows = (
        ("smin", reg.smin, S64_MIN), ("smax", reg.smax, S64_MAX), ("umin", reg.umin, 0),
        ("umax", reg.umax, U64), ("smin32", reg.s32min, S32_MIN), ("smax32", reg.s32max, S32_MAX),
        ("umin32", reg.u32min, 0), ("umax32", reg.u32max, U32),
    )
    done: set[str] = set()
    for name, value, dull in rows:
        if value == dull or name in done:
            continue
        same = [n for n, v, w in rows if v == value and v != w and n not in done]
        done.update(same)
        out.append("=".join(same) + "=" + _number(value))
    if reg.tm not in (0, U64):
        out.append(f"var_off=(0x{reg.tv:x}; 0x{reg.tm:x})")
    return out


def register(env: Env, reg: Reg) -> str:
    """One register's text after ``R1=``."""
    if reg.type == SCALAR and reg.tm == 0:
        return _number(reg.smin)
    parts = []
    base = reg.type & TYPE_MASK
    if base == STACK and reg.tm == 0:
        return f"fp{reg.off + reg.smin}"
    if reg.id & ~ADD_CONST:
        parts.append(f"id={reg.id & ~ADD_CONST}" + (f"{reg.off:+d}" if reg.id & ADD_CONST else ""))
    if reg.ref:
        parts.append(f"ref_obj_id={reg.ref}")
    if base in (MAP_VALUE, MAP_PTR, MAP_KEY):
        desc = env.maps[reg.map]
        parts.append(f"map={desc.name},ks={desc.key_size},vs={desc.value_size}")
    if base == MEM:
        parts.append(f"sz={reg.mem_size}")
    if base != SCALAR and reg.off:
        parts.append(f"off={reg.off}")
    if base in (PKT, PKT_META):
        parts.append(f"r={reg.range}")
    if base == SCALAR or reg.tm:
        parts += _bounds(reg)
    elif reg.tv:
        parts.append(f"imm={_number(reg.smin)}")
    if not parts and base not in (SCALAR, CTX, MAP_VALUE):
        return type_name(reg.type) + "()"
    return f"{type_name(reg.type)}({','.join(parts)})"


def slot(env: Env, index: int, content: Slot) -> str:
    """One stack slot: ``fp-8=...``, or "" if nothing is there."""
    if all(t == INVALID for t in content.types):
        return ""
    if content.types[0] == SPILL and content.reg is not None:
        shown = register(env, content.reg)
        rest = "".join(_BYTE[t] for t in reversed(content.types) if t != SPILL)
        return f"fp-{8 * (index + 1)}={rest}{shown}"
    if content.types[7] == DYNPTR_SLOT and content.reg is not None:
        return _dynptr(index, content.reg)
    return f"fp-{8 * (index + 1)}=" + "".join(_BYTE[t] for t in reversed(content.types))


def _dynptr(index: int, reg: Reg) -> str:
    """The kernel shows one at its upper slot, the other is left out."""
    if not reg.depth:
        return ""
    parts = [f"id={reg.id}"] + ([f"ref_id={reg.ref}"] if reg.ref else [])
    parts.append("dynptr_id=1")  # 6.18 reads beside what it wants to show
    return f"fp-{8 * (index + 1)}=dynptr_{TYPES[reg.kind]}({','.join(parts)})"


def frame(env: Env, content: Frame, number: int) -> str:
    """All of a frame in one line."""
    parts = [f"frame{number}:"] if number else []
    for n, reg in enumerate(content.regs):
        if reg.type != NOT_INIT:
            parts.append(f"R{n}={register(env, reg)}")
    parts += [text for n, s in enumerate(content.stack) if (text := slot(env, n, s))]
    return " ".join(parts)
