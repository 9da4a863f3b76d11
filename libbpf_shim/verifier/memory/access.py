"""Loads and stores: map values, packets, contexts, records (stack.py: the stack).

Bounds are proven from the pointer's fixed and variable offset; messages are those of Linux 6.18
(kernel/bpf/verifier.c: check_mem_access and what it calls). Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.call import fastcall
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject, tnum, type_name
from libbpf_shim.verifier.granted import host, probes
from libbpf_shim.verifier.kernel import btf_context, btf_ptr, kptr
from libbpf_shim.verifier.log import trace
from libbpf_shim.verifier.memory import context, fields, objects, slots, sockets, stack
from libbpf_shim.verifier.program import MapDesc
from libbpf_shim.verifier.scalar.bounds import loaded, sign_extended, truncated
from libbpf_shim.verifier.state import (
    ALLOC,
    ARENA,
    BTF_PTR,
    BUF,
    CTX,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAX_OFF,
    MAYBE_NULL,
    MEM,
    NOT_INIT,
    PKT,
    PKT_META,
    RDONLY,
    SCALAR,
    SOCK,
    SOCK_COMMON,
    STACK,
    TCP_SOCK,
    TRUSTED,
    TYPE_MASK,
    UNKNOWN,
    UNTRUSTED,
    XDP_SOCK,
    Reg,
    Step,
    const_reg,
    pointer,
)

READ: Final = 1
WRITE: Final = 2
MAX_PACKET_OFF: Final = 0xFFFF
RDONLY_PROG: Final = 128
WRONLY_PROG: Final = 256
# types whose programs may write into packets: sched_cls, sched_act, XDP, lwt xmit, sk_skb, sk_msg,
# cgroup sockopt
PACKET_WRITERS: Final = frozenset((3, 4, 6, 12, 14, 16, 25))
# whose contexts are what programs see: helpers may be given them as memory
AS_IT_IS: Final = frozenset((2, 5, 17, 24, 26, 27, 29, 31, 32))
_REWRITTEN: Final = frozenset((ARENA, BTF_PTR, CTX, SOCK, SOCK_COMMON, TCP_SOCK, XDP_SOCK))
_MIXED: Final = frozenset((BTF_PTR, MEM))  # a load may be of either
STORED: Final = 0
LOADED: Final = 1
FETCHED: Final = 2  # by an atomic: of an arena, or of anything else
_POINTER_WORDS: Final[dict[int, str]] = {
    STACK: "stack", CTX: "context", MAP_VALUE: "value", MAP_KEY: "key", SOCK: "sock",
    SOCK_COMMON: "sock_common", TCP_SOCK: "tcp_sock", XDP_SOCK: "xdp_sock",
}  # fmt: skip


def check(
    env: Env,
    regno: int,
    off: int,
    size: int,
    kind: int,
    value: Reg | None,
    value_no: int,
    step: Step,
) -> Reg:
    """One access of size bytes at regno + off. For a read the register loaded is returned; for a
    write, value is what is stored (None: unknown bytes). Raises Reject."""
    reg = env.read_reg(regno)
    base = reg.type & TYPE_MASK
    if base == ARENA:
        return UNKNOWN
    check_alignment(env, reg, off, size, base == STACK)
    if reg.type == STACK:
        return stack.access(
            env, reg, regno, off, size, kind == WRITE, value, value_no, step
        )
    if base == CTX and not reg.type & MAYBE_NULL:
        return _ctx(env, reg, regno, off, size, kind)
    if reg.type == MAP_VALUE:
        return _map_value(env, reg, regno, off, size, kind, value, value_no)
    if reg.type == MAP_KEY:
        if kind == WRITE:
            raise Reject(EACCES, f"write to change key R{regno} not allowed")
        region(reg, regno, off, size, env.maps[reg.map].key_size, False)
        return UNKNOWN
    if base == MEM and not reg.type & MAYBE_NULL:
        if kind == WRITE and reg.type & RDONLY:
            raise Reject(EACCES, f"R{regno} cannot write into {type_name(reg.type)}")
        if reg.type & (RDONLY | UNTRUSTED) == RDONLY | UNTRUSTED:
            if env.policy is not None:
                host.check_anywhere(env, regno)
            env.kernel.add(env.insn_idx)
            env.probe_mem.add(env.insn_idx)
            return UNKNOWN
        region(reg, regno, off, size, reg.mem_size, False)
        return UNKNOWN
    if reg.type == PKT or reg.type == PKT_META:
        if kind == WRITE and env.prog_type not in PACKET_WRITERS:
            raise Reject(EACCES, "cannot write into packet")
        packet(reg, regno, off, size, False)
        return UNKNOWN
    if base == BTF_PTR and reg.type & ALLOC and not reg.type & MAYBE_NULL:
        return objects.access(env, reg, regno, off, size, kind == WRITE)
    if base == BTF_PTR and not reg.type & MAYBE_NULL:
        if env.policy is not None and reg.map >= 0:
            return host.access(env, reg, regno, off, size, kind == WRITE)
        return btf_ptr.access(env, reg, regno, off, size, kind == WRITE)
    if reg.type in sockets.TYPES:
        return sockets.access(env, reg, regno, off, size, kind == WRITE)
    if reg.type == MAP_PTR:
        return btf_ptr.map_field(env, reg, regno, off, size, kind == WRITE)
    if base == BUF and not reg.type & MAYBE_NULL:
        return _buffer(reg, regno, off, size, kind)
    raise Reject(EACCES, f"R{regno} invalid mem access '{type_name(reg.type)}'")


def check_alignment(env: Env, reg: Reg, off: int, size: int, stack: bool) -> None:
    """Stack accesses are always aligned to their size; others under BPF_F_STRICT_ALIGNMENT."""
    if size == 1 or (not stack and not env.strict):
        return
    packet = reg.type == PKT or reg.type == PKT_META
    total = reg.tv + reg.off + off
    if packet:
        total += 2  # NET_IP_ALIGN, as under the strict flag
    if not (total | reg.tm) & (size - 1):
        return
    if packet:
        raise Reject(
            EACCES, f"misaligned packet access off 2+{tnum(reg)}+{reg.off}+{off} size {size}"
        )
    word = _POINTER_WORDS.get(reg.type, "")
    space = " " if word else ""
    text = f"misaligned {word}{space}access off {tnum(reg)}+{reg.off}+{off} size {size}"
    raise Reject(EACCES, text)


def region(reg: Reg, regno: int, off: int, size: int, limit: int, zero_ok: bool) -> None:
    """off..off+size of a fixed-size object of limit bytes, for every variable offset."""
    off = reg.off + off
    if reg.smin < 0 and (off + reg.smin < 0 or reg.smin <= -MAX_OFF):
        raise Reject(
            EACCES,
            f"R{regno} min value is negative, either use unsigned index or do a if (index >=0) "
            f"check.",
        )
    text = _outside(reg, regno, reg.smin + off, size, limit, zero_ok)
    if text:
        raise Reject(EACCES, f"{text}\nR{regno} min value is outside of the allowed memory range")
    if reg.umax >= MAX_OFF:
        raise Reject(
            EACCES, f"R{regno} unbounded memory access, make sure to bounds check any such access"
        )
    text = _outside(reg, regno, reg.umax + off, size, limit, zero_ok)
    if text:
        raise Reject(EACCES, f"{text}\nR{regno} max value is outside of the allowed memory range")


def _outside(reg: Reg, regno: int, off: int, size: int, limit: int, zero_ok: bool) -> str:
    if off >= 0 and off + size <= limit and (size > 0 or zero_ok):
        return ""
    if reg.type & TYPE_MASK == MAP_VALUE:
        return f"invalid access to map value, value_size={limit} off={off} size={size}"
    if reg.type & TYPE_MASK == MAP_KEY:
        return f"invalid access to map key, key_size={limit} off={off} size={size}"
    if reg.type & TYPE_MASK in (PKT, PKT_META):
        where = f"R{regno}(id={reg.id},off={off},r={limit})"
        return f"invalid access to packet, off={off} size={size}, {where}"
    return f"invalid access to memory, mem_size={limit} off={off} size={size}"


def packet(reg: Reg, regno: int, off: int, size: int, zero_ok: bool) -> None:
    """An access inside the part of the packet that comparisons have proven present."""
    off = reg.off + off
    if reg.smin < 0:
        raise Reject(
            EACCES,
            f"R{regno} min value is negative, either use unsigned index or do a if (index >=0) "
            f"check.",
        )
    if reg.range < 0:  # at the end or beyond it
        raise Reject(EINVAL, f"R{regno} offset is outside of the packet")
    text = _outside(reg, regno, off, size, reg.range, zero_ok)
    if text:
        raise Reject(EACCES, f"{text}\nR{regno} offset is outside of the packet")


def check_unmoved_ctx(reg: Reg, regno: int) -> None:
    """Raises Reject if it is not the context's very beginning."""
    if reg.off < 0:
        raise Reject(EACCES, f"negative offset ctx ptr R{regno} off={reg.off} disallowed")
    if reg.off:
        raise Reject(EACCES, f"dereference of modified ctx ptr R{regno} off={reg.off} disallowed")
    if reg.tm or reg.tv:
        raise Reject(EACCES, f"variable ctx access var_off={tnum(reg)} disallowed")


