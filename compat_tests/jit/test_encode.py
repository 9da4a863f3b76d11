"""Every form of the encoder, decoded back by capstone: mnemonic, operands, nothing left over."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import product

import capstone
import pytest

from libbpf_shim.jit import encode as x

# register, immediate, (base, displacement, size[, index, scale])
Operand = str | int | tuple[str, int, int] | tuple[str, int, int, str, int]

REGS = range(16)
NAMES = {
    8: "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(),
    4: "eax ecx edx ebx esp ebp esi edi r8d r9d r10d r11d r12d r13d r14d r15d".split(),
    2: "ax cx dx bx sp bp si di r8w r9w r10w r11w r12w r13w r14w r15w".split(),
    1: "al cl dl bl spl bpl sil dil r8b r9b r10b r11b r12b r13b r14b r15b".split(),
}
OPERATIONS = {"add": x.ADD, "or": x.OR, "and": x.AND, "sub": x.SUB, "xor": x.XOR, "cmp": x.CMP}
SHIFTS = {"ror": x.ROR, "shl": x.SHL, "shr": x.SHR, "sar": x.SAR}
DISPLACEMENTS = (0, 1, -1, 127, -128, 128, -129, 32767, -32768)
IMMEDIATES = (0, 1, -1, 127, -128, 128, -129, 2**31 - 1, -(2**31))
MASK = {8: 2**64 - 1, 4: 2**32 - 1}

Form = tuple[bytes, str, tuple[Operand, ...]]


def width(w: bool) -> int:
    return 8 if w else 4


@functools.cache
def disassembler() -> capstone.Cs:
    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    return engine


def decoded(code: bytes) -> tuple[str, tuple[Operand, ...]]:
    """The one instruction that code is; immediates unsigned, as wide as the destination."""
    from capstone import x86

    engine = disassembler()
    (found,) = engine.disasm(code, 0)
    assert found.size == len(code), f"{code.hex()}: {found.size} of {len(code)} bytes decoded"
    operands: list[Operand] = []
    for o in found.operands:
        if o.type == x86.X86_OP_REG:
            operands.append(found.reg_name(o.reg))
        elif o.type == x86.X86_OP_IMM:
            operands.append(o.imm & (1 << 8 * found.operands[0].size) - 1)
        else:
            base = found.reg_name(o.mem.base) if o.mem.base else ""
            where = (base, o.mem.disp, o.size)
            by = (found.reg_name(o.mem.index), o.mem.scale) if o.mem.index else ()
            operands.append((*where, *by))
    return found.mnemonic, tuple(operands)


def register_forms() -> Iterator[Form]:
    for (name, op), dst, src, w in product(OPERATIONS.items(), REGS, REGS, (True, False)):
        names = NAMES[width(w)]
        yield x.alu(op, dst, src, w), name, (names[dst], names[src])
    for dst, src, w in product(REGS, REGS, (True, False)):
        names = NAMES[width(w)]
        yield x.mov(dst, src, w), "mov", (names[dst], names[src])
        yield x.rr(b"\x0f\xaf", dst, src, w), "imul", (names[dst], names[src])
        yield x.rr(b"\x85", src, dst, w), "test", (names[dst], names[src])
        yield (x.rr(b"\x0f\xbe", dst, src, w, low_byte=True), "movsx",
               (names[dst], NAMES[1][src]))  # fmt: skip
        yield x.rr(b"\x0f\xbf", dst, src, w), "movsx", (names[dst], NAMES[2][src])


def immediate_forms() -> Iterator[Form]:
    for (name, op), dst, value, w in product(OPERATIONS.items(), REGS, IMMEDIATES, (True, False)):
        yield (x.alu_imm(op, dst, value, w), name,
               (NAMES[width(w)][dst], value & MASK[width(w)]))  # fmt: skip
    for (name, kind), dst, w in product(SHIFTS.items(), REGS, (True, False)):
        yield x.shift(kind, dst, 7, w), name, (NAMES[width(w)][dst], 7)
        yield x.shift_cl(kind, dst, w), name, (NAMES[width(w)][dst], "cl")


def memory_forms() -> Iterator[Form]:
    for reg, base, disp in product(REGS, REGS, DISPLACEMENTS):
        at = NAMES[8][base], disp
        yield x.mem(b"\x8b", reg, base, disp, True), "mov", (NAMES[8][reg], (*at, 8))
        yield x.mem(b"\x8b", reg, base, disp, False), "mov", (NAMES[4][reg], (*at, 4))
        yield x.mem(b"\x0f\xb6", reg, base, disp, False), "movzx", (NAMES[4][reg], (*at, 1))
        yield x.mem(b"\x63", reg, base, disp, True), "movsxd", (NAMES[8][reg], (*at, 4))
        yield (x.mem(b"\x88", reg, base, disp, False, low_byte=True), "mov",
               ((*at, 1), NAMES[1][reg]))  # fmt: skip
        yield x.mem(b"\x89", reg, base, disp, False, b"\x66"), "mov", ((*at, 2), NAMES[2][reg])
        yield (x.mem(b"\x0f\xc1", reg, base, disp, True, b"\xf0"), "lock xadd",
               ((*at, 8), NAMES[8][reg]))  # fmt: skip
        yield x.mem(b"\x8d", reg, base, disp, True), "lea", (NAMES[8][reg], (*at, 8))


def indexed_forms() -> Iterator[Form]:
    for reg, base, by in product((0, 4, 5, 7, 12), (-1, *REGS), REGS):
        if by == x.RSP:
            continue
        for disp, scale in product((0, -128, 128), (1, 4, 8)):
            m = x.Mem(base, disp, by, scale)
            where = NAMES[8][base] if base >= 0 else ""
            at = (where, disp, 8, NAMES[8][by], scale)
            yield x.at(b"\x8b", reg, m, True), "mov", (NAMES[8][reg], at)
            if scale == 4:
                yield x.lea(reg, m), "lea", (NAMES[8][reg], at)
                low = (where, disp, 1, NAMES[8][by], scale)
                yield x.at(b"\x88", reg, m, False, low_byte=True), "mov", (low, NAMES[1][reg])
                half = (where, disp, 2, NAMES[8][by], scale)
                yield x.at(b"\x89", reg, m, False, b"\x66"), "mov", (half, NAMES[2][reg])


def bmi_forms() -> Iterator[Form]:
    for dst, src, other, w in product(REGS, REGS, (1, 12), (True, False)):
        names = NAMES[width(w)]
        for name, kind in (("shlx", x.SHL), ("shrx", x.SHR), ("sarx", x.SAR)):
            yield (x.shift_by(kind, dst, src, other, w), name,
                   (names[dst], names[src], names[other]))  # fmt: skip
        yield x.mulx(dst, other, src, w), "mulx", (names[dst], names[other], names[src])
        yield x.rorx(dst, src, other, w), "rorx", (names[dst], names[src], other)
        yield x.cmov(5, dst, src, w), "cmovne", (names[dst], names[src])


def single_forms() -> Iterator[Form]:
    for reg in REGS:
        yield x.push(reg), "push", (NAMES[8][reg],)
        yield x.pop(reg), "pop", (NAMES[8][reg],)
        yield x.call_reg(reg), "call", (NAMES[8][reg],)
        yield x.jmp_reg(reg), "jmp", (NAMES[8][reg],)
        for w in (True, False):
            yield x.bswap(reg, w), "bswap", (NAMES[width(w)][reg],)


@pytest.mark.parametrize(
    "forms",
    [register_forms, immediate_forms, memory_forms, indexed_forms, bmi_forms, single_forms],
    ids=lambda f: f.__name__,
)
def test_every_form_decodes_to_what_was_asked(forms: Callable[[], Iterator[Form]]) -> None:
    wrong = [
        f"{code.hex()}: {decoded(code)}, expected {name} {operands}"
        for code, name, operands in forms() if decoded(code) != (name, operands)
    ]  # fmt: skip
    assert not wrong


def test_a_constant_is_loaded_in_the_shortest_form() -> None:
    sizes = {0: 2, 1: 5, 2**32 - 1: 5, 2**32: 10, -1: 7, -(2**31): 7, -(2**31) - 1: 10, 2**63: 10}
    for value, size in sizes.items():
        code = x.mov_imm(x.RAX, value)
        mnemonic, operands = decoded(code)
        assert len(code) == size
        assert mnemonic == ("xor" if value == 0 else "movabs" if size == 10 else "mov")
        if value:
            assert int(str(operands[1])) & MASK[8] == value & MASK[8]
            assert operands[0] == ("eax" if size == 5 else "rax")


@pytest.mark.parametrize("value", [0, 1, -1, 2**31, 2**32 - 1, 2**40])
def test_a_32_bit_constant_clears_the_upper_half(value: int) -> None:
    for reg in REGS:
        mnemonic, operands = decoded(x.mov_imm(reg, value, False))
        assert operands[0] == NAMES[4][reg]
        low = 0 if mnemonic == "xor" else int(str(operands[1])) & MASK[4]
        assert low == value & MASK[4]
