"""What a program may use at most: instructions of one run, maps, stack.

Instructions are counted where the graph of states has no cycle: the longest way from each recorded
state to an end, carried upwards as paths end; one that ends at a state explored before goes on as
long as that one did. So the figure is that of the longest run that the verifier cannot rule out.
Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.env import EACCES, Env, Reject
from libbpf_shim.verifier.granted.denial import beyond, denied, policy
from libbpf_shim.verifier.program import MapDesc

_PERCPU: Final = frozenset((5, 6, 10, 21))
_ARRAYS: Final = frozenset((2, 6))
_RINGS: Final = frozenset((27, 31))
_ARENA: Final = 33
_PAGE: Final = 4096
_KPROBE: Final = 2
_SESSIONS: Final = (56, 57)
_OVERRIDE: Final = 58  # bpf_override_return
_TAIL_CALL: Final = 12  # bpf_tail_call
_NUMBERS: Final = "bpf_iter_num_new"


def begin(env: Env) -> None:
    """Before any path is looked at. Raises Reject."""
    p = policy(env)
    kind, attach = env.prog_type, env.program.expected_attach_type
    if kind != _KPROBE or attach in _SESSIONS:
        text = f"class {p.name} is of functions of the host's: the program's type is to be "
        raise Reject(EACCES, f"{text}kprobe (2), not {kind} with attach type {attach}")
    limits, maps = p.maps, env.program.maps
    if 0 <= limits.count < len(maps):
        raise beyond(env, f"{len(maps)} maps, {limits.count} are granted", "maps",
                     f"count: {len(maps)}")
    for desc in maps:
        _map(env, desc)
    total = sum([map_bytes(desc, env.program.cpus) for desc in maps])
    if 0 <= p.memory < total:
        raise beyond(env, f"{total} bytes of maps, {p.memory} of memory are granted", "memory",
                     f"memory: {total}")


def _map(env: Env, desc: MapDesc) -> None:
    limits = policy(env).maps
    if limits.types is not None and desc.type not in limits.types:
        raise denied(env, f"map {desc.name or '?'} of type {desc.type}", f"map({word(desc.type)})")
    size = map_bytes(desc, env.program.cpus)
    if 0 <= limits.bytes < size:
        raise beyond(env, f"map {desc.name or '?'} of {size} bytes, {limits.bytes} are granted",
                     "maps", f"bytes: {size}")
    if 0 <= limits.entries < desc.max_entries:
        raise beyond(env, f"map {desc.name or '?'} of {desc.max_entries} entries, "
                          f"{limits.entries} are granted", "maps",
                     f"entries: {desc.max_entries}")
    if desc.inner is not None:
        _map(env, desc.inner)


def word(type: int) -> str:
    """A map's type as policies write it."""
    from libbpf_shim.uapi.bpf import bpf_map_type

    try:
        return bpf_map_type(type).name.removeprefix("BPF_MAP_TYPE_").lower()
    except ValueError:
        return str(type)


def map_bytes(desc: MapDesc, cpus: int) -> int:
    """Bytes of keys and values: rounded up to 8, all entries, for each CPU where it is per CPU;
    of a ring buffer its data, of an arena its pages. A map of maps counts its inner map once an
    entry."""
    if desc.type in _RINGS:
        return desc.max_entries
    if desc.type == _ARENA:
        return desc.max_entries * _PAGE
    value = (desc.value_size + 7) & ~7
    if desc.type in _PERCPU:
        value *= cpus or 1
    key = 0 if desc.type in _ARRAYS else (desc.key_size + 7) & ~7
    inner = map_bytes(desc.inner, cpus) if desc.inner is not None else 0
    return desc.max_entries * (key + value + inner)


def ended(env: Env) -> None:
    """The current path has ended, or is covered by a state explored before (env.cover)."""
    cur = env.cur
    cover = env.cover
    length = cur.count + (cover.longest if cover is not None else 0)
    env.cover = None
    state = cur.parent
    while state is not None:
        if length <= state.longest:
            return
        state.longest = length
        length += state.count
        state = state.parent
    if length > env.longest:
        env.longest = length


def note(env: Env) -> None:
    """Where something is held before the instruction that is next: a lock, a reference, a section.
    An iterator of numbers is all in the program's stack, and nothing to be given back."""
    cur = env.cur
    if cur.locks or cur.rcu or cur.preempt or cur.irqs:
        env.held.add(env.running)
        return
    for _, at in cur.refs:
        i = env.insns[at]
        called = env.kfuncs.get((i.imm, i.off)) if i.src == op.PSEUDO_KFUNC_CALL else None
        if called is None or called.name != _NUMBERS:
            env.held.add(env.running)
            return


def _counter(env: Env) -> None:
    """A run that may take more than is granted is counted, and ended where nothing is held. What
    is held has to be given back within a number of instructions that is known."""
    p = policy(env)
    entered = p.helpers is None or _TAIL_CALL in p.helpers  # by a program of its class, midway
    if not env.cyclic and env.longest <= p.instructions and not entered:
        return
    if env.keeps:
        text = f"class {p.name}: something is held where no number of instructions bounds a run"
        raise Reject(EACCES, f"{text}: {env.keeps}\nhint: give it back before, so that the run "
                             "can be ended there")
    env.counted = p.instructions
    if p.default is not None and p.override is not None:
        env.helpers.add(_OVERRIDE)
        env.ctx_escapes = True


def finish(env: Env) -> None:
    """When all paths are explored. Raises Reject."""
    p = policy(env)
    if p.counter:
        _counter(env)
    elif p.instructions >= 0:
        if env.cyclic:
            raise beyond(env, f"the number of instructions cannot be proved: {env.cyclic}",
                         "budget", "budget: counter")
        if env.longest > p.instructions:
            raise beyond(env, f"a run may take {env.longest} instructions, {p.instructions} are "
                              "granted", "instructions", f"instructions: {env.longest}")
    if p.stack < 0 and p.memory < 0:
        return
    stack = _deepest(env, 0)
    if 0 <= p.stack < stack:
        raise beyond(env, f"{stack} bytes of stack, {p.stack} are granted", "stack",
                     f"stack: {stack}")
    total = stack + sum([map_bytes(desc, env.program.cpus) for desc in env.program.maps])
    if 0 <= p.memory < total:
        raise beyond(env, f"{total} bytes of maps and stack, {p.memory} of memory are granted",
                     "memory", f"memory: {total}")


def _deepest(env: Env, sub: int) -> int:
    """Bytes of stack of a function and of those that it calls, the most that are active at a time.
    Calls are not recursive: the kernel's rules were looked at before."""
    most = 0
    for at in range(len(env.insns)):
        i = env.insns[at]
        if env.sub_of[at] != sub:
            continue
        calls = i.code == op.JMP | op.CALL and i.src == op.PSEUDO_CALL
        if calls or (i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC):
            most = max(most, _deepest(env, env.sub_of[at + 1 + i.imm]))
    return most + (env.stack_depths[sub] + 7 & ~7)