def _ctx(env: Env, reg: Reg, regno: int, off: int, size: int, kind: int) -> Reg:
    check_unmoved_ctx(reg, regno)
    if kind == WRITE:
        env.ctx_written = True
    if env.target is not None:
        try:
            return btf_context.access(env, env.target, off, size, kind == WRITE)
        except Reject as reject:
            raise Reject(reject.errno, reject.message + trace.behind(env)) from None
    attach_type = env.program.expected_attach_type
    type = context.access(env.prog_type, attach_type, off, size, kind == WRITE)
    if type == 0:
        text = f"invalid bpf_context access off={off} size={size}"
        raise Reject(EACCES, text + trace.behind(env))
    env.ctx_loads.add((off, size))
    if env.program.probed and (found := probes.load(env)) is not None:
        return found
    if env.policy is not None:
        return host.context(env, off, size)
    if type == SCALAR:
        return UNKNOWN
    if env.prog_type == context.NETFILTER:
        return btf_ptr.kernel_pointer(env, context.NETFILTER_STRUCTS[off], TRUSTED)
    r = pointer(type)
    if type & MAYBE_NULL:
        r.id = env.new_id()
    return r


def same_pointer_kind(env: Env, type: int, how: int) -> None:
    """An access of a context, an arena or a structure is rewritten: one instruction, one kind of
    pointer. What is of several others counts as an access by numbers. how: STORED and so on."""
    at, base = env.insn_idx, type & TYPE_MASK
    have = env.insn_kind.get(at, 0)
    if have == 0:
        env.insn_kind[at] = base
        env.first_type[at] = type
        return
    if have == base and base != BTF_PTR:
        return
    _mixed(env, type, how)
    if have != base:
        env.insn_kind[at] = SCALAR


