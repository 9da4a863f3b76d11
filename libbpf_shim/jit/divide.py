"""Division and modulo. By zero: 0, and for modulo what was there; RFC 9669 4.1.

A known divisor becomes a multiplication by its inverse and a shift (T. Granlund and P. Montgomery,
"Division by Invariant Integers using Multiplication", 1994). One that is not known is tested; what
is special jumps to code behind the division.
"""

from __future__ import annotations

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.emit import REG, U32, Const, Emitter, Expr
from libbpf_shim.jit.encode import R9, R10, R11, RAX, RDX, Mem


def inverse(divisor: int, bits: int, less: int = 0) -> tuple[int, int, bool]:
    """(m, s, add) so that n / divisor is n * m >> bits + s for all n of so many bits less `less`;
    add: m has one bit more, the top one, which is left out. divisor is no power of two."""
    size = divisor.bit_length()
    for s in range(size):
        m = -(-(1 << bits + s) // divisor)
        if m * divisor - (1 << bits + s) <= 1 << s + less:
            return m, s, False
    m = -(-(1 << bits + size) // divisor)
    return m - (1 << bits), size, True


class Division(Emitter):
    """bmi: the processor has BMI2."""

    bmi = False

    # by a constant

    def divide_constant(self, i: Insn, divisor: int, wide: bool) -> None:
        """divisor: unsigned, of the operation's width."""
        modulo, regno = i.code & 0xF0 == op.MOD, i.dst
        if i.off == 1:
            self.divide_signed_constant(i, divisor, wide)
            return
        narrow = self.narrow_value(regno)
        if divisor in (0, 1):
            if (divisor == 0) != modulo:
                self.values[regno] = Const(0)
            elif not wide and not narrow:
                self.low_half(regno)
            return
        if wide and narrow and divisor > U32:
            if not modulo:
                self.values[regno] = Const(0)
            return
        wide = wide and not narrow
        if divisor & divisor - 1 == 0:
            self.divide_power(i, divisor, wide)
        elif not wide:
            self.divide_32(regno, divisor, modulo)
        elif self.bmi:
            self.divide_64(regno, divisor, modulo)
        else:
            self.own(regno)
            self.put(x.mov_imm(R11, divisor))
            self.quotient(regno, R11, True, False, modulo)

    def low_half(self, regno: int) -> None:
        self.free(regno)
        self.values[regno] = Expr(Mem(self.reg(regno, wide=False)), False)

    def divide_power(self, i: Insn, divisor: int, wide: bool) -> None:
        dst = self.own(i.dst)
        if i.code & 0xF0 == op.DIV:
            self.put(x.shift(x.SHR, dst, divisor.bit_length() - 1, wide))
        elif divisor - 1 < 1 << 31:
            self.put(x.alu_imm(x.AND, dst, divisor - 1, False))
        else:
            self.put(x.mov_imm(R11, divisor - 1) + x.alu(x.AND, dst, R11, wide))
        modulo = i.code & 0xF0 == op.MOD
        self.wrote(i.dst, not wide or divisor > U32 + 1 if not modulo else divisor <= U32 + 1)

    def divide_32(self, regno: int, divisor: int, modulo: bool) -> None:
        """A value of 32 bits, in 64-bit arithmetic. r11: the quotient, r10: the value."""
        m, s, add = inverse(divisor, 32)
        dst = self.free(regno)
        source = self.reg(regno, wide=False)
        if not self.is_narrow(source):
            self.put(x.mov(R10, source, False))
            source = R10
        if m < 1 << 31:
            self.put(x.rr(b"\x69", R11, source, True) + x.imm32(m))
        else:
            self.put(x.mov_imm(R11, m, False) + x.rr(b"\x0f\xaf", R11, source, True))
        if not add and not modulo:
            self.put(x.mov(dst, R11) + x.shift(x.SHR, dst, 32 + s, True))
            self.wrote(regno, True)
            return
        if add:  # ((n - q) / 2 + q) >> s - 1, with q the upper half of the product
            self.put(x.shift(x.SHR, R11, 32, True) + x.mov(R9, source, False))
            self.put(x.alu(x.SUB, R9, R11, False) + x.shift(x.SHR, R9, 1, False))
            self.put(x.alu(x.ADD, R11, R9, False))
            self.put(x.shift(x.SHR, R11, s - 1, False) if s > 1 else b"")
        else:
            self.put(x.shift(x.SHR, R11, 32 + s, True))
        self.remainder(dst, source, divisor, modulo, False)
        self.wrote(regno, True)

    def divide_64(self, regno: int, divisor: int, modulo: bool) -> None:
        m, s, add = inverse(divisor, 64)
        even = (divisor & -divisor).bit_length() - 1 if add else 0
        if even:  # its factors of two come first
            m, s, add = inverse(divisor >> even, 64, even)
        dst = self.free(regno)
        source = self.reg(regno)
        keep = (source != RDX or even > 0) and self.in_use(RDX)
        if keep or (even and source == RDX):
            self.put(x.mov(R10, RDX))
            source = R10 if source == RDX else source
        if source != RDX:
            self.put(x.mov(RDX, source))
        if even:
            self.put(x.shift(x.SHR, RDX, even, True))
        self.put(x.mov_imm(R11, m) + x.mulx(R11, R9, R11, True))
        if keep:
            self.put(x.mov(RDX, R10))
        elif source != RDX:
            self.mark(RDX, False)
        if add:
            self.put(x.mov(R9, source) + x.alu(x.SUB, R9, R11, True))
            self.put(x.shift(x.SHR, R9, 1, True) + x.alu(x.ADD, R11, R9, True))
            self.put(x.shift(x.SHR, R11, s - 1, True) if s > 1 else b"")
        elif s:
            self.put(x.shift(x.SHR, R11, s, True))
        self.remainder(dst, source, divisor, modulo, True)
        narrow = divisor <= U32 + 1 if modulo else divisor > U32
        self.wrote(regno, narrow)

    def remainder(self, dst: int, source: int, divisor: int, modulo: bool, wide: bool) -> None:
        """dst = r11, or what is left of source."""
        if not modulo:
            self.put(x.mov(dst, R11, wide))
            return
        if divisor < 1 << 31:
            self.put(x.rr(b"\x69", R11, R11, wide) + x.imm32(divisor))
        else:
            self.put(x.mov_imm(R9, divisor) + x.rr(b"\x0f\xaf", R11, R9, wide))
        if dst != source:
            self.put(x.mov(dst, source, wide))
        self.put(x.alu(x.SUB, dst, R11, wide))

    def divide_signed_constant(self, i: Insn, divisor: int, wide: bool) -> None:
        modulo, all_ones = i.code & 0xF0 == op.MOD, (1 << (64 if wide else 32)) - 1
        if divisor in (0, all_ones) or (divisor == 1 and modulo):
            if modulo == (divisor != 0):
                self.values[i.dst] = Const(0)
                return
            if divisor == all_ones:
                dst = self.own(i.dst)
                self.put(x.rr(b"\xf7", 3, dst, wide))
                self.wrote(i.dst, not wide)
                return
        if divisor in (0, 1):  # as it was
            if not wide and not self.narrow_value(i.dst):
                self.low_half(i.dst)
            return
        self.own(i.dst)
        self.put(x.mov_imm(R11, divisor, wide))
        self.quotient(i.dst, R11, wide, True, modulo)

    # by a register

    def in_use(self, machine: int) -> bool:
        """Somebody reads the machine register after this instruction."""
        if self.flow.live_out[self.here] >> REG.index(machine) & 1:
            return True
        return any(isinstance(v, Expr) and v.uses(machine) for v in self.values)

    def divide(self, i: Insn, wide: bool) -> None:
        signed, modulo = i.off == 1, i.code & 0xF0 == op.MOD
        if wide and not signed and self.narrow_value(i.dst) and self.narrow_value(i.src):
            wide = False
        dst = self.free(i.dst)
        value, divisor = self.both(lambda: self.reg(i.dst, wide), lambda: self.reg(i.src, wide))
        if divisor in (RAX, RDX):
            self.put(x.mov(R11, divisor, wide))
            divisor = R11
        narrow = not wide or (not signed and self.is_narrow(value))
        before, emitted = self.piece.code, self.emitted
        self.piece.code = bytearray()
        self.quotient(i.dst, divisor, wide, signed, modulo, value)
        body, self.piece.code, self.emitted = bytes(self.piece.code), before, emitted
        self.put(self.guarded(body, (dst, value, divisor), wide, signed, modulo))
        self.wrote(i.dst, narrow)

    @staticmethod
    def guarded(
        body: bytes, machines: tuple[int, int, int], wide: bool, signed: bool, modulo: bool
    ) -> bytes:
        """body, and what is done instead where the divisor is 0 or -1. machines: where the result
        goes to, what is divided, the divisor."""
        dst, value, divisor = machines
        zero = x.alu(x.XOR, dst, dst, False)
        moved = x.mov(dst, value, wide) if dst != value or not wide else b""
        if_zero = moved if modulo else zero
        if_minus = zero if modulo else moved + x.rr(b"\xf7", 3, dst, wide)
        if signed:
            if_zero += bytes([0xEB, len(if_minus)])
        else:
            if_minus = b""
        if if_zero:
            body += bytes([0xEB, len(if_zero) + len(if_minus)])
        if signed:  # cmp divisor, -1; je: over the body and the code for zero
            test = x.alu_imm(x.CMP, divisor, -1, wide)
            body = test + bytes([0x74, len(body) + len(if_zero)]) + body
        return (x.rr(b"\x85", divisor, divisor, wide) + bytes([0x74, len(body)])
                + body + if_zero + if_minus)

    def quotient(
        self, regno: int, divisor: int, wide: bool, signed: bool, modulo: bool, value: int = -1
    ) -> None:
        """dst = value (dst itself, if not given) op divisor, which is not rax, rdx, r9 or r10 and
        neither 0 nor -1. rax and rdx are kept if somebody wants them."""
        dst = REG[regno]
        value = dst if value < 0 else value
        keep_rax = dst != RAX and self.in_use(RAX)
        keep_rdx = dst != RDX and self.in_use(RDX)
        code = x.mov(R10, RAX) if keep_rax else b""
        code += x.mov(R9, RDX) if keep_rdx else b""
        code += x.mov(RAX, value, wide) if value != RAX else b""
        if signed:
            code += (b"\x48" if wide else b"") + b"\x99"  # cqo, cdq
        else:
            code += x.alu(x.XOR, RDX, RDX, False)
        code += x.rr(b"\xf7", 7 if signed else 6, divisor, wide)
        result = RDX if modulo else RAX
        code += x.mov(dst, result, wide) if dst != result else b""
        code += x.mov(RAX, R10) if keep_rax else b""
        code += x.mov(RDX, R9) if keep_rdx else b""
        self.put(code)
        for machine, kept in ((RAX, keep_rax), (RDX, keep_rdx)):
            if not kept and machine != dst:
                self.mark(machine, False)
        self.wrote(regno, not wide)
