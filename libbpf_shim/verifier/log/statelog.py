"""The verifier's state as the kernel's log prints it: ``R1=ctx() R10=fp0 fp-8=mmmmmmmm``.

Source: Linux 6.18, kernel/bpf/log.c, print_verifier_state; observed logs (levels 1 and 2).
"""

from __future__ import annotations

from libbpf_shim.verifier.env import Env, type_name
from libbpf_shim.verifier.scalar.domains import S32_MAX, S32_MIN, S64_MAX, S64_MIN, U32, U64
from libbpf_shim.verifier.state import (
    ADD_CONST,
    ARENA,
    BTF_PTR,
    DYNPTR,
    DYNPTR_NAMES,
    DYNPTR_SLOT,
    INVALID,
    ITER_SLOT,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NON_OWN,
    NOT_INIT,
    PKT,
    PKT_META,
    SCALAR,
    SPILL,
    STACK,
    TRUSTED,
    TYPE_MASK,
    Frame,
    Reg,
    Slot,
    State,
)

_BYTE = "?rm0dif"
_ALL = 0x7FF
_LATER = 170  # BPF_FUNC_timer_set_callback: its callback runs by itself


def _signed(value: int) -> str:
    """Decimal where short; hexadecimal of 64 bits else."""
    return str(value) if -0x8000 <= value <= 0x7FFF else f"0x{value & U64:x}"


def _unsigned(value: int) -> str:
    return str(value) if value <= 0xFFFF else f"0x{value:x}"


def _half(value: int) -> int:
    """A signed 32-bit bound as the kernel compares and prints it: with its sign only if short."""
    return value if -0x8000 <= value <= 0x7FFF else value & U32


def _bounds(reg: Reg) -> list[str]:
    """What is known of the range; bounds of one kind that are equal are told together."""
    rows = [
        ("smin", reg.smin, reg.smin == S64_MIN), ("smax", reg.smax, reg.smax == S64_MAX),
        ("umin", reg.umin, reg.umin == 0), ("umax", reg.umax, reg.umax == U64),
        ("smin32", _half(reg.s32min), reg.s32min == S32_MIN),
        ("smax32", _half(reg.s32max), reg.s32max == S32_MAX),
        ("umin32", reg.u32min, reg.u32min == 0), ("umax32", reg.u32max, reg.u32max == U32),
    ]  # fmt: skip
    out = []
    done: set[int] = set()
    for n, (name, value, dull) in enumerate(rows):
        if dull or n in done:
            continue
        names = name
        for m in range(n + 2, 8, 2):
            other, same, omit = rows[m]
            if not omit and m not in done and _bits(same) == _bits(value) and (
                _below(other, same) == _below(name, value)
            ):
                done.add(m)
                names += "=" + other
        out.append(f"{names}={_signed(value) if name[0] == 's' else _unsigned(value)}")
    if reg.tm != U64 or reg.tv:
        out.append(f"var_off=(0x{reg.tv:x}; 0x{reg.tm:x})")
    return out


def _bits(value: int) -> int:
    return value & U64


def _below(name: str, value: int) -> bool:
    return name[0] == "s" and value < 0


def register(env: Env, reg: Reg, frame: int = 0) -> str:
    """One register's text after ``R1=``, in frame number frame."""
    base = reg.type & TYPE_MASK
    if base == SCALAR and reg.tm == 0:
        return _signed(reg.smin)
    name = type_name(reg.type & ~TRUSTED if reg.ref else reg.type)
    if base == ARENA:
        return name
    if base == STACK:
        name += f"[{reg.frame}]" if reg.frame != frame else ""
        if reg.tm == 0:
            return name + _signed(reg.off + reg.smin)
    elif base == BTF_PTR:
        name += btf_name(env, reg)
    return f"{name}({','.join(_facts(env, reg, base))})"


def btf_name(env: Env, reg: Reg) -> str:
    try:
        return env.btf(reg.btf).type(reg.type_id).name if reg.type_id else "task_struct"
    except KeyError:
        return ""


