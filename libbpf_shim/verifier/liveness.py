"""Which registers and stack slots may still be read, by instruction: backward data flow.

Registers: uses and definitions of each instruction. Stack: a forward pass first finds registers
that hold fp plus a constant; whatever is not followed (arithmetic with variables, spilled stack
pointers, pointers given away) counts as a read of everything. Pruning ignores what is dead.
"""

from __future__ import annotations

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier import structure
from libbpf_shim.verifier.env import Env

ALL_SLOTS = (1 << 64) - 1
UNKNOWN = 1  # may point anywhere into the stack (offsets are never positive)
Points = dict[int, int]  # register to fp offset, or UNKNOWN


def compute(env: Env) -> None:
    """Fills env.live (bit r) and env.live_stack (bit s: slot at fp-8*(s+1)), before each slot."""
    n = len(env.insns)
    succ = [structure.successors(env, at) for at in range(n)]
    uses = [_registers(env, env.insns[at]) for at in range(n)]
    env.live = _backward(succ, [u for u, _ in uses], [d for _, d in uses])
    reads, writes = _stack_effects(env, succ)
    env.live_stack = _backward(succ, reads, writes)


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
            return 0x3E, 0x3F
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
    return 0x40 | (src if i.code & 0xE0 == op.MODE_IND else 0), 0x3F


def _store_registers(i: Insn, dst: int, src: int) -> tuple[int, int]:
    if i.code & 0xE0 != op.MODE_ATOMIC or i.imm == op.STORE_REL:
        return dst | src, 0
    if i.imm == op.LOAD_ACQ:
        return src, dst
    if i.imm == op.CMPXCHG:
        return dst | src | 1, 1
    return dst | src, src if i.imm & op.FETCH else 0


def _mask(off: int, size: int) -> int:
    """Slots touched by size bytes at fp+off."""
    mask = 0
    for byte in (off, off + size - 1):
        if -512 <= byte < 0:
            mask |= 1 << (-byte - 1) // 8
    return mask


def _from(off: int) -> int:
    """Slots at fp+off and nearer to fp: what a callee given that address may read."""
    if off == UNKNOWN or not -512 <= off < 0:
        return ALL_SLOTS
    return (1 << (-off - 1) // 8 + 1) - 1


def _stack_effects(env: Env, succ: list[tuple[int, ...]]) -> tuple[list[int], list[int]]:
    n = len(env.insns)
    points: list[Points | None] = [None] * (n + 1)
    todo = []
    for start in env.subprogs:
        # a subprogram's arguments may point into frames above it, never into its own
        points[start] = {10: 0}
        todo.append(start)
    leaked = _leaks(env)
    while todo:
        at = todo.pop()
        after = _follow(env.insns[at], dict(points[at] or {}), leaked)
        for to in succ[at]:
            merged = _join(points[to], after)
            if merged is not None:
                points[to] = merged
                todo.append(to)
    reads = [0] * n
    writes = [0] * n
    for at in range(n):
        here = points[at]
        if here is not None:
            reads[at], writes[at] = _effect(env.insns[at], here)
    return reads, writes


def _leaks(env: Env) -> bool:
    """A register other than a number may be stored somewhere, so that a load may give a stack
    address. Any 8-byte register store could be one; so loads of 8 bytes then give UNKNOWN."""
    return any(
        i.code == 0x7B or (i.klass == op.STX and i.code & 0xE0 == op.MODE_ATOMIC)
        for i in env.insns
    )


def _join(old: Points | None, new: Points) -> Points | None:
    """The union; None if nothing is new."""
    if old is None:
        return new
    out = dict(old)
    for reg, off in new.items():
        have = out.get(reg)
        if have is None:
            out[reg] = UNKNOWN
        elif have != off:
            out[reg] = UNKNOWN
    for reg in old:
        if reg not in new and old[reg] != UNKNOWN:
            out[reg] = UNKNOWN
    return out if out != old else None


def _follow(i: Insn, p: Points, leaked: bool) -> Points:
    """Stack pointers after the instruction."""
    klass = i.klass
    kind = i.code & 0xF0
    if klass == op.ALU64 and kind == op.MOV and i.code & 8 and not i.off and i.src in p:
        p[i.dst] = p[i.src]
    elif klass == op.ALU64 and kind in (op.ADD, op.SUB):
        if i.code & 8:
            if i.dst in p or i.src in p:
                p[i.dst] = UNKNOWN
        elif i.dst in p and p[i.dst] != UNKNOWN:
            off = p[i.dst] + (i.imm if kind == op.ADD else -i.imm)
            p[i.dst] = off if -512 <= off <= 0 else UNKNOWN
    elif klass in (op.ALU, op.ALU64):
        _written(i, p)
    elif klass == op.LDX:
        p.pop(i.dst, None)
        if leaked and i.size == 8:
            p[i.dst] = UNKNOWN
    elif klass == op.STX and i.code & 0xE0 == op.MODE_ATOMIC:
        for reg in range(10):
            if _store_registers(i, 1 << i.dst, 1 << i.src)[1] >> reg & 1:
                p[reg] = UNKNOWN
    elif klass == op.LD:
        p.pop(i.dst if i.code == op.LD_IMM64 else 0, None)
    elif i.code == op.JMP | op.CALL:
        for reg in range(6):
            p.pop(reg, None)
        # a subprogram or a helper never returns a stack address
    return p


def _written(i: Insn, p: Points) -> None:
    if i.dst in p and (i.code & 0xF0 == op.MOV or i.klass == op.ALU):
        del p[i.dst]
    if i.code & 0xF0 == op.MOV and i.code & 8 and i.src in p:
        p[i.dst] = UNKNOWN


def _effect(i: Insn, p: Points) -> tuple[int, int]:
    """(slots that may be read, slots wholly overwritten)."""
    klass = i.klass
    if klass == op.LDX or (
        klass == op.STX and i.code & 0xE0 == op.MODE_ATOMIC and i.imm == op.LOAD_ACQ
    ):
        off = p.get(i.src)
        if off is None:
            return 0, 0
        return (ALL_SLOTS if off == UNKNOWN else _mask(off + i.off, i.size)), 0
    if klass in (op.ST, op.STX):
        off = p.get(i.dst)
        if off is None:
            return 0, 0
        if klass == op.STX and i.code & 0xE0 == op.MODE_ATOMIC:
            return (ALL_SLOTS if off == UNKNOWN else _mask(off + i.off, i.size)), 0
        if off == UNKNOWN or i.size != 8 or (off + i.off) % 8:
            return 0, 0
        return 0, _mask(off + i.off, 8)
    if i.code == op.JMP | op.CALL:
        read = 0
        for reg in range(1, 6):
            if reg in p:
                read |= _from(p[reg])
        return read, 0
    return 0, 0
