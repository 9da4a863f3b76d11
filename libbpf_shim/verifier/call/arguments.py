"""Arguments of a helper call, one at a time: types, offsets, and the memory that they lead to.
Ready for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_func_arg and what it calls.
"""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.verifier.call import helpers
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject, tnum, type_name
from libbpf_shim.verifier.kernel import btf_args, btf_ptr, kptr
from libbpf_shim.verifier.kfuncs import dynptr, locks
from libbpf_shim.verifier.memory import access, fields, keys, slots
from libbpf_shim.verifier.memory.special import Special
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.scalar.domains import U32
from libbpf_shim.verifier.state import (
    ALLOC,
    BTF_PTR,
    BUF,
    CTX,
    FUNC,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAX_OFF,
    MAYBE_NULL,
    MEM,
    NO_REG,
    OTHER_SLICE,
    PACKET_SLICE,
    PKT,
    PKT_META,
    RDONLY,
    RINGBUF,
    SCALAR,
    SOCK,
    SOCK_COMMON,
    STACK,
    TCP_SOCK,
    TRUSTED,
    TYPE_MASK,
    XDP_SOCK,
    Reg,
)

MEM_TYPES: Final = "fp, pkt, pkt_meta, map_key, map_value, mem, ringbuf_mem, buf, trusted_ptr_"
_SOCKETS: Final = "sock_common, sock, tcp_sock, xdp_sock"
_STRUCTS: Final = "ptr_, trusted_ptr_, rcu_ptr_"
_PERCPU: Final = "percpu_ptr_, percpu_rcu_ptr_, percpu_trusted_ptr_"
_MEMORY: Final = frozenset((STACK, PKT, PKT_META, MAP_KEY, MAP_VALUE, MEM, MEM | RINGBUF, BUF,
                            BTF_PTR | TRUSTED))  # fmt: skip
_SLICES: Final = PACKET_SLICE | OTHER_SLICE
_SK: Final = frozenset((SOCK_COMMON, SOCK, TCP_SOCK, XDP_SOCK))
_SOCKET_MAPS: Final = (15, 18)  # SOCKMAP, SOCKHASH: what is stored in them is a socket
_PACKETS: Final = frozenset((3, 4, 6, 8, 10, 11, 12, 14, 16, 19, 21, 22))
_SOCKOPT: Final = 25
MAP_PEEK: Final = 89
BLOOM_FILTER: Final = 30  # whose peek reads the value that it asks for


@final
class Call:
    """What the arguments have told so far: the map, its index; sizes in bytes. ref: of the
    argument that holds a reference; release: it is given back."""

    __slots__ = ("number", "map", "key", "alloc", "size_max", "ref", "release", "proto", "timer",
                 "dynptr", "dynptr_released", "given", "kptr")

    def __init__(self, number: int, proto: helpers.Proto) -> None:
        self.number: int = number
        self.proto: helpers.Proto = proto
        self.map: int = -1
        self.timer: int = -1  # map of the timer
        self.alloc: int = 0
        self.size_max: int = 0
        self.key: int = -1  # of an array, if it is known
        self.ref: int = 0
        self.given: Reg = NO_REG  # a per-CPU variable
        self.kptr: Special | None = None
        self.release: bool = False
        self.dynptr: Reg = NO_REG  # that is read or written
        self.dynptr_released: Reg = NO_REG  # address of the one that is


def check(env: Env, call: Call, at: int) -> None:
    """Argument number at, counted from 0. Raises Reject."""
    regno = at + 1
    word = call.proto.args[at]
    reg = env.read_reg(regno)
    base = reg.type & TYPE_MASK
    if base == CTX and call.number not in helpers.BLIND:
        env.ctx_escapes = True
    kind = word & helpers.KIND
    if kind == helpers.ANY:
        return
    if (reg.type == PKT or reg.type == PKT_META) and not _packet(env, call):
        raise Reject(EACCES, "helper access to the packet is not allowed")
    if kind == helpers.VALUE and env.maps[call.map].type in _SOCKET_MAPS:
        if word != kind:
            raise Reject(EINVAL, "invalid arg_type for sockmap/sockhash")
        kind = helpers.BSK
    if reg.type == SCALAR and reg.tm == 0 and reg.tv == 0 and word & helpers.OR_NULL:
        precision.mark_reg(env, regno)
        return
    _typed(env, call, at, kind, word, reg)
    if word & helpers.RELEASE and kind != helpers.DYNPTR:
        if not reg.ref:
            raise Reject(EINVAL, f"R{regno} must be referenced when passed to release function")
        call.release = True
    if reg.ref and kind != helpers.KPTR:
        if call.ref:
            text = f"more than one arg with ref_obj_id R{regno} {reg.ref} {call.ref}"
            raise Reject(EACCES, text)
        call.ref = reg.ref
    if kind == helpers.SIZE or kind == helpers.SIZE0:
        _size(env, call, at, kind == helpers.SIZE0)


def _packet(env: Env, call: Call) -> bool:
    """may_access_direct_pkt_data(): the helper may be given packet memory."""
    if env.prog_type in _PACKETS:
        return call.proto.packet
    return env.prog_type == _SOCKOPT


