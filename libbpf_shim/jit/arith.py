"""Arithmetic: what several instructions do together, two registers, swaps. moves.py has moves,
known.py what is done with a known number. Semantics: RFC 9669 4.1."""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.emit import REG, U32, U64, Const, Expr, fits, unsupported
from libbpf_shim.jit.encode import R10, R11, RCX, Mem
from libbpf_shim.jit.known import BINARY, SHIFTS, Known, folded
from libbpf_shim.jit.moves import SIGNED_LOADS

_COMMUTE: Final = (op.ADD, op.OR, op.AND, op.XOR, op.MUL)


class Arithmetic(Known):
    """Instructions of the classes ALU and ALU64. in_arena: slots of arithmetic of 32 bits. bmi:
    the processor has BMI2."""

    arena_alu: frozenset[int] = frozenset()
    masks: dict[int, tuple[bool, int, int]]  # by slot: speculation.masks()
    skip = 0  # so many slots behind this one are part of its code

    def alu(self, i: Insn, at: int) -> None:
        wide, kind = i.klass == op.ALU64 and at not in self.arena_alu, i.code & 0xF0
        if self.dies(i.dst) and kind not in (op.END,):
            self.check_alu(i, at)
            return
        if kind == op.MOV:
            if not self.rotate(i, at):
                self.move(i, wide)
            return
        if kind == op.END:
            self.swap(i, wide, at)
            return
        if kind == op.LSH and wide and not i.code & 8 and self.extend(i, at):
            return
        known = self.constant(i.src) if i.code & 8 else i.imm & U64
        mine = self.constant(i.dst)
        if at in self.masks and (known if self.masks[at][0] else mine) is None:
            self.move_pointer(i, kind, *self.masks[at])
            return
        if kind == op.NEG:
            self.negate(i, wide, mine)
            return
        if known is not None and mine is not None:
            result = folded(kind, mine, known, wide)
            if result is not None:
                self.values[i.dst] = Const(result)
                return
        if known is not None:
            self.by_constant(i, kind, known, wide, at)
        else:
            self.by_register(i, kind, wide, at)

    def follows(self, at: int, count: int) -> list[Insn]:
        """The instructions behind slot at, as many as asked for if nothing jumps between them."""
        flow, end = self.flow, at + 1 + count
        plain = end <= len(flow.insns) and not any(flow.leaders[at + 1 : end]) and \
            all(flow.seen[at + 1 : end]) and not self.arena_alu.intersection(range(at, end))
        return flow.insns[at + 1 : end] if plain else []

    def extend(self, i: Insn, at: int) -> bool:
        """dst <<= n; dst >>= m: how 32 bits and less are extended without the instructions for
        it."""
        count = i.imm & 63
        for back in self.follows(at, 1):
            kind = back.code & 0xF0
            if back.klass != op.ALU64 or back.code & 8 or back.dst != i.dst or \
                    kind not in (op.RSH, op.ARSH) or back.imm & 63 < count or \
                    count not in (32, 48, 56) or self.constant(i.dst) is not None:
                return False
            self.here = at + 1
            self.extended(i.dst, 8 - count // 8, kind == op.ARSH)
            left = (back.imm & 63) - count
            if left:
                self.shift_constant(i.dst, kind, left, kind == op.ARSH)
            self.skip = 1
            return True
        return False

    def extended(self, regno: int, size: int, sign: bool) -> None:
        """The register's lowest bytes, extended."""
        if not sign:
            self.mask(regno, (1 << 8 * size) - 1, True)
            return
        machine = self.free(regno)
        source = self.reg(regno, wide=False)
        self.put(x.rr(SIGNED_LOADS[size], machine, source, True, low_byte=size == 1))
        self.wrote(regno, False)

    def rotate(self, i: Insn, at: int) -> bool:
        """a = v; a >>= n; b = v; b <<= width - n; b |= a, and the same with b = v left out."""
        if not self.bmi or not i.code & 8 or i.off or i.src > 9:
            return False
        for length in (4, 3):
            rest = self.follows(at, length)
            if rest and self.rotated(i, rest):
                return True
        return False

    def rotated(self, i: Insn, rest: list[Insn]) -> bool:
        klass, width = i.klass, 64 if i.klass == op.ALU64 else 32
        one, other, join = rest[0], rest[-2], rest[-1]
        target = rest[1] if len(rest) == 4 else None
        dst = target.dst if target else i.src
        if target and (target.code != i.code or target.src != i.src or target.off):
            return False
        if any(r.klass != klass for r in rest) or i.dst in (dst, i.src) or one.dst != i.dst or \
                other.dst != dst or one.code & 8 or other.code & 8 or \
                {one.code & 0xF0, other.code & 0xF0} != {op.LSH, op.RSH} or \
                one.imm + other.imm != width or not 0 < one.imm < width:
            return False
        if join.code != klass | op.OR | 8 or {join.dst, join.src} != {dst, i.dst}:
            return False
        end = self.here + len(rest)
        dead = join.src
        if self.flow.live_out[end] >> dead & 1:
            return False
        self.here = end
        source = self.reg(i.src, width == 64)
        machine = self.fresh(join.dst, i.src)
        source = self.reg(i.src, width == 64)
        count = (one if one.code & 0xF0 == op.RSH else other).imm
        self.put(x.rorx(machine, source, count, width == 64))
        self.wrote(join.dst, width == 32)
        self.skip = len(rest)
        return True

    def check_alu(self, i: Insn, at: int) -> None:
        """What nobody reads is not computed, and what cannot be compiled is told anyway."""
        if i.code & 0xF0 > op.END:
            raise unsupported(at, f"opcode {i.code:#x}")

    def negate(self, i: Insn, wide: bool, mine: int | None) -> None:
        if mine is not None:
            self.values[i.dst] = Const(-mine & (U64 if wide else U32))
            return
        dst = self.own(i.dst)
        self.put(x.rr(b"\xf7", 3, dst, wide))
        self.wrote(i.dst, not wide)

    # by registers

    def by_register(self, i: Insn, kind: int, wide: bool, at: int) -> None:
        if kind == op.ADD:
            self.add_register(i.dst, i.src, wide)
        elif kind in (op.DIV, op.MOD):
            self.divide(i, wide)
        elif kind in SHIFTS:
            self.shift_register(i.dst, i.src, kind, wide)
        elif kind in BINARY or kind == op.MUL:
            self.combine(i, kind, wide)
        else:
            raise unsupported(at, f"opcode {i.code:#x}")

    def move_pointer(self, i: Insn, kind: int, in_src: bool, low: int, high: int) -> None:
        """dst += src of a pointer and a number that is low, high or between, and counts as low
        where a processor runs ahead with another one."""
        self.compute(i.src)
        dst, src = self.own(i.dst), REG[i.src]
        number = src if in_src else dst
        self.put(x.lea(R11, Mem(number, -low)) if low else x.mov(R11, number))
        self.put(x.alu_imm(x.CMP, R11, high - low + 1, True) + x.alu(x.SBB, R10, R10, True))
        self.put(x.alu(x.AND, R11, R10, True))
        if kind == op.SUB:
            self.put(x.alu(x.SUB, dst, R11, True))
            self.put(x.alu_imm(x.SUB, dst, low, True) if low else b"")
        else:
            self.put(x.lea(dst, Mem(dst if in_src else src, low, R11, 1)))
        self.wrote(i.dst, False)

    def combine(self, i: Insn, kind: int, wide: bool) -> None:
        mine = self.constant(i.dst)
        if mine is not None and kind in _COMMUTE and self.dies(i.src) and i.src < 10:
            # the other way round: the register's value is taken over, then by the constant
            self.values[i.dst] = None
            self.copy(i.dst, i.src, True)
            self.by_constant(i, kind, mine, wide, self.here)
            return
        narrow = self.narrow_value(i.dst), self.narrow_value(i.src)
        dst = self.own(i.dst)
        src = self.reg(i.src, wide)
        if kind == op.MUL:
            self.put(x.rr(b"\x0f\xaf", dst, src, wide))
        else:
            self.put(x.alu(BINARY[kind], dst, src, wide))
        result = not wide
        if wide and kind == op.AND:
            result = any(narrow)
        elif wide and kind in (op.OR, op.XOR):
            result = all(narrow)
        self.wrote(i.dst, result)
        if kind in (op.AND, op.OR, op.XOR):
            self.tested = (dst, wide, self.emitted)

    def add_register(self, dst: int, src: int, wide: bool) -> None:
        """dst += src, as an address expression."""
        self.free(dst)
        get = self.sum_of if wide else self.low_sum
        if src == dst:
            self.compute(dst)
            self.values[dst] = Expr(Mem(REG[dst], 0, REG[dst], 1), wide)
            return
        if wide:
            self.bind(src)
            self.bind(dst)
        value = self.values[src] if src < 10 else None
        if get(src) is None or (isinstance(value, Expr) and value.copy_of() < 0
                                and not self.dies(src)):
            self.compute(src)
        if get(dst) is None:
            self.compute(dst)
        for regno in (src, dst, dst):
            a, b = get(dst), get(src)
            both = joined(a, b) if a and b else None
            if both:
                self.values[dst] = Expr(both, wide)
                return
            self.compute(regno)
        raise AssertionError("two registers have a sum")

    def shift_register(self, dst: int, src: int, kind: int, wide: bool) -> None:
        operation = SHIFTS[kind]
        if self.bmi:
            machine = self.free(dst)
            value, count = self.both(lambda: self.reg(dst, wide),
                                     lambda: self.reg(src, wide=False))
            self.put(x.shift_by(operation, machine, value, count, wide))
            self.wrote(dst, not wide)
            return
        self.settle((1 << dst | 1 << src) & 0x3FF)
        machine = self.free(dst)
        count = REG[src]
        if machine == RCX:
            self.put(x.mov(R11, RCX) + (x.mov(RCX, count) if count != RCX else b""))
            self.put(x.shift_cl(operation, R11, wide) + x.mov(RCX, R11))
        elif count == RCX:
            self.put(x.shift_cl(operation, machine, wide))
        else:
            self.put(x.mov(R11, RCX) + x.mov(RCX, count) + x.shift_cl(operation, machine, wide))
            self.put(x.mov(RCX, R11))
        self.wrote(dst, not wide)

    def swap(self, i: Insn, wide: bool, at: int) -> None:
        """Byte order: i.imm bits of dst, swapped or only cut."""
        swapped = wide or i.code & 8
        if i.imm not in (16, 32, 64):
            raise unsupported(at, f"byte swap of {i.imm} bits")
        if not swapped:
            if i.imm == 64:
                return
            self.mask(i.dst, U32 if i.imm == 32 else 0xFFFF, True)
            return
        dst = self.own(i.dst)
        if i.imm == 16:
            self.put(b"\x66" + x.shift(x.ROR, dst, 8, False) + x.rr(b"\x0f\xb7", dst, dst, False))
        else:
            self.put(x.bswap(dst, i.imm == 64))
        self.wrote(i.dst, i.imm < 64)


def joined(a: Mem, b: Mem) -> Mem | None:
    """The sum of two address expressions as one."""
    if not fits(a.disp + b.disp):
        return None
    parts = [(m.base, 1) for m in (a, b) if m.base >= 0]
    parts += [(m.by, m.scale) for m in (a, b) if m.by >= 0]
    if len(parts) > 2:
        return None
    parts.sort(key=lambda part: part[1])
    (base, scale), *rest = parts
    if scale != 1:
        return None
    if not rest:
        return Mem(base, a.disp + b.disp)
    index, scale = rest[0]
    if index == x.RSP:
        return None
    return Mem(base, a.disp + b.disp, index, scale)