def _mixed(env: Env, type: int, how: int) -> None:
    """save_aux_ptr_type: first_type is what the first path had, or what paths were merged to."""
    at, base = env.insn_idx, type & TYPE_MASK
    first = env.first_type[at]
    one = first & TYPE_MASK
    if type == first or (base not in _REWRITTEN and one not in _REWRITTEN):
        return
    if how == FETCHED and ARENA not in (base, one):
        return
    if how != LOADED or base not in _MIXED or one not in _MIXED:
        raise Reject(EINVAL, "same insn cannot be used with different pointers")
    env.first_type[at] = (MEM if MEM in (base, one) else BTF_PTR) | (type | first) & UNTRUSTED


def _map_value(
    env: Env, reg: Reg, regno: int, off: int, size: int, kind: int, value: Reg | None,
    value_no: int,
) -> Reg:
    desc = env.maps[reg.map]
    if kind == WRITE and desc.read_only:
        raise Reject(
            EACCES,
            f"write into map forbidden, value_size={desc.value_size} off={reg.off + off} "
            f"size={size}",
        )
    if kind == READ and desc.map_flags & WRONLY_PROG:
        raise Reject(
            EACCES,
            f"read from map forbidden, value_size={desc.value_size} off={reg.off + off} "
            f"size={size}",
        )
    region(reg, regno, off, size, desc.value_size, False)
    known = -1
    if kind == READ:
        if not desc.constant:
            env.changing.add(env.insn_idx)
        known = _known(desc, reg, off, size)
        if env.loaded.setdefault(env.insn_idx, known) != known:
            env.loaded[env.insn_idx] = -1
    if desc.fields:
        fields.check_access(env, desc, reg, reg.off + off, size, True)
        field = kptr.field_at(env, reg, off)
        if field is not None:
            return kptr.access(env, field, kind == WRITE, value, value_no)
    if kind == WRITE and value is not None and value.type not in (SCALAR, NOT_INIT):
        return UNKNOWN  # a privileged program may show its addresses
    if known >= 0:
        return const_reg(known)
    return loaded(size) if kind == READ else UNKNOWN


def _known(desc: MapDesc, reg: Reg, off: int, size: int) -> int:
    """What lies there in a map that nobody can change any more; -1: that is not known."""
    at = reg.off + off + reg.tv
    if desc.contents is not None and reg.tm == 0 and desc.map_flags & RDONLY_PROG:
        if 0 <= at and at + size <= len(desc.contents):
            return int.from_bytes(desc.contents[at : at + size], "little")
    return -1


