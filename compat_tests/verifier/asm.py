"""Programs written as the kernel's log prints them: `r1 = *(u32 *)(r6 + 4); if r1 > 7 goto out`.

Statements stand between semicolons or line ends; `name:` is a label for `goto name`, `call name`
(a function) and `r2 = func name`. `r1 = map 0` and `r1 = value 0 + 8` are maps by index;
`r0 = reserve 16` and the like are written out by the tests that need them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from libbpf_shim.isa import Insn
from libbpf_shim.isa import insn as op

_ALU = {
    "": op.MOV, "+": op.ADD, "-": op.SUB, "*": op.MUL, "/": op.DIV, "|": op.OR, "&": op.AND,
    "<<": op.LSH, ">>": op.RSH, "%": op.MOD, "^": op.XOR, "s>>": op.ARSH, "s/": op.DIV,
    "s%": op.MOD,
}  # fmt: skip
_JMP = {
    "==": op.JEQ, "!=": op.JNE, ">": op.JGT, ">=": op.JGE, "<": op.JLT, "<=": op.JLE,
    "&": op.JSET, "s>": op.JSGT, "s>=": op.JSGE, "s<": op.JSLT, "s<=": op.JSLE,
}  # fmt: skip
_FETCH = {"add": 1, "or": 0x41, "and": 0x51, "xor": 0xA1, "xchg": op.XCHG, "cmpxchg": op.CMPXCHG}
_SIZE = {"8": 0x10, "16": 0x08, "32": 0x00, "64": 0x18}
_NUMBER = r"-?(?:0x[0-9a-f]+|\d+)"
_AT = r"\(r(\d+) ?(?:([+-]) ?(\d+))?\)"
Match = re.Match[str]
Labels = list[tuple[int, str, str]]  # slot, label, which field


def _number(text: str) -> int:
    value = int(text, 0)
    return value - (1 << 32) if value >> 31 == 1 else value


def _off(sign: str | None, digits: str | None) -> int:
    return (-1 if sign == "-" else 1) * int(digits or 0)


def _load(m: Match) -> list[Insn]:
    mode = 0x81 if m[2] == "s" else 0x61
    return [Insn(mode | _SIZE[m[3]], int(m[1]), int(m[4]), _off(m[5], m[6]), 0)]


def _store(m: Match) -> list[Insn]:
    size, dst, off = _SIZE[m[1]], int(m[2]), _off(m[3], m[4])
    if m[5].startswith("r"):
        return [Insn(0x63 | size, dst, int(m[5][1:]), off, 0)]
    return [Insn(0x62 | size, dst, 0, off, _number(m[5]))]


def _fetch(m: Match) -> list[Insn]:
    """r1 = xchg(u64, r6 + 8, r1)."""
    return [Insn(0xC3 | _SIZE[m[3]], int(m[4]), int(m[7]), _off(m[5], m[6]), _FETCH[m[2]])]


def _atomic(m: Match) -> list[Insn]:
    kind = {"+": op.ADD, "|": op.OR, "&": op.AND, "^": op.XOR}[m[5]]
    return [Insn(0xC3 | _SIZE[m[1]], int(m[2]), int(m[6]), _off(m[3], m[4]), kind)]


def _alu(m: Match) -> list[Insn]:
    klass = op.ALU64 if m[1] == "r" else op.ALU
    off = 1 if m[3] in ("s/", "s%") else 0
    if m[4].startswith(m[1]):
        return [Insn(klass | _ALU[m[3]] | 8, int(m[2]), int(m[4][1:]), off, 0)]
    return [Insn(klass | _ALU[m[3]], int(m[2]), 0, off, _number(m[4]))]


def _wide(m: Match) -> list[Insn]:
    low, high = struct.unpack("<ii", struct.pack("<Q", int(m[2], 0) & (1 << 64) - 1))
    return [Insn(op.LD_IMM64, int(m[1]), 0, 0, low), Insn(0, 0, 0, 0, high)]


def _map(m: Match) -> list[Insn]:
    return [Insn(op.LD_IMM64, int(m[1]), op.PSEUDO_MAP_FD, 0, int(m[2])), Insn(0, 0, 0, 0, 0)]


def _value(m: Match) -> list[Insn]:
    return [Insn(op.LD_IMM64, int(m[1]), op.PSEUDO_MAP_VALUE, 0, int(m[2])),
            Insn(0, 0, 0, 0, int(m[3] or 0))]


def _packet(m: Match) -> list[Insn]:
    return [Insn(0x20 | {"8": 0x10, "16": 8, "32": 0}[m[1]], 0, 0, 0, int(m[2]))]


_RULES: tuple[tuple[str, Callable[[Match], list[Insn]]], ...] = (
    (r"exit", lambda _: [Insn(op.JMP | op.EXIT, 0, 0, 0, 0)]),
    (r"call (\d+)", lambda m: [Insn(op.JMP | op.CALL, 0, 0, 0, int(m[1]))]),
    (r"r(\d+) = map (\d+)", _map),
    (r"r(\d+) = value (\d+)(?: \+ (\d+))?", _value),
    (rf"r(\d+) = ({_NUMBER}) ll", _wide),
    (r"r0 = \*\(u(\d+) \*\)skb\[(\d+)\]", _packet),
    (rf"r(\d+) = \*\(([us])(\d+) \*\){_AT}", _load),
    (rf"\*\(u(\d+) \*\){_AT} = (r\d+|{_NUMBER})", _store),
    (rf"lock \*\(u(\d+) \*\){_AT} ([-+|&^])= r(\d+)", _atomic),
    (r"r(\d+) = (\w+)\(u(\d+), r(\d+) ?(?:([+-]) ?(\d+))?, r(\d+)\)", _fetch),
    (r"r(\d+) = -r\1", lambda m: [Insn(0x87, int(m[1]), 0, 0, 0)]),
    (rf"([rw])(\d+) (s?[-+*/|&<>%^]*)= ([rw]\d+|{_NUMBER})", _alu),
)  # fmt: skip


def assemble(text: str) -> list[Insn]:
    out: list[Insn] = []
    labels: dict[str, int] = {}
    wanted: Labels = []
    for line in re.split(r"[;\n]", text):
        words = line.strip()
        while found := re.match(r"(\w+):\s*", words):
            labels[found[1]] = len(out)
            words = words[found.end() :]
        if words:
            out += _statement(words, len(out), wanted)
    for at, label, where in wanted:
        distance = labels[label] - at - 1
        if where == "off":
            out[at].off = distance
        else:
            out[at].imm = distance
    return out


def _statement(words: str, at: int, wanted: Labels) -> list[Insn]:
    for rule, make in _RULES:
        if found := re.fullmatch(rule, words):
            return make(found)
    if found := re.fullmatch(rf"if ([rw])(\d+) (\S+) ([rw]\d+|{_NUMBER}) goto (\w+)", words):
        wanted.append((at, found[5], "off"))
        klass = op.JMP if found[1] == "r" else op.JMP32
        if found[4].startswith(found[1]):
            return [Insn(klass | _JMP[found[3]] | 8, int(found[2]), int(found[4][1:]), 0, 0)]
        return [Insn(klass | _JMP[found[3]], int(found[2]), 0, 0, _number(found[4]))]
    if found := re.fullmatch(r"(may_)?goto (\w+)", words):
        wanted.append((at, found[2], "off"))
        return [Insn(op.JMP | (op.JCOND if found[1] else op.JA), 0, 0, 0, 0)]
    if found := re.fullmatch(r"call (\w+)", words):
        wanted.append((at, found[1], "imm"))
        return [Insn(op.JMP | op.CALL, 0, op.PSEUDO_CALL, 0, 0)]
    if found := re.fullmatch(r"r(\d+) = func (\w+)", words):
        wanted.append((at, found[2], "imm"))
        return [Insn(op.LD_IMM64, int(found[1]), op.PSEUDO_FUNC, 0, 0), Insn(0, 0, 0, 0, 0)]
    raise ValueError(f"not a statement: {words!r}")
