"""Fields of map values that programs may not touch by loads and stores: locks and timers. Which
fields a value has is the map's to say (MapDesc.fields). Ready for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_map_access,
process_spin_lock, process_timer_func, check_map_prog_compatibility.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, EINVAL, ENOTSUPP, Env, Reject
from libbpf_shim.verifier.program import MapDesc
from libbpf_shim.verifier.state import Reg

SPIN_LOCK: Final = "bpf_spin_lock"
TIMER: Final = "bpf_timer"
SPIN_LOCK_HELPER: Final = 93
_SIZES: Final = {SPIN_LOCK: 4, TIMER: 16}
_SOCKET_FILTER: Final = 1
_TRACING: Final = frozenset((2, 5, 7, 17, 24))  # kprobe, tracepoint, perf event, raw tracepoints


def offset(desc: MapDesc, name: str) -> int:
    """Of the value's field of that name, bytes; -1: it has none."""
    for field, at in desc.fields:
        if field == name:
            return at
    return -1


def check_map(prog_type: int, desc: MapDesc) -> None:
    """Whether programs of this type may use a map with such values."""
    for name, _ in desc.fields:
        if name not in _SIZES:
            text = f"map '{desc.name}': {name} in map values is not supported here"
            raise Reject(ENOTSUPP, text)
        if name == SPIN_LOCK and prog_type == _SOCKET_FILTER:
            raise Reject(EINVAL, f"socket filter progs cannot use {name} yet")
        if prog_type in _TRACING:
            raise Reject(EINVAL, f"tracing progs cannot use {name} yet")


def check_access(desc: MapDesc, reg: Reg, off: int, size: int) -> None:
    """No byte of a field may be among those that the access may reach."""
    for name, at in desc.fields:
        if reg.smin + off < at + _SIZES[name] and at < reg.umax + off + size:
            raise Reject(EACCES, f"{name} cannot be accessed directly by load/store")


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


def spin_lock(env: Env, number: int, regno: int, reg: Reg) -> None:
    """bpf_spin_lock(), bpf_spin_unlock(): one lock at a time, given back by who took it."""
    _at(env, regno, reg, SPIN_LOCK)
    cur = env.cur
    if number == SPIN_LOCK_HELPER:
        if cur.lock_map >= 0:
            raise Reject(EINVAL, f"Locking two {SPIN_LOCK}s are not allowed")
        cur.lock_map, cur.lock_id = reg.map, reg.id
        return
    if cur.lock_map < 0:
        raise Reject(EINVAL, "bpf_spin_unlock without taking a lock")
    if (cur.lock_map, cur.lock_id) != (reg.map, reg.id):
        raise Reject(EINVAL, "bpf_spin_unlock of different lock")
    cur.lock_map, cur.lock_id = -1, 0


def timer(env: Env, regno: int, reg: Reg) -> None:
    """The timer that bpf_timer_init() and the others are given. Two inner maps of one map are one
    to this verifier, so their timers could not be told apart."""
    _at(env, regno, reg, TIMER)
    if reg.map >= len(env.program.maps):
        raise Reject(ENOTSUPP, f"{TIMER} in the values of inner maps is not supported here")
