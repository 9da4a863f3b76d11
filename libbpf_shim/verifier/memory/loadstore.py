"""Instructions that load and store: BPF_LDX, BPF_ST, BPF_STX, atomics, BPF_LD_ABS, BPF_LD_IND.

What they may touch is access.py's. Source of rules and messages: Linux 6.18,
kernel/bpf/verifier.c, check_load_mem, check_store_reg, check_atomic and check_ld_abs. Compiled by
mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.call import callbacks
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject, type_name
from libbpf_shim.verifier.kfuncs import sections
from libbpf_shim.verifier.log import trace
from libbpf_shim.verifier.memory import access, sockets
from libbpf_shim.verifier.scalar.domains import U32
from libbpf_shim.verifier.state import (
    ARENA,
    CTX,
    FLOW_KEYS,
    NO_REG,
    PKT,
    PKT_META,
    TAILED,
    TYPE_MASK,
    UNKNOWN,
    ZERO_REG,
    Reg,
    Step,
    const_reg,
)

_SKB_TYPES: Final = (1, 3, 4)  # whose programs may use BPF_LD_ABS and BPF_LD_IND
_ATOMICS: Final = frozenset((
    op.ADD, op.AND, op.OR, op.XOR, op.ADD | op.FETCH, op.AND | op.FETCH, op.OR | op.FETCH,
    op.XOR | op.FETCH, op.XCHG, op.CMPXCHG,
))  # fmt: skip
# What no access to an arena can do.
_NOT_IN_ARENAS: Final = (op.AND | op.FETCH, op.OR | op.FETCH, op.XOR | op.FETCH)
_NEVER_ATOMIC: Final = frozenset((CTX, PKT, PKT_META, FLOW_KEYS, *sockets.KINDS))


def load(env: Env, i: Insn, step: Step) -> None:
    """BPF_LDX."""
    reg = env.read_reg(i.src)
    env.may_write(i.dst)
    signed = i.code & 0xE0 == op.MODE_MEMSX
    env.write_reg(i.dst, access.load(env, i.src, i.off, i.size, signed, step))
    how = access.STORED if i.imm == op.LOAD_ACQ else access.LOADED
    access.same_pointer_kind(env, reg.type, how)


def store(env: Env, i: Insn, step: Step) -> None:
    """BPF_STX, atomic or not."""
    if i.code & 0xE0 == op.MODE_ATOMIC:
        _atomic(env, i, step)
        return
    if i.imm:
        raise Reject(EINVAL, "BPF_STX uses reserved fields")
    value, base = env.read_reg(i.src), env.read_reg(i.dst)
    if value.type & TYPE_MASK == CTX:
        env.ctx_escapes = True
    access.check(env, i.dst, i.off, i.size, access.WRITE, value, i.src, step)
    access.same_pointer_kind(env, base.type, access.STORED)


def store_imm(env: Env, i: Insn, step: Step) -> None:
    """BPF_ST."""
    if i.src:
        raise Reject(EINVAL, "BPF_ST uses reserved fields")
    base = env.read_reg(i.dst)
    access.check(env, i.dst, i.off, i.size, access.WRITE, const_reg(i.imm), -1, step)
    access.same_pointer_kind(env, base.type, access.STORED)


def _atomic(env: Env, i: Insn, step: Step) -> None:
    """Atomic accesses are aligned whatever the program's flags say."""
    strict = env.strict
    env.strict = True
    if i.src < 10 and i.imm != op.LOAD_ACQ and env.regs()[i.src].type & TYPE_MASK == CTX:
        env.ctx_escapes = True
    _aligned_atomic(env, i, step)
    env.strict = strict


def _aligned_atomic(env: Env, i: Insn, step: Step) -> None:
    if i.imm == op.LOAD_ACQ:
        base = env.read_reg(i.src)
        load(env, i, step)
        _no_atomic(i.src, base, "loads from")
        return
    if i.imm == op.STORE_REL:
        value = env.read_reg(i.src)
        base = env.read_reg(i.dst)
        access.check(env, i.dst, i.off, i.size, access.WRITE, value, i.src, step)
        access.same_pointer_kind(env, base.type, access.STORED)
        _no_atomic(i.dst, base, "stores into")
        return
    if i.imm not in _ATOMICS:
        raise Reject(EINVAL, f"BPF_ATOMIC uses invalid atomic opcode {i.imm & U32:02x}")
    if i.size < 4:
        raise Reject(EINVAL, "invalid atomic operand size")
    env.read_reg(i.src)
    env.read_reg(i.dst)
    if i.imm == op.CMPXCHG:
        env.read_reg(0)
    _no_atomic(i.dst, env.regs()[i.dst], "stores into")
    if env.regs()[i.dst].type == ARENA and i.imm in _NOT_IN_ARENAS:
        text = f"BPF_ATOMIC stores into R{i.dst} arena is not allowed"
        raise Reject(EACCES, text)
    fetched = 0 if i.imm == op.CMPXCHG else i.src
    if i.imm & op.FETCH:
        env.may_write(fetched)
    access.same_pointer_kind(env, env.regs()[i.dst].type, access.FETCHED)
    if i.imm & op.FETCH:  # 6.18 looks at the address after the fetch
        env.write_reg(fetched, UNKNOWN)
    was = access.load(env, i.dst, i.off, i.size, False, step)
    access.check(env, i.dst, i.off, i.size, access.WRITE, None, -1, step)
    if i.imm & op.FETCH:
        env.write_reg(fetched, was)


def _no_atomic(regno: int, reg: Reg, what: str) -> None:
    if reg.type & TYPE_MASK in _NEVER_ATOMIC:
        text = f"BPF_ATOMIC {what} R{regno} {type_name(reg.type)} is not allowed"
        raise Reject(EACCES, text)


def packet_load(env: Env, i: Insn, step: Step) -> None:
    """BPF_LD_ABS, BPF_LD_IND: R6 is the context; a load that fails ends the function with R0 = 0,
    so that of a function that was called both ways are gone."""
    if env.prog_type not in _SKB_TYPES:
        raise Reject(EINVAL, "BPF_LD_[ABS|IND] instructions not allowed for this program type")
    if i.dst or i.off or i.size == 8 or (i.code & 0xE0 == op.MODE_ABS and i.src):
        raise Reject(EINVAL, "BPF_LD_[ABS|IND] uses reserved fields")
    ctx = env.read_reg(6)
    sections.check_left(env, "BPF_LD_[ABS|IND]")
    if ctx.type != CTX:
        raise Reject(EINVAL, "at the time of BPF_LD_ABS|IND R6 != pointer to skb")
    if i.code & 0xE0 == op.MODE_IND:
        env.read_reg(i.src)
    access.check_unmoved_ctx(ctx, 6)
    regs = env.regs()
    for r in range(6):
        regs[r] = NO_REG
    regs[0] = UNKNOWN
    at, frames = env.insn_idx, env.cur.frames
    if len(frames) > 1:
        other = env.push(at + 1)
        if env.jump_point[at]:
            other.history.append(Step(at, step.prev, 0))
        regs[0] = ZERO_REG
        if frames[-1].callback:
            callbacks.leave(env, step)
            return
        if env.log_level & 3:
            trace.returning(env)
        step.kind = TAILED
        env.insn_idx = frames[-1].callsite
        frames.pop()
        frames[-1].regs[0] = ZERO_REG
        if env.log_level & 3:
            trace.tail_called(env, at)
    env.note(step)
    env.insn_idx += 1
