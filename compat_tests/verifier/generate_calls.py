"""Programs of generate.py: calls of functions and helpers, records, locks, tail calls."""

from __future__ import annotations

from compat_tests.verifier.generate_base import (
    ADD,
    AND,
    CALL,
    CLS,
    CTX,
    HASH,
    JEQ,
    KPROBE,
    LDX,
    LOCKED,
    MOV,
    MOVX,
    NESTED,
    NO_LOCKS,
    NONE,
    NUMBER,
    PACKET_FIELDS,
    PROGS,
    RAW_TP,
    RING,
    SLOTS,
    ST,
    STX,
    XDP,
)
from compat_tests.verifier.generate_flow import Flow
from libbpf_shim.isa import insn as op


class Calls(Flow):
    """Statements that call something."""

    def call(self) -> None:
        """A function of the program's own."""
        if not self.calls or not self.calls_fit():
            return
        callee = self.rng.choice(self.calls)
        moves = []
        for n, kind in enumerate(callee.args):
            if kind == NUMBER:
                moves.append((n + 1, self.number()))
            elif kind == CTX:
                ctx = self.some("ctx")
                if ctx is None:
                    return
                moves.append((n + 1, ctx))
            else:
                moves.append((n + 1, -1))
        if any(to != src and src in range(1, 6) for to, src in moves):
            # arguments are moved one after the other: what is needed later must not be lost
            if len({src for _, src in moves if src > 0}) > 1:
                return
        for to, src in sorted(moves, key=lambda m: m[1] >= 0, reverse=True):
            if src >= 0:
                self.emit(MOVX, to, src)
            elif not self.block(to, callee.args[to - 1][1]):
                return
        insn = self.emit(CALL, 0, op.PSEUDO_CALL)
        self.named.append((insn, callee))
        for r in range(1, 6):
            self.regs[r] = NONE
        self.regs[0] = NUMBER

    def block(self, reg: int, size: int) -> bool:
        """R[reg] = the address of size bytes of stack, written."""
        count = size // 8
        first = self.rng.randrange(SLOTS - count)
        if not all(self.may_slot(s, NUMBER) for s in range(first, first + count)):
            return False
        for s in range(first, first + count):
            if self.slots[s] != NUMBER or self.rng.random() < 0.5:
                self.emit(ST[8], 10, 0, self.at(s), self.imm())
            self.slots[s] = NUMBER
        self.emit(MOVX, reg, 10)
        self.emit(ADD, reg, imm=self.at(first + count - 1))
        return True

    def call_back(self) -> None:
        if not self.callbacks or not self.calls_fit():
            return
        callee = self.rng.choice(self.callbacks)
        each = callee.args[0] == NONE
        if not each:
            self.emit(MOVX, 1, self.number())
            if self.rng.random() < 0.5:
                self.emit(AND, 1, imm=self.rng.choice((3, 7)))
            self.regs[1] = NONE
        kept = self.regs[1]
        self.regs[1] = NONE
        if not self.block(3, 16):
            self.regs[1] = kept
            return
        insn = self.wide(2, op.PSEUDO_FUNC, 0)
        self.named.append((insn, callee))
        if each:
            self.map(1, HASH)
        self.emit(MOV, 4, imm=0)
        self.helper(164 if each else 181)

    def record(self) -> None:
        """A record of the ring buffer, from its reservation to its end."""
        rng = self.rng
        keep = self.free(("mem", 16), 6)
        if keep is None or not self.calls_fit() or not self.exits:
            return
        size = rng.choice((8, 16, 24))
        self.map(1, RING)
        self.emit(MOV, 2, imm=size)
        self.emit(MOV, 3, imm=0)
        self.helper(131, NONE)
        self.set(keep, NONE)
        self.emit(MOVX, keep, 0)
        jump = self.emit(JEQ, rng.choice((0, keep)))
        regs, slots = self.regs[:], self.slots[:]
        self.exits = False
        self.busy.add(keep)
        self.set(keep, ("mem", size))
        loops, self.loops = self.loops, [*self.loops, ([NONE] * 10, [NONE] * SLOTS)]

        def use() -> None:
            self.body(rng.randrange(1, 5))
            self.emit(MOVX, 1, keep)
            self.emit(MOV, 2, imm=0)
            self.helper(rng.choice((132, 133)), NONE)

        block = self.aside(use)
        self.busy.discard(keep)
        self.exits, self.loops = True, loops
        self.out += block
        jump.off = len(block)
        self.set(keep, NONE)
        self.join(regs, slots)
        self.set(0, NONE)

    def lock(self) -> None:
        rng = self.rng
        if not self.calls_fit() or self.prog_type in NO_LOCKS or not self.exits:
            return
        keep = self.free(("mem", 8), 6)
        if keep is None or not self.key(2):
            return
        self.map(1, LOCKED)
        self.helper(1, NONE)
        self.set(keep, NONE)
        self.emit(MOVX, keep, 0)
        jump = self.emit(JEQ, keep)
        regs, slots = self.regs[:], self.slots[:]

        def use() -> None:
            for number in (93, 94):
                self.emit(MOVX, 1, keep)
                self.emit(ADD, 1, imm=8)
                self.helper(number, NONE)
                if number == 93:
                    held, self.plain, self.exits = self.plain, True, False
                    self.busy.add(keep)
                    self.set(keep, ("mem", 8))
                    self.body(rng.randrange(1, 4))
                    self.busy.discard(keep)
                    self.plain, self.exits = held, True

        block = self.aside(use)
        self.out += block
        jump.off = len(block)
        self.set(keep, NONE)
        self.join(regs, slots)
        self.set(0, NONE)

    def nested(self) -> None:
        """A value of a map in a map."""
        if not self.calls_fit() or not self.key(2):
            return
        self.map(1, NESTED)
        self.helper(1, NONE)
        first = self.emit(JEQ, 0)
        start = len(self.out)
        regs, slots = self.regs[:], self.slots[:]
        self.emit(MOVX, 1, 0)
        if not self.key(2):
            self.emit(MOVX, 2, 10)
            self.emit(ADD, 2, imm=-8)
        self.helper(1, NONE)
        second = self.emit(JEQ, 0)
        self.emit(LDX[8], 0, 0, 8 * self.rng.randrange(5))
        second.off = 1
        first.off = len(self.out) - start
        self.join(regs, slots)
        self.set(0, NONE)

    def tail(self) -> None:
        ctx = self.some("ctx")
        if not self.calls_fit() or ctx is None or not self.exits or not self.budget_for_tail():
            return
        self.emit(MOVX, 3, self.number())
        self.emit(MOVX, 1, ctx) if ctx != 1 else None
        self.map(2, PROGS)
        self.helper(12, NONE)

    def budget_for_tail(self) -> bool:
        return self.regs[3] != CTX and not self.loops

    def move_packet(self) -> None:
        ctx = self.some("ctx")
        if self.prog_type not in PACKET_FIELDS or not self.calls_fit() or ctx is None:
            return
        self.emit(MOVX, 1, ctx)
        self.emit(MOV, 2, imm=0)
        if self.prog_type == CLS:
            self.emit(MOV, 3, imm=0)
            self.helper(50 if self.rng.random() < 0.5 else 39)
        else:
            self.helper(44)

    def kept_over_a_call(self) -> None:
        """R1 spilled around a call that need not lose it (the kernel drops such spills)."""
        if not self.calls_fit():
            return
        off = self.at(SLOTS + self.rng.randrange(2))
        self.emit(MOV, 1, imm=self.imm())
        self.emit(STX[8], 10, 1, off)
        self.helper(8)
        self.emit(LDX[8], 1, 10, off)
        self.set(1, NUMBER)

    def helper_memory(self) -> None:
        """A helper that reads or fills memory, of a size that is only bounded."""
        rng = self.rng
        if not self.calls_fit():
            return
        size = rng.choice((8, 16, 24))
        ctx = self.some("ctx")
        fills = self.prog_type in (KPROBE, RAW_TP)
        if fills:
            if not self.block(1, size):
                return
            self.regs[1] = NONE
            self.emit(MOV, 2, imm=size)
            self.helper(16)
            return
        if ctx is None or self.prog_type == XDP:
            return
        self.emit(MOVX, 1, ctx)
        kept, self.regs[1] = self.regs[1], NONE
        self.emit(MOV, 2, imm=rng.randrange(20))
        self.regs[2] = NONE
        if not self.block(3, size):
            self.regs[1] = kept
            return
        self.regs[3] = NONE
        self.emit(MOV, 4, imm=size)
        if rng.random() < 0.5:
            self.emit(MOVX, 4, self.number())
            self.emit(AND, 4, imm=7)
            self.emit(ADD, 4, imm=1)
        self.helper(26)
