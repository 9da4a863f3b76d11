"""Where a program's code holds a processor that runs ahead of a branch (Policy.spectre), from its
instructions and what was proved of them. The source of what has to be held is what Linux does with
programs of the unprivileged: kernel/bpf/verifier.c, sanitize_ptr_alu, and `nospec`.

`mask-indices`: a number in a register that is added to a pointer is held between the bounds that
were proved, by arithmetic and without a branch; out of them it counts as the lower one. Where the
number's own arithmetic says as much (`x &= 63`, a byte), there is nothing to do. `full`: besides,
no access of memory and no call begins before the branches in front of it are decided (lfence).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, imm64
from libbpf_shim.jit.flow import Flow, effect, target
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import FULL, Policy

LFENCE: Final = b"\x0f\xae\xe8"
Range = tuple[int, int]
_ANY: Final[Range] = (0, (1 << 64) - 1)
_U32: Final = (1 << 32) - 1
_ROUNDS: Final = 4  # that a place is looked at until what changes there is anything


def masks(flow: Flow, facts: Facts) -> dict[int, tuple[bool, int, int]]:
    """By slot: whether the number is the source, and its bounds."""
    if not facts.indices:
        return {}
    before = _ranges(flow)
    found = {}
    for at, (in_src, low, high) in facts.indices.items():
        i = flow.insns[at]
        mine, most = before.get(at, (_ANY,) * 10)[i.src if in_src else i.dst]
        if not (max(low, 0) <= mine and most <= high):
            found[at] = in_src, low, high
    return found


def _ranges(flow: Flow) -> dict[int, tuple[Range, ...]]:
    """What registers can be before each slot, whatever way branches went: the arithmetic alone
    counts, which no processor leaves out."""
    unknown: tuple[Range, ...] = (_ANY,) * 10
    known = {at: unknown for at in flow.slots() if at in flow.starts}
    rounds: dict[int, int] = {}
    work = list(known)
    while work:
        at = work.pop()
        after = _after(flow.insns, at, known[at])
        for to in flow.successors(at):
            old = known.get(to)
            new = after if old is None else tuple(
                (min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(old, after, strict=True))
            if new == old:
                continue
            rounds[to] = rounds.get(to, 0) + 1
            if old is not None and rounds[to] > _ROUNDS:
                new = tuple(a if a == b else _ANY for a, b in zip(old, new, strict=True))
            known[to] = new
            work.append(to)
    return known


def _after(insns: list[Insn], at: int, before: tuple[Range, ...]) -> tuple[Range, ...]:
    i = insns[at]
    written = effect(i, lambda _: 5)[1]
    value = _ANY
    if i.klass in (op.ALU, op.ALU64):
        value = _computed(i, before)
    elif i.klass == op.LDX and i.code & 0xE0 == op.MODE_MEM:
        value = 0, (1 << 8 * i.size) - 1
    elif i.code == op.LD_IMM64 and i.src == 0:
        value = (imm64(i, insns[at + 1]),) * 2
    return tuple((value if n == i.dst else _ANY) if written >> n & 1 else known
                 for n, known in enumerate(before))


def _computed(i: Insn, before: tuple[Range, ...]) -> Range:
    kind, wide = i.code & 0xF0, i.klass == op.ALU64
    top = _ANY[1] if wide else _U32
    a = before[i.dst]
    if i.code & 8:
        b = before[i.src] if i.src < 10 else _ANY
    else:
        b = (i.imm & top,) * 2
    if kind == op.END or i.off:
        return 0, top
    if not wide:  # of what does not fit, the low half is anything
        a, b = (r if r[1] <= _U32 else (0, _U32) for r in (a, b))
    if rule := _RULES.get(kind):
        low, high = rule(a, b)
        return (low, high) if high <= top else (0, top)
    return 0, top


def _shifted(a: Range, b: Range) -> Range:
    return (a[0] >> b[0], a[1] >> b[0]) if b[0] == b[1] and b[0] < 32 else (0, a[1])


_RULES: Final[dict[int, Callable[[Range, Range], Range]]] = {
    op.MOV: lambda a, b: b,
    op.AND: lambda a, b: (0, min(a[1], b[1])),
    op.ADD: lambda a, b: (a[0] + b[0], a[1] + b[1]),
    op.MUL: lambda a, b: (a[0] * b[0], a[1] * b[1]),
    op.RSH: _shifted,
    op.LSH: lambda a, b: (a[0] << b[0], a[1] << b[0]) if b[0] == b[1] < 32 else _ANY,
    op.DIV: lambda a, b: (0, a[1]),
    op.MOD: lambda a, b: (0, min(a[1], b[1] - 1)) if b[0] else (0, a[1]),
}


def fences(flow: Flow, policy: Policy | None) -> set[int]:
    """Slots behind a branch from which an access or a call is reached without another one."""
    if policy is None or policy.spectre != FULL:
        return set()
    return {to for at in flow.slots() if _branches(flow, at)
            for to in flow.successors(at) if _reaches(flow, to)}


def _branches(flow: Flow, at: int) -> bool:
    i = flow.insns[at]
    return i.klass in (op.JMP, op.JMP32) and at not in flow.selects and \
        i.code & 0xF0 not in (op.JA, op.CALL, op.EXIT)


def _reaches(flow: Flow, at: int) -> bool:
    seen: set[int] = set()
    while at not in seen and not _branches(flow, at):
        seen.add(at)
        i = flow.insns[at]
        if i.code == op.JMP | op.CALL or _accesses(i):
            return True
        if at in flow.selects:
            at += 1
            continue
        ways = flow.successors(at)
        if not ways:
            return False
        at = ways[0] if target(at, i) < 0 else target(at, i)
    return False


def _accesses(i: Insn) -> bool:
    """Memory by a pointer that may be another one; not the stack, at a place that is known."""
    if i.klass == op.LDX:
        return i.src != 10
    if i.klass in (op.ST, op.STX):
        return i.dst != 10
    return i.klass == op.LD and i.code != op.LD_IMM64
