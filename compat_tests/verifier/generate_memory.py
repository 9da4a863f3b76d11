"""Programs of generate.py: loads, stores, atomics, lookups, packets, bounded numbers."""

from __future__ import annotations

from collections.abc import Callable

from compat_tests.verifier.generate_base import (
    ADD,
    ADDX,
    AND,
    ARRAY,
    ATOMIC,
    ATOMICS,
    DIRECT,
    END,
    EXIT,
    HASH,
    JEQ,
    JGT,
    JLT,
    JNE,
    JSGT,
    JSLT,
    LDX,
    MOV,
    MOVX,
    NONE,
    NUMBER,
    PACKET_FIELDS,
    PERCPU,
    RSH,
    SIZE_OF,
    SIZES,
    SLOTS,
    ST,
    STX,
    Kind,
    Statements,
)
from libbpf_shim.isa import Insn
from libbpf_shim.isa import insn as op


class Memory(Statements):
    """Statements that reach memory."""

    def reach(
        self, index: int, dst: int, size: int, write: bool, base: Callable[[int], object]
    ) -> None:
        """A load or store at what base makes plus R[index]. R[dst] holds the address, then."""
        held = next((r for r in range(10) if r not in (index, dst) and self.may(r, NONE)
                     and self.regs[r] == NONE), dst)  # fmt: skip
        if held == index:
            return
        base(held)
        self.emit(ADDX, held, index)
        if write:
            if held == dst:
                self.emit(ST[size], held, 0, 0, self.imm())
            else:
                self.emit(STX[size], held, index)
        else:
            self.emit(LDX[size], held, held)
        if not write:
            self.emit(MOVX, dst, held)
        else:
            self.emit(MOV, dst, imm=1)
        self.set(dst, NUMBER)
        if held != dst:
            self.set(held, NONE)

    def bounded(self, most: int, step: int, use: Callable[[int], None]) -> None:
        """A number in 0..most, a multiple of step, in one of many ways, given to use."""
        rng = self.rng
        index = self.number()
        if not self.may(index, NUMBER):
            return
        kind = rng.randrange(10)
        mask = (1 << (most + 1).bit_length() - 1) - 1
        skip: list[Insn] = []
        if kind <= 2:
            self.emit(rng.choice((AND, 0x54)), index, imm=mask)
        elif kind == 3:
            self.emit(RSH, index, imm=64 - mask.bit_length() if mask else 63)
            if not mask:
                self.emit(AND, index, imm=0)
        elif kind == 4:
            skip = [self.emit(JGT, index, imm=most)]
        elif kind == 5:
            skip = [self.emit(JSLT, index, imm=0), self.emit(JSGT, index, imm=most)]
        elif kind == 6:
            skip = [self.emit(op.JMP32 | op.JGT, index, imm=most)]
            self.emit(0xBC, index, index)
        elif kind == 7:  # through a copy
            other = self.free(NUMBER, keep=(index,))
            if other is None:
                return
            by = rng.choice((0, 0, 1, -1, 4))
            self.emit(MOVX, other, index)
            if by:
                self.emit(ADD, other, imm=by)
            self.set(other, NUMBER)
            skip = [self.emit(JGT, other, imm=most), self.emit(JLT, other, imm=max(by, 0))]
        elif kind == 8:
            for n, value in enumerate(rng.sample(range(most + 1), min(2, most + 1))):
                self.emit(MOV, index, imm=value)
                if not n:
                    self.condition(1)
        if step > 1:
            self.emit(AND, index, imm=-step)
        regs, slots = self.regs[:], self.slots[:]
        starts = {id(i): n for n, i in enumerate(self.out)}
        self.out += self.aside(lambda: use(index))
        for insn in skip:
            insn.off = len(self.out) - starts[id(insn)] - 1
        if skip:
            self.join(regs, slots)

    def choice_of_constants(self) -> None:
        """One of two constants, told apart by nothing later on but the value."""
        rng = self.rng
        dst = self.free(NUMBER, rng.choice((0, 6)))
        if dst is None:
            return
        self.number()
        a = self.imm()
        self.emit(MOV, dst, imm=a)
        self.set(dst, NUMBER)
        self.condition(1)
        if self.out[-1].src == 0 and rng.random() < 0.5:
            self.out[-1].dst = self.number()
        self.emit(MOV, dst, imm=rng.choice((self.imm(), a ^ 1, a * 8 & 0xFFFF)))

    def array(self) -> None:
        """An element of an array, by a key on the stack that may be anything."""
        self.lookup(rng_map=ARRAY)

    def key(self, reg: int) -> bool:
        """R[reg] = the address of four bytes of stack."""
        slot = self.rng.randrange(SLOTS)
        if not self.may_slot(slot, NUMBER):
            return False
        if self.rng.random() < 0.5:
            self.emit(ST[8], 10, 0, self.at(slot), self.rng.randrange(6))
        else:
            self.emit(STX[8], 10, self.number(), self.at(slot))
        self.slots[slot] = NUMBER
        self.emit(MOVX, reg, 10)
        self.emit(ADD, reg, imm=self.at(slot))
        self.regs[reg] = NONE
        return True

    def lookup(self, rng_map: int = -1) -> None:
        """A map value, looked at for NULL at once, or through a copy, or after a spill."""
        rng = self.rng
        if not self.calls_fit():
            return
        map = rng_map if rng_map >= 0 else rng.choice((HASH, ARRAY, PERCPU, DIRECT))
        if map == DIRECT:
            dst = self.free(("mem", 64), 6)
            if dst is not None:
                off = rng.choice((0, 0, 8, 32))
                self.wide(dst, op.PSEUDO_MAP_VALUE, DIRECT, off)
                self.set(dst, ("mem", 64 - off))
            return
        if not self.key(2):
            return
        self.map(1, map)
        size = SIZE_OF[map]
        if rng.random() < 0.15 and self.some("number") is not None:  # one of two maps
            other = rng.choice((HASH, ARRAY, PERCPU))
            self.condition(2)
            self.map(1, other)
            size = min(size, SIZE_OF[other])
        self.helper(1, NONE)
        kind: Kind = ("mem", size)
        keep = self.free(kind, 6)
        how = rng.randrange(4)
        if how == 0 or keep is None:  # used in the branch where it is not NULL
            jump = self.emit(JEQ, 0)
            regs, slots = self.regs[:], self.slots[:]
            self.set(0, kind)
            block = self.aside(lambda: self.body(rng.randrange(1, 5)))
            self.out += block
            jump.off = len(block)
            self.join(regs, slots)
            self.set(0, NONE)
        elif how == 1 and self.exits:
            self.emit(JNE, 0, off=2)
            self.out += [Insn(MOV, 0, 0, 0, 0), EXIT]
            self.emit(MOVX, keep, 0)
            self.set(keep, kind)
            self.set(0, kind)
        else:  # a copy is looked at, R0 is used, or the other way round
            a, b = (0, keep) if how == 2 else (keep, 0)
            self.emit(MOVX, keep, 0)
            jump = self.emit(JEQ, a)
            regs, slots = self.regs[:], self.slots[:]
            self.set(b, kind)
            block = self.aside(lambda: self.body(rng.randrange(1, 4)))
            self.out += block
            jump.off = len(block)
            self.join(regs, slots)
            self.set(0, NONE)
            if keep is not None:
                self.set(keep, NONE)

    def access(self) -> None:
        """A load or store through a pointer to memory, at a fixed or at a bounded offset."""
        rng = self.rng
        base = self.some("mem")
        if base is None or not self.regs[base][1]:
            return
        room, size = self.regs[base][1], rng.choice(SIZES)
        if room < size:
            return
        dst = self.free(NUMBER, keep=(base,))
        if dst is None:
            return
        if rng.random() < 0.45:
            off = rng.randrange(room - size + 1)
            if rng.random() < 0.5:
                self.emit(LDX[size], dst, base, off)
                self.set(dst, NUMBER)
            elif rng.random() < 0.3:
                self.emit(ST[size], base, 0, off, self.imm())
            else:
                self.emit(STX[size], base, self.number(), off)
            return
        write = rng.random() < 0.5
        most = room - size + (rng.random() < 0.05)  # now and then one too far
        self.bounded(most, 1, lambda index: self.reach(
            index, dst, size, write, lambda reg: self.emit(MOVX, reg, base)))

    def packet(self) -> None:
        rng = self.rng
        ctx = self.some("ctx")
        if ctx is None or self.prog_type not in PACKET_FIELDS:
            return
        data, end = self.free(("packet", 0), 0, (ctx,)), None
        if data is not None:
            end = self.free(END, 0, (ctx, data))
        if data is None or end is None:
            return
        there = self.free(NONE, 0, (ctx, data, end))
        if there is None:
            return
        fields = PACKET_FIELDS[self.prog_type]
        self.emit(LDX[4], data, ctx, fields[0])
        self.emit(LDX[4], end, ctx, fields[1])
        self.set(data, NONE)
        self.set(end, NONE)
        self.set(there, NONE)
        need = rng.choice((1, 2, 8, 14, 20, 34))
        held = {data, end, there} - self.busy
        self.busy |= held

        def inside(index: int | None) -> None:
            self.emit(MOVX, there, data)
            if index is not None:
                self.emit(ADDX, there, index)
                self.emit(MOVX, data, there)
            self.emit(ADD, there, imm=need)
            jump = self.emit(rng.choice((op.JGT, op.JGE)) | op.JMP | 8, there, end)
            self.busy.difference_update(held)
            regs, slots = self.regs[:], self.slots[:]
            self.set(data, ("mem", need))
            block = self.aside(lambda: self.body(rng.randrange(1, 4)))
            self.out += block
            jump.off = len(block)
            self.join(regs, slots)
            for r in held:
                self.set(r, NONE)
            self.busy.update(held)

        if rng.random() < 0.5:
            inside(None)
        else:
            self.bounded(63, 1, inside)
        self.busy -= held

    def atomic(self) -> None:
        rng = self.rng
        size = rng.choice((4, 8))
        src = self.number()
        if not self.may(src, NUMBER) or not self.may(0, NUMBER) or src == 0:
            return
        kind = rng.choice(ATOMICS)
        if kind == op.CMPXCHG and self.regs[0] != NUMBER:
            self.emit(MOV, 0, imm=self.imm())
            self.set(0, NUMBER)
        slots = [s for s in range(SLOTS) if self.slots[s] == NUMBER and self.may_slot(s, NUMBER)]
        base = None if self.alone else self.some("mem")
        if base is not None and self.regs[base][1] >= 8 and rng.random() < 0.5:
            off = 8 * rng.randrange(self.regs[base][1] // 8)
        elif slots:
            base, off = 10, self.at(rng.choice(slots))
        else:
            return
        if rng.random() < 0.2:
            small = rng.choice((1, 2, 4, 8))
            code = {1: 0xD3, 2: 0xCB, 4: 0xC3, 8: 0xDB}[small]
            if rng.random() < 0.5:
                self.emit(code, src, base, off, op.LOAD_ACQ)
            else:
                self.emit(code, base, src, off, op.STORE_REL)
            return
        self.emit(ATOMIC[size], base, src, off, kind)
        if kind == op.CMPXCHG and size == 4:
            self.emit(0xBC, 0, 0)  # the upper half of R0: 6.18 on x86-64 may leave it as it was
