"""ALU instructions: encoding checks, then transfer.py for numbers and pointers.py for addresses.

Source of rules, messages and their order: Linux 6.18, kernel/bpf/verifier.c, check_alu_op and
what it calls. Compiled by mypyc.
"""

from __future__ import annotations

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.env import EACCES, EINVAL, ENOTSUPP, Env, Reject
from libbpf_shim.verifier.granted import speculation
from libbpf_shim.verifier.memory import pointers
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.scalar import bounds, linked, transfer
from libbpf_shim.verifier.scalar.domains import U32, to_s32
from libbpf_shim.verifier.state import (
    ARENA,
    ARENA_REG,
    SCALAR,
    UNKNOWN,
    ZERO_REG,
    Reg,
    const_reg,
)


def alu(env: Env, i: Insn) -> None:
    """Carry out one instruction of class ALU or ALU64. Raises Reject."""
    kind = i.code & 0xF0
    if kind == op.END or kind == op.NEG:
        _unary(env, i, kind)
    elif kind == op.MOV:
        _move(env, i)
    else:
        _binary(env, i, kind)


def _unary(env: Env, i: Insn, kind: int) -> None:
    if kind == op.NEG:
        if i.code & 8 or i.src or i.off or i.imm:
            raise Reject(EINVAL, "BPF_NEG uses reserved fields")
    elif i.src or i.off or i.imm not in (16, 32, 64) or (i.klass == op.ALU64 and i.code & 8):
        raise Reject(EINVAL, "BPF_END uses reserved fields")
    reg = env.read_reg(i.dst)
    _writable(i)
    if reg.type != SCALAR:
        env.write_reg(i.dst, UNKNOWN)
    elif kind == op.NEG:
        _result(env, i, transfer.negated(reg, i.klass == op.ALU))
    else:
        _result(env, i, transfer.swapped(reg, i.imm, i.klass == op.ALU64 or i.code & 8 != 0))


def _writable(i: Insn) -> None:
    if i.dst == 10:
        raise Reject(EACCES, "frame pointer is read only")


def _result(env: Env, i: Insn, reg: Reg) -> None:
    env.write_reg(i.dst, bounded(env, reg, "alu"))


def bounded(env: Env, reg: Reg, where: str) -> Reg:
    """The register, without its bounds if these contradict each other."""
    if reg is UNKNOWN:
        return reg
    text = bounds.broken(reg, where)
    if not text:
        return reg
    if env.program.prog_flags & bounds.TEST_INVARIANTS:
        raise Reject(bounds.EFAULT, text)
    if env.log_level:
        env.lines.append(text)
    reg = reg.copy()
    bounds.forget_bounds(reg)
    return reg


def _move(env: Env, i: Insn) -> None:
    wide = i.klass == op.ALU64
    if not i.code & 8:
        if i.src or i.off:
            raise Reject(EINVAL, "BPF_MOV uses reserved fields")
        env.write_reg(i.dst, env.constant(i.imm if wide else i.imm & U32))
        return
    if wide and i.off == op.ADDR_SPACE_CAST:
        _cast(env, i)
        return
    if i.imm or i.off not in ((0, 8, 16, 32) if wide else (0, 8, 16)):
        raise Reject(EINVAL, "BPF_MOV uses reserved fields")
    reg = env.read_reg(i.src)
    _writable(i)
    if reg.type != SCALAR:
        if wide and not i.off:
            env.write_reg(i.dst, reg)
        else:  # privileged programs may look at addresses
            env.write_reg(i.dst, UNKNOWN if wide else bounds.WORD)
        return
    if wide and not i.off:
        env.write_reg(i.dst, linked.named(env, i.src))
        return
    kept = reg.umax < 1 << (i.off - 1) if i.off else reg.umax <= U32
    if kept:
        reg = linked.named(env, i.src)
    if i.off:
        size = i.off // 8
        moved = (
            bounds.sign_extended(reg, size) if wide else bounds.sign_extended_low(reg, size)
        )
    else:
        moved = reg.copy()
        bounds.zext32(moved)
    moved.id = reg.id if kept else 0
    moved.off = reg.off if kept else 0
    _result(env, i, moved)


