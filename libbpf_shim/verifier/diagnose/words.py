"""What is known of a register, in words: `a number from 0 to 255`."""

from __future__ import annotations

from libbpf_shim.verifier.env import Env, type_name
from libbpf_shim.verifier.log.statelog import btf_name
from libbpf_shim.verifier.scalar.domains import S64_MAX, S64_MIN, U64
from libbpf_shim.verifier.state import (
    ARENA,
    BTF_PTR,
    CTX,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NOT_INIT,
    PKT,
    PKT_END,
    PKT_META,
    SCALAR,
    STACK,
    TYPE_MASK,
    UNTRUSTED,
    Reg,
)

_PLAIN = {CTX: "the context", PKT_END: "the packet's end (data_end)", ARENA: "an arena address"}


def span(lo: int, hi: int) -> str:
    return f"{lo}" if lo == hi else f"{lo} to {hi}"


def number(reg: Reg) -> str:
    """A scalar."""
    if reg.tm == 0:
        return f"the number {reg.smin}"
    if reg.smin == S64_MIN and reg.smax == S64_MAX and reg.umin == 0 and reg.umax == U64:
        return "an unknown number"
    if reg.smin >= 0:
        return f"a number from {reg.umin} to {reg.umax}"
    if reg.smin > S64_MIN or reg.smax < S64_MAX:
        return f"a number from {reg.smin} to {reg.smax}"
    return f"a number from {reg.umin} to {reg.umax}, unsigned"


def _offset(reg: Reg) -> str:
    lo, hi = reg.off + reg.smin, reg.off + reg.smax
    if reg.tm == 0:
        return "" if not lo else f" at offset {lo}"
    if reg.smin == S64_MIN or reg.smax == S64_MAX:
        return " at an unknown offset"
    return f" at an offset from {lo} to {hi}"


def register(env: Env, reg: Reg) -> str:
    """Any register."""
    base = reg.type & TYPE_MASK
    if reg.type == NOT_INIT:
        return "nothing"
    if base == SCALAR:
        return number(reg)
    null = ", or NULL" if reg.type & MAYBE_NULL else ""
    if base == STACK:
        lo, hi = reg.off + reg.smin, reg.off + reg.smax
        return f"the stack at fp{lo:+d}" if lo == hi else f"the stack at fp{lo:+d} to fp{hi:+d}"
    if base in (MAP_VALUE, MAP_KEY, MAP_PTR):
        desc = env.maps[reg.map]
        name = f"map '{desc.name}'" if desc.name else "a map"
        if base == MAP_PTR:
            return name + null
        size = desc.value_size if base == MAP_VALUE else desc.key_size
        what = "value" if base == MAP_VALUE else "key"
        return f"a {what} of {name} ({size} bytes){_offset(reg)}{null}"
    if base in (PKT, PKT_META):
        part = "the packet" if base == PKT else "the packet's metadata"
        proven = f"{max(reg.range, 0)} bytes proven present"
        return f"{part}{_offset(reg)}, {proven}"
    if base == MEM:
        return f"memory of {reg.mem_size} bytes{_offset(reg)}{null}"
    if base == BTF_PTR and (name := btf_name(env, reg)):
        trust = "an untrusted" if reg.type & UNTRUSTED else "a"
        return f"{trust} pointer to {name}{_offset(reg)}{null}"
    name = _PLAIN.get(base, type_name(reg.type & ~MAYBE_NULL).rstrip("_"))
    return f"{name}{_offset(reg)}{null}"
