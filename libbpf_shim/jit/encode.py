"""x86-64 instructions as bytes, as few forms as tier 1 needs (Intel SDM volume 2).

Registers are the processor's numbers. `w`: 64-bit operands; without it the upper half of a
register that is written becomes zero. Tests decode every form back with capstone.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
R8, R9, R10, R11, R12, R13, R14, R15 = range(8, 16)

# opcode of "op r/m, r" and extension of "op r/m, imm" (81, 83)
ADD: Final = (0x01, 0)
OR: Final = (0x09, 1)
AND: Final = (0x21, 4)
SUB: Final = (0x29, 5)
XOR: Final = (0x31, 6)
SBB: Final = (0x19, 3)
CMP: Final = (0x39, 7)
# extensions of the shift group (C1, D3)
ROR, SHL, SHR, SAR = 1, 4, 5, 7

_I32 = struct.Struct("<i")


def imm32(value: int) -> bytes:
    """A signed or unsigned 32-bit value, little endian."""
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


def _rex(w: bool, reg: int, rm: int, force: bool = False) -> bytes:
    bits = 8 * w | (reg >> 3) << 2 | rm >> 3
    return bytes([0x40 | bits]) if bits or force else b""


def rr(opcode: bytes, reg: int, rm: int, w: bool, low_byte: bool = False) -> bytes:
    """opcode with a register operand in ModRM.reg and one in ModRM.rm. low_byte: rm is the low
    byte of its register, which 4 to 7 need a prefix for."""
    modrm = 0xC0 | (reg & 7) << 3 | rm & 7
    return _rex(w, reg, rm, low_byte and rm >= 4) + opcode + bytes([modrm])


def mem(
    opcode: bytes, reg: int, base: int, disp: int, w: bool, prefix: bytes = b"",
    low_byte: bool = False,
) -> bytes:
    """opcode with a register and memory at base + disp. low_byte: the register's low byte."""
    short = -128 <= disp < 128
    mod = 0 if disp == 0 and base & 7 != RBP else 1 if short else 2
    out = prefix + _rex(w, reg, base, low_byte and reg >= 4) + opcode
    out += bytes([mod << 6 | (reg & 7) << 3 | base & 7])
    if base & 7 == RSP:
        out += b"\x24"
    if mod == 1:
        out += bytes([disp & 0xFF])
    elif mod == 2:
        out += _I32.pack(disp)
    return out


class Mem(NamedTuple):
    """An address: base + by * scale + disp; base or by -1: none. by is never rsp."""

    base: int
    disp: int = 0
    by: int = -1
    scale: int = 1


def at(
    opcode: bytes, reg: int, m: Mem, w: bool, prefix: bytes = b"", low_byte: bool = False
) -> bytes:
    """opcode with a register and memory. low_byte: the register's low byte."""
    if m.by < 0:
        return mem(opcode, reg, m.base, m.disp, w, prefix, low_byte)
    bits = 8 * w | (reg >> 3) << 2 | (m.by >> 3) << 1 | (m.base >> 3 if m.base >= 0 else 0)
    rex = bytes([0x40 | bits]) if bits or (low_byte and reg >= 4) else b""
    sib = (m.scale.bit_length() - 1) << 6 | (m.by & 7) << 3
    out = prefix + rex + opcode
    if m.base < 0:
        return out + bytes([(reg & 7) << 3 | 4, sib | 5]) + _I32.pack(m.disp)
    mod = 0 if m.disp == 0 and m.base & 7 != RBP else 1 if -128 <= m.disp < 128 else 2
    out += bytes([mod << 6 | (reg & 7) << 3 | 4, sib | m.base & 7])
    if mod == 1:
        return out + bytes([m.disp & 0xFF])
    return out + _I32.pack(m.disp) if mod else out


def lea(dst: int, m: Mem, w: bool = True) -> bytes:
    """dst = the address; without w its low half."""
    return at(b"\x8d", dst, m, w)


