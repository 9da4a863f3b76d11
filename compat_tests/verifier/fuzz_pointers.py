"""Random programs on pointers of every kind that a sched_cls or XDP program has.

R6 is the context, R7 the packet, R8 its end, R9 a map value or NULL, R0 to R5 anything. What is
random: arithmetic, comparisons, loads, stores, atomics, spills, calls of functions and helpers.
"""

from __future__ import annotations

import random

from compat_tests.verifier.fuzz import CALL, EXIT, SIZES, insn, number
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.program import MapDesc

MAPS = (MapDesc(2, 4, 48, 4), MapDesc(1, 4, 48, 4))  # an array, a hash
CLS, XDP = 3, 6
DATA = {CLS: (76, 80, 140), XDP: (0, 4, 8)}  # data, data_end, data_meta
ATOMICS = (op.ADD, op.OR, op.ADD | op.FETCH, op.AND | op.FETCH, op.XCHG, op.CMPXCHG, op.LOAD_ACQ,
           op.STORE_REL)  # fmt: skip
COMPARED = (op.JEQ, op.JNE, op.JGT, op.JGE, op.JLT, op.JLE, op.JSGT, op.JSET)
SPIN, SKB_LOAD, CSUM, LOOKUP, UPDATE, RANDOM, TIME = 93, 26, 28, 1, 2, 7, 5


