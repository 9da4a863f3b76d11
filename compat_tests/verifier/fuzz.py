"""Small random programs of arithmetic, comparisons, stack and map values, and their minimisation.

After buzzer's strategy (random ALU and jumps on unknown scalars, then one of them as an index):
rewritten from its idea. `program(rnd)` gives instructions that pass the structural checks;
`smaller(code, fails)` drops what a disagreement does not need.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.program import MapDesc

VALUE = MapDesc(2, 4, 64, 1, name="")
ALU_OPS = (op.ADD, op.SUB, op.MUL, op.AND, op.OR, op.XOR, op.LSH, op.RSH, op.ARSH, op.MOV)
RARE_OPS = (op.DIV, op.MOD, op.NEG, op.END)
JUMPS = (op.JEQ, op.JNE, op.JGT, op.JGE, op.JLT, op.JLE, op.JSGT, op.JSGE, op.JSLT, op.JSLE,
         op.JSET)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 0xFFFF, 0x10000,
           2**31 - 1, -(2**31), -1, -2, -8, -128, -256, -0x10000)  # fmt: skip
CALL, EXIT = 0x85, 0x95
SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code & 0xFF, dst | src << 4, off, imm)


def number(rnd: random.Random) -> int:
    pick = rnd.random()
    if pick < 0.7:
        return rnd.choice(NUMBERS)
    if pick < 0.85:
        return rnd.randrange(-70, 70)
    return rnd.randrange(-(2**31), 2**31)


class Writer:
    """One program in the making: r9 is the map value, r1 to r5 and r7 unknown or known numbers."""

    def __init__(self, rnd: random.Random) -> None:
        self.rnd = rnd
        self.code: list[bytes] = [insn(0x18, 9, 2), insn(0)]
        self.regs = [0, 1, 2, 3, 4, 5, 7, 8]
        for r in self.regs:
            if rnd.random() < 0.25:
                self.code.append(insn(0xB7, r, imm=number(rnd)))
            else:
                size = rnd.choice((1, 2, 4, 8, 8, 8))
                mode = 0x80 if size < 8 and rnd.random() < 0.2 else 0x60
                self.code.append(insn(op.LDX | mode | SIZES[size], r, 9, rnd.randrange(8)))

    def reg(self) -> int:
        return self.rnd.choice(self.regs)

    def alu(self) -> None:
        rnd = self.rnd
        klass = rnd.choice((op.ALU, op.ALU64))
        kind = rnd.choice(RARE_OPS) if rnd.random() < 0.12 else rnd.choice(ALU_OPS)
        if kind == op.NEG:
            self.code.append(insn(klass | kind, self.reg()))
        elif kind == op.END:
            source = 8 if klass == op.ALU and rnd.random() < 0.5 else 0
            self.code.append(insn(klass | kind | source, self.reg(), imm=rnd.choice((16, 32, 64))))
        elif rnd.random() < 0.5:
            self.code.append(insn(klass | kind | 8, self.reg(), self.reg(), self.extend(kind,
                                                                                      klass)))
        else:
            imm = number(rnd)
            if kind in (op.LSH, op.RSH, op.ARSH):
                imm = rnd.randrange(64 if klass == op.ALU64 else 32)
            if kind in (op.DIV, op.MOD) and imm == 0:
                imm = 3
            self.code.append(insn(klass | kind, self.reg(), imm=imm))

    def extend(self, kind: int, klass: int) -> int:
        """Offset field of the register form: sign extension, signed division."""
        if kind == op.MOV and self.rnd.random() < 0.3:
            return self.rnd.choice((8, 16, 32) if klass == op.ALU64 else (8, 16))
        return 1 if kind in (op.DIV, op.MOD) and self.rnd.random() < 0.3 else 0

    def jump(self) -> None:
        rnd = self.rnd
        code = rnd.choice((op.JMP, op.JMP32)) | rnd.choice(JUMPS)
        off = rnd.choice((1, 1, 1, 2, 3))
        if rnd.random() < 0.4:
            self.code.append(insn(code | 8, self.reg(), self.reg(), off))
        else:
            self.code.append(insn(code, self.reg(), 0, off, number(rnd)))

    def stack(self) -> None:
        rnd = self.rnd
        size = rnd.choice((1, 2, 4, 8, 8, 4))
        off = -rnd.randrange(size, 25, size)
        off -= off % size
        pick = rnd.random()
        if pick < 0.4:
            self.code.append(insn(op.STX | 0x60 | SIZES[size], 10, self.reg(), off))
        elif pick < 0.5:
            self.code.append(insn(op.ST | 0x60 | SIZES[size], 10, 0, off, number(rnd)))
        elif pick < 0.55 and size >= 4:
            kind = rnd.choice((op.ADD, op.AND, op.ADD | op.FETCH, op.XCHG, op.CMPXCHG))
            self.code.append(insn(op.STX | op.MODE_ATOMIC | SIZES[size], 10, self.reg(), off,
                                  kind))
        elif pick < 0.62:
            self.around(size)
        else:
            mode = 0x80 if size < 8 and rnd.random() < 0.3 else 0x60
            self.code.append(insn(op.LDX | mode | SIZES[size], self.reg(), 10, off))

    def around(self, size: int) -> None:
        """An access of the stack at a place that is not known."""
        rnd = self.rnd
        r, value = self.reg(), self.reg()
        self.code.append(insn(0x57, r, imm=rnd.choice((7, 8, 4, 15, 16)) & -size))
        self.code.append(insn(0xBF, 6, 10))
        self.code.append(insn(0x07, 6, imm=-rnd.choice((16, 24, 32))))
        self.code.append(insn(0x0F, 6, r))
        if rnd.random() < 0.5:
            self.code.append(insn(op.STX | 0x60 | SIZES[size], 6, value))
        else:
            self.code.append(insn(op.LDX | 0x60 | SIZES[size], value, 6))

    def footer(self) -> None:
        """One number decides where memory is touched."""
        rnd = self.rnd
        r = self.reg()
        if rnd.random() < 0.5:
            self.code.append(insn(0x57, r, imm=rnd.choice((63, 31, 64, 255, 7))))
        if rnd.random() < 0.7:
            self.code.append(insn(0x0F if rnd.random() < 0.7 else 0x1F, 9, r))
            self.code.append(insn(0x71 if rnd.random() < 0.6 else 0x73, 9 if rnd.random() < 0.1
                                  else 0, 9, rnd.choice((0, 0, 1, -1))))
        else:
            self.code.append(insn(0xBF, 6, 10))
            self.code.append(insn(0x07, 6, imm=rnd.choice((-64, -8, -512))))
            self.code.append(insn(0x0F, 6, r))
            self.code.append(insn(0x73, 6, 0))


def program(rnd: random.Random, length: int = 0) -> bytes:
    """Random instructions that end in `r0 = 0; exit`."""
    w = Writer(rnd)
    for _ in range(length or rnd.randrange(4, 24)):
        pick = rnd.random()
        if pick < 0.55:
            w.alu()
        elif pick < 0.8:
            w.jump()
        else:
            w.stack()
    w.code += [insn(0xBF, 1, 1)] * 3  # where the last jumps lead
    w.footer()
    w.code += [insn(0xB7), insn(EXIT)]
    return b"".join(w.code)


def smaller(code: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """The shortest that still fails, found by turning instructions into no-ops, then by dropping
    these where no jump crosses them."""
    parts = [code[at : at + 8] for at in range(0, len(code), 8)]
    nothing = insn(0x05)  # goto +0
    again = True
    while again:
        again = False
        for at in range(2, len(parts) - 1):
            if parts[at] == nothing:
                continue
            tried = [*parts[:at], nothing, *parts[at + 1 :]]
            if fails(b"".join(tried)):
                parts, again = tried, True
    for at in range(len(parts) - 2, 1, -1):
        if parts[at] == nothing:
            tried = _without(parts, at)
            if fails(b"".join(tried)):
                parts = tried
    return b"".join(parts)


def _without(parts: list[bytes], gone: int) -> list[bytes]:
    """The program less one instruction, jumps over it shortened."""
    out = []
    for at, part in enumerate(parts):
        if at == gone:
            continue
        code, regs, off, imm = struct.unpack("<BBhi", part)
        conditional = code & 7 in (op.JMP, op.JMP32) and code & 0xF0 not in (op.CALL, op.EXIT)
        if conditional and at < gone <= at + off:
            off -= 1
        out.append(struct.pack("<BBhi", code, regs, off, imm))
    return out
