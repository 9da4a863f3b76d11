"""Helper calls: argument checks and what a call leaves behind. Ready for mypyc.

Model: kernel/bpf/verifier.c, check_helper_call and check_func_arg; one row a helper in helpers.py.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier import (
    availability,
    callbacks,
    dynptr,
    fields,
    helpers,
    infos,
    locks,
    memory,
    precision,
    sections,
    slots,
    structure,
)
from libbpf_shim.verifier.bounds import sync
from libbpf_shim.verifier.env import EACCES, EINVAL, ENOTSUPP, Env, Reject, type_name
from libbpf_shim.verifier.state import (
    CTX,
    FUNC,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NO_REG,
    PKT,
    PKT_META,
    RINGBUF,
    SCALAR,
    STACK,
    TASK,
    TYPE_MASK,
    UNKNOWN,
    Reg,
    Step,
    pointer,
)

MEM_TYPES: Final = "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_"
_MEMORY: Final = frozenset((STACK, PKT, PKT_META, MAP_KEY, MAP_VALUE, MEM))
_SOCKET_MAPS: Final = frozenset((15, 17, 18))  # whose lookups return a socket, no map value
PERCPU_MAPS: Final = frozenset((5, 6, 10, 21))
_STRING_READS: Final = frozenset((45, 67, 114, 115))  # return -errno or at most the size given
SLEEPABLE: Final = 1 << 4  # BPF_F_SLEEPABLE
MAP_PEEK: Final = 89
BLOOM_FILTER: Final = 30  # whose peek reads the value that it asks for
GET_SMP_PROCESSOR_ID: Final = 8
GET_FUNC_IP: Final = 173
DYNPTR_FROM_MEM: Final = 197
DYNPTR_WRITE: Final = 202


class Call:
    """What the arguments have told so far: the map, its index; sizes in bytes."""

    __slots__ = ("number", "map", "alloc", "size_max", "release", "constant", "proto", "timer",
                 "dynptr", "dynptr_released")

    def __init__(self, number: int, proto: helpers.Proto) -> None:
        self.number: int = number
        self.proto: helpers.Proto = proto
        self.map: int = -1
        self.timer: int = -1  # map of the timer
        self.alloc: int = 0
        self.size_max: int = 0
        self.release: int = 0
        self.constant: bool = False
        self.dynptr: Reg = NO_REG  # that is read or written
        self.dynptr_released: Reg = NO_REG  # address of the one that is


def helper(env: Env, number: int, step: Step) -> None:
    """Check and carry out one helper call. Raises Reject."""
    name = helpers.name(number)
    if not helpers.exists(number):
        raise Reject(EINVAL, f"invalid func {name}#{number}")
    if not availability.allowed(env.prog_type, number):
        raise Reject(EINVAL, f"program of this type cannot use helper {name}#{number}")
    proto = helpers.proto(env.prog_type, number)
    if proto is None:
        raise Reject(ENOTSUPP, f"helper {name}#{number} is not supported here")
    if proto.gpl and not env.program.gpl_compatible:
        raise Reject(EINVAL, "cannot call GPL-restricted function from non-GPL compatible program")
    if proto.sleeps and not sections.sleepable(env):
        raise Reject(EINVAL, "helper call might sleep in a non-sleepable prog")
    if proto.sleeps:
        sections.check_helper(env, name, number)
    if number == GET_FUNC_IP and env.prog_type not in helpers.FUNC_IP_TYPES:
        text = f"func {name}#{number} not supported for program type {env.prog_type}"
        raise Reject(ENOTSUPP, text)
    env.helpers.add(number)
    call = Call(number, proto)
    for at in range(len(proto.args)):
        _argument(env, call, at, step)
    _compatible(env, call)
    if number == infos.TAIL_CALL:
        _tail_call(env, call)
    if number in structure.CALLS_BACK:
        callbacks.enter(env, number, call.map, step)
    if number == callbacks.SET_CALLBACK:
        callbacks.set_later(env, call.timer)
        call.map = call.timer
    if proto.percpu or (call.map >= 0 and env.maps[call.map].type in PERCPU_MAPS):
        env.percpu = True
    if call.map >= 0:
        at = env.insn_idx
        have = env.helper_map.get(at, call.map)
        env.helper_map[at] = call.map if have == call.map else -1
    if call.release:
        if not env.release(call.release):
            raise Reject(EINVAL, f"func {name}#{number} reference has not been acquired before")
        slots.forget_reference(env, call.release)
    if call.dynptr_released is not NO_REG:
        dynptr.release(env, call.dynptr_released)
    if number == DYNPTR_FROM_MEM and env.regs()[1].type != MAP_VALUE:
        name = type_name(env.regs()[1].type)
        raise Reject(EACCES, f"Unsupported reg type {name} for bpf_dynptr_from_mem data")
    written = number == DYNPTR_WRITE and call.dynptr.kind in (slots.SKB, slots.SKB_META)
    if proto.moves or written:
        slots.forget_packets(env)
    regs = env.regs()
    for r in range(6):
        regs[r] = NO_REG
    _result(env, call)


def _argument(env: Env, call: Call, at: int, step: Step) -> None:
    regno = at + 1
    kind = call.proto.args[at]
    reg = env.read_reg(regno)
    base = reg.type & TYPE_MASK
    if base == CTX:
        env.ctx_escapes = True
    if kind == "a":
        return
    null = reg.type == SCALAR and reg.tm == 0 and reg.tv == 0
    if kind == "n" or kind == "W":
        if null:
            precision.mark_reg(env, regno)
            return
        kind = "r" if kind == "n" else "w"
    if kind == "t" or kind == "u":
        if null:
            precision.mark_reg(env, regno)
            return
        kind = kind.replace("u", "v")
    if kind == "t":
        _task(regno, reg)
    elif kind == "m":
        _map_argument(env, call, regno, reg)
    elif kind == "c":
        _expect(regno, reg, reg.type == CTX, "ctx")
        _unmoved(regno, reg, "ctx")
    elif kind == "s" or kind == "z":
        _size(env, call, at, kind == "z")
    elif kind == "A":
        _expect(regno, reg, reg.type == SCALAR, "scalar")
        if reg.tm:
            raise Reject(EACCES, f"R{regno} is not a known constant'")
        if reg.tv > 0xFFFFFFFF or reg.umax >= memory.MAX_OFF * 4:
            raise Reject(
                EACCES,
                f"R{regno} unbounded memory access, use 'var &= const' or 'if (var < const)'",
            )
        precision.mark_reg(env, regno)
        call.alloc = reg.tv
    elif kind == "R":
        _released(call, regno, reg)
    elif kind == "S":
        constant_string(env, regno, reg)
    elif kind in "DdbB":
        _dynptr(env, call, regno, reg, kind)
    elif kind == "e":
        _expect(regno, reg, reg.type == MAP_VALUE, "map_value")
        fields.timer(env, regno, reg)
        call.timer = reg.map
    elif kind == "l":
        _expect(regno, reg, reg.type == MAP_VALUE, "map_value, ptr_")
        locks.helper(env, regno, reg, call.number == fields.SPIN_LOCK_HELPER)
    elif kind == "f":
        _expect(regno, reg, reg.type == FUNC, "func")
        _unmoved(regno, reg, "func")
    elif kind == "x":
        if null:
            precision.mark_reg(env, regno)
            return
        _expect(regno, reg, reg.type == STACK, "fp")
    else:
        _memory(env, call, regno, reg, kind)


def _expect(regno: int, reg: Reg, fits: bool, words: str) -> None:
    if not fits:
        raise Reject(EACCES, f"R{regno} type={type_name(reg.type)} expected={words}")


def _unmoved(regno: int, reg: Reg, what: str) -> None:
    if reg.off or reg.tm or reg.tv:
        text = f"dereference of modified {what} ptr R{regno} off={reg.off} disallowed"
        raise Reject(EACCES, text)


def _map_argument(env: Env, call: Call, regno: int, reg: Reg) -> None:
    _expect(regno, reg, reg.type == MAP_PTR, "map_ptr")
    if call.timer >= 0 and call.timer != reg.map:
        text = "timer pointer in R1 map_uid=0 doesn't match map pointer in R2 map_uid=0"
        raise Reject(EINVAL, text)
    call.map = reg.map


def _compatible(env: Env, call: Call) -> None:
    """check_map_func_compatibility(): after the arguments, as the kernel looks."""
    if call.map < 0:
        return
    type = env.maps[call.map].type
    only = helpers.MAP_ONLY.get(type)
    wants = helpers.HELPER_ONLY.get(call.number)
    if (only is not None and call.number not in only) or (wants is not None and type not in wants):
        if call.number == infos.TAIL_CALL:
            raise Reject(EINVAL, "expected prog array map for tail call")
        raise Reject(
            EINVAL,
            f"cannot pass map_type {type} into func {helpers.name(call.number)}#{call.number}",
        )


def _memory(env: Env, call: Call, regno: int, reg: Reg, kind: str) -> None:
    """A pointer to memory; sized here, or by the size argument that follows it."""
    fits = reg.type & TYPE_MASK in _MEMORY and not reg.type & MAYBE_NULL
    _expect(regno, reg, fits, MEM_TYPES)
    packet = call.proto.packet
    if kind == "k":
        size = env.maps[call.map].key_size
        if not size:
            raise Reject(EACCES, "invalid zero-sized read")
        memory.indirect(env, regno, size, memory.READ, False, packet, MEM_TYPES)
    elif kind == "v" or kind == "V":
        size = env.maps[call.map].value_size
        asks = call.number == MAP_PEEK and env.maps[call.map].type == BLOOM_FILTER
        how = memory.READ if kind == "v" or asks else memory.WRITE
        memory.indirect(env, regno, size, how, False, packet, MEM_TYPES)
    elif kind == "L":
        memory.check_alignment(env, reg, 0, 8, reg.type == STACK)
        memory.indirect(env, regno, 8, memory.WRITE, False, packet, MEM_TYPES)


def _size(env: Env, call: Call, at: int, zero_ok: bool) -> None:
    """The size of the memory in the register before."""
    regno = at + 1
    reg = env.regs()[regno]
    _expect(regno, reg, reg.type == SCALAR, "scalar")
    if reg.smin < 0:
        raise Reject(
            EACCES, f"R{regno} min value is negative, either use unsigned or 'var &= const'"
        )
    if reg.umin == 0 and not zero_ok:
        raise Reject(EACCES, f"R{regno} invalid zero-sized read: u64=[{reg.umin},{reg.umax}]")
    if reg.umax >= memory.MAX_OFF:
        raise Reject(
            EACCES, f"R{regno} unbounded memory access, use 'var &= const' or 'if (var < const)'"
        )
    before = call.proto.args[at - 1]
    how = memory.WRITE if before in "wW" else memory.READ
    precision.mark_reg(env, regno)
    memory.indirect(env, regno - 1, reg.umax, how, zero_ok, call.proto.packet, "fp")
    call.size_max = reg.umax


def _released(call: Call, regno: int, reg: Reg) -> None:
    _expect(regno, reg, reg.type == MEM | RINGBUF, "ringbuf_mem")
    if reg.off or reg.tm or reg.tv:
        raise Reject(
            EINVAL,
            f"R{regno} must have zero offset when passed to release func or trusted arg to kfunc",
        )
    if not reg.ref:
        raise Reject(EINVAL, f"R{regno} must be referenced when passed to release function")
    call.release = reg.ref


def _task(regno: int, reg: Reg) -> None:
    _expect(regno, reg, reg.type == TASK, "ptr_, trusted_ptr_, rcu_ptr_")
    if reg.tm:
        text = f"variable trusted_ptr_ access var_off={memory.tnum(reg)} disallowed"
        raise Reject(EACCES, text)
    if reg.off or reg.tv:
        raise Reject(EACCES, f"R{regno} is of type task_struct but task_struct is expected")


def _dynptr(env: Env, call: Call, regno: int, reg: Reg, kind: str) -> None:
    """One that is there, is made (d, b), or is released (B)."""
    _expect(regno, reg, dynptr.is_pointer(reg), "fp, dynptr_ptr")
    if kind == "B" and reg.type != STACK and reg.off:
        why = "must have zero offset when passed to release func or trusted arg to kfunc"
        raise Reject(EINVAL, f"R{regno} {why}")
    dynptr.unmoved(regno, reg)
    if kind == "B":
        dynptr.released(env, regno, reg)
        dynptr.existing(env, regno, reg, slots.RINGBUF, True)
        call.dynptr_released = reg
    elif kind == "D":
        call.dynptr = dynptr.existing(env, regno, reg, 0, False)
    else:
        dynptr.create(env, regno, reg, slots.LOCAL if kind == "d" else slots.RINGBUF, 0)


def constant_string(env: Env, regno: int, reg: Reg) -> None:
    _expect(regno, reg, reg.type == MAP_VALUE, "map_value")
    desc = env.maps[reg.map]
    if desc.contents is None or not desc.map_flags & memory.RDONLY_PROG:
        raise Reject(EACCES, f"R{regno} does not point to a readonly map'")
    if reg.tm:
        raise Reject(EACCES, f"R{regno} is not a constant address'")
    at = reg.off + reg.tv
    if not 0 <= at < desc.value_size:
        raise Reject(
            EACCES, f"invalid access to map value, value_size={desc.value_size} off={at} size=1"
        )
    if 0 not in desc.contents[at:]:
        raise Reject(EINVAL, "string is not zero-terminated")


def _tail_call(env: Env, call: Call) -> None:
    if env.cur.refs:
        raise Reject(EINVAL, "tail_call would lead to reference leak")
    sections.check_left(env, "tail_call")
    if env.cur.frames[0].callback:
        raise Reject(ENOTSUPP, "tail calls in a timer's callback are not supported here")
    index = env.regs()[3]
    if index.type == SCALAR and index.tm == 0 and index.tv < env.maps[call.map].max_entries:
        precision.mark_reg(env, 3)


def _result(env: Env, call: Call) -> None:
    regs = env.regs()
    kind = call.proto.ret
    if kind == "v":
        return
    if kind == "M":
        desc = env.maps[call.map]
        if desc.type in _SOCKET_MAPS:
            raise Reject(ENOTSUPP, f"sockets from map_type {desc.type} are not supported here")
        if desc.type in (12, 13):
            r = pointer(MAP_PTR | MAYBE_NULL)
            r.map = _inner(env, call.map)
        else:
            r = pointer(MAP_VALUE | MAYBE_NULL)
            r.map = call.map
        r.id = env.new_id()
        regs[0] = r
        return
    if kind == "A":
        r = pointer(MEM | RINGBUF | MAYBE_NULL)
        r.mem_size = call.alloc
        env.new_id()  # the kernel gives it one that may be NULL first
        r.ref = env.reference(env.insn_idx)
        r.id = r.ref
        regs[0] = r
        return
    if kind == "T":
        regs[0] = pointer(TASK)
        return
    if kind == "P":
        r = pointer(MEM | MAYBE_NULL)
        r.mem_size = call.alloc
        r.id = env.new_id()
        r.kind = call.dynptr.id
        r.ref = call.dynptr.ref
        regs[0] = r
        return
    regs[0] = UNKNOWN
    if call.number in _STRING_READS:
        r = UNKNOWN.copy()
        r.smin = -4095
        r.smax = call.size_max
        r.s32min = -4095
        r.s32max = min(r.s32max, call.size_max)
        sync(r)
        regs[0] = r


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