class Writer:
    def __init__(self, rnd: random.Random, kind: int) -> None:
        self.rnd, self.kind = rnd, kind
        self.calls: list[int] = []
        start, end, meta = DATA[kind]
        self.code = [insn(0xBF, 6, 1), insn(0x61, 7, 1, start), insn(0x61, 8, 1, end),
                     insn(0x61, 5, 1, meta)]  # fmt: skip
        self.code += [insn(0x7A, 10, off=-8 * s, imm=rnd.choice((0, 0, 1, 9))) for s in (1, 2, 3)]
        self.map(1)
        self.code += [insn(0xBF, 2, 10), insn(0x07, 2, imm=rnd.choice((-8, -16))),
                      insn(CALL, imm=LOOKUP), insn(0xBF, 9, 0)]  # fmt: skip
        if rnd.random() < 0.7:
            self.code += [insn(0x55, 9, off=2), insn(0xB7), insn(EXIT)]
        self.code.append(insn(CALL, imm=RANDOM))
        for r in range(1, 6):
            self.code.append(self.value(r))

    def value(self, r: int) -> bytes:
        pick = self.rnd.randrange(8)
        if pick < 2:
            return insn(0xB7, r, imm=number(self.rnd))
        return insn(0xBF, r, (0, 6, 7, 8, 9, 10)[pick - 2])

    def map(self, r: int) -> None:
        self.code += [insn(0x18, r, 1, 0, self.rnd.randrange(len(MAPS))), insn(0)]

    def reg(self) -> int:
        return self.rnd.choice((0, 1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 9, 10))

    def target(self) -> int:
        return self.rnd.choice((0, 1, 2, 3, 4, 5, 7, 9))

    def alu(self) -> None:
        rnd = self.rnd
        pick = rnd.random()
        if pick < 0.3:
            self.code.append(insn(0xBF, self.target(), self.reg()))
        elif pick < 0.55:
            self.code.append(
                insn(
                    0x07,
                    self.target(),
                    imm=rnd.choice((1, 2, 4, 8, 14, 20, -1, -8, -16, 48, 64, 0)),
                )
            )
        elif pick < 0.7:
            self.code.append(insn(rnd.choice((0x0F, 0x0F, 0x1F)), self.target(), self.reg()))
        elif pick < 0.8:
            self.code.append(insn(0x57, self.target(), imm=rnd.choice((7, 15, 63, 8, 0xFF))))
        elif pick < 0.88:
            self.code.append(self.value(self.target()))
        else:
            kind = rnd.choice((op.ADD, op.SUB, op.AND, op.OR, op.LSH, op.RSH, op.MOV, op.XOR))
            klass = rnd.choice((op.ALU, op.ALU64))
            self.code.append(insn(klass | kind | 8, self.target(), self.reg()))

    def jump(self) -> None:
        rnd = self.rnd
        klass = op.JMP if rnd.random() < 0.85 else op.JMP32
        off = rnd.choice((1, 1, 2, 3))
        pick = rnd.random()
        if pick < 0.35:  # a packet pointer with the end
            a, b = (self.target(), 8) if rnd.random() < 0.6 else (8, self.target())
            kind = rnd.choice((op.JGT, op.JGE, op.JLT, op.JLE))
            self.code.append(insn(klass | kind | 8, a, b, off))
        elif pick < 0.65:
            self.code.append(
                insn(
                    klass | rnd.choice(COMPARED),
                    self.reg(),
                    0,
                    off,
                    rnd.choice((0, 0, 0, 8, 40, 64, -1)),
                )
            )
        else:
            self.code.append(insn(klass | rnd.choice(COMPARED) | 8, self.reg(), self.reg(), off))

    def access(self) -> None:
        rnd = self.rnd
        size = rnd.choice((1, 2, 4, 8, 8))
        base = self.reg()
        off = (
            rnd.choice((-8, -16, -24, -32)) if base == 10 else rnd.choice((0, 0, 4, 8, 12, 40, -4))
        )
        if rnd.random() < 0.1:
            off += rnd.choice((1, 2, 4))
        pick = rnd.random()
        if pick < 0.45:
            mode = 0x80 if size < 8 and rnd.random() < 0.15 else 0x60
            self.code.append(insn(op.LDX | mode | SIZES[size], self.target(), base, off))
        elif pick < 0.8:
            self.code.append(insn(op.STX | 0x60 | SIZES[size], base, self.reg(), off))
        elif pick < 0.9:
            self.code.append(insn(op.ST | 0x60 | SIZES[size], base, 0, off, rnd.choice((0, 5))))
        else:
            kind = rnd.choice(ATOMICS)
            a, b = (self.target(), base) if kind == op.LOAD_ACQ else (base, self.reg())
            if kind == op.LOAD_ACQ and a == b:  # 6.18 lets it be of the context, too
                a = 0 if b else 1
            self.code.append(insn(op.STX | op.MODE_ATOMIC | SIZES[size], a, b, off, kind))

    def memory(self, r: int) -> None:
        """A place in r, of the stack mostly."""
        if self.rnd.random() < 0.75:
            self.code += [
                insn(0xBF, r, 10),
                insn(0x07, r, imm=self.rnd.choice((-8, -16, -24, -20, -64, 0))),
            ]
        else:
            self.code.append(insn(0xBF, r, self.reg()))

    def size(self, r: int) -> None:
        rnd = self.rnd
        if rnd.random() < 0.6:
            self.code.append(insn(0xB7, r, imm=rnd.choice((0, 4, 8, 16, 24, 12, 1, -1, 64))))
        else:
            self.code += [insn(0xBF, r, rnd.choice((0, 2, 9))),
                          insn(0x57, r, imm=rnd.choice((7, 15, 16, 8)))]  # fmt: skip

    def call(self) -> None:
        rnd = self.rnd
        which = rnd.choice((SKB_LOAD, CSUM, LOOKUP, UPDATE, RANDOM, 0, 0))
        if which == 0:
            for r in range(1, rnd.randrange(1, 4)):
                self.code.append(insn(0xBF, r, self.reg()))
            self.calls.append(len(self.code))
            self.code.append(insn(CALL, 0, 1))
            return
        if which == SKB_LOAD:
            self.code += [insn(0xBF, 1, 6), insn(0xB7, 2, imm=0)]
            self.memory(3)
            self.size(4)
        elif which == CSUM:
            self.memory(1)
            self.size(2)
            self.memory(3)
            self.size(4)
            self.code.append(insn(0xB7, 5))
        elif which in (LOOKUP, UPDATE):
            self.map(1)
            self.memory(2)
            if which == UPDATE:
                self.memory(3)
                self.code.append(insn(0xB7, 4))
        self.code.append(insn(CALL, imm=which))

    def function(self) -> None:
        """What may use its arguments, and the frame that they point into."""
        for _ in range(self.rnd.randrange(1, 6)):
            pick = self.rnd.random()
            size = self.rnd.choice((1, 4, 8, 8))
            base = self.rnd.choice((1, 2, 10, 10))
            off = self.rnd.choice((-8, -16)) if base == 10 else self.rnd.choice((0, 0, -8, 8))
            if pick < 0.3:
                self.code.append(
                    insn(op.LDX | 0x60 | SIZES[size], self.rnd.randrange(3), base, off)
                )
            elif pick < 0.6:
                self.code.append(
                    insn(op.STX | 0x60 | SIZES[size], base, self.rnd.choice((1, 2, 10)), off)
                )
            elif pick < 0.7:
                self.code.append(insn(op.ST | 0x60 | SIZES[size], base, 0, off, 1))
            elif pick < 0.85:
                self.code.append(insn(0x55, self.rnd.choice((1, 2)), 0, 1, 0))
                self.code.append(insn(0x07, 1, imm=self.rnd.choice((1, 8, -8))))
            else:
                self.code.append(insn(0xBF, self.rnd.randrange(3), self.rnd.choice((1, 2))))
        self.code.append(insn(0xB7) if self.rnd.random() < 0.6 else insn(0xBF, 0, 1))
        self.code.append(insn(EXIT))


def program(rnd: random.Random) -> tuple[int, bytes]:
    """Program type and instructions. ld_imm64 of a map has its index in MAPS."""
    kind = rnd.choice((CLS, CLS, XDP))
    w = Writer(rnd, kind)
    for _ in range(rnd.randrange(2, 14)):
        pick = rnd.random()
        if pick < 0.35:
            w.alu()
        elif pick < 0.6:
            w.jump()
        elif pick < 0.88:
            w.access()
        else:
            w.call()
    w.code += [insn(0x05)] * 3 + [insn(0xB7), insn(EXIT)]
    if w.calls:
        entry = len(w.code)
        w.function()
        for at in w.calls:
            w.code[at] = insn(CALL, 0, 1, 0, entry - at - 1)
    return kind, b"".join(w.code)