def _buffer(reg: Reg, regno: int, off: int, size: int, kind: int) -> Reg:
    """Of an iterator: how far the program looks is checked when it is attached."""
    if kind == WRITE and reg.type & RDONLY:
        raise Reject(EACCES, f"R{regno} cannot write into {type_name(reg.type)}")
    what = "rdonly" if reg.type & RDONLY else "rdwr"
    if off + reg.off < 0:
        text = f"R{regno} invalid {what} buffer access: off={off + reg.off}, size={size}"
        raise Reject(EACCES, text)
    if reg.tm or reg.tv:
        text = f"R{regno} invalid variable buffer offset: off={off + reg.off}, var_off={tnum(reg)}"
        raise Reject(EACCES, text)
    return UNKNOWN


def load(env: Env, regno: int, off: int, size: int, signed: bool, step: Step) -> Reg:
    """What *(size *)(regno + off) gives in a 64-bit register."""
    r = check(env, regno, off, size, READ, None, -1, step)
    if r.type != SCALAR:
        if signed:
            if env.regs()[regno].type == CTX:
                raise Reject(EACCES, f"invalid bpf_context access off={off} size={size}")
            return UNKNOWN
        return r
    if size == 8:
        return r
    return sign_extended(r, size) if signed else truncated(r, size)


def indirect(
    env: Env, regno: int, size: int, kind: int, zero_ok: bool, packet_ok: bool, spec: str
) -> None:
    """Memory given to a helper: size bytes at regno, all read or all written."""
    reg = env.regs()[regno]
    if reg.type == STACK:
        if not size and not zero_ok:
            raise Reject(EACCES, "invalid zero-sized read")
        what = " write to" if kind == WRITE else " read from"
        stack.bounds(reg, regno, 0, size, what, zero_ok)
        frame = env.cur.frames[reg.frame]
        low = reg.off + reg.smin
        high = reg.off + reg.smax + size
        stack.grow(env, frame, low)
        if kind == WRITE and reg.tm == 0 and size:
            fastcall.touched(env, frame.subprog, low)
        if kind == WRITE and reg.tm == 0:
            slots.check_filled(frame, low, high)
        else:
            slots.check_bytes(frame, reg, regno, low, high, size)
        if kind == READ or reg.tm:
            env.reads_stack(reg.frame, -high // 8, (-low - 1) // 8)
        if kind == WRITE and size:
            stack.clobber(frame, low, high, reg.tm == 0)
            if env.log_level and not env.insns[env.insn_idx].src:  # helpers' writes are told
                env.shown.slots.update(range(-high // 8, (-low - 1) // 8 + 1))
        elif kind == READ:
            stack.note_unset(env, frame, low, high)
        return
    if reg.type == CTX and env.prog_type in AS_IT_IS:
        if size:
            _ctx(env, reg, regno, size - 1, 1, kind)
        elif not zero_ok:
            raise Reject(EACCES, f"R{regno} type=ctx expected={spec}")
        return
    if reg.type == MAP_VALUE:
        desc = env.maps[reg.map]
        if desc.read_only if kind == WRITE else desc.map_flags & WRONLY_PROG:
            verb = "write into" if kind == WRITE else "read from"
            raise Reject(
                EACCES,
                f"{verb} map forbidden, value_size={desc.value_size} off={reg.off} size={size}",
            )
        region(reg, regno, 0, size, desc.value_size, zero_ok)
        if desc.fields:
            fields.check_access(env, desc, reg, reg.off, size, False)
        return
    if reg.type == MAP_KEY:
        if kind == WRITE:
            raise Reject(EACCES, f"R{regno} cannot write into {type_name(reg.type)}")
        region(reg, regno, 0, size, env.maps[reg.map].key_size, zero_ok)
        return
    if reg.type & TYPE_MASK == MEM and not reg.type & MAYBE_NULL:
        if kind == WRITE and reg.type & RDONLY:
            raise Reject(EACCES, f"R{regno} cannot write into {type_name(reg.type)}")
        region(reg, regno, 0, size, reg.mem_size, zero_ok)
        return
    if reg.type & TYPE_MASK == BTF_PTR and not reg.type & MAYBE_NULL and reg.map < 0:
        btf_ptr.access(env, reg, regno, 0, size, False)  # 6.18 takes a write for a read
        return
    if reg.type & TYPE_MASK == BUF and not reg.type & MAYBE_NULL:
        _buffer(reg, regno, 0, size, kind)
        return
    if reg.type == PKT or reg.type == PKT_META:
        if not packet_ok:
            raise Reject(EACCES, "helper access to the packet is not allowed")
        packet(reg, regno, 0, size, zero_ok)
        return
    if reg.type == SCALAR and zero_ok and size == 0 and reg.tm == 0 and reg.tv == 0:
        return
    raise Reject(EACCES, f"R{regno} type={type_name(reg.type)} expected={spec}")
