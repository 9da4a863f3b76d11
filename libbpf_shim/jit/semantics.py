"""What each operation of an eBPF program gives, on integers: tables that the interpreter runs by.

Source: RFC 9669; Linux kernel/bpf/core.c for what the RFC leaves open (division, shift counts).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from libbpf_shim.isa import insn as op


def signed(value: int, bits: int) -> int:
    """The low bits of value as a two's complement integer."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _sdiv(a: int, b: int, bits: int) -> int:
    """Towards zero; by zero is 0; the least integer by -1 wraps to itself (the caller cuts)."""
    x, y = signed(a, bits), signed(b, bits)
    if y == 0:
        return 0
    quotient = abs(x) // abs(y)
    return quotient if (x < 0) == (y < 0) else -quotient


def _smod(a: int, b: int, bits: int) -> int:
    """The remainder has the dividend's sign; by zero it is the dividend."""
    x, y = signed(a, bits), signed(b, bits)
    if y == 0:
        return x
    remainder = abs(x) % abs(y)
    return -remainder if x < 0 else remainder


# (dst, src, width in bits) -> result, cut to the width by the caller; RFC 9669 4.1.
ALU: Final[dict[int, Callable[[int, int, int], int]]] = {
    op.ADD: lambda a, b, _: a + b,
    op.SUB: lambda a, b, _: a - b,
    op.MUL: lambda a, b, _: a * b,
    op.DIV: lambda a, b, _: a // b if b else 0,
    op.MOD: lambda a, b, _: a % b if b else a,
    op.OR: lambda a, b, _: a | b,
    op.AND: lambda a, b, _: a & b,
    op.XOR: lambda a, b, _: a ^ b,
    op.LSH: lambda a, b, bits: a << (b & (bits - 1)),
    op.RSH: lambda a, b, bits: a >> (b & (bits - 1)),
    op.ARSH: lambda a, b, bits: signed(a, bits) >> (b & (bits - 1)),
    op.NEG: lambda a, _b, _bits: -a,
    op.MOV: lambda _a, b, _bits: b,
}
ALU_SIGNED: Final = {op.DIV: _sdiv, op.MOD: _smod}  # with offset 1
MOVSX: Final = {
    op.ALU: (8, 16),
    op.ALU64: (8, 16, 32),
}  # offset of a sign-extending MOV: source bits

# (dst, src, width in bits) -> taken; RFC 9669 4.3.
JMP: Final[dict[int, Callable[[int, int, int], bool]]] = {
    op.JEQ: lambda a, b, _: a == b,
    op.JNE: lambda a, b, _: a != b,
    op.JGT: lambda a, b, _: a > b,
    op.JGE: lambda a, b, _: a >= b,
    op.JLT: lambda a, b, _: a < b,
    op.JLE: lambda a, b, _: a <= b,
    op.JSET: lambda a, b, _: bool(a & b),
    op.JSGT: lambda a, b, bits: signed(a, bits) > signed(b, bits),
    op.JSGE: lambda a, b, bits: signed(a, bits) >= signed(b, bits),
    op.JSLT: lambda a, b, bits: signed(a, bits) < signed(b, bits),
    op.JSLE: lambda a, b, bits: signed(a, bits) <= signed(b, bits),
}

# (old, operand) -> new; RFC 9669 5.3. Compare-and-exchange also needs R0 and stands apart.
ATOMIC: Final[dict[int, Callable[[int, int], int]]] = {
    op.ADD: lambda old, x: old + x,
    op.OR: lambda old, x: old | x,
    op.AND: lambda old, x: old & x,
    op.XOR: lambda old, x: old ^ x,
    op.XCHG & ~op.FETCH: lambda _old, x: x,
}
ATOMIC_IMMS: Final = frozenset(
    {a | f for a in (op.ADD, op.OR, op.AND, op.XOR) for f in (0, op.FETCH)} | {op.XCHG, op.CMPXCHG}
)


def swap(value: int, bits: int) -> int:
    """The low bits of value, in the other order of bytes."""
    size = bits // 8
    return int.from_bytes((value & ((1 << bits) - 1)).to_bytes(size, "little"), "big")
