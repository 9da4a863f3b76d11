"""The shape of a program, from its instructions alone: what the code of one that is isolated
relies on, whoever says that it was verified."""

from __future__ import annotations

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit.flow import ends, is_call, target
from libbpf_shim.jit.window import DEPTH
from libbpf_shim.verifier.facts import Facts


def wrong(insns: list[Insn], facts: Facts) -> str:
    """What is wrong; "": jumps stay in their functions and lead to instructions, functions end
    with a jump or an exit and are called at their beginnings, not deeper than DEPTH and never by
    themselves, and the facts are about these functions."""
    starts = list(facts.subprogs)
    if len(facts.seen) != len(insns) or not insns or not facts.seen[0]:
        return "facts of another program"
    if starts[:1] != [0] or starts != sorted(set(starts)) or starts[-1] >= len(insns) or \
            len(facts.stack_depth) != len(starts):
        return "functions that are none"
    halves = {at + 1 for at, i in enumerate(insns) if i.code == op.LD_IMM64}
    calls: dict[int, set[int]] = {start: set() for start in starts}
    for start, end in zip(starts, [*starts[1:], len(insns)], strict=True):
        if start in halves or end - 1 in halves or not ends(insns[end - 1]):
            return f"the function at {start} does not end"
        for at in range(start, end):
            if at in halves:
                continue
            to = target(at, insns[at])
            jumps = insns[at].klass in (op.JMP, op.JMP32) and \
                insns[at].code & 0xF0 not in (op.CALL, op.EXIT)
            if jumps and (not start <= to < end or to in halves):
                return f"insn {at}: a jump out of its function"
            if is_call(insns[at]) or _names(insns[at]):
                if at + 1 + insns[at].imm not in calls:
                    return f"insn {at}: a call of what is no function"
                calls[start].add(at + 1 + insns[at].imm)
    return _too_deep(calls)


def _names(i: Insn) -> bool:
    """It is the address of a function, which may be called back."""
    return i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC


def _too_deep(calls: dict[int, set[int]]) -> str:
    """Functions by how many calls lead to them: each round takes those that the last one calls."""
    level = {0}
    for _ in range(DEPTH):
        level = {to for start in level for to in calls[start]}
        if not level:
            return ""
    return f"functions call one another more than {DEPTH} deep"
