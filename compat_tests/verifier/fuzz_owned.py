"""Whole programs of fuzz_objects.py: main and its functions, one or two instructions changed."""

from __future__ import annotations

import random

from compat_tests.verifier.fuzz_objects import Writer
from compat_tests.verifier.fuzz_objects_base import (
    AND,
    BUFFER,
    CLS,
    EXIT,
    KEY,
    LDX,
    MOVX,
    NODE_DATA,
    SOCKET,
    ST,
    STX,
    TREE_LINK,
    XDP,
    Block,
    num,
)
from compat_tests.verifier.test_kfuncs import helper
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op

NUMBERS = (0, 1, 2, 3, 8, 16, 24, 40, 56, 64, 72, -1, -8, -16, -32)


def frame() -> Block:
    return [Insn(ST, 10, 0, off, 0) for off in (BUFFER, BUFFER + 8, KEY)]


def function(w: Writer, name: str) -> Block:
    rnd = w.rnd
    w.taken.clear()
    w.depth = 3
    w.context = name in ("main", "called")
    if name == "main":
        w.depth = 0
        return [Insn(STX, 10, 1, -8, 0), *frame(), *w.body(5), num(0, 0), EXIT]
    if name == "less":
        off = NODE_DATA - TREE_LINK
        return [Insn(LDX, 3, 1, off, 0), Insn(LDX, 4, 2, off, 0), num(0, 0),
                Insn(0xBD, 3, 4, 1, 0), num(0, 1), EXIT]  # fmt: skip
    if name == "tick":
        w.taken[6] = "value"
        return [Insn(MOVX, 6, 3, 0, 0), *frame(), *w.body(2), num(0, 0), EXIT]
    if name == "round":
        w.taken[6] = "plain"
        end = [num(0, rnd.randrange(2))] if rnd.random() < 0.5 else [
            helper(7), Insn(AND, 0, 0, 0, 1)]  # fmt: skip
        return [Insn(MOVX, 6, 2, 0, 0), *frame(), *w.body(2), *end, EXIT]
    w.taken[6] = "plain"
    return [Insn(STX, 10, 1, -8, 0), Insn(MOVX, 6, 2, 0, 0), *frame(), *w.body(2), num(0, 0), EXIT]


def changed(rnd: random.Random, insns: Block) -> None:
    """One instruction, in place."""
    at = rnd.randrange(len(insns))
    insn = insns[at]
    if insn.code in (0, op.LD_IMM64) or (insn.code == 0x85 and insn.src == op.PSEUDO_CALL):
        return
    pick = rnd.randrange(8)
    if insn.code == 0x85 and pick < 5:
        others = [i for i in insns if i.code == 0x85 and i.src != op.PSEUDO_CALL]
        insn.src, insn.imm = (lambda i: (i.src, i.imm))(rnd.choice(others))
    elif pick < 2:
        insns[at] = Insn(op.JMP, 0, 0, 0, 0)
    elif pick == 2:
        insn.dst = rnd.randrange(10)
    elif pick == 3 and (insn.src or insn.code & 8):
        insn.src = rnd.randrange(11)
    elif pick == 4 and insn.imm:
        insn.imm = rnd.choice(NUMBERS)
    elif pick == 5 and insn.off:
        insn.off += rnd.choice((-8, -1, 1, 8))
    elif pick == 6:
        other = rnd.randrange(len(insns))
        if insns[other].code not in (0, op.LD_IMM64):
            insns[at] = insns[other]
    elif at and insns[at - 1].code not in (0, op.LD_IMM64):
        insns[at - 1], insns[at] = insn, insns[at - 1]


def program(rnd: random.Random) -> tuple[int, bool, bytes, list[int]]:
    """Type, whether nodes are shared, instructions, where functions begin."""
    kind, shared = rnd.choice((CLS,) * 6 + (XDP,) * 3 + (SOCKET,)), rnd.random() < 0.4
    w = Writer(rnd, kind, shared)
    code, entries = function(w, "main"), {}
    at = 0
    while at < len(w.named):
        name = w.named[at][1]
        if name not in entries:
            entries[name] = len(code)
            code += function(w, name)
        at += 1
    for insn, name in w.named:
        here = next(n for n, other in enumerate(code) if other is insn)
        insn.imm = entries[name] - here - 1
    code = [Insn(i.code, i.dst, i.src, i.off, i.imm) for i in code]
    for _ in range(rnd.choice((0, 1, 1, 2))):
        changed(rnd, code)
    return kind, shared, encode(code), sorted(entries.values())
