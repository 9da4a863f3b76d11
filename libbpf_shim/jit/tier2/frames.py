"""Which registers are R10 plus a number, before each slot: a join over all ways to it."""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit.flow import Flow, effect, ends, target

Known = tuple[int | None, ...]
_NOTHING: Final[Known] = (None,) * 10


def after(i: Insn, before: Known) -> Known:
    """What is known behind an instruction."""
    kind = i.code & 0xF0
    value: int | None = None
    if i.klass == op.ALU64 and kind == op.MOV and i.code & 8 and not i.off:
        value = 0 if i.src == 10 else before[i.src]
    elif i.klass == op.ALU64 and kind in (op.ADD, op.SUB) and not i.code & 8 and i.dst < 10:
        known = before[i.dst]
        if known is not None:
            value = known + (i.imm if kind == op.ADD else -i.imm)
    written = effect(i, lambda _: 5)[1]
    return tuple((value if n == i.dst else None) if written >> n & 1 else known
                 for n, known in enumerate(before))


def offsets(flow: Flow) -> dict[int, Known]:
    """By slot that runs."""
    slots = list(flow.slots())
    known = {at: _NOTHING for at in slots if at in flow.starts}
    changed = True
    while changed:
        changed = False
        for at in slots:
            if at not in known:
                continue
            i, state = flow.insns[at], after(flow.insns[at], known[at])
            ways = [] if ends(i) else [at + (2 if i.code == op.LD_IMM64 else 1)]
            for to in (*ways, target(at, i)):
                if to < 0 or to >= len(flow.insns) or not flow.seen[to]:
                    continue
                old = known.get(to)
                joined = state if old is None else tuple(
                    a if a == b else None for a, b in zip(old, state, strict=True))
                if joined != old:
                    known[to] = joined
                    changed = True
    return {at: known.get(at, _NOTHING) for at in slots}