def _cast(env: Env, i: Insn) -> None:
    """addr_space_cast: to an address in the arena as programs have them, or as its user has."""
    if i.imm not in (op.CAST_KERN, op.CAST_USER):
        raise Reject(EINVAL, "addr_space_cast insn can only convert between address space 1 and 0")
    if env.arena < 0:
        raise Reject(EINVAL, "addr_space_cast insn can only be used in a program that has an "
                             "associated arena")
    env.read_reg(i.src)
    env.write_reg(i.dst, ARENA_REG if i.imm == op.CAST_KERN else UNKNOWN)


def _on_arena(env: Env, arena: bool) -> None:
    """Arithmetic on the arena's addresses is compiled to 32 bits, on numbers it is not."""
    if env.arena_alu.setdefault(env.insn_idx, arena) != arena:
        raise Reject(ENOTSUPP, "arithmetic on both arena addresses and numbers in one "
                               "instruction is not supported here")


def _binary(env: Env, i: Insn, kind: int) -> None:
    wide = i.klass == op.ALU64
    signed_division = kind in (op.DIV, op.MOD) and i.off == 1
    if (i.off and not signed_division) or (i.imm if i.code & 8 else i.src):
        raise Reject(EINVAL, "BPF_ALU uses reserved fields")
    src = env.read_reg(i.src) if i.code & 8 else env.constant(i.imm)
    dst = env.read_reg(i.dst)
    if kind in (op.DIV, op.MOD) and not i.code & 8 and i.imm == 0:
        raise Reject(EINVAL, "div by zero")
    if kind in (op.LSH, op.RSH, op.ARSH) and not i.code & 8:
        if not 0 <= i.imm < (64 if wide else 32):
            raise Reject(EINVAL, f"invalid shift {i.imm}")
    _writable(i)
    arena = dst.type == ARENA or src.type == ARENA
    if env.arena >= 0:
        _on_arena(env, arena)
    if arena:
        env.write_reg(i.dst, ARENA_REG)
        return
    if dst.type != SCALAR or src.type != SCALAR:
        _result(env, i, _with_pointer(env, i, kind, dst, src))
        return
    first = dst
    if kind in (op.AND, op.OR) and src.tm == 0:
        first = _forked(env, i, dst)
    result = transfer.alu(kind, first, src, not wide)
    if dst.id and not (i.code & 8 and i.src == i.dst):
        linked.moved(kind, dst, src, not wide, result)
    _result(env, i, result)


def _forked(env: Env, i: Insn, reg: Reg) -> Reg:
    """A number that is 0 or -1, as a comparison gives without a branch: a path for each, so that
    what follows is known. Returns -1; 0 is pushed."""
    if reg.smin == -1 and reg.smax == 0:
        env.push(env.insn_idx).frames[-1].regs[i.dst] = ZERO_REG
        return const_reg(-1)
    if reg.s32min == -1 and reg.s32max == 0:
        env.push(env.insn_idx).frames[-1].regs[i.dst] = _with_low(reg, 0)
        return _with_low(reg, U32)
    return reg


def _with_low(reg: Reg, low: int) -> Reg:
    """The low half is known; what that tells of the whole is not looked at yet."""
    r = reg.copy()
    r.tv = r.tv & ~U32 | low
    r.tm &= ~U32
    r.u32min = r.u32max = low
    r.s32min = r.s32max = to_s32(low)
    return r


def _with_pointer(env: Env, i: Insn, kind: int, dst: Reg, src: Reg) -> Reg:
    if dst.type != SCALAR and src.type != SCALAR:
        if kind == op.SUB:
            return UNKNOWN
        sign = pointers.SIGN.get(kind, "?")
        raise Reject(EACCES, f"R{i.dst} pointer {sign} pointer prohibited")
    number, ptr = (dst, src) if dst.type == SCALAR else (src, dst)
    if i.code & 8:
        precision.mark_reg(env, i.dst if dst.type == SCALAR else i.src)
    if number.smin > number.smax or number.umin > number.umax:
        return UNKNOWN
    if number.tm == 0 and (number.smin != number.smax or number.umin != number.umax):
        return UNKNOWN
    if i.klass != op.ALU64:
        if kind == op.SUB:
            return UNKNOWN
        raise Reject(EACCES, f"R{i.dst} 32-bit pointer arithmetic prohibited")
    moved = pointers.arithmetic(env, i.dst, kind, ptr, number, ptr is dst)
    if env.policy is not None and env.policy.spectre:
        speculation.note(env, kind, ptr, number, ptr is dst)
    return moved