def vex(
    pp: int, opmap: int, opcode: int, reg: int, vvvv: int, rm: int, w: bool, imm: bytes = b""
) -> bytes:
    """An instruction of BMI2 on registers. pp: 0 none, 1 66, 2 F3, 3 F2; opmap: 2 0F38, 3 0F3A."""
    second = (reg < 8) << 7 | 1 << 6 | (rm < 8) << 5 | opmap
    third = w << 7 | (~vvvv & 15) << 3 | pp
    return bytes([0xC4, second, third, opcode, 0xC0 | (reg & 7) << 3 | rm & 7]) + imm


_BMI_SHIFTS = {4: 1, 5: 3, 7: 2}  # pp of shlx, shrx, sarx


def shift_by(kind: int, dst: int, src: int, count: int, w: bool) -> bytes:
    """dst = src shifted by a register, modulo the width: shlx, shrx, sarx (BMI2)."""
    return vex(_BMI_SHIFTS[kind], 2, 0xF7, dst, count, src, w)


def mulx(high: int, low: int, src: int, w: bool) -> bytes:
    """high:low = rdx * src, unsigned (BMI2)."""
    return vex(3, 2, 0xF6, high, low, src, w)


def rorx(dst: int, src: int, count: int, w: bool) -> bytes:
    """dst = src rotated to the right (BMI2)."""
    return vex(3, 3, 0xF0, dst, 0, src, w, bytes([count]))


def cmov(condition: int, dst: int, src: int, w: bool) -> bytes:
    return rr(bytes([0x0F, 0x40 | condition]), dst, src, w)


def alu(op: tuple[int, int], dst: int, src: int, w: bool) -> bytes:
    """op dst, src."""
    return rr(bytes([op[0]]), src, dst, w)


def alu_imm(op: tuple[int, int], dst: int, value: int, w: bool) -> bytes:
    """op dst, sign-extended 32-bit value."""
    if -128 <= value < 128:
        return rr(b"\x83", op[1], dst, w) + bytes([value & 0xFF])
    return rr(b"\x81", op[1], dst, w) + imm32(value)


def mov(dst: int, src: int, w: bool = True) -> bytes:
    return rr(b"\x89", src, dst, w)


def mov_imm(dst: int, value: int, w: bool = True) -> bytes:
    """dst = a 64-bit value, in the shortest form; without w its low half."""
    value &= 0xFFFFFFFFFFFFFFFF if w else 0xFFFFFFFF
    if value == 0:
        return alu(XOR, dst, dst, False)
    if value <= 0xFFFFFFFF:
        return _rex(False, 0, dst) + bytes([0xB8 | dst & 7]) + imm32(value)
    if value >= 0xFFFFFFFF80000000:
        return rr(b"\xc7", 0, dst, True) + imm32(value)
    return movabs(dst, value)


def movabs(dst: int, value: int) -> bytes:
    """dst = value, always with 8 bytes of immediate, the last of the instruction."""
    return _rex(True, 0, dst) + bytes([0xB8 | dst & 7]) + value.to_bytes(8, "little")


def shift(kind: int, dst: int, count: int, w: bool) -> bytes:
    """Shift or rotate by an immediate."""
    return rr(b"\xc1", kind, dst, w) + bytes([count])


def shift_cl(kind: int, dst: int, w: bool) -> bytes:
    """Shift by cl, which counts modulo the width."""
    return rr(b"\xd3", kind, dst, w)


def push(reg: int) -> bytes:
    return _rex(False, 0, reg) + bytes([0x50 | reg & 7])


def pop(reg: int) -> bytes:
    return _rex(False, 0, reg) + bytes([0x58 | reg & 7])


def bswap(reg: int, w: bool) -> bytes:
    return _rex(w, 0, reg) + bytes([0x0F, 0xC8 | reg & 7])


def call_reg(reg: int) -> bytes:
    return rr(b"\xff", 2, reg, False)


def jmp_reg(reg: int) -> bytes:
    return rr(b"\xff", 4, reg, False)