def _typed(env: Env, call: Call, at: int, kind: int, word: int, reg: Reg) -> None:
    """All but sizes, which are of the memory before them."""
    regno = at + 1
    type = reg.type & ~MAYBE_NULL if word & helpers.OR_NULL else reg.type
    if kind == helpers.CTX:
        _expect(regno, reg, type == CTX, "ctx")
        _unmoved(regno, reg)
    elif kind == helpers.MAP:
        _map_argument(call, regno, reg)
    elif kind == helpers.SIZE or kind == helpers.SIZE0:
        _expect(regno, reg, type == SCALAR, "scalar")
    elif kind == helpers.SK or kind == helpers.BSK:
        _socket(env, regno, reg, type, word, kind == helpers.BSK)
    elif kind == helpers.SOCKET:
        _expect(regno, reg, type == SOCK, "sock")
    elif kind == helpers.BTF and call.kptr is not None:
        kptr.given(env, call.kptr, regno, reg)
    elif kind == helpers.BTF:
        btf_ptr.argument(env, regno, reg, call.proto.types[at], word & helpers.OR_NULL != 0)
    elif kind == helpers.ALLOC:
        _constant_size(env, call, regno, reg)
    elif kind == helpers.RECORD:
        _expect(regno, reg, type == MEM | RINGBUF, "ringbuf_mem")
        _released(regno, reg)
    elif kind == helpers.STR:
        constant_string(env, regno, reg)
    elif kind == helpers.DYNPTR:
        _dynptr(env, call, at, reg, word)
    elif kind == helpers.TIMER:
        _expect(regno, reg, type == MAP_VALUE, "map_value")
        fields.timer(env, regno, reg)
        call.timer = reg.map
    elif kind == helpers.LOCK:
        _expect(regno, reg, type in (MAP_VALUE, BTF_PTR | ALLOC), "map_value, ptr_")
        locks.helper(env, regno, reg, call.number == fields.SPIN_LOCK_HELPER)
    elif kind == helpers.FUNC:
        _expect(regno, reg, type == FUNC, "func")
        _unmoved(regno, reg)
    elif kind == helpers.STACK:
        _expect(regno, reg, type == STACK, "fp")
    elif kind == helpers.PERCPU:
        btf_args.percpu(regno, reg)
        call.given = reg
    elif kind == helpers.KPTR:
        call.kptr = kptr.place(env, regno, reg)
        if reg.type == MAP_VALUE:
            call.map = reg.map
    else:
        _memory(env, call, regno, reg, kind, word)


def _expect(regno: int, reg: Reg, fits: bool, words: str) -> None:
    if not fits:
        raise Reject(EACCES, f"R{regno} type={type_name(reg.type)} expected={words}")


def _unmoved(regno: int, reg: Reg) -> None:
    """check_ptr_off_reg(): the pointer is as it was given to the program."""
    name = type_name(reg.type)
    if reg.off < 0:
        raise Reject(EACCES, f"negative offset {name} ptr R{regno} off={reg.off} disallowed")
    if reg.off:
        text = f"dereference of modified {name} ptr R{regno} off={reg.off} disallowed"
        raise Reject(EACCES, text)
    if reg.tm or reg.tv:
        text = f"variable {name} access var_off={tnum(reg)} disallowed"
        raise Reject(EACCES, text)


def _released(regno: int, reg: Reg) -> None:
    if reg.off:
        raise Reject(
            EINVAL,
            f"R{regno} must have zero offset when passed to release func or trusted arg to kfunc",
        )
    _unmoved(regno, reg)


def _map_argument(call: Call, regno: int, reg: Reg) -> None:
    _expect(regno, reg, reg.type == MAP_PTR, "map_ptr")
    if call.timer >= 0 and call.timer != reg.map:
        text = "timer pointer in R1 map_uid=0 doesn't match map pointer in R2 map_uid=0"
        raise Reject(EINVAL, text)
    call.map = reg.map


def _socket(env: Env, regno: int, reg: Reg, type: int, word: int, struct: bool) -> None:
    """A socket of any kind; struct: a struct sock of the kernel's fits too."""
    words = f"{_SOCKETS}, ptr_, trusted_ptr_" if struct else _SOCKETS
    if struct and type & TYPE_MASK == BTF_PTR:
        btf_args.socket(env, regno, reg, words, word & helpers.OR_NULL != 0)
        if word & helpers.RELEASE:
            _released(regno, reg)
        return
    _expect(regno, reg, type in _SK, words)
    if word & helpers.RELEASE:
        _released(regno, reg)


def _dynptr(env: Env, call: Call, at: int, reg: Reg, word: int) -> None:
    """One that is there, is made, or is released."""
    regno = at + 1
    kind = slots.LOCAL if call.proto.types[at] == "local" else slots.RINGBUF
    _expect(regno, reg, dynptr.is_pointer(reg), "fp, dynptr_ptr")
    if word & helpers.RELEASE and reg.type != STACK and reg.off:
        why = "must have zero offset when passed to release func or trusted arg to kfunc"
        raise Reject(EINVAL, f"R{regno} {why}")
    dynptr.unmoved(regno, reg)
    if word & helpers.RELEASE:
        dynptr.released(env, regno, reg)
        dynptr.existing(env, regno, reg, kind, True)
        call.dynptr_released = reg
    elif word & helpers.UNSET:
        dynptr.create(env, regno, reg, kind, 0)
    else:
        call.dynptr = dynptr.existing(env, regno, reg, 0, False)


