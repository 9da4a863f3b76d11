"""Functions, jumps and calls as LLVM IR.

A function takes R1 to R5 and the run, as helpers do; the program's first one takes the context and
the run. A function whose address is taken is entered by a few bytes that pass on the run from
where shim_callback() has it (machine.py).
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, imm64
from libbpf_shim.jit import budget, charge, kfuncs
from libbpf_shim.jit.access import HOST_BYTES
from libbpf_shim.jit.control import TAIL_CALL
from libbpf_shim.jit.emit import unsupported
from libbpf_shim.jit.flow import target
from libbpf_shim.jit.places import RUN
from libbpf_shim.jit.tier2.lookup import Lookup
from libbpf_shim.verifier.kernel import ksym
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import Program

_TIMER_SET_CALLBACK: Final = 170  # BPF_FUNC_timer_set_callback: R5 tells it the timer's map
_PACKET_LOAD: Final = 255  # SHIM_FUNC_PACKET_LOAD
_COMPARE: Final = {
    op.JEQ: "eq", op.JNE: "ne", op.JGT: "ugt", op.JGE: "uge", op.JLT: "ult", op.JLE: "ule",
    op.JSGT: "sgt", op.JSGE: "sge", op.JSLT: "slt", op.JSLE: "sle",
}  # fmt: skip
_VALUES: Final = (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE)
DEAD: Final = "dead"
_OVER: Final = "over"  # where runs end that have used up their instructions


class Control(Lookup):
    """callbacks: slots of functions whose address is taken. ended: the block that is written has
    its last instruction."""

    callbacks: set[int]
    arguments_of: dict[int, int]  # by helper: how many it reads
    ended = False
    over = False  # something leads to where runs end that are over
    dead = False  # something leads to a slot that no run reaches
    charges: dict[int, charge.Charge]  # by slot
    program: Program
    policy: Policy | None = None
    first = 0  # slot of the current function
    passed_on = False  # functions are given the context, too, which is in `whole`

    def way(self, to: int) -> str:
        """The label of a slot."""
        if to < len(self.flow.insns) and self.flow.seen[to]:
            return f"s{to}"
        self.dead = True
        return DEAD

    def leave(self, text: str) -> None:
        """The last instruction of a block."""
        self.do(text)
        self.ended = True

    def constant(self, i: Insn, at: int) -> None:
        """ld_imm64 of all kinds, and loads from the packet."""
        if i.code != op.LD_IMM64:
            self._packet_load(i, at)
            return
        high = self.flow.insns[at + 1]
        if i.src == 0:
            self.set(i.dst, str(imm64(i, high)))
        elif i.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_IDX):
            self.set(i.dst, self.symbol(f"map.{i.imm}"))
        elif i.src in _VALUES and i.imm == self.facts.arena_map:
            self.set(i.dst, str(self.arena_start + (high.imm & 0xFFFFFFFF)))
        elif i.src in _VALUES:
            self.set(i.dst, self.symbol(f"mapval.{i.imm}", high.imm & 0xFFFFFFFF))
        elif i.src == op.PSEUDO_FUNC:
            self.callbacks.add(at + 1 + i.imm)
            self.set(i.dst, self.symbol(f"func.{at + 1 + i.imm}"))
        elif i.src == op.PSEUDO_BTF_ID and not high.imm and (
                there := ksym.function(self.program, i.imm)) >= 0:  # fmt: skip
            self.set(i.dst, str(there))
        else:
            raise unsupported(at, f"a constant of kind {i.src}")

    # jumps

    def jump(self, i: Insn, at: int) -> None:
        kind, wide = i.code & 0xF0, i.klass == op.JMP
        if kind == op.CALL and wide:
            self._call(i, at)
        elif kind == op.EXIT and wide:
            self.leave(f"ret i64 {self.get(0)}")
        elif kind == op.JA:
            self.leave(f"br label %{self.way(target(at, i))}")
        elif kind == op.JCOND and wide:
            self._may_goto(i, at)
        elif kind in _COMPARE or kind == op.JSET:
            bits = 64 if wide else 32
            mine, other = self.cut(self.get(i.dst), bits), self.operand(i, bits)
            if kind == op.JSET:
                both = self.op(f"and i{bits} {mine}, {other}")
                taken = self.op(f"icmp ne i{bits} {both}, 0")
            else:
                taken = self.op(f"icmp {_COMPARE[kind]} i{bits} {mine}, {other}")
            self._branch(taken, target(at, i), at)
        else:
            raise unsupported(at, f"opcode {i.code:#x}")

    def _branch(self, taken: str, to: int, at: int) -> None:
        self.leave(f"br i1 {taken}, label %{self.way(to)}, label %{self.way(at + 1)}")

    def _may_goto(self, i: Insn, at: int) -> None:
        """Takes one of the budget, which stays 0 once it is."""
        left = self.op("load i64, ptr %rounds")
        none = self.op(f"icmp eq i64 {left}, 0")
        less = self.op(f"sub i64 {left}, 1")
        self.do(f"store i64 {self.op(f'select i1 {none}, i64 0, i64 {less}')}, ptr %rounds")
        self._branch(none, target(at, i), at)

    # runs whose instructions are counted

    def charge(self, row: charge.Charge) -> None:
        """A piece begins."""
        left = self.field("%run", charge.LEFT, 8)
        if row.called and not row.ends:
            self._end_unless(f"sge i64 {left}, {charge.OVER}")
        less = self.op(f"sub i64 {left}, {row.count}")
        self._leave_of(less)
        if row.ends:
            self._end_unless(f"sge i64 {less}, 0")

    def _count_from(self) -> None:
        """What is left as the run begins."""
        left = str(charge.start(self.facts))
        if charge.goes_on(self.policy):
            entered = self.op(f"icmp ne i64 {self.field('%run', charge.TAIL_CALLS, 4)}, 0")
            was = self.field("%run", charge.LEFT, 8)
            left = self.op(f"select i1 {entered}, i64 {was}, i64 {left}")
        self._leave_of(left)

    def _leave_of(self, value: str) -> None:
        self.write(self.pointer(self.plus("%run", charge.LEFT)), 8, value, False)

    def _end_unless(self, condition: str) -> None:
        on = self.new_label("on")
        self.choose(self.op(f"icmp {condition}"), on, _OVER, often=True)
        self.label(on)
        self.over = True

    def _over_here(self) -> None:
        self.label(_OVER)
        if self.first:
            self._leave_of(str(charge.ENDED))
            self.do("ret i64 1")
            return
        value, skips = charge.answer(self.policy)
        self.helper(charge.TELL)
        if skips:
            regs = self.field("%run", RUN["regs"], 8)
            self.helper(charge.OVERRIDE, regs, str(value))
        self.do(f"ret i64 {0 if skips else value & 0xFFFFFFFF}")

    # calls

    def _call(self, i: Insn, at: int) -> None:
        if i.src == op.PSEUDO_CALL:
            given = ", ".join(f"i64 {self.get(n)}" for n in range(1, 6))
            given += f", i64 %run{f', i64 {self.whole}' if self.passed_on else ''}"
            self.set(0, self.op(f"call i64 @f{at + 1 + i.imm}({given})"))
        elif i.src:
            name = self.facts.kfuncs.get(at, "")
            number = kfuncs.number(name, self.prog_type)
            if not number:
                raise unsupported(at, f"kernel function {name}".rstrip())
            self.set(0, self.helper(number, *(self.get(n) for n in range(1, 6))))
        elif i.imm == TAIL_CALL:
            self._tail_call()
        elif not self.inlined(i, at):
            self._helper(i, at)

    def _helper(self, i: Insn, at: int) -> None:
        given = [self.get(n) for n in range(1, 1 + self.arguments_of[i.imm])]
        if i.imm == _TIMER_SET_CALLBACK:
            given += ["0"] * (5 - len(given))
            index = self.facts.call_map.get(at)
            given[4] = "0" if index is None else self.symbol(f"map.{index}")
        if checked := self.facts.host_bytes.get(at):
            self.set(0, self.helper(HOST_BYTES, *given[:3], *map(str, checked)))
        else:
            self.set(0, self.helper(i.imm, *given))

    def _tail_call(self) -> None:
        """Helper 12 counts, and answers where the other program begins. It is entered with this
        function's stack, and returns to this one's caller."""
        context = self.get(1)
        found = self.helper(TAIL_CALL, *(self.get(n) for n in range(1, 4)))
        go, none = self.new_label("go"), self.new_label("none")
        self.choose(self.op(f"icmp eq i64 {found}, 0"), none, go)
        self.label(go)
        rest = ", i64 0" * (self.parameters - 2)
        answer = self.op(
            f"musttail call i64 {self.pointer(found)}(i64 {context}, i64 %run{rest})")
        self.do(f"ret i64 {answer}")
        self.label(none)
        self.set(0, "0")

    def _packet_load(self, i: Insn, at: int) -> None:
        """LD_ABS and LD_IND: a call; a load that fails ends the function with R0 = 0."""
        if i.code & 0xE0 not in (op.MODE_ABS, op.MODE_IND):
            raise unsupported(at, f"opcode {i.code:#x}")
        off = str(i.imm & 0xFFFFFFFF)
        if i.code & 0xE0 == op.MODE_IND:
            low = self.op(f"add i32 {self.cut(self.get(i.src), 32)}, {i.imm}")
            off = self.widen(low, 32)
        found = self.helper(_PACKET_LOAD, self.get(6), off, str(i.size))
        self.set(0, found)
        none, on = self.new_label("none"), self.new_label("on")
        self.choose(self.op(f"icmp slt i64 {found}, 0"), none, on)
        self.label(none)
        self.do("ret i64 0")
        self.label(on)

    # functions

    def open(self, at: int) -> None:
        """What a function begins with; at: its first slot."""
        for n in range(10):
            self.do(f"%r{n} = alloca i64")
            argument = f"%a{n}" if 0 < n < self.parameters else "0"
            self.set(n, argument)
        self.do(f"%stack = alloca [{max(self.frame, 8)} x i8], align 16")
        for name, t in (("rounds", "i64"), ("elem", "i64"), ("hops", "i64"), ("old4", "i32"),
                        ("old8", "i64")):
            self.do(f"%{name} = alloca {t}")
        self.do(f"store i64 {budget.MAY_GOTO_ROUNDS}, ptr %rounds")
        if self.facts.reads_unset:  # nothing of the host's stack shows, and runs are repeatable
            for off in range(-self.frame, 0, 8):
                self.do(f"store i64 0, ptr {self.in_frame(off)}, align 8")
        self.do(f"%fp = ptrtoint ptr {self.in_frame(0)} to i64")
        self.first, self.over = at, False
        if self.charges and at == 0:
            self._count_from()
        self.go(f"s{at}")

    def close(self) -> None:
        """Branches that are never taken lead to the agent, which ends the run."""
        if self.over:
            self._over_here()
        if not self.dead:
            return
        self.symbols.add("sym.UNREACHABLE")
        self.label(DEAD)
        self.do('call void asm sideeffect "movq $0, %r12\\0A\\09movabsq $$sym.UNREACHABLE, %r11'
                '\\0A\\09jmp *%r11", "{ax},~{memory}"(i64 %run)')
        self.do("unreachable")
