"""Which registers may still be read, and the jumps of the program: known before any path runs.

Pruning ignores what is dead. Uses and definitions are those of Linux 6.18 (kernel/bpf/verifier.c,
compute_live_registers). What is read of the stack is found while paths run: chain.py.
"""

from __future__ import annotations

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier import infos, structure
from libbpf_shim.verifier.call import availability, helpers
from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.path import visits
from libbpf_shim.verifier.path.chain import Flow


def compute(env: Env) -> None:
    """Fills env.flow, env.loop_of and env.live (bit r: may be read before it is written)."""
    n = len(env.insns)
    succ = [structure.successors(env, at) for at in range(n)]
    first = [s[0] if s else -1 for s in succ]
    other = [s[1] if len(s) > 1 else -1 for s in succ]
    ends = bytearray(
        i.code == op.JMP | op.CALL and i.src == 0 and i.imm == infos.TAIL_CALL for i in env.insns
    )
    env.flow = Flow(first, other, ends)
    env.loop_of = visits.components(env.flow, env.prune_point)
    uses = [_registers(env, env.insns[at]) for at in range(n)]
    env.live = _backward(succ, [u for u, _ in uses], [d for _, d in uses])


def _backward(succ: list[tuple[int, ...]], gen: list[int], kill: list[int]) -> list[int]:
    n = len(succ)
    live = [0] * (n + 1)
    changed = True
    while changed:
        changed = False
        for at in range(n - 1, -1, -1):
            out = 0
            for to in succ[at]:
                out |= live[to]
            new = gen[at] | (out & ~kill[at])
            if new != live[at]:
                live[at] = new
                changed = True
    return live


def _registers(env: Env, i: Insn) -> tuple[int, int]:
    """(read, written) register masks of one instruction."""
    dst = 1 << i.dst
    src = 1 << i.src
    klass = i.klass
    kind = i.code & 0xF0
    if klass in (op.ALU, op.ALU64):
        if kind == op.MOV:
            return (src if i.code & 8 else 0), dst
        if kind in (op.END, op.NEG) or not i.code & 8:
            return dst, dst
        return dst | src, dst
    if klass in (op.JMP, op.JMP32):
        if kind == op.CALL and klass == op.JMP:
            return _arguments(env, i), 0x3F
        if kind == op.EXIT and klass == op.JMP:
            return 1, 0
        if kind in (op.JA, op.JCOND):
            return 0, 0
        return dst | (src if i.code & 8 else 0), 0
    if klass == op.LDX:
        return src, dst
    if klass == op.ST:
        return dst, 0
    if klass == op.STX:
        return _store_registers(i, dst, src)
    if i.code == op.LD_IMM64:
        return 0, dst
    return 0x3FF, 0  # LD_ABS, LD_IND


def _arguments(env: Env, i: Insn) -> int:
    """Registers that a call reads: as many as what is called takes, if it may be."""
    if i.src == op.PSEUDO_KFUNC_CALL and not i.off:
        try:
            btf = env.btf(0)
            return (2 << len(btf.type(btf.type(i.imm).ref).members)) - 2
        except KeyError:
            return 0x3E
    if i.src or not availability.allowed(
        env.prog_type, env.program.expected_attach_type, i.imm
    ):
        return 0x3E
    proto = helpers.proto(env.prog_type, i.imm)
    return 0x3E if proto is None else (2 << len(proto.args)) - 2


def _store_registers(i: Insn, dst: int, src: int) -> tuple[int, int]:
    if i.code & 0xE0 != op.MODE_ATOMIC or i.imm == op.STORE_REL:
        return dst | src, 0
    if i.imm == op.LOAD_ACQ:
        return src, dst
    if i.imm == op.CMPXCHG:
        return dst | src | 1, 1
    return dst | src, src if i.imm & op.FETCH else 0
