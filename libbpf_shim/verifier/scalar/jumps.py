"""Conditional jumps: decided, or followed both ways with what each way teaches.

Source of rules: Linux 6.18, kernel/bpf/verifier.c, check_cond_jmp_op. Compiled by mypyc.
"""

from __future__ import annotations

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier import structure
from libbpf_shim.verifier.env import EINVAL, Env, Reject
from libbpf_shim.verifier.granted import host
from libbpf_shim.verifier.memory import pointers
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.scalar import arithmetic, branches, linked
from libbpf_shim.verifier.scalar.domains import U32, U64
from libbpf_shim.verifier.state import (
    BTF_PTR,
    MAYBE_NULL,
    PKT,
    PKT_END,
    PKT_META,
    SCALAR,
    TYPE_MASK,
    Reg,
    State,
    Step,
)


def conditional(env: Env, i: Insn, step: Step) -> None:
    """Go on at one target, and push the other unless the comparison is decided."""
    kind = i.code & 0xF0
    is32 = i.klass == op.JMP32
    dst = env.read_reg(i.dst)
    if i.imm if i.code & 8 else i.src:
        raise Reject(EINVAL, "BPF_JMP/JMP32 uses reserved fields")
    src = env.read_reg(i.src) if i.code & 8 else env.constant(i.imm)
    env.jumps += 1
    known = decided(kind, dst, src, is32)
    at, to = env.insn_idx, structure.target(i, env.insn_idx)
    if known >= 0:
        if dst.type == SCALAR:
            precision.mark_reg(env, i.dst)
        if i.code & 8 and src.type == SCALAR:
            precision.mark_reg(env, i.src)
        env.note(step)
        env.insn_idx = to if known else at + 1
        return
    if i.code & 8 and src.type == SCALAR and src.id:
        linked.collect(env, src.id, step.linked)
    if dst.type == SCALAR and dst.id:
        linked.collect(env, dst.id, step.linked)
    env.note(step)
    taken = env.push(to)
    env.insn_idx = at + 1
    _learn(env, taken, i, kind, step)


def _learn(env: Env, taken: State, i: Insn, kind: int, step: Step) -> None:
    """What holds on each side."""
    fall = env.cur
    is32 = i.klass == op.JMP32
    dst = fall.frames[-1].regs[i.dst]
    src = fall.frames[-1].regs[i.src] if i.code & 8 else env.constant(i.imm)
    if dst.type == SCALAR and src.type == SCALAR:
        _refined(env, taken, i, kind, dst, src)
        for state in (fall, taken):
            if i.code & 8:
                linked.spread(state, i.src, step.linked)
            linked.spread(state, i.dst, step.linked)
        return
    if is32:
        return
    if i.code & 8:
        _not_null(env, fall, taken, i, kind, dst, src)
        pointers.packet_branch(kind, i.dst, i.src, fall, taken)
    elif dst.type & MAYBE_NULL and i.imm == 0 and kind in (op.JEQ, op.JNE):
        pointers.null_branch(env, fall, dst.id, kind == op.JNE)
        pointers.null_branch(env, taken, dst.id, kind == op.JEQ)
    elif i.imm == 0 and kind in (op.JEQ, op.JNE) and host.is_host(env, dst):
        host.learn(taken if kind == op.JNE else fall, dst.id)


def _refined(env: Env, taken: State, i: Insn, kind: int, dst: Reg, src: Reg) -> None:
    """Both operands, on both sides."""
    is32 = i.klass == op.JMP32
    one = i.code & 8 != 0 and i.src == i.dst
    a, b = branches.refine(kind, dst, src, one, is32, True)
    x, y = branches.refine(kind, dst, src, one, is32, False)
    a = arithmetic.bounded(env, a, "true_reg1")
    b = arithmetic.bounded(env, b, "true_reg2")
    x = arithmetic.bounded(env, x, "false_reg1")
    y = arithmetic.bounded(env, y, "false_reg2")
    for regs, first, second in (
        (taken.frames[-1].regs, a, b), (env.cur.frames[-1].regs, x, y),
    ):  # fmt: skip
        regs[i.dst] = first
        if i.code & 8 and not one:
            regs[i.src] = second


def _not_null(
    env: Env, fall: State, taken: State, i: Insn, kind: int, dst: Reg, src: Reg
) -> None:
    """A pointer that equals one that is not NULL is not NULL either."""
    if dst.type == SCALAR or src.type == SCALAR or kind not in (op.JEQ, op.JNE):
        return
    if (dst.type ^ src.type) & MAYBE_NULL == 0:
        return
    if dst.type & TYPE_MASK == BTF_PTR or src.type & TYPE_MASK == BTF_PTR:
        return  # a trusted one may still be NULL where its owner is wrong
    regs = (taken if kind == op.JEQ else fall).frames[-1].regs
    regno = i.dst if dst.type & MAYBE_NULL else i.src
    regs[regno] = pointers.resolved(env, regs[regno], False)


def _packet(reg: Reg) -> bool:
    return reg.type in (PKT, PKT_META, PKT_END)


def decided(kind: int, dst: Reg, src: Reg, is32: bool) -> int:
    """1: taken, 0: not, -1: perhaps."""
    if dst.type == SCALAR and src.type == SCALAR:
        return branches.branch_taken(kind, dst, src, is32)
    if _packet(dst) and _packet(src) and not is32:
        return pointers.end_branch(kind, dst, src)
    if kind not in (op.JEQ, op.JNE):
        return -1
    ptr, other = (dst, src) if src.type == SCALAR else (src, dst)
    width = U32 if is32 else U64
    if other.type != SCALAR or (other.tv | other.tm) & width or not pointers.never_null(ptr):
        return -1
    return 0 if kind == op.JEQ else 1
