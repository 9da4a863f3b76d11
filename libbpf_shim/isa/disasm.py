"""The kernel's notation of an instruction, as in its verifier log: ``(bf) r6 = r1``.

What it models: the text after ``N: `` of log level 1 and 2, with helper names. Source: the
notation printed by Linux 6.18 (kernel/bpf/disasm.c), observed in its logs.
"""

from __future__ import annotations

from collections.abc import Callable

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn

_ALU = {
    op.ADD: "+=", op.SUB: "-=", op.MUL: "*=", op.DIV: "/=", op.OR: "|=", op.AND: "&=",
    op.LSH: "<<=", op.RSH: ">>=", op.MOD: "%=", op.XOR: "^=", op.MOV: "=", op.ARSH: "s>>=",
}
_ALU_SIGNED = {op.DIV: "s/=", op.MOD: "s%="}
_JMP = {
    op.JEQ: "==", op.JGT: ">", op.JGE: ">=", op.JSET: "&", op.JNE: "!=", op.JSGT: "s>",
    op.JSGE: "s>=", op.JLT: "<", op.JLE: "<=", op.JSLT: "s<", op.JSLE: "s<=",
}
_WIDTH = {1: "u8", 2: "u16", 4: "u32", 8: "u64"}
_ATOMIC = {op.ADD: "+=", op.AND: "&=", op.OR: "|=", op.XOR: "^="}
_FETCH = {op.ADD: "add", op.AND: "and", op.OR: "or", op.XOR: "xor"}


def disassemble(insns: list[Insn], index: int, helper_name: Callable[[int], str]) -> str:
    """Text of slot index; helper_name maps a helper's number to bpf_NAME."""
    i = insns[index]
    body = _LINE[i.klass](i, insns, index, helper_name)
    return f"({i.code:02x}) {body}"


def _alu(i: Insn, _all: list[Insn], _at: int, _name: Callable[[int], str]) -> str:
    letter = "r" if i.klass == op.ALU64 else "w"
    kind = i.code & 0xF0
    if kind == op.END:
        if i.klass == op.ALU64:
            return f"r{i.dst} = bswap{i.imm} r{i.dst}"
        return f"r{i.dst} = {'be' if i.code & 8 else 'le'}{i.imm} r{i.dst}"
    if kind == op.NEG:
        return f"{letter}{i.dst} = -{letter}{i.dst}"
    if kind == op.MOV and i.code & 8 and i.off:
        return f"{letter}{i.dst} = (s{i.off}){letter}{i.src}"
    sign = _ALU_SIGNED[kind] if i.off == 1 and kind in _ALU_SIGNED else _ALU.get(kind)
    if sign is None:
        return f"unknown opcode {i.code:02x}"
    right = f"{letter}{i.src}" if i.code & 8 else str(i.imm)
    return f"{letter}{i.dst} {sign} {right}"


def _jmp(i: Insn, _all: list[Insn], _at: int, name: Callable[[int], str]) -> str:
    kind = i.code & 0xF0
    if kind == op.CALL:
        if i.src == op.PSEUDO_CALL:
            return f"call pc{i.imm:+d}"
        if i.src == op.PSEUDO_KFUNC_CALL:
            return f"call kernel-function#{i.imm}"
        return f"call {name(i.imm)}#{i.imm}"
    if kind == op.EXIT:
        return "exit"
    if kind == op.JA:
        return f"goto pc{i.off:+d}" if i.klass == op.JMP else f"gotol pc{i.imm:+d}"
    if kind == op.JCOND:
        return f"may_goto pc{i.off:+d}"
    sign = _JMP.get(kind)
    if sign is None:
        return f"unknown opcode {i.code:02x}"
    letter = "r" if i.klass == op.JMP else "w"
    right = f"{letter}{i.src}" if i.code & 8 else f"0x{i.imm & 0xFFFFFFFF:x}"
    return f"if {letter}{i.dst} {sign} {right} goto pc{i.off:+d}"


def _ldx(i: Insn, _all: list[Insn], _at: int, _name: Callable[[int], str]) -> str:
    width = _WIDTH[i.size]
    if i.code & 0xE0 == op.MODE_MEMSX:
        width = "s" + width[1:]
    return f"r{i.dst} = *({width} *)(r{i.src} {i.off:+d})"


def _st(i: Insn, _all: list[Insn], _at: int, _name: Callable[[int], str]) -> str:
    return f"*({_WIDTH[i.size]} *)(r{i.dst} {i.off:+d}) = {i.imm}"


def _stx(i: Insn, _all: list[Insn], _at: int, _name: Callable[[int], str]) -> str:
    place = f"({_WIDTH[i.size]} *)(r{i.dst} {i.off:+d})"
    if i.code & 0xE0 != op.MODE_ATOMIC:
        return f"*{place} = r{i.src}"
    wide = "64" if i.size == 8 else ""
    if i.imm in _ATOMIC:
        return f"lock *{place} {_ATOMIC[i.imm]} r{i.src}"
    if i.imm & ~op.FETCH in _FETCH and i.imm & op.FETCH and i.imm not in (op.XCHG, op.CMPXCHG):
        return f"r{i.src} = atomic{wide}_fetch_{_FETCH[i.imm & ~op.FETCH]}({place}, r{i.src})"
    if i.imm == op.CMPXCHG:
        return f"r0 = atomic{wide}_cmpxchg({place}, r0, r{i.src})"
    if i.imm == op.XCHG:
        return f"r{i.src} = atomic{wide}_xchg({place}, r{i.src})"
    if i.imm == op.LOAD_ACQ:
        return f"r{i.dst} = load_acquire(({_WIDTH[i.size]} *)(r{i.src} {i.off:+d}))"
    if i.imm == op.STORE_REL:
        return f"store_release({place}, r{i.src})"
    return f"BUG_{i.code:02x}"


def _ld(i: Insn, insns: list[Insn], at: int, _name: Callable[[int], str]) -> str:
    if i.code == op.LD_IMM64 and at + 1 < len(insns):
        value = op.imm64(i, insns[at + 1])
        if i.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_VALUE):
            value = 0  # the kernel never shows an address to who may not see it
        return f"r{i.dst} = 0x{value:x}"
    mode = i.code & 0xE0
    if mode == op.MODE_ABS:
        return f"r0 = *({_WIDTH[i.size]} *)skb[{i.imm}]"
    if mode == op.MODE_IND:
        return f"r0 = *({_WIDTH[i.size]} *)skb[r{i.src} + {i.imm}]"
    return f"BUG_ld_{i.code:02x}"


_LINE = {
    op.LD: _ld, op.LDX: _ldx, op.ST: _st, op.STX: _stx,
    op.ALU: _alu, op.ALU64: _alu, op.JMP: _jmp, op.JMP32: _jmp,
}