def constant_string(env: Env, regno: int, reg: Reg) -> bytes:
    """What the argument leads to, up to its end: known, since nobody can change it."""
    _expect(regno, reg, reg.type == MAP_VALUE, "map_value")
    desc = env.maps[reg.map]
    if desc.contents is None or not desc.map_flags & access.RDONLY_PROG:
        raise Reject(EACCES, f"R{regno} does not point to a readonly map'")
    if reg.tm:
        raise Reject(EACCES, f"R{regno} is not a constant address'")
    at = reg.off + reg.tv
    if not 0 <= at < desc.value_size:
        raise Reject(
            EACCES, f"invalid access to map value, value_size={desc.value_size} off={at} size=1"
        )
    end = desc.contents.find(b"\0", at)
    if end < 0:
        raise Reject(EINVAL, "string is not zero-terminated")
    return desc.contents[at:end]


def _constant_size(env: Env, call: Call, regno: int, reg: Reg) -> None:
    _expect(regno, reg, reg.type == SCALAR, "scalar")
    if reg.tm:
        raise Reject(EACCES, f"R{regno} is not a known constant'")
    precision.mark_reg(env, regno)
    call.alloc = reg.tv & U32  # a larger one the helper refuses


def _memory(env: Env, call: Call, regno: int, reg: Reg, kind: int, word: int) -> None:
    """A pointer to memory; sized here, or by the size argument that follows it."""
    type = reg.type & ~MAYBE_NULL if word & helpers.OR_NULL else reg.type
    if kind == helpers.MEM or kind >= helpers.IP4:  # only read
        type &= ~RDONLY
    if kind != helpers.KEY and kind != helpers.VALUE:
        type &= ~_SLICES
    _expect(regno, reg, type in _MEMORY, MEM_TYPES)
    if reg.type & _SLICES:
        _unmoved(regno, reg)
    reads = kind == helpers.MEM or kind >= helpers.IP4
    if type == BTF_PTR | TRUSTED and not reads:
        text = f"{helpers.name(call.number)}() may write into memory pointed by R{regno}"
        raise Reject(EACCES, f"{text} type={type_name(reg.type)}")
    if type == BTF_PTR | TRUSTED:
        btf_ptr.unmoved(regno, reg, True)
    packet = _packet(env, call)
    if kind == helpers.KEY:
        size = env.maps[call.map].key_size
        _access(env, regno, size, access.READ, False, packet)
        if env.maps[call.map].type in keys.ARRAYS:
            call.key = keys.constant(env, reg, size)
    elif kind == helpers.VALUE:
        desc = env.maps[call.map]
        asks = call.number == MAP_PEEK and desc.type == BLOOM_FILTER
        how = access.WRITE if word & helpers.UNSET and not asks else access.READ
        _access(env, regno, desc.value_size, how, False, packet)
    elif kind in helpers.SIZES:
        size = helpers.SIZES[kind]
        how = access.READ if kind >= helpers.IP4 else access.WRITE
        _access(env, regno, size, how, False, packet)
        if how == access.WRITE:
            access.check_alignment(env, reg, 0, size, True)


def _access(env: Env, regno: int, size: int, how: int, zero_ok: bool, packet: bool) -> None:
    """access.indirect() of a pointer that may be NULL where that is allowed."""
    regs = env.regs()
    reg = regs[regno]
    if not reg.type & MAYBE_NULL:
        access.indirect(env, regno, size, how, zero_ok, packet, "fp")
        return
    there = reg.copy()
    there.type &= ~MAYBE_NULL
    regs[regno] = there
    try:
        access.indirect(env, regno, size, how, zero_ok, packet, "fp")
    finally:
        regs[regno] = reg


def _size(env: Env, call: Call, at: int, zero_ok: bool) -> None:
    """The size of the memory in the register before."""
    regno = at + 1
    reg = env.regs()[regno]
    if reg.smin < 0:
        raise Reject(
            EACCES, f"R{regno} min value is negative, either use unsigned or 'var &= const'"
        )
    if reg.umin == 0 and not zero_ok:
        raise Reject(EACCES, f"R{regno} invalid zero-sized read: u64=[{reg.umin},{reg.umax}]")
    if reg.umax >= MAX_OFF:
        raise Reject(
            EACCES, f"R{regno} unbounded memory access, use 'var &= const' or 'if (var < const)'"
        )
    before = call.proto.args[at - 1] & helpers.KIND
    how = access.READ if before == helpers.MEM else access.WRITE
    precision.mark_reg(env, regno)
    _access(env, regno - 1, reg.umax, how, zero_ok, _packet(env, call))
    call.size_max = reg.umax
