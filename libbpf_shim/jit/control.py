"""Functions, jumps and calls: what surrounds the arithmetic.

A function saves what it changes, and of the frame has what it needs: rbp only where R10 is read, a
stack pointer that moves only where something is called (else the 128 bytes below it are enough),
a multiple of 16 then: helpers are C functions.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import budget, charge, hostcall, kfuncs
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.access import HOST_BYTES, Access
from libbpf_shim.jit.emit import REG, U32, U64, Const, Symbol, Value, fits, signed64, unsupported
from libbpf_shim.jit.encode import R9, R10, R11, R12, RAX, RBP, RSP
from libbpf_shim.jit.flow import CALLER, target
from libbpf_shim.jit.image import OF_HOST
from libbpf_shim.jit.places import RUN
from libbpf_shim.verifier.policy import HostFunction, Policy

TAIL_CALL: Final = 12  # BPF_FUNC_tail_call
TIMER_SET_CALLBACK: Final = 170  # BPF_FUNC_timer_set_callback: R5 tells it the timer's map
PACKET_LOAD: Final = 255  # SHIM_FUNCPACKET_LOAD
_RED_ZONE: Final = 128
_SAVED: Final = (6, 7, 8, 9)  # registers that a callee preserves
ALWAYS, CALL = -1, -2  # in the place of a condition: jmp, call
OVER: Final = "over:"  # in the place of a symbol: where a function's runs end that are over
# condition codes of jcc
CONDITIONS: Final = {
    op.JEQ: 0x4, op.JNE: 0x5, op.JGT: 0x7, op.JGE: 0x3, op.JLT: 0x2, op.JLE: 0x6,
    op.JSGT: 0xF, op.JSGE: 0xD, op.JSLT: 0xC, op.JSLE: 0xE, op.JSET: 0x5,
}  # fmt: skip
_MIRRORED: Final = {
    op.JEQ: op.JEQ, op.JNE: op.JNE, op.JGT: op.JLT, op.JGE: op.JLE, op.JLT: op.JGT,
    op.JLE: op.JGE, op.JSGT: op.JSLT, op.JSGE: op.JSLE, op.JSLT: op.JSGT, op.JSLE: op.JSGE,
    op.JSET: op.JSET,
}  # fmt: skip
_UNSIGNED: Final = (op.JEQ, op.JNE, op.JGT, op.JGE, op.JLT, op.JLE, op.JSET)


def holds(kind: int, a: int, b: int, wide: bool) -> bool:
    """Whether a jump on two constants is taken."""
    bits = 64 if wide else 32
    a, b = a & (1 << bits) - 1, b & (1 << bits) - 1
    if kind in (op.JSGT, op.JSGE, op.JSLT, op.JSLE):
        a, b = a - (a >> bits - 1 << bits), b - (b >> bits - 1 << bits)
    if kind == op.JSET:
        return a & b != 0
    if kind in (op.JEQ, op.JNE):
        return (a == b) == (kind == op.JEQ)
    if kind in (op.JGT, op.JSGT):
        return a > b
    if kind in (op.JGE, op.JSGE):
        return a >= b
    return a < b if kind in (op.JLT, op.JSLT) else a <= b


class Control(Access):
    """uses_run: some code of the program reads r12, the run."""

    prog_type = 0
    policy: Policy | None = None
    turned: dict[int, int]  # slots of jumps that lead elsewhere: goes_back()
    uses_run = False
    frame = 0  # bytes of stack of the current function
    rounds = 0  # its budget for may_goto is at rbp minus this; 0: it needs none
    main = True
    framed = False
    room = 0  # bytes that rsp moves by
    saved: tuple[int, ...] = ()  # machine registers, as pushed
    answer: Value | None = None  # what a call gives, where that is known
    charges: dict[int, charge.Charge]  # by slot
    fences: set[int]  # slots
    undone: dict[int, bytes]  # where instructions are counted: functions' teardowns, by first slot
    current = 0  # function

    # functions

    def function(self, at: int, end: int, depth: int, calls: bool) -> None:
        """One begins at slot at, with so many bytes of stack. calls: C code is called."""
        insns = [self.flow.insns[n] for n in range(at, end) if self.flow.seen[n]]
        self.frame, self.main, self.rounds = depth + 7 & ~7, at == 0, 0
        if any(i.code == op.JMP | op.JCOND for i in insns):
            self.frame += 8
            self.rounds = self.frame
        self.framed = bool(self.rounds) or any(10 in (i.dst, i.src) for i in insns)
        saved = [REG[r] for r in _SAVED if self.flow.written[at] >> r & 1]
        if self.framed:
            saved.insert(0, RBP)
        if self.main and self.uses_run:
            saved.append(R12)
        self.saved = tuple(saved)
        self.room = self.frame if self.framed and (calls or self.frame > _RED_ZONE) else 0
        if calls:
            self.room += (8 + 8 * len(saved) + self.room) % 16

    def prologue(self) -> bytes:
        out = b"".join(map(x.push, self.saved))
        if self.main and self.uses_run:
            out += x.mov(R12, x.RSI)
        if self.framed:
            out += x.mov(RBP, RSP)
        if self.room:
            out += x.alu_imm(x.SUB, RSP, self.room, True)
        if self.framed and self.facts.reads_unset:
            # nothing of the host's stack shows, and runs are repeatable
            for at in range(8, self.frame + 8, 8):
                out += x.mem(b"\xc7", 0, RBP, -at, True) + x.imm32(0)
        if self.rounds:
            out += x.mem(b"\xc7", 0, RBP, -self.rounds, True) + x.imm32(budget.MAY_GOTO_ROUNDS)
        return out

    def teardown(self) -> bytes:
        """Undoes the prologue; only rax and what arguments travel in are kept."""
        out = b""
        if self.room:
            # not by rbp: it comes from memory, and what is behind the run would wait for it
            out = x.alu_imm(x.ADD, RSP, self.room, True)
        return out + b"".join(map(x.pop, reversed(self.saved)))

    def epilogue(self) -> None:
        self.put(self.teardown() + b"\xc3")

    # runs whose instructions are counted

    def count_from(self) -> bytes:
        """What is left as the run begins."""
        left = charge.start(self.facts)
        out = x.mov_imm(R11, left) + x.mem(b"\x89", R11, R12, charge.LEFT, True)
        if fits(left):
            out = x.mem(b"\xc7", 0, R12, charge.LEFT, True) + x.imm32(left)
        if charge.goes_on(self.policy):
            out = x.mem(b"\x83", x.CMP[1], R12, charge.TAIL_CALLS, False) + b"\0" + \
                bytes([0x75, len(out)]) + out  # jne
        return out

    def charge(self, row: charge.Charge) -> None:
        """A piece begins."""
        if row.called and not row.ends:
            self.put(x.mem(b"\x81", x.CMP[1], R12, charge.LEFT, True) + x.imm32(charge.OVER))
            self.end_if(0xC)  # less
        short = row.count < 128
        number = bytes([row.count]) if short else x.imm32(row.count)
        self.put(x.mem(b"\x83" if short else b"\x81", x.SUB[1], R12, charge.LEFT, True) + number)
        if row.ends:
            self.end_if(0x8)  # negative

    def end_if(self, condition: int) -> None:
        """The run is over, if that holds."""
        self.put(bytes([0x0F, 0x80 | condition]) + bytes(4))
        self.piece.relocs.append((len(self.piece.code) - 4, f"{OVER}{self.current}", 0))

    def over_here(self, first: int) -> None:
        """The end of a run that is over, in the function that begins there."""
        if first:
            self.put(x.mem(b"\xc7", 0, R12, charge.LEFT, True) + x.imm32(charge.ENDED))
            self.put(x.mov_imm(RAX, 1))
        else:
            value, skips = charge.answer(self.policy)
            skips = skips and charge.OVERRIDE in self.facts.helpers  # it is attached so
            self.call_helper(charge.TELL)
            if skips:
                self.put(x.mem(b"\x8b", REG[1], R12, RUN["regs"], True))
                self.put(x.mov_imm(REG[2], value & U64))
                self.call_helper(charge.OVERRIDE)
            self.put(x.mov_imm(RAX, 0 if skips else value & U32))
        self.put(self.undone[first] + b"\xc3")

    # jumps

    def jump(self, i: Insn, at: int) -> None:
        kind, wide = i.code & 0xF0, i.klass == op.JMP
        if kind == op.CALL and wide:
            self.call(i, at)
        elif kind == op.EXIT and wide:
            self.settle(1)
            self.epilogue()
        elif kind == op.JA:
            to = target(at, i)
            if at in self.turned:
                to = self.turned[at]
            self.settle(self.flow.live_in[to])
            self.piece.jump = (ALWAYS, to)
        elif kind in CONDITIONS:
            self.branch(i, at, kind, wide)
        elif kind == op.JCOND and wide:
            self.settle(self.flow.live_out[at])
            self.may_goto()
            self.piece.jump = (CONDITIONS[op.JLT], target(at, i))
        else:
            raise unsupported(at, f"opcode {i.code:#x}")

    def may_goto(self) -> None:
        """Takes one of the budget, which stays 0 once it is; the carry says that it was 0."""
        self.put(x.mem(b"\x8b", R11, RBP, -self.rounds, True) + x.alu_imm(x.SUB, R11, 1, True))
        self.put(b"\x49\x83\xd3\x00")  # adc r11, 0
        self.put(x.mem(b"\x89", R11, RBP, -self.rounds, True))

    def branch(self, i: Insn, at: int, kind: int, wide: bool) -> None:
        to, flow = target(at, i), self.flow
        taken = self.decided(i, kind, wide)
        if at in flow.selects:
            self.skip = int(taken is not False)
            if taken is None:
                self.select(i, at, kind, wide)
            return
        if taken is False:
            return
        if taken:
            self.settle(flow.live_in[to])
            self.piece.jump = (ALWAYS, to)
            return
        need = flow.live_in[to]
        after = at + 1
        if after >= len(flow.insns) or flow.leaders[after] or not flow.seen[after] or \
                self.goes_back(at) >= 0:
            need = flow.live_out[at]
        self.settle(need)
        condition = self.compare(i, kind, wide)
        back = self.goes_back(at)
        if back >= 0:  # the loop's way is the jump that is taken
            self.turned[at + 1] = to
            condition, to = condition ^ 1, back
        self.piece.jump = (condition, to)

    def goes_back(self, at: int) -> int:
        """`if c goto to; goto back`, as loops end: back, or -1. Slot at + 1 then jumps to `to`."""
        flow = self.flow
        if self.charges or self.fences or at + 1 >= len(flow.insns) or not flow.seen[at + 1]:
            return -1
        if flow.leaders[at + 1]:
            return -1
        jump = flow.insns[at + 1]
        back = target(at + 1, jump)
        plain = jump.code & 0xF0 == op.JA and jump.klass in (op.JMP, op.JMP32)
        if not plain or back > at or target(at, flow.insns[at]) <= at:
            return -1
        return back

    def decided(self, i: Insn, kind: int, wide: bool) -> bool | None:
        """Whether the jump is taken, where constants say so, or an address that there is."""
        mine = self.values[i.dst] if i.dst < 10 else None
        if isinstance(mine, Symbol) and kind in (op.JEQ, op.JNE) and wide and \
                not i.code & 8 and i.imm == 0:
            return kind == op.JNE
        a, b = self.constant(i.dst), self.constant(i.src) if i.code & 8 else i.imm & U64
        return holds(kind, a, b, wide) if a is not None and b is not None else None

    def compare(self, i: Insn, kind: int, wide: bool) -> int:
        """Sets the flags; the condition on which the jump is taken."""
        a, b = i.dst, i.src
        known = self.constant(b) if i.code & 8 else i.imm & U64
        if known is None and self.constant(a) is not None:
            a, b, kind, known = b, a, _MIRRORED[kind], self.constant(a)
        narrow = kind in _UNSIGNED and self.narrow_value(a)
        if known is None:
            wide = wide and not (narrow and self.narrow_value(b))
            left, right = self.both(lambda: self.reg(a, wide), lambda: self.reg(b, wide))
            self.put(x.rr(b"\x85", right, left, wide) if kind == op.JSET
                     else x.alu(x.CMP, left, right, wide))
            return CONDITIONS[kind]
        if wide and known <= U32 and (narrow or kind == op.JSET):
            wide = False
        number = signed64(known) if wide else (known & U32 ^ 1 << 31) - (1 << 31)
        left = self.reg(a, wide)
        if kind == op.JSET:
            self.test(left, number, wide)
        elif number == 0:
            if kind not in (op.JEQ, op.JNE) or self.tested != (left, wide, self.emitted):
                self.put(x.rr(b"\x85", left, left, wide))
        elif fits(number):
            self.put(x.alu_imm(x.CMP, left, number, wide))
        else:
            self.put(x.mov_imm(R11, number) + x.alu(x.CMP, left, R11, wide))
        return CONDITIONS[kind]

    def test(self, left: int, number: int, wide: bool) -> None:
        if fits(number):
            self.put(x.rr(b"\xf7", 0, left, wide) + x.imm32(number))
        else:
            self.put(x.mov_imm(R11, number) + x.rr(b"\x85", R11, left, wide))

    def select(self, i: Insn, at: int, kind: int, wide: bool) -> None:
        """`if c goto +1; dst = src` without a jump."""
        move = self.flow.insns[at + 1]
        dst, long = move.dst, move.klass == op.ALU64
        if not self.flow.live_out[at + 1] >> dst & 1:
            return
        known = self.constant(move.src) if move.code & 8 else move.imm & U64
        if known is None:
            self.compute(move.src)
        machine = self.own(dst)
        if known is not None:
            known &= U64 if long else U32
            source, narrow = R10, known <= U32
            self.put(x.mov_imm(R10, known))
        else:
            source = REG[move.src]
            narrow = self.narrow_value(move.src)
            if not long and not narrow and not self.is_narrow(machine):
                self.put(x.mov(R10, source, False))
                source, narrow = R10, True
        condition = self.compare(i, kind, wide) ^ 1
        both = self.is_narrow(machine)
        self.put(x.cmov(condition, machine, source, long or not both))
        self.wrote(dst, both and (narrow or not long))

    # calls

    def call(self, i: Insn, at: int) -> None:
        if i.src == op.PSEUDO_CALL:
            self.settle(self.flow.live_in[at] & CALLER)
            self.leave_registers(at)
            if at + 1 < len(self.flow.insns) and self.flow.leaders[at + 1]:
                self.settle(self.flow.live_out[at] & ~CALLER)
            self.piece.jump = (CALL, at + 1 + i.imm)
        elif i.src:
            self.kernel_function(at)
        elif i.imm == TAIL_CALL:
            self.settle(self.flow.live_in[at] & CALLER)
            self.leave_registers(at)
            self.tail_call()
        elif not self.inlined(i, at):
            self.helper(i, at)
        self.called()
        if i.src or not self.changes_nothing(i):
            self.stack.clear()

    def inlined(self, i: Insn, at: int) -> bool:
        """Code without a call, if there is some."""
        return False

    def changes_nothing(self, i: Insn) -> bool:
        """A helper that leaves the program's stack as it is."""
        return False

    def leave_registers(self, at: int) -> None:
        """What a call leaves undefined is about to be: nobody depends on it."""
        for regno in range(6):
            self.protect(REG[regno], self.flow.live_out[at])

    def called(self) -> None:
        """A call left R1 to R5 undefined, and R0 is new."""
        for regno in range(6):
            self.wrote(regno, False)
        self.values[0], self.answer = self.answer, None

    def helper(self, i: Insn, at: int) -> None:
        self.settle(self.flow.live_in[at] & CALLER)
        self.leave_registers(at)
        if i.imm == TIMER_SET_CALLBACK and at in self.facts.call_map:
            self.address(x.R8, f"map:{self.facts.call_map[at]}")
        elif i.imm == TIMER_SET_CALLBACK:
            self.put(x.alu(x.XOR, x.R8, x.R8, False))
        if checked := self.facts.host_bytes.get(at):
            self.put(x.mov_imm(REG[4], checked[0]) + x.mov_imm(REG[5], checked[1]))
        self.call_helper(HOST_BYTES if checked else i.imm)

    def kernel_function(self, at: int) -> None:
        name = self.facts.kfuncs.get(at, "")
        if called := hostcall.function(self.policy, name):
            self.host_call(at, called)
            return
        number = kfuncs.number(name, self.prog_type)
        if not number:
            raise unsupported(at, f"kernel function {name}".rstrip())
        self.settle(self.flow.live_in[at] & CALLER)
        self.leave_registers(at)
        self.call_helper(number)

    def host_call(self, at: int, called: HostFunction) -> None:
        self.settle(self.flow.live_in[at] & CALLER)
        self.leave_registers(at)
        self.put(hostcall.arguments(called))
        self.address(R10, OF_HOST + called.symbol)
        self.call_helper(hostcall.FUNC)
        self.put(hostcall.result(called))

    def call_helper(self, number: int) -> None:
        self.put(x.mov(R9, R12))
        self.address(R11, f"helper:{number}")
        self.put(x.call_reg(R11))

    def tail_call(self) -> None:
        """Helper 12 counts, and answers where the other program begins. It is entered as this
        function was, its frame in the place of this one's: it returns to this one's caller."""
        self.put(x.push(REG[1]) + x.alu_imm(x.SUB, RSP, 8, True))
        self.call_helper(TAIL_CALL)
        self.put(x.alu_imm(x.ADD, RSP, 8, True) + x.pop(REG[1]))
        leave = x.mov(REG[2], R12) + self.teardown() + x.jmp_reg(RAX)
        self.put(x.rr(b"\x85", RAX, RAX, True) + bytes([0x74, len(leave)]) + leave)

    def packet_load(self, i: Insn, at: int) -> None:
        """LD_ABS and LD_IND: a call; a load that fails ends the function with R0 = 0."""
        if i.code & 0xE0 not in (op.MODE_ABS, op.MODE_IND):
            raise unsupported(at, f"opcode {i.code:#x}")
        self.settle_all()
        self.leave_registers(at)
        if i.code & 0xE0 == op.MODE_IND:
            self.put(x.mem(b"\x8d", x.RSI, REG[i.src], i.imm, False))
        else:
            self.put(x.mov_imm(x.RSI, i.imm, False))
        self.put(x.mov(x.RDI, x.RBX) + x.mov_imm(x.RDX, i.size, False))
        self.call_helper(PACKET_LOAD)
        out = x.alu(x.XOR, RAX, RAX, False) + self.teardown() + b"\xc3"
        self.put(x.rr(b"\x85", RAX, RAX, True) + bytes([0x79, len(out)]) + out)
        self.called()

    def number(self, regno: int, value: int) -> None:
        """The register is a constant from here on."""
        self.values[regno] = Const(value)
