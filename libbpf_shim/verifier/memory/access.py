"""Loads and stores: stack slots, map values, packets, contexts, records.

Bounds are proven from the pointer's fixed and variable offset; messages are those of Linux 6.18
(kernel/bpf/verifier.c: check_mem_access and what it calls). Ready for mypyc. Over 500 lines: one
function a kind of memory, and what they share; each calls the next within one access.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.call import fastcall
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject, tnum, type_name
from libbpf_shim.verifier.granted import host, probes
from libbpf_shim.verifier.kernel import btf_context, btf_ptr, kptr
from libbpf_shim.verifier.log import trace
from libbpf_shim.verifier.memory import context, fields, objects, slots, sockets
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.scalar import linked
from libbpf_shim.verifier.scalar.bounds import loaded, sign_extended, truncated
from libbpf_shim.verifier.state import (
    ALLOC,
    ARENA,
    BTF_PTR,
    BUF,
    CTX,
    DYNPTR,
    EMPTY_SLOT,
    INVALID,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    MISC,
    MISC_SLOT,
    NOT_INIT,
    PKT,
    PKT_META,
    RDONLY,
    SCALAR,
    SOCK,
    SOCK_COMMON,
    SPILL,
    STACK,
    STACK_SIZE,
    TCP_SOCK,
    TP_BUFFER,
    TRUSTED,
    TYPE_MASK,
    UNKNOWN,
    UNTRUSTED,
    XDP_SOCK,
    ZERO,
    ZERO_REG,
    Frame,
    Reg,
    Slot,
    Step,
    const_reg,
    pointer,
)

MAX_OFF: Final = 1 << 29
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
_REWRITTEN: Final = frozenset((ARENA, CTX, SOCK, SOCK_COMMON, TCP_SOCK, XDP_SOCK))
SPILLED: Final = bytes([SPILL] * 8)
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
        return stack_access(env, reg, regno, off, size, kind, value, value_no, step)
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


def same_pointer_kind(env: Env, base: int) -> None:
    """An access of a context or an arena is rewritten: one instruction, one kind of pointer. What
    is of several others counts as an access by numbers."""
    at = env.insn_idx
    have = env.insn_kind.get(at, 0)
    if have == 0:
        env.insn_kind[at] = base
    elif have != base and (have in _REWRITTEN or base in _REWRITTEN):
        raise Reject(EINVAL, "same insn cannot be used with different pointers")
    elif have != base:
        env.insn_kind[at] = SCALAR


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
    if desc.fields:
        fields.check_access(env, desc, reg, reg.off + off, size, True)
        field = kptr.field_at(env, reg, off)
        if field is not None:
            return kptr.access(env, field, kind == WRITE, value, value_no)
    if kind == WRITE and value is not None and value.type not in (SCALAR, NOT_INIT):
        return UNKNOWN  # a privileged program may show its addresses
    at = reg.off + off + reg.tv
    if kind == READ and desc.contents is not None and reg.tm == 0 and desc.map_flags & RDONLY_PROG:
        if 0 <= at and at + size <= len(desc.contents):
            return const_reg(int.from_bytes(desc.contents[at : at + size], "little"))
    return loaded(size) if kind == READ else UNKNOWN


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


def stack_bounds(reg: Reg, regno: int, off: int, size: int, what: str, zero_ok: bool) -> None:
    """Every byte in the frame, and the address too if there is none. what: ' read from' or
    ' write to'."""
    if reg.tm == 0:
        low = reg.off + off + reg.smin
        high = low + size
    else:
        if reg.smax >= MAX_OFF or reg.smin <= -MAX_OFF:
            if size == 0 and not zero_ok:
                raise Reject(EACCES, "invalid zero-sized read")
            raise Reject(EACCES, f"invalid unbounded variable-offset{what} stack R{regno}")
        low = reg.off + off + reg.smin
        high = reg.off + off + reg.smax + size
    if size == 0 and not zero_ok:
        raise Reject(EACCES, "invalid zero-sized read")
    if low < -STACK_SIZE or low >= 0 or high > 0:
        beyond = EINVAL if -STACK_SIZE <= low < 0 else EACCES
        off += reg.off
        if reg.tm == 0:
            raise Reject(beyond, f"invalid{what} stack R{regno} off={off} size={size}")
        raise Reject(
            beyond,
            f"invalid variable-offset{what} stack R{regno} var_off={tnum(reg)} off={off} "
            f"size={size}",
        )


def grow(env: Env, frame: Frame, low: int) -> None:
    """The frame has slots down to fp+low."""
    need = (-low + 7) // 8
    while len(frame.stack) < need:
        frame.stack.append(EMPTY_SLOT)
    env.add_depth(frame, -low)


def stack_access(
    env: Env,
    reg: Reg,
    regno: int,
    off: int,
    size: int,
    kind: int,
    value: Reg | None,
    value_no: int,
    step: Step,
) -> Reg:
    what = " write to" if kind == WRITE else " read from"
    stack_bounds(reg, regno, off, size, what, False)
    frame = env.cur.frames[reg.frame]
    if reg.tm:
        low = reg.off + off + reg.smin
        high = reg.off + off + reg.smax + size
        grow(env, frame, low)
        fastcall.touched(env, frame.subprog, low)
        if kind == WRITE:
            slots.destroy_dynptrs(env, frame, low, high)
            if value is not None and value.type == SCALAR and value.tm == 0 and value.tv == 0:
                _write_zero_somewhere(env, frame, low, high, value_no)
            else:
                clobber(frame, low, high, False)
            return UNKNOWN
        env.reads_stack(reg.frame, -high // 8, (-low - 1) // 8)
        slots.check_bytes(frame, reg, regno, low, high, size)
        note_unset(env, frame, low, high)
        return _read_bytes(frame, low, high, size)
    low = reg.off + off + reg.smin
    grow(env, frame, low)
    slot = (-low - 1) // 8
    # 6.18 takes a load for one of the current function's own stack
    owner = frame if kind == WRITE else env.frame()
    fastcall.touched(env, owner.subprog, low)
    if kind == WRITE:
        if size == 8:
            env.writes_stack(reg.frame, slot)
        _write_fixed(env, frame, reg, low, size, value, value_no)
        if frame.stack[slot].types[low & 7] == SPILL:
            step.stack = reg.frame << 8 | slot
        return UNKNOWN
    env.reads_stack(reg.frame, slot, slot)
    if frame.stack[slot].types[low & 7] == SPILL:
        step.stack = reg.frame << 8 | slot
    return _read_fixed(env, frame, low, size, slot, step)


def note_unset(env: Env, frame: Frame, low: int, high: int) -> None:
    """Bytes fp+low..fp+high are read; some were perhaps never written."""
    if env.reads_unset:
        return
    for at in range(low, high):
        if frame.stack[(-at - 1) // 8].types[at & 7] == INVALID:
            env.reads_unset = True
            return


def clobber(frame: Frame, low: int, high: int, must: bool) -> None:
    """Bytes fp+low..fp+high hold unknown data (must: certainly written; else perhaps)."""
    for s in range(-high // 8, (-low - 1) // 8 + 1):
        base = -8 * (s + 1)
        first = max(low, base) - base
        last = min(high, base + 8) - base
        if first >= last:
            continue
        old = frame.stack[s]
        if old is MISC_SLOT:
            continue
        if must and last - first == 8:
            frame.stack[s] = MISC_SLOT
            continue
        types = bytearray(slots.scrubbed(old) if must or not slots.special(old.types)
                          else old.types)
        for b in range(first, last):
            types[b] = MISC
        frame.stack[s] = Slot(bytes(types), None)


def _write_zero_somewhere(env: Env, frame: Frame, low: int, high: int, value_no: int) -> None:
    """Zero may be written anywhere in fp+low..fp+high: what is zero there stays so."""
    used = False
    for at in range(low, high):
        s = (-at - 1) // 8
        slot = frame.stack[s]
        types = bytearray(slot.types)
        was = types[at & 7]
        spilled = slot.reg
        if was == SPILL and spilled is not None and spilled.type == SCALAR:
            if spilled.tm == 0 and spilled.tv == 0:
                used = True
                continue
        if was == ZERO:
            used = True
            continue
        types = bytearray(slots.scrubbed(slot))
        types[at & 7] = MISC
        frame.stack[s] = Slot(bytes(types), None)
    if used and value_no >= 0:
        precision.mark_reg(env, value_no)


def _write_fixed(
    env: Env, frame: Frame, reg: Reg, low: int, size: int, value: Reg | None, value_no: int
) -> None:
    slot = (-low - 1) // 8
    first = low & 7
    slots.destroy_dynptr(env, frame, slot)
    if value is not None and value.type in (DYNPTR, TP_BUFFER):
        value = None  # not among the types that the kernel spills: a number
    if value is not None and value.type != SCALAR and value.type != NOT_INIT:
        if size != 8:
            raise Reject(EACCES, "invalid size of register spill")
        if value.type == STACK and reg.frame != len(env.cur.frames) - 1:
            raise Reject(EINVAL, "cannot spill pointers to stack into stack frame of the caller")
        frame.stack[slot] = Slot(SPILLED, value)
        return
    if value is not None and value.type == SCALAR and first == 0:
        _spill_scalar(env, frame, slot, size, value, value_no)
        return
    zero = value is not None and value.tm == 0 and value.tv == 0
    if zero and value_no >= 0:
        precision.mark_reg(env, value_no)
    types = bytearray(slots.scrubbed(frame.stack[slot]))
    for b in range(first, first + size):
        types[b] = ZERO if zero else MISC
    frame.stack[slot] = Slot(bytes(types), None)


def _spill_scalar(env: Env, frame: Frame, slot: int, size: int, value: Reg, value_no: int) -> None:
    fits = value.umax < 1 << size * 8
    if fits and value_no >= 0:
        value = linked.named(env, value_no)
    if size == 8:
        frame.stack[slot] = Slot(SPILLED, value)
        return
    if not fits and value.id:
        value = value.copy()
        value.id = 0
        value.off = 0
    old = frame.stack[slot].types
    types = bytearray(8)
    for b in range(8):
        types[b] = SPILL if b < size else old[b] if old[b] in (ZERO, INVALID) else MISC
    frame.stack[slot] = Slot(bytes(types), value)


def _read_fixed(env: Env, frame: Frame, low: int, size: int, slot: int, step: Step) -> Reg:
    content = frame.stack[slot]
    first = low & 7
    types = content.types
    if types[0] == SPILL:
        reg = content.reg
        if reg is None:
            raise Reject(EACCES, "verifier bug: spilled slot without a register")
        if types == SPILLED and size == 8:
            return reg
        if reg.type != SCALAR:
            raise Reject(EACCES, "invalid size of register fill")
        width = 8
        while width > 1 and types[width - 1] != SPILL:
            width -= 1
        if first == 0 and size <= width:
            if reg.umax >= 1 << size * 8 and reg.id:
                reg = reg.copy()
                reg.id = 0
                reg.off = 0
            return reg
        if reg.tm == 0 and reg.tv == 0 and first + size <= width:
            return ZERO_REG
    needed = types[first : first + size]
    if INVALID in needed:
        env.reads_unset = True
    if slots.special(types):
        for b in range(size):
            if needed[b] > ZERO:
                raise Reject(EACCES, f"invalid read from stack off {low}+{b} size {size}")
    for t in needed:
        if t != ZERO:
            return UNKNOWN
    return ZERO_REG


def _read_bytes(frame: Frame, low: int, high: int, size: int) -> Reg:
    for at in range(low, high):
        if frame.stack[(-at - 1) // 8].types[at & 7] != ZERO:
            return UNKNOWN
    return ZERO_REG


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
        stack_bounds(reg, regno, 0, size, what, zero_ok)
        frame = env.cur.frames[reg.frame]
        low = reg.off + reg.smin
        high = reg.off + reg.smax + size
        grow(env, frame, low)
        if kind == WRITE and reg.tm == 0 and size:
            fastcall.touched(env, frame.subprog, low)
        if kind == WRITE and reg.tm == 0:
            slots.check_filled(frame, low, high)
        else:
            slots.check_bytes(frame, reg, regno, low, high, size)
        if kind == READ or reg.tm:
            env.reads_stack(reg.frame, -high // 8, (-low - 1) // 8)
        if kind == WRITE and size:
            clobber(frame, low, high, reg.tm == 0)
        elif kind == READ:
            note_unset(env, frame, low, high)
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
