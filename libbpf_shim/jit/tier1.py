"""Tier 1: one pass over verified instructions, each to a few of the machine's.

Registers: R0 rax, R1 to R5 rdi rsi rdx rcx r8, R6 rbx, R7 r13, R8 r14, R9 r15, R10 rbp; the run
(struct shim_run) stays in r12 and goes to helpers in r9; r9, r10, r11 are scratch. A frame's BPF
stack lies below rbp. Semantics: RFC 9669; division by zero gives 0, modulo by zero leaves dst.

A function of the program is entered with its arguments in R1 to R5, r12 = the run and rsp as
after a call in C, and keeps rbx, rbp, r12 to r15 for its caller. A function pointer (ld_imm64
BPF_PSEUDO_FUNC) is the address of that entry, in this image as mapped. Helpers that call back do
so through shim_callback (csrc/include/shim_runtime.h), which sets r12.

The rooms: flow.py what is known before, emit.py values that wait, arith.py and divide.py,
access.py memory, control.py jumps and calls, inline.py helpers without a call, layout.py the end.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as op
from libbpf_shim.isa.disasm import disassemble
from libbpf_shim.isa.insn import Insn, decode, imm64
from libbpf_shim.jit import charge, clocks, context, hostcall, layout, speculation
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.control import ALWAYS, CALL, OVER, TAIL_CALL
from libbpf_shim.jit.emit import Const, Piece, Symbol, unsupported
from libbpf_shim.jit.encode import R11
from libbpf_shim.jit.features import has_bmi2
from libbpf_shim.jit.flow import Flow, ends
from libbpf_shim.jit.image import Image, Reloc, RelocKind
from libbpf_shim.jit.inline import Inline, arguments
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.kernel import ksym
from libbpf_shim.verifier.program import Program

_MAX_TEXT = 16 << 20
_OUTSIDE = ("helper:", "sym:")  # code that is not the program's own
_TELLS = "sym:CONTAINED"  # code that asks nothing of the run
FUNC = "func:"  # in the place of a symbol: a function of the program, by its first slot


def _goes_away(piece: Piece) -> bool:
    """Nothing goes on behind it: a branch whose sides were known."""
    return piece.jump is not None and piece.jump[0] == ALWAYS


class Compiler(Inline):
    """One program on its way. ends: places in the last piece, by the symbols that stand for them
    in calls."""

    ends: dict[str, int]

    def __init__(self, program: Program, insns: list[Insn], facts: Facts, bmi: bool) -> None:
        super().__init__(Flow(insns, facts, arguments(program.prog_type)))
        self.insns, self.facts, self.prog_type, self.bmi = insns, facts, program.prog_type, bmi
        self.program, self.maps, self.policy = program, program.maps, program.policy
        self.own_clock = clocks.unordered(program, insns, facts)
        self.context = context.accesses(program, insns, facts)
        self.arena_alu, self.turned, self.undone, self.ends = facts.arena_alu, {}, {}, {}
        self.charges = charge.charges(self.flow, facts)
        self.hardened = program.policy is not None and bool(program.policy.spectre)
        self.masks = speculation.masks(self.flow, facts)
        self.fences = speculation.fences(self.flow, program.policy)
        start = program.maps[facts.arena_map].arena[0] if facts.arena_map >= 0 else 0
        self.arena_start = start
        self.arena_size = program.maps[facts.arena_map].max_entries * 4096 if start else 0
        self.uses_run = self.flow.dead or bool(self.charges) or \
            any(map(self.needs_run, self.flow.slots()))

    def constant_insn(self, i: Insn, at: int) -> None:
        """ld_imm64 of all kinds, and loads from the packet."""
        if i.code != op.LD_IMM64:
            self.packet_load(i, at)
            return
        high, dst = self.insns[at + 1], i.dst
        value = (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE)
        if i.src == 0:
            self.values[dst] = Const(imm64(i, high))
        elif i.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_IDX):
            self.values[dst] = Symbol(f"map:{i.imm}", 0)
        elif i.src in value and i.imm == self.facts.arena_map:
            self.values[dst] = Const(self.arena_start + (high.imm & 0xFFFFFFFF))
        elif i.src in value:
            self.values[dst] = Symbol(f"mapval:{i.imm}", high.imm & 0xFFFFFFFF)
        elif i.src == op.PSEUDO_FUNC:  # its place is known once all is laid out
            self.values[dst] = Symbol(f"{FUNC}{at + 1 + i.imm}", 0)
        elif i.src == op.PSEUDO_BTF_ID and (name := hostcall.variable(self.policy, i.imm)):
            self.values[dst] = Symbol(name, 0)
        elif i.src == op.PSEUDO_BTF_ID and not high.imm and (
                there := ksym.function(self.program, i.imm)) >= 0:  # fmt: skip
            self.values[dst] = Const(there)
        else:
            raise unsupported(at, f"a constant of kind {i.src}")

    def begin(self, at: int, depths: dict[int, int]) -> None:
        """What a slot begins with: a function, or a place that is jumped to."""
        if at in depths:
            end = min((s for s in depths if s > at), default=len(self.insns))
            calls = any(self.calls_c(n) for n in range(at, end) if self.flow.seen[n])
            self.function(at, end, depths[at], calls or (bool(self.charges) and at == 0))
            self.current, self.undone[at] = at, self.teardown()
            if self.flow.seen[at]:
                self.piece.entry = self.prologue()
                if self.charges and at == 0:
                    self.piece.entry += self.count_from()
        if self.flow.leaders[at]:
            self.reset(self.flow.narrow.get(at, 0))
        if at in self.charges:
            self.charge(self.charges[at])
        if at in self.fences:
            self.put(speculation.LFENCE)

    def end(self, at: int) -> None:
        """What a slot ends with, before one that is jumped to: everything in its place."""
        self.over()
        after = at + (2 if self.insns[at].code == op.LD_IMM64 else 1)
        if self.piece.jump is None and not ends(self.insns[at]) and \
                after < len(self.insns) and self.flow.leaders[after]:
            self.settle(self.flow.live_in[after])

    def compile(self) -> list[Piece]:
        """A piece for each slot, empty where nothing runs, and one for dead jumps."""
        by_class: dict[int, Callable[[Insn, int], None]] = {
            op.LD: self.constant_insn, op.LDX: self.load, op.ST: self.store_imm,
            op.STX: self.store, op.ALU: self.alu, op.ALU64: self.alu, op.JMP: self.jump,
            op.JMP32: self.jump,
        }  # fmt: skip
        depths = dict(zip(self.facts.subprogs, self.facts.stack_depth, strict=True))
        pieces = []
        half = False  # the second slot of an ld_imm64
        for at, i in enumerate(self.insns):
            self.piece, self.here = Piece(bytearray(), []), at
            pieces.append(self.piece)
            skipped, self.skip = self.skip, max(self.skip - 1, 0)
            self.begin(at, depths)
            if half or not self.facts.seen[at]:
                if not half and at and self.facts.seen[at - 1] and \
                        not ends(self.insns[at - 1]) and not _goes_away(pieces[at - 1]):
                    self.piece.jump = (ALWAYS, at)  # after a branch that is always taken
                half = not half and i.code == op.LD_IMM64
                continue
            if not skipped:
                by_class[i.klass](i, at)
            self.end(at)
            half = i.code == op.LD_IMM64
        return self.with_dead_jumps(pieces)

    def dead_end(self) -> None:
        """What a branch leads to that is never taken."""
        self.address(R11, "sym:UNREACHABLE")
        self.put(x.jmp_reg(R11))

    def with_dead_jumps(self, pieces: list[Piece]) -> list[Piece]:
        """Branches that are never taken lead to a piece at the end."""
        self.piece = Piece(bytearray(), [])
        dead = [p for p in pieces if p.jump and not self.facts.seen[p.jump[1]]]
        if dead:
            self.dead_end()
        for piece in dead:
            assert piece.jump
            piece.jump = (piece.jump[0], len(pieces))
        for name in sorted({name for piece in pieces for _, name, _ in piece.relocs
                            if name.startswith(OVER)}):
            self.ends[name] = len(self.piece.code)
            self.over_here(int(name.removeprefix(OVER)))
        return [*pieces, self.piece]


def compile_program(program: Program, facts: Facts, bmi: bool | None = None) -> Image:
    """The image of a verified program. bmi: use BMI2; None: where this processor has it.
    ShimError EOPNOTSUPP: what stands in the way."""
    insns = decode(program.insns)
    return assembled(Compiler(program, insns, facts, has_bmi2() if bmi is None else bmi))


def assembled(compiler: Compiler) -> Image:
    """What it compiles, laid out. ShimError EOPNOTSUPP."""
    insns, facts = compiler.insns, compiler.facts
    pieces = compiler.compile()
    layout.thread(pieces)
    laid = layout.arrange(pieces)
    offsets, stops = laid.offsets, laid.ends
    if stops[-1] > _MAX_TEXT:
        raise ShimError("JT0002", errno.E2BIG, f"program: {stops[-1]} bytes of code")
    text, relocs = bytearray(), []
    for n, piece in enumerate(pieces):
        text += layout.nops(laid.pads[n]) + piece.entry
        for at, name, addend in piece.relocs:
            if name.startswith(FUNC):
                slot = int(name.removeprefix(FUNC))
                name, addend = "text", offsets[slot] - len(pieces[slot].entry)
            if name in compiler.ends:
                to = offsets[-1] + compiler.ends[name]
                relocs.append(Reloc(len(text) + at, RelocKind.REL32, "text", to))
                continue
            relocs.append(Reloc(len(text) + at, RelocKind.ABS64, name, addend))
        text += piece.code
        if piece.jump:
            condition, target = piece.jump
            to = offsets[target] - (len(pieces[target].entry) if condition == CALL else 0)
            text += layout.jump_code(condition, laid.near[n], to - stops[n])
    places = tuple(
        at if facts.seen[n] and not compiler.flow.second_half(n) else -1
        for n, at in enumerate(offsets[:-1])
    )
    return Image(
        bytes(text),
        tuple(relocs),
        # programs that this one goes on in may touch per-CPU storage
        facts.percpu or TAIL_CALL in facts.helpers,
        max(facts.stack_depth, default=0),
        _listing(insns, places),
        places,
        bare=not any(reloc.symbol.startswith(_OUTSIDE) and reloc.symbol != _TELLS
                     for reloc in relocs),
        binary=compiler.policy.binary if compiler.policy else "",
    )


def _listing(insns: list[Insn], places: tuple[int, ...]) -> str:
    """Offset, slot, and the instruction that was compiled there."""
    return "".join(
        f"{at:6x}  {n:4}: {disassemble(insns, n, str)}\n" for n, at in enumerate(places) if at >= 0
    )
