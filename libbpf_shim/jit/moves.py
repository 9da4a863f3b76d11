"""Moves, which wait until somebody needs them, and casts of the arena's addresses."""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.divide import Division
from libbpf_shim.jit.emit import U32, U64, Const, Expr, Symbol
from libbpf_shim.jit.encode import R11, Mem

SIGNED_LOADS: Final = {1: b"\x0f\xbe", 2: b"\x0f\xbf", 4: b"\x63"}


class Moves(Division):
    """arena_start: where the arena is in its user's memory."""

    arena_start = 0

    def move(self, i: Insn, wide: bool) -> None:
        dst, src = i.dst, i.src
        if not i.code & 8:
            self.values[dst] = Const(i.imm & (U64 if wide else U32))
        elif i.off == op.ADDR_SPACE_CAST and wide:
            self.cast(i)
        elif i.off:
            machine = self.fresh(dst, src)
            source = self.reg(src, wide=False)
            size = i.off // 8
            self.put(x.rr(SIGNED_LOADS[size], machine, source, wide, low_byte=size == 1))
            self.wrote(dst, not wide)
        elif src == dst and (wide or self.narrow_value(src)):
            return
        else:
            self.copy(dst, src, wide)

    def copy(self, dst: int, src: int, wide: bool) -> None:
        value = self.values[src] if src < 10 else None
        if isinstance(value, Const):
            self.values[dst] = Const(value.value & (U64 if wide else U32))
            return
        if isinstance(value, Symbol) and wide:
            self.values[dst] = Symbol(value.name, value.addend)
            return
        self.fresh(dst, src)
        value = self.values[src] if src < 10 else None
        if isinstance(value, Expr) and (self.dies(src) or value.mem.by < 0):
            if not wide and not (value.wide and self.narrow_value(src)):
                self.values[dst] = Expr(value.mem, False)
            else:
                self.values[dst] = Expr(value.mem, value.wide)
            return
        machine = self.reg(src)
        self.values[dst] = Expr(Mem(machine), wide or self.is_narrow(machine))

    def cast(self, i: Insn) -> None:
        """Between the arena's addresses of programs, 32 bits, and its user's; NULL is NULL."""
        dst = self.fresh(i.dst, i.src)
        self.put(x.mov(dst, self.reg(i.src, wide=False), False))
        if i.imm == op.CAST_USER:
            half = x.movabs(R11, self.arena_start >> 32 << 32) + x.alu(x.OR, dst, R11, True)
            self.put(x.rr(b"\x85", dst, dst, False) + bytes([0x74, len(half)]) + half)
        self.wrote(i.dst, i.imm != op.CAST_USER)
