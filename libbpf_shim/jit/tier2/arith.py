"""Arithmetic as LLVM IR. Semantics: RFC 9669 4.1, as jit/interp.py has them."""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit.emit import unsupported
from libbpf_shim.jit.tier2.body import Body
from libbpf_shim.jit.tier2.frames import after

_PLAIN: Final = {op.ADD: "add", op.SUB: "sub", op.MUL: "mul", op.OR: "or", op.AND: "and",
                 op.XOR: "xor"}  # fmt: skip
_SHIFTS: Final = {op.LSH: "shl", op.RSH: "lshr", op.ARSH: "ashr"}


class Arithmetic(Body):
    """Instructions of the classes ALU and ALU64."""

    def alu(self, i: Insn, at: int) -> None:
        wide, kind = i.klass == op.ALU64 and at not in self.facts.arena_alu, i.code & 0xF0
        bits = 64 if wide else 32
        known = after(i, self.offsets[at])[i.dst]
        if known is not None and -self.frame <= known <= 0:  # LLVM sees of what it is an address
            self.set(i.dst, self.op(f"ptrtoint ptr {self.in_frame(known)} to i64"))
        elif kind == op.END:
            self._swap(i, at)
        elif kind == op.MOV:
            self._move(i, bits)
        elif kind == op.NEG:
            mine = self.cut(self.get(i.dst), bits)
            self.set(i.dst, self.widen(self.op(f"sub i{bits} 0, {mine}"), bits))
        elif kind in _PLAIN or kind in _SHIFTS or kind in (op.DIV, op.MOD):
            mine, other = self.cut(self.get(i.dst), bits), self.operand(i, bits)
            self.set(i.dst, self.widen(self._binary(i, kind, mine, other, bits), bits))
        else:
            raise unsupported(at, f"opcode {i.code:#x}")

    def _binary(self, i: Insn, kind: int, a: str, b: str, bits: int) -> str:
        if kind in _PLAIN:
            return self.op(f"{_PLAIN[kind]} i{bits} {a}, {b}")
        if kind in _SHIFTS:
            count = self.op(f"and i{bits} {b}, {bits - 1}")
            return self.op(f"{_SHIFTS[kind]} i{bits} {a}, {count}")
        if i.off == 1:
            return self._divide_signed(kind == op.MOD, a, b, bits)
        return self._divide(kind == op.MOD, a, b, bits)

    def _divide(self, modulo: bool, a: str, b: str, bits: int) -> str:
        """By zero: 0, and for modulo what was there."""
        zero = self.op(f"icmp eq i{bits} {b}, 0")
        by = self.op(f"select i1 {zero}, i{bits} 1, i{bits} {b}")
        found = self.op(f"{'urem' if modulo else 'udiv'} i{bits} {a}, {by}")
        return self.op(f"select i1 {zero}, i{bits} {a if modulo else 0}, i{bits} {found}")

    def _divide_signed(self, modulo: bool, a: str, b: str, bits: int) -> str:
        """The same; the least number by -1 is itself, and leaves nothing."""
        zero = self.op(f"icmp eq i{bits} {b}, 0")
        minus = self.op(f"icmp eq i{bits} {b}, -1")
        either = self.op(f"or i1 {zero}, {minus}")
        by = self.op(f"select i1 {either}, i{bits} 1, i{bits} {b}")
        found = self.op(f"{'srem' if modulo else 'sdiv'} i{bits} {a}, {by}")
        other = "0" if modulo else self.op(f"sub i{bits} 0, {a}")
        found = self.op(f"select i1 {minus}, i{bits} {other}, i{bits} {found}")
        return self.op(f"select i1 {zero}, i{bits} {a if modulo else 0}, i{bits} {found}")

    def _move(self, i: Insn, bits: int) -> None:
        if not i.code & 8:
            self.set(i.dst, str(i.imm & (1 << bits) - 1))
        elif i.off == op.ADDR_SPACE_CAST and bits == 64:
            self._cast(i)
        elif i.off:
            low = self.cut(self.get(i.src), i.off)
            value = self.op(f"sext i{i.off} {low} to i{bits}")
            self.set(i.dst, self.widen(value, bits))
        else:
            self.set(i.dst, self.widen(self.cut(self.get(i.src), bits), bits))

    def _cast(self, i: Insn) -> None:
        """Between the arena's addresses of programs, 32 bits, and its user's; NULL is NULL."""
        low = self.cut(self.get(i.src), 32)
        value = self.widen(low, 32)
        if i.imm == op.CAST_USER:
            half = self.arena_start >> 32 << 32
            null = self.op(f"icmp eq i32 {low}, 0")
            user = self.op(f"or i64 {value}, {half}")
            value = self.op(f"select i1 {null}, i64 0, i64 {user}")
        self.set(i.dst, value)

    def _swap(self, i: Insn, at: int) -> None:
        """Byte order: i.imm bits of dst, swapped or only cut."""
        if i.imm not in (16, 32, 64):
            raise unsupported(at, f"byte swap of {i.imm} bits")
        value = self.cut(self.get(i.dst), i.imm)
        if i.klass == op.ALU64 or i.code & 8:
            value = self.op(f"call i{i.imm} @llvm.bswap.i{i.imm}(i{i.imm} {value})")
        self.set(i.dst, self.widen(value, i.imm))