def _facts(env: Env, reg: Reg, base: int) -> list[str]:
    parts = []
    if reg.id:
        shift = f"{reg.off:+d}" if reg.id & ADD_CONST else ""
        parts.append(f"id={reg.id & ~ADD_CONST}{shift}")
    if reg.ref:
        parts.append(f"ref_obj_id={reg.ref}")
    if reg.type & NON_OWN:
        parts.append("non_own_ref")
    if base in (MAP_VALUE, MAP_PTR, MAP_KEY):
        desc = env.maps[reg.map]
        if base == MAP_PTR and reg.type & MAYBE_NULL:  # of a map of maps: told as its value
            desc = next((m for m in env.maps if m.inner is desc), desc)
        parts += [f"map={desc.name}"] * bool(desc.name)
        parts.append(f"ks={desc.key_size},vs={desc.value_size}")
    if base != SCALAR and reg.off:
        parts.append(f"off={_signed(reg.off)}")
    if base in (PKT, PKT_META):
        parts.append(f"r={_unsigned(reg.range & U64)}")
    if base == MEM:
        parts.append(f"sz={_unsigned(reg.mem_size)}")
    if base == DYNPTR:
        parts.append(f"type={DYNPTR_NAMES[reg.kind]}")
    if reg.tm:
        parts += _bounds(reg)
    elif reg.tv:
        parts.append(f"imm={_signed(reg.smin)}")
    return parts


def slot(env: Env, index: int, content: Slot, frame: int, precise: bool) -> str:
    """One stack slot, perhaps marked: ``fp-8=...``, or "" if nothing is there."""
    if all(t == INVALID for t in content.types):
        return ""
    place = f"fp-{8 * (index + 1)}="
    upper = "".join(_BYTE[t] for t in reversed(content.types))
    if content.types[0] == SPILL and content.reg is not None:
        mark = "P" if precise and content.reg.type == SCALAR else ""
        return place + upper[: upper.index("r")] + mark + register(env, content.reg, frame)
    if content.types[0] == DYNPTR_SLOT and content.reg is not None:
        return _dynptr(index, content.reg)
    if content.types[0] == ITER_SLOT and content.reg is not None:
        return _iterator(env, index, content.reg)
    return place + upper


def _dynptr(index: int, reg: Reg) -> str:
    """The kernel shows one at its upper slot, the other is left out."""
    if not reg.depth:
        return ""
    parts = [f"id={reg.id}"] + ([f"ref_id={reg.ref}"] if reg.ref else [])
    parts.append("dynptr_id=1")  # 6.18 reads beside what it wants to show
    return f"fp-{8 * (index + 1)}=dynptr_{DYNPTR_NAMES[reg.kind]}({','.join(parts)})"


def _iterator(env: Env, index: int, reg: Reg) -> str:
    """At its first slot, which has the reference."""
    if not reg.ref:
        return ""
    name = btf_name(env, reg).removeprefix("bpf_")
    words = ("invalid", "active", "drained")[reg.kind]
    return f"fp-{8 * (index + 1)}={name}(ref_id={reg.ref},state={words},depth={reg.depth})"


def state(env: Env, number: int, regs: int = _ALL, slots: set[int] | None = None) -> str:
    """Frame number of the current state: those registers and slots, or all."""
    return of(env, env.cur, number, regs, slots)


def of(
    env: Env, shown: State, number: int, regs: int = _ALL, slots: set[int] | None = None
) -> str:
    """Each part with a space before it."""
    content: Frame = shown.frames[number]
    parts = [f" frame{number}:"] if number else []
    for n, reg in enumerate(content.regs):
        if reg.type != NOT_INIT and regs & 1 << n:
            mark = "P" if content.precise & 1 << n and reg.type == SCALAR else ""
            parts.append(f" R{n}={mark}{register(env, reg, number)}")
    for n, s in enumerate(content.stack):
        if (slots is None or n in slots) and (
            text := slot(env, n, s, number, content.precise_stack & 1 << n != 0)
        ):
            parts.append(" " + text)
    if held := _held(shown):
        parts.append(" refs=" + ",".join(held))
    if content.callback:
        parts.append(" async_cb" if content.callback == _LATER else " cb")
    return "".join(parts)


def _held(shown: State) -> list[str]:
    """Ids of references, locks and saved interrupt states, as they were taken. Of a lock it is the
    pointer's, which may be none: then it is not shown, nor anything if it came first."""
    rows = [(ident, 0, ident) for ident, _ in (*shown.refs, *shown.irqs)]
    rows += [(since, 1, ident) for _, _, ident, since in shown.locks]
    found = [ident for _, _, ident in sorted(rows)]
    return [str(ident) for ident in found if ident] if found and found[0] else []
