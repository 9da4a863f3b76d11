"""A program as one LLVM module."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, decode
from libbpf_shim.jit import charge, clocks, context
from libbpf_shim.jit.control import TAIL_CALL
from libbpf_shim.jit.flow import Flow, ends, is_call, target
from libbpf_shim.jit.inline import arguments
from libbpf_shim.jit.tier2.control import Control
from libbpf_shim.jit.tier2.frames import offsets
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

_HEAD = """target triple = "x86_64-unknown-linux-gnu"
declare i16 @llvm.bswap.i16(i16)
declare i32 @llvm.bswap.i32(i32)
declare i64 @llvm.bswap.i64(i64)
!0 = !{!"branch_weights", i32 2000, i32 1}
!1 = !{}
"""
_ATTRIBUTES = ('nounwind noimplicitfloat null_pointer_is_valid "no-jump-tables"="true" '
               '"no-builtins"')
_KPROBE: Final = 2  # BPF_PROG_TYPE_KPROBE: contexts are struct shim_pt_regs, of hits alone
_INLINED: Final = 1024  # slots, in all places together


class _Function(Control):
    """One function on its way."""

    def __init__(self, program: Program, facts: Facts, flow: Flow, symbols: set[str]) -> None:
        super().__init__(symbols)
        self.flow, self.facts, self.maps = flow, facts, program.maps
        self.program, self.prog_type, self.policy = program, program.prog_type, program.policy
        self.charges = charge.charges(flow, facts)
        self.own_clock = clocks.unordered(program, flow.insns, facts)
        count = arguments(program.prog_type)
        self.arguments_of = {i.imm: count(i.imm) for i in flow.insns
                             if i.code == op.JMP | op.CALL and not i.src}
        start = program.maps[facts.arena_map].arena[0] if facts.arena_map >= 0 else 0
        self.arena_start = start
        self.arena_size = program.maps[facts.arena_map].max_entries * 4096 if start else 0
        self.callbacks = set()
        self.registers = program.prog_type == _KPROBE
        self.passed_on = self.registers and TAIL_CALL not in facts.helpers and \
            not any(i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC for i in flow.insns)
        self.by_class: dict[int, Callable[[Insn, int], None]] = {
            op.LD: self.constant, op.LDX: self.access, op.ST: self.access, op.STX: self.access,
            op.ALU: self.alu, op.ALU64: self.alu, op.JMP: self.jump, op.JMP32: self.jump,
        }  # fmt: skip

    def function(self, slots: list[int], depth: int, leaders: set[int]) -> None:
        """slots: of the function, those that run, the first one its entry."""
        first = slots[0]
        self.frame = depth + 7 & ~7
        self.parameters = 2 if first == 0 else 6
        self.whole = ""
        if self.registers and first == 0:
            self.whole = "%a1"
        elif self.passed_on:
            self.whole = "%context"
        self.open(first)
        self.ended = True
        for at in slots:
            if self.ended or at in leaders:
                if not self.ended:
                    self.go(f"s{at}")
                self.label(f"s{at}")
                self.ended = False
            if at in self.charges:
                self.charge(self.charges[at])
            i = self.flow.insns[at]
            self.by_class[i.klass](i, at)
            after = at + (2 if i.code == op.LD_IMM64 else 1)
            if not self.ended and (after not in slots):
                self.leave(f"br label %{self.way(after)}")
        self.close()


def _leaders(flow: Flow) -> set[int]:
    """Slots that something jumps to, or that follow a jump."""
    found = set(flow.starts)
    for at in flow.slots():
        i = flow.insns[at]
        to = target(at, i)
        if to >= 0:
            found |= {to, at + 1}
        elif ends(i):
            found.add(at + 1)
    return found


def inlined(flow: Flow, facts: Facts) -> frozenset[int]:
    """First slots of functions that become part of their callers: small ones that call none of
    the program's, as bpf_usdt_arg() is, in not too many places."""
    bounds = [*facts.subprogs, len(flow.insns)]
    slots, calls = dict.fromkeys(facts.subprogs, 0), dict.fromkeys(facts.subprogs, 0)
    leaves = set(facts.subprogs)
    for at in flow.slots():
        start = bounds[bisect_right(bounds, at) - 1]
        slots[start] += 1
        if is_call(flow.insns[at]):
            calls[at + 1 + flow.insns[at].imm] += 1
            leaves.discard(start)
    return frozenset(f for f in leaves if 0 < calls[f] * slots[f] <= _INLINED)


def _signature(at: int, passed_on: bool) -> str:
    names = ["%a1"] if at == 0 else [f"%a{n}" for n in range(1, 6)]
    more = ["%context"] if at and passed_on else []
    return ", ".join(f"i64 {name}" for name in (*names, "%run", *more))


def text_of(program: Program, facts: Facts) -> tuple[str, tuple[int, ...]]:
    """The module, and the first slots of the functions whose address is taken. ShimError
    EOPNOTSUPP: what stands in the way."""
    insns = decode(program.insns)
    flow = Flow(insns, facts, arguments(program.prog_type))
    symbols: set[str] = set()
    made = _Function(program, facts, flow, symbols)
    made.context = context.accesses(program, insns, facts)
    made.offsets = offsets(flow)
    leaders, slots = _leaders(flow), list(flow.slots())
    depths = dict(zip(facts.subprogs, facts.stack_depth, strict=True))
    bounds = [*facts.subprogs, len(insns)]
    bodies: list[tuple[int, list[str], bool]] = []
    for start, end in zip(bounds, bounds[1:], strict=False):
        mine = [at for at in slots if start <= at < end]
        if not mine or mine[0] != start:
            continue  # no run reaches it
        made.lines, made.dead = [], False
        made.function(mine, depths[start], leaders)
        tails = any(insns[at].code == op.JMP | op.CALL and not insns[at].src
                    and insns[at].imm == TAIL_CALL for at in mine)
        bodies.append((start, made.lines, tails))
    for start in sorted(made.callbacks - {start for start, _, _ in bodies}):  # never called
        bodies.append((start, ["  ret i64 0"], False))
    out = [_HEAD]
    merged = inlined(flow, facts)
    for start, lines, tails in bodies:
        name = f"@f{start}"
        linkage = "dso_local" if start == 0 or start in made.callbacks else "internal"
        note = f"noinline {_ATTRIBUTES}" if tails else _ATTRIBUTES
        if linkage == "internal" and not tails and start in merged:
            note = f"alwaysinline {_ATTRIBUTES}"
        signature = _signature(start, made.passed_on)
        out += [f"define {linkage} i64 {name}({signature}) {note} {{", *lines, "}"]
    for number, count in sorted(made.asked):
        head, lines = made.between(number, count)
        out += [f"define internal preserve_mostcc {head} noinline {_ATTRIBUTES} {{", *lines, "}"]
    return "\n".join(out) + "\n", tuple(sorted(made.callbacks))


