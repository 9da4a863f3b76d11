"""Fields of map values that programs may not touch by loads and stores. Which
fields a value has is the map's to say (MapDesc.fields). Ready for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_map_access,
process_spin_lock, process_timer_func, check_map_prog_compatibility.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, EINVAL, ENOTSUPP, Env, Reject
from libbpf_shim.verifier.memory import record
from libbpf_shim.verifier.memory.special import (
    LIST_HEAD,
    POINTERS,
    RB_ROOT,
    REFCOUNT,
    RES_SPIN_LOCK,
    SIZES,
    SPIN_LOCK,
    TASK_WORK,
    TIMER,
    WORKQUEUE,
)
from libbpf_shim.verifier.program import MapDesc
from libbpf_shim.verifier.state import Reg

SPIN_LOCK_HELPER: Final = 93
_SOCKET_FILTER: Final = 1
_TRACING: Final = frozenset((2, 5, 7, 17, 24))  # kprobe, tracepoint, perf event, raw tracepoints
_LOCKS: Final = frozenset((SPIN_LOCK, RES_SPIN_LOCK))
_HEADS: Final = frozenset((LIST_HEAD, RB_ROOT))
_KNOWN: Final = frozenset((
    SPIN_LOCK, RES_SPIN_LOCK, TIMER, WORKQUEUE, TASK_WORK, REFCOUNT, LIST_HEAD, RB_ROOT,
    *POINTERS,
))  # fmt: skip


def offset(desc: MapDesc, name: str) -> int:
    """Of the value's field of that name, bytes; -1: it has none."""
    for field, at in desc.fields:
        if field == name:
            return at
    return -1


def check_map(prog_type: int, desc: MapDesc) -> None:
    """Whether programs of this type may use a map with such values."""
    names = [name for name, _ in desc.fields]
    for name in names:
        if name not in _KNOWN:
            text = f"map '{desc.name}': {name} in map values is not supported here"
            raise Reject(ENOTSUPP, text)
    tracing = prog_type in _TRACING
    if tracing and _HEADS & set(names):
        raise Reject(EINVAL, "tracing progs cannot use bpf_{list_head,rb_root} yet")
    if _LOCKS & set(names):
        if prog_type == _SOCKET_FILTER:
            raise Reject(EINVAL, "socket filter progs cannot use bpf_spin_lock yet")
        if tracing:
            raise Reject(EINVAL, "tracing progs cannot use bpf_spin_lock yet")
    if tracing and TIMER in names:
        raise Reject(EINVAL, "tracing progs cannot use bpf_timer yet")
    if tracing and WORKQUEUE in names:
        raise Reject(EINVAL, "tracing progs cannot use bpf_wq yet")


def check_access(
    env: Env, desc: MapDesc, reg: Reg, off: int, size: int, direct: bool
) -> None:
    """No byte of a field may be among those that the access may reach, but those of a pointer,
    all of them. direct: the access is the program's own."""
    for name, at in desc.fields:
        if not (reg.smin + off < at + SIZES[name] and at < reg.umax + off + size):
            continue
        if name not in POINTERS:
            raise Reject(EACCES, f"{name} cannot be accessed directly by load/store")
        if record.of_reg(env, reg):
            _pointer(reg, name.removesuffix("_untrusted"), at, off, size, direct)


def _pointer(reg: Reg, name: str, at: int, off: int, size: int, direct: bool) -> None:
    if not direct:
        raise Reject(EACCES, f"{name} cannot be accessed indirectly by helper")
    if reg.tm:
        raise Reject(EACCES, f"{name} access cannot have variable offset")
    if at != off + reg.tv:
        text = f"{name} access misaligned expected={at} off={off + reg.tv}"
        raise Reject(EACCES, text)
    if size != 8:
        raise Reject(EACCES, f"{name} access size must be BPF_DW")


def _at(env: Env, regno: int, reg: Reg, name: str) -> None:
    """reg is the address of the field of that name, in a map value."""
    if reg.tm:
        why = f"{name} has to be at the constant offset"
        raise Reject(EINVAL, f"R{regno} doesn't have constant offset. {why}")
    desc = env.maps[reg.map]
    if not desc.btf:
        raise Reject(EINVAL, f"map '{desc.name}' has to have BTF in order to use {name}")
    at = offset(desc, name)
    if at < 0:
        raise Reject(EINVAL, f"map '{desc.name}' has no valid {name}")
    if at != reg.tv + reg.off:
        text = f"off {reg.tv + reg.off} doesn't point to 'struct {name}' that is at {at}"
        raise Reject(EINVAL, text)


def timer(env: Env, regno: int, reg: Reg) -> None:
    """The timer that bpf_timer_init() and the others are given. Two inner maps of one map are one
    to this verifier, so their timers could not be told apart."""
    _at(env, regno, reg, TIMER)
    if reg.map >= len(env.program.maps):
        raise Reject(ENOTSUPP, f"{TIMER} in the values of inner maps is not supported here")
