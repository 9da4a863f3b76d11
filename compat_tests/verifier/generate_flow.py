"""Programs of generate.py: branches, loops, and what is kept on the stack."""

from __future__ import annotations

from compat_tests.verifier.generate_base import (
    ADD,
    AND,
    JA,
    LDSX,
    LDX,
    MOV,
    MOVX,
    NONE,
    NUMBER,
    SIZES,
    SLOTS,
    ST,
    STX,
)
from compat_tests.verifier.generate_memory import Memory
from libbpf_shim.isa import Insn
from libbpf_shim.isa import insn as op


class Flow(Memory):
    """Branches, loops, spills and fills."""

    def branch(self) -> None:
        if len(self.out) > 80:
            return
        self.number()
        self.number()
        regs, slots = self.regs[:], self.slots[:]
        head = len(self.out)
        self.condition(0)
        jump = self.out[-1]
        then = self.aside(lambda: self.body(self.rng.randrange(1, 4)))
        self.out += then
        if self.rng.random() < 0.4:
            jump.off = len(self.out) - head - self.out[head:].index(jump) - 1
            self.join(regs, slots)
            return
        after, after_slots = self.regs, self.slots
        self.regs, self.slots = regs, slots
        other = self.aside(lambda: self.body(self.rng.randrange(1, 4)))
        self.emit(JA, off=len(other))
        jump.off = len(then) + 1
        self.out += other
        self.join(after, after_slots)

    def loop(self) -> None:
        """A counter, in a register or on the stack, and what it counts."""
        rng = self.rng
        counter = self.free(NUMBER, 6)
        if counter is None or len(self.loops) > 1:
            return
        rounds, down = rng.randrange(1, 7), rng.random() < 0.3
        if rng.random() < 0.25:  # as many as some number says, but not more than seven
            limit = self.free(NUMBER, 6, (counter,))
            if limit is None or self.some("number") is None:
                return
            self.emit(MOVX, limit, self.number())
            self.emit(AND, limit, imm=7)
            self.set(limit, NUMBER)
        else:
            limit = None
        if rng.random() < 0.6:
            self.regs[:6] = [NONE] * 6
        self.emit(MOV, counter, imm=rounds if down else 0)
        self.set(counter, NUMBER)
        self.loops.append((self.regs[:], self.slots[:]))
        held = {counter} | ({limit} if limit is not None else set())
        self.busy |= held
        plain, self.plain = self.plain, self.plain or self.regs[:6] != [NONE] * 6
        body = self.aside(lambda: self.body(rng.randrange(1, 4)))
        self.plain = plain
        self.busy -= held
        regs, slots = self.loops.pop()
        body.append(Insn(ADD, counter, 0, 0, -1 if down else 1))
        back = -len(body) - 1
        klass = rng.choice((op.JMP, op.JMP32))
        if limit is not None:
            body.append(Insn(klass | rng.choice((op.JLT, op.JSLT)) | 8, counter, limit, back, 0))
        elif down:
            body.append(Insn(klass | rng.choice((op.JNE, op.JGT, op.JSGT)), counter, 0, back, 0))
        else:
            test = rng.choice((op.JLT, op.JNE, op.JSLT))
            body.append(Insn(klass | test, counter, 0, back, rounds))
        self.out += body
        self.join(regs, slots)

    def spill(self) -> None:
        src = self.rng.choice([r for r in range(10) if self.regs[r] != NONE] or [-1])
        slot = self.rng.randrange(SLOTS)
        if src < 0 or not self.may_slot(slot, self.regs[src]):
            return
        self.emit(STX[8], 10, src, self.at(slot))
        self.slots[slot] = self.regs[src]

    def fill(self) -> None:
        slots = [s for s in range(SLOTS) if self.slots[s] != NONE]
        unset = self.rng.random() < 0.03 and not self.alone
        if not slots or (unset and len(slots) < SLOTS):
            slots = [s for s in range(SLOTS) if self.slots[s] == NONE]
            if not unset or not slots:
                return
            dst = self.free(NUMBER)
            if dst is not None:
                self.emit(LDX[8], dst, 10, self.at(self.rng.choice(slots)))
                self.set(dst, NUMBER)
            return
        slot = self.rng.choice(slots)
        dst = self.free(self.slots[slot])
        if dst is None:
            return
        size = 8 if self.slots[slot] != NUMBER else self.rng.choice(SIZES)
        codes = LDSX if size < 8 and self.rng.random() < 0.2 else LDX
        off = size * self.rng.randrange(8 // size) if self.rng.random() < 0.5 else 0
        self.emit(codes[size], dst, 10, self.at(slot) + off)
        self.set(dst, self.slots[slot])

    def stack_data(self) -> None:
        """Bytes written over whatever is in a slot."""
        rng = self.rng
        slot, size = rng.randrange(SLOTS), rng.choice(SIZES)
        if not self.may_slot(slot, NUMBER):
            return
        if self.slots[slot] == NONE and rng.random() < 0.8 or self.address_in(slot):
            size = 8
        off = self.at(slot) + (size * rng.randrange(8 // size) if rng.random() < 0.6 else 0)
        if rng.random() < 0.5:
            self.emit(ST[size], 10, 0, off, rng.choice((0, 0, 1, self.imm())))
        else:
            self.emit(STX[size], 10, self.number(), off)
        self.slots[slot] = NUMBER if self.slots[slot] != NONE or size == 8 else NONE

    def stack_varies(self) -> None:
        """A byte or more of the stack at an offset that is only bounded."""
        rng = self.rng
        first, count, size = rng.randrange(4), rng.randrange(1, 5), rng.choice((1, 1, 2, 4, 8))
        places = range(first, first + count)
        write = rng.random() < 0.5
        if write and not all(self.may_slot(s, NUMBER) for s in places):
            return
        dst = self.free(NUMBER)
        if dst is None:
            return
        for s in places:
            if self.slots[s] == NONE or self.address_in(s):
                if not self.may_slot(s, NUMBER):
                    return
                self.emit(ST[8], 10, 0, self.at(s), rng.choice((0, 5)))
                self.slots[s] = NUMBER
        self.bounded(8 * count - size, size, lambda index: self.reach(
            index, dst, size, write, lambda reg: (
                self.emit(MOVX, reg, 10), self.emit(ADD, reg, imm=self.at(first + count - 1)))))
        if write:
            for s in places:
                self.slots[s] = NUMBER
