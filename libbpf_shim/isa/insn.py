"""One eBPF instruction: decode and encode. Source: linux/bpf.h struct bpf_insn, RFC 9669 3."""

from __future__ import annotations

import struct
from typing import Final, final

# Instruction classes and modes (linux/bpf_common.h, linux/bpf.h), plain ints: hot modules use
# them.
LD: Final = 0
LDX: Final = 1
ST: Final = 2
STX: Final = 3
ALU: Final = 4
JMP: Final = 5
JMP32: Final = 6
ALU64: Final = 7

MODE_IMM: Final = 0x00
MODE_ABS: Final = 0x20
MODE_IND: Final = 0x40
MODE_MEM: Final = 0x60
MODE_MEMSX: Final = 0x80
MODE_ATOMIC: Final = 0xC0

ADD: Final = 0x00
SUB: Final = 0x10
MUL: Final = 0x20
DIV: Final = 0x30
OR: Final = 0x40
AND: Final = 0x50
LSH: Final = 0x60
RSH: Final = 0x70
NEG: Final = 0x80
MOD: Final = 0x90
XOR: Final = 0xA0
MOV: Final = 0xB0
ARSH: Final = 0xC0
END: Final = 0xD0

JA: Final = 0x00
JEQ: Final = 0x10
JGT: Final = 0x20
JGE: Final = 0x30
JSET: Final = 0x40
JNE: Final = 0x50
JSGT: Final = 0x60
JSGE: Final = 0x70
CALL: Final = 0x80
EXIT: Final = 0x90
JLT: Final = 0xA0
JLE: Final = 0xB0
JSLT: Final = 0xC0
JSLE: Final = 0xD0
JCOND: Final = 0xE0

FETCH: Final = 0x01
XCHG: Final = 0xE1
CMPXCHG: Final = 0xF1
# off of a MOV between 64-bit registers, and its imm
ADDR_SPACE_CAST: Final = 1
CAST_KERN: Final = 1  # from the user's address space
CAST_USER: Final = 1 << 16
LOAD_ACQ: Final = 0x100
STORE_REL: Final = 0x110

PSEUDO_MAP_FD: Final = 1
PSEUDO_MAP_VALUE: Final = 2
PSEUDO_BTF_ID: Final = 3
PSEUDO_FUNC: Final = 4
PSEUDO_MAP_IDX: Final = 5
PSEUDO_MAP_IDX_VALUE: Final = 6
PSEUDO_CALL: Final = 1
PSEUDO_KFUNC_CALL: Final = 2

LD_IMM64: Final = 0x18

_INSN = struct.Struct("<BBhi")
_SIZES = (4, 2, 1, 8)


@final
class Insn:
    """code: opcode byte; dst, src: registers; off: signed 16 bits; imm: signed 32 bits."""

    __slots__ = ("code", "dst", "src", "off", "imm")

    def __init__(self, code: int, dst: int, src: int, off: int, imm: int) -> None:
        self.code = code
        self.dst = dst
        self.src = src
        self.off = off
        self.imm = imm

    @property
    def klass(self) -> int:
        return self.code & 7

    @property
    def size(self) -> int:
        """Bytes that a load or store of this opcode moves: 1, 2, 4 or 8."""
        return _SIZES[(self.code >> 3) & 3]

    def encode(self) -> bytes:
        return _INSN.pack(self.code, self.dst | self.src << 4, self.off, self.imm)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Insn) and self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash(self.encode())

    def __repr__(self) -> str:
        return f"Insn({self.code:#04x}, {self.dst}, {self.src}, {self.off}, {self.imm})"


def decode(insns: bytes) -> list[Insn]:
    """All 8-byte slots, the second half of an ld_imm64 as a slot of its own with code 0.

    Raises ValueError if the length is not a multiple of 8."""
    if len(insns) % 8:
        raise ValueError(f"{len(insns)} bytes is no whole number of instructions")
    return [
        Insn(code, regs & 15, regs >> 4, off, imm)
        for code, regs, off, imm in _INSN.iter_unpack(insns)
    ]


def encode(insns: list[Insn]) -> bytes:
    """The bytes for BPF_PROG_LOAD."""
    return b"".join([i.encode() for i in insns])


def imm64(low: Insn, high: Insn) -> int:
    """The unsigned 64-bit constant of an ld_imm64 pair."""
    return (low.imm & 0xFFFFFFFF) | (high.imm & 0xFFFFFFFF) << 32
