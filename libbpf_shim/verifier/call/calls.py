"""Helper calls: argument checks and what a call leaves behind. Ready for mypyc.

Model: kernel/bpf/verifier.c, check_helper_call and check_func_arg; one row a helper in helpers.py.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier import infos, structure
from libbpf_shim.verifier.call import (
    arguments,
    availability,
    callbacks,
    formats,
    helpers,
    map_helpers,
    sleep,
)
from libbpf_shim.verifier.call.arguments import Call
from libbpf_shim.verifier.env import EACCES, EINVAL, ENOTSUPP, Env, Reject, type_name
from libbpf_shim.verifier.granted import allowed
from libbpf_shim.verifier.kernel import btf_args, btf_ptr, kptr, target, tracing
from libbpf_shim.verifier.kfuncs import dynptr, locks, sections
from libbpf_shim.verifier.memory import slots
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.scalar.bounds import sync
from libbpf_shim.verifier.state import (
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NO_REG,
    RINGBUF,
    SCALAR,
    SOCK,
    SOCK_COMMON,
    TCP_SOCK,
    TRUSTED,
    UNKNOWN,
    Reg,
    Step,
    pointer,
)

# helpers
DYNPTR_FROM_MEM: Final = 197
DYNPTR_WRITE: Final = 202
GET_CURRENT_TASK: Final = 158  # get_current_task_btf
GET_FUNC_IP: Final = 173
_KPROBE: Final = 2  # BPF_PROG_TYPE_KPROBE
MAP_LOOKUP: Final = 1
GET_LOCAL_STORAGE: Final = 81
SNPRINTF: Final = 165
_CPU: Final = 8  # get_smp_processor_id
_STRING_READS: Final = frozenset((45, 67, 114, 115, 141))  # -errno or at most the size given
_WRITERS: Final = frozenset((2, 3, 87, 88))  # change a map: update, delete, push, pop
# sk_fullsock, tcp_sock, skc_to_*: the argument in another way
_CASTS: Final = frozenset((95, 96, 136, 137, 138, 139, 140, 196))
_ACQUIRE: Final = frozenset((84, 85, 99))  # sk_lookup_tcp, sk_lookup_udp, skc_lookup_tcp
_SOCKET_MAPS: Final = frozenset((15, 18))  # SOCKMAP, SOCKHASH: a lookup takes a reference
# attach types of kprobes of several functions at once, whose bpf_get_func_ip() is free
_MULTI: Final = frozenset((42, 48, 56, 57))
PERCPU_MAPS: Final = frozenset((5, 6, 10, 21))


def helper(env: Env, number: int, step: Step) -> None:
    """Check and carry out one helper call. Raises Reject."""
    proto = _available(env, number)
    env.helpers.add(number)
    call = Call(number, proto)
    for at in range(len(proto.args)):
        arguments.check(env, call, at)
    if env.policy is not None:
        allowed.check(env, call)
    _map_rules(env, call)
    if call.kptr is not None:
        if call.ref:
            kptr.release(env, call.ref)
    elif call.release:
        if not env.release(call.ref):
            name = helpers.name(number)
            raise Reject(EINVAL, f"func {name}#{number} reference has not been acquired before")
        slots.forget_reference(env, call.ref)
    if call.dynptr_released is not NO_REG:
        dynptr.release(env, call.dynptr_released)
    _own_rules(env, call, step)
    if proto.percpu or (call.map >= 0 and env.maps[call.map].type in PERCPU_MAPS):
        env.percpu = True
    if call.map >= 0:
        here = env.insn_idx
        have = env.helper_map.get(here, call.map)
        env.helper_map[here] = call.map if have == call.map else -1
    written = number == DYNPTR_WRITE and call.dynptr.kind in (slots.SKB, slots.SKB_META)
    if proto.moves or written:
        slots.forget_packets(env)
    regs = env.regs()
    for r in range(6):
        regs[r] = NO_REG
    _result(env, call)


def _available(env: Env, number: int) -> helpers.Proto:
    """The helper is there for this program."""
    proto = helpers.proto(env.prog_type, number)
    if proto is not None and number in env.helpers and not proto.sleeps:
        return proto  # as before; only who may sleep depends on the path
    name = helpers.name(number)
    if proto is None and number:
        raise Reject(EINVAL, f"invalid func {name}#{number}")
    attach_type = env.program.expected_attach_type
    if proto is None or not _has(env, number):
        raise Reject(EINVAL, f"program of this type cannot use helper {name}#{number}")
    free = number == GET_FUNC_IP and attach_type in _MULTI
    if proto.gpl and not free and not env.program.gpl_compatible:
        raise Reject(EINVAL, "cannot call GPL-restricted function from non-GPL compatible program")
    if proto.never or (env.target is not None and tracing.forbidden(env, env.target, number)):
        raise Reject(EINVAL, "helper call is not allowed in probe")
    if proto.sleeps:
        if not sleep.sleepable(env):
            raise Reject(EINVAL, "helper call might sleep in a non-sleepable prog")
        sections.check_helper(env, name, number)
    return proto


def _no_function(env: Env) -> None:
    """bpf_get_func_ip(), unless the program is at a function. Raises Reject."""
    attach, name = env.program.expected_attach_type, helpers.name(GET_FUNC_IP)
    what = f"func {name}#{GET_FUNC_IP}"
    if env.prog_type != target.TRACING:
        raise Reject(ENOTSUPP, f"{what} not supported for program type {env.prog_type}")
    if attach not in (target.FENTRY, target.FEXIT, target.MODIFY_RETURN):
        raise Reject(ENOTSUPP, f"{what} supported only for fentry/fexit/fmod_ret programs")


def _has(env: Env, number: int) -> bool:
    """Programs like this one have the helper."""
    if not env.program.locked_down and availability.unlocked(env.prog_type, number):
        return True
    if env.target is not None:
        return tracing.allowed(env, env.target, number)
    return availability.allowed(env.prog_type, env.program.expected_attach_type, number)


def _map_rules(env: Env, call: Call) -> None:
    """record_func_map(), check_map_func_compatibility(): the map suits the helper."""
    number = call.number
    if number == GET_LOCAL_STORAGE:
        flags = env.regs()[2]
        if flags.type != SCALAR or flags.tm or flags.tv:
            raise Reject(EINVAL, "get_local_storage() doesn't support non-zero flags")
    if call.map < 0:
        return
    desc = env.maps[call.map]
    if desc.read_only and number in _WRITERS:
        raise Reject(EACCES, "write into map forbidden")
    attach = env.program.expected_attach_type
    text = map_helpers.refusal(env.prog_type, attach, desc.type, number, helpers.name(number))
    if not text:
        return
    if number == infos.TAIL_CALL:
        raise Reject(EINVAL, "expected prog array map for tail call")
    if number == callbacks.FOR_EACH:
        raise Reject(ENOTSUPP, "callback function not allowed for map")
    raise Reject(EINVAL, text)


def _own_rules(env: Env, call: Call, step: Step) -> None:
    """What single helpers ask for, and do, beyond their arguments."""
    number = call.number
    if number == infos.TAIL_CALL:
        _tail_call(env, call)
    elif number in structure.CALLS_BACK:
        callbacks.enter(env, number, call.map, step)
    elif number == callbacks.SET_CALLBACK:
        callbacks.set_later(env, call.timer)
        call.map = call.timer
    elif number == SNPRINTF:
        _format(env)
    elif number == DYNPTR_FROM_MEM and env.regs()[1].type != MAP_VALUE:
        name = type_name(env.regs()[1].type)
        raise Reject(EACCES, f"Unsupported reg type {name} for bpf_dynptr_from_mem data")
    elif number == GET_FUNC_IP and env.prog_type != _KPROBE:
        _no_function(env)


def _format(env: Env) -> None:
    """check_bpf_snprintf_call(): the format goes with the number of values."""
    size = env.regs()[5].tv
    if size % 8:
        raise Reject(EINVAL, "")
    text = arguments.constant_string(env, 3, env.regs()[3])
    if not 0 <= formats.arguments(text) <= size // 8:
        raise Reject(EINVAL, "Invalid format string")


def _tail_call(env: Env, call: Call) -> None:
    sections.check_left(env, "tail_call")
    if env.cur.frames[0].callback:
        raise Reject(ENOTSUPP, "tail calls in a timer's callback are not supported here")
    index = env.regs()[3]
    if index.type == SCALAR and index.tm == 0 and index.tv < env.maps[call.map].max_entries:
        precision.mark_reg(env, 3)


def _result(env: Env, call: Call) -> None:
    regs = env.regs()
    kind = call.proto.ret & helpers.KIND
    if kind == helpers.VOID:
        return
    if kind == helpers.INT:
        regs[0] = _number(env, call)
        return
    null = MAYBE_NULL if call.proto.ret & helpers.OR_NULL else 0
    acquired = call.number in _ACQUIRE
    if kind == helpers.VALUE:
        if call.number == MAP_LOOKUP and 0 <= call.key < env.maps[call.map].max_entries:
            null = 0  # it is there
        r, acquired = _element(env, call, null)
    elif kind == helpers.RECORD:
        r, acquired = pointer(MEM | RINGBUF | null), True
        r.mem_size = call.alloc
    elif kind == helpers.MEM:
        r = pointer(MEM | null)
        r.mem_size = call.alloc
        r.kind, r.ref = call.dynptr.id, call.dynptr.ref
    elif kind == helpers.SOCKET:
        r = pointer(SOCK | null)
    elif kind == helpers.SOCK_COMMON:
        r = pointer(SOCK_COMMON | null)
    elif kind == helpers.TCP_SOCK:
        r = pointer(TCP_SOCK | null)
    elif call.kptr is not None:
        regs[0] = kptr.taken(env, call.kptr)
        return
    elif kind == helpers.BTF:
        trusted = TRUSTED if call.number == GET_CURRENT_TASK else 0
        r = btf_ptr.kernel_pointer(env, call.proto.types[-1], trusted | null)
    elif kind == helpers.PERCPU:
        r = btf_args.of_cpu(env, call.given, null)
    else:
        name = helpers.name(call.number)
        raise Reject(ENOTSUPP, f"the result of {name}#{call.number} is not supported here")
    if null:
        r.id = env.new_id()
    if acquired:
        r.id = r.ref = env.reference(env.insn_idx)
    elif call.number in _CASTS:
        r.ref = call.ref
    regs[0] = r


def _number(env: Env, call: Call) -> Reg:
    if call.number == _CPU and env.program.cpus and env.policy is None:
        return _below(env.program.cpus)  # of a class: the number is in memory that others write
    if call.number not in _STRING_READS:
        return UNKNOWN
    r = UNKNOWN.copy()
    r.smin = -4095
    r.smax = call.size_max
    r.s32min = -4095
    r.s32max = min(r.s32max, call.size_max)
    sync(r)
    return r


def _below(count: int) -> Reg:
    """Some number less than count."""
    r = UNKNOWN.copy()
    r.umin = r.u32min = r.smin = r.s32min = 0
    r.umax = r.u32max = r.smax = r.s32max = count - 1
    sync(r)
    return r


def _element(env: Env, call: Call, null: int) -> tuple[Reg, bool]:
    """What a lookup finds in the map; whether a reference goes with it."""
    type = env.maps[call.map].type
    if type in (12, 13):
        r = pointer(MAP_PTR | null)
        r.map = _inner(env, call.map)
    else:
        r = pointer(MAP_VALUE | null)
        r.map = call.map
    if not null and locks.may_lock(env, r):
        r.id = env.new_id()
    return r, type in _SOCKET_MAPS


def _inner(env: Env, outer: int) -> int:
    """The index of a map-in-map's inner map, which is added to env.maps when first met."""
    inner = env.maps[outer].inner
    if inner is None:
        raise Reject(EINVAL, "map-in-map without a known inner map")
    structure.check_map(env, inner)
    for at in range(len(env.program.maps), len(env.maps)):
        if env.maps[at] is inner:
            return at
    env.maps.append(inner)
    return len(env.maps) - 1
