"""The instruction set: 8-byte instructions and their text."""

from __future__ import annotations

from libbpf_shim.isa.disasm import disassemble
from libbpf_shim.isa.insn import Insn, decode, encode, imm64

__all__ = ["Insn", "decode", "disassemble", "encode", "imm64"]
