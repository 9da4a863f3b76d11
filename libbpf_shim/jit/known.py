"""Arithmetic with a number that is known: sums that wait, masks, shifts, factors."""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.emit import REG, U32, U64, Const, Expr, Symbol, fits, signed64, unsupported
from libbpf_shim.jit.encode import R11, Mem
from libbpf_shim.jit.moves import Moves

BINARY: Final = {op.ADD: x.ADD, op.SUB: x.SUB, op.OR: x.OR, op.AND: x.AND, op.XOR: x.XOR}
SHIFTS: Final = {op.LSH: x.SHL, op.RSH: x.SHR, op.ARSH: x.SAR}
_LEA_FACTORS: Final = {3: 2, 5: 4, 9: 8}


def folded(kind: int, a: int, b: int, wide: bool) -> int | None:
    """a op b of two constants; None: not known here."""
    bits = 64 if wide else 32
    mask = (1 << bits) - 1
    a, b = a & mask, b & mask
    count = b & bits - 1
    if kind == op.ADD:
        return a + b & mask
    if kind == op.SUB:
        return a - b & mask
    if kind == op.MUL:
        return a * b & mask
    if kind == op.AND:
        return a & b
    if kind == op.OR:
        return a | b
    if kind == op.XOR:
        return a ^ b
    if kind == op.LSH:
        return a << count & mask
    if kind == op.RSH:
        return a >> count
    if kind == op.ARSH:
        return (a - (a >> bits - 1 << bits)) >> count & mask
    return None


class Known(Moves):
    """The operations of BPF_ALU and BPF_ALU64, dst op= number."""

    def by_constant(self, i: Insn, kind: int, known: int, wide: bool, at: int) -> None:
        number = signed64(known) if wide else (known & U32 ^ 1 << 31) - (1 << 31)
        if kind == op.ADD:
            self.add(i.dst, number, wide)
        elif kind == op.SUB:
            self.add(i.dst, -number, wide)
        elif kind == op.AND:
            self.mask(i.dst, number, wide)
        elif kind in SHIFTS:
            self.shift_constant(i.dst, kind, known & (63 if wide else 31), wide)
        elif kind == op.MUL:
            self.multiply(i.dst, number, wide)
        elif kind in (op.DIV, op.MOD):
            self.divide_constant(i, known & (U64 if wide else U32), wide)
        elif kind in BINARY:
            self.immediate(i.dst, kind, number, wide)
        else:
            raise unsupported(at, f"opcode {i.code:#x}")

    def immediate(self, regno: int, kind: int, number: int, wide: bool) -> None:
        """dst op= a number, in place."""
        dst = self.own(regno)
        narrow = self.is_narrow(dst)
        if kind in (op.OR, op.XOR) and wide:
            result = narrow and 0 <= number <= U32
            wide = not (narrow and 0 <= number < 1 << 31)
        else:
            result = not wide
        if fits(number):
            self.put(x.alu_imm(BINARY[kind], dst, number, wide))
        else:
            self.put(x.mov_imm(R11, number) + x.alu(BINARY[kind], dst, R11, wide))
        self.wrote(regno, result)
        self.tested = (dst, wide, self.emitted)

    def add(self, regno: int, number: int, wide: bool) -> None:
        value = self.values[regno]
        if isinstance(value, Symbol) and wide:
            self.values[regno] = Symbol(value.name, value.addend + number)
            return
        m = self.sum_of(regno) if wide else self.low_sum(regno)
        if m is None or not fits(m.disp + number):
            self.immediate(regno, op.ADD, number, wide)
            return
        self.free(regno)
        m = self.sum_of(regno) if wide else self.low_sum(regno)
        assert m is not None
        self.values[regno] = Expr(m._replace(disp=m.disp + number), wide)

    def low_sum(self, regno: int) -> Mem | None:
        """As sum_of, of which only the low half counts."""
        value = self.values[regno] if regno < 10 else None
        if isinstance(value, Expr):
            return value.mem
        return Mem(REG[regno]) if value is None or value.held else None

    def mask(self, regno: int, number: int, wide: bool) -> None:
        """dst &= number."""
        low = number & (U64 if wide else U32)
        if low == U32:
            if not self.narrow_value(regno):
                self.low_half(regno)
            return
        if low in (0xFF, 0xFFFF):
            dst = self.free(regno)
            source = self.reg(regno, wide=False)
            opcode = b"\x0f\xb6" if low == 0xFF else b"\x0f\xb7"
            self.put(x.rr(opcode, dst, source, False, low_byte=low == 0xFF))
            self.wrote(regno, True)
            return
        if wide and (low <= U32 or self.narrow_value(regno)):
            wide, number = False, (low & U32 ^ 1 << 31) - (1 << 31)
        value = self.values[regno]
        if isinstance(value, Expr) and not wide and value.wide:
            self.values[regno] = Expr(value.mem, False)  # its upper half is not wanted
        dst = self.own(regno)
        if fits(number):
            self.put(x.alu_imm(x.AND, dst, number, wide))
        else:
            self.put(x.mov_imm(R11, number) + x.alu(x.AND, dst, R11, wide))
        self.wrote(regno, not wide)
        self.tested = (dst, wide, self.emitted)

    def shift_constant(self, regno: int, kind: int, count: int, wide: bool) -> None:
        if not count:
            if not wide:
                self.copy(regno, regno, False)
            return
        if kind == op.LSH and count <= 3 and self.scale(regno, count, wide):
            return
        narrow = self.narrow_value(regno)
        if wide and kind == op.RSH and narrow:
            if count >= 32:
                self.values[regno] = Const(0)
                return
            wide = False
        dst = self.own(regno)
        self.put(x.shift(SHIFTS[kind], dst, count, wide))
        self.wrote(regno, not wide or (kind == op.RSH and count >= 32))
        self.tested = (dst, wide, self.emitted)

    def scale(self, regno: int, count: int, wide: bool) -> bool:
        """dst <<= 1 to 3, as an address' index. False: it is none."""
        self.free(regno)
        m = self.sum_of(regno) if wide else self.low_sum(regno)
        if m is None or (m.by >= 0 and m.base >= 0) or not fits(m.disp << count):
            return False
        index, scale = (m.base, 1) if m.by < 0 else (m.by, m.scale)
        if scale << count > 8 or index == x.RSP:
            return False
        self.values[regno] = Expr(Mem(-1, m.disp << count, index, scale << count), wide)
        return True

    def multiply(self, regno: int, number: int, wide: bool) -> None:
        if number == 0:
            self.values[regno] = Const(0)
        elif number > 0 and number & number - 1 == 0:
            self.shift_constant(regno, op.LSH, number.bit_length() - 1, wide)
        elif number in _LEA_FACTORS:
            self.free(regno)
            source = self.reg(regno, wide)
            self.values[regno] = Expr(Mem(source, 0, source, _LEA_FACTORS[number]), wide)
        else:
            dst = self.free(regno)
            source = self.reg(regno, wide)
            if fits(number):
                self.put(x.rr(b"\x69", dst, source, wide) + x.imm32(number))
            else:
                self.put(x.mov_imm(R11, number))
                self.put((x.mov(dst, source) if dst != source else b"")
                         + x.rr(b"\x0f\xaf", dst, R11, wide))
            self.wrote(regno, not wide)
