"""Random programs that any correct runtime runs alike, and the kernel's verifier accepts.

A program gets LAYOUT_BYTES of memory in R1: ten registers and eight stack slots to start with. It
goes
through arithmetic, loads, stores, atomics, forward jumps and calls of one function over these, and
writes all of them back. No address gets into what it computes.
"""

from __future__ import annotations

import random
import struct

from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op

SLOTS = 8
REGS_BYTES = 80
LAYOUT_BYTES = REGS_BYTES + 8 * SLOTS
_CTX_AT, _SAVE_AT = -8, -16  # stack of main: the memory's address; a register on its way out
_SLOTS_AT = -16 - 8 * SLOTS
STACK_DEPTH = -_SLOTS_AT

_LDX, _STX, _ST = 0x61, 0x63, 0x62  # 4 bytes; other sizes differ in two bits
_SIZE_BITS = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}
_EDGES = (
    0,
    1,
    2,
    7,
    31,
    32,
    63,
    64,
    127,
    128,
    255,
    0x7FFF,
    0x8000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    0x100000000,
    2**63 - 1,
    2**63,
    2**63 + 1,
    2**64 - 1,
    2**64 - 128,
)
_BINARY = (
    op.ADD,
    op.SUB,
    op.MUL,
    op.DIV,
    op.OR,
    op.AND,
    op.LSH,
    op.RSH,
    op.MOD,
    op.XOR,
    op.MOV,
    op.ARSH,
)
_CONDITIONS = (
    op.JEQ,
    op.JGT,
    op.JGE,
    op.JSET,
    op.JNE,
    op.JSGT,
    op.JSGE,
    op.JLT,
    op.JLE,
    op.JSLT,
    op.JSLE,
)
_ATOMICS = (
    op.ADD,
    op.OR,
    op.AND,
    op.XOR,
    op.ADD | 1,
    op.OR | 1,
    op.AND | 1,
    op.XOR | 1,
    op.XCHG,
    op.CMPXCHG,
)

Group = list[Insn]


def memory(rng: random.Random) -> bytes:
    """What R1 points to: as many edge values as random ones."""
    count = LAYOUT_BYTES // 8
    words = [
        rng.choice(_EDGES) if rng.random() < 0.5 else rng.getrandbits(64) for _ in range(count)
    ]
    return struct.pack(f"<{count}Q", *words)


def program(
    rng: random.Random, length: int, for_kernel: bool = False
) -> tuple[bytes, tuple[int, ...]]:
    """A program with about length instructions between prologue and epilogue, and its functions.

    for_kernel: clear the upper half of R0 after each 32-bit compare-and-exchange. Linux 6.18 on
    x86-64
    leaves it as it was (RFC 9669 5.3: zero-extended) where its verifier overlooks a 64-bit read,
    as in
    the caller of a function that returns it."""
    body, callee = _body(rng, length, calls=True), _body(rng, length // 4, calls=False)
    if for_kernel:
        for group in body + callee:
            if group[-1].code == 0xC3 and group[-1].imm == op.CMPXCHG:
                group.append(Insn(op.ALU | op.MOV | 8, 0, 0, 0, 0))
    main = [*_prologue(), *_place(body), *_epilogue()]
    called = [*_function_prologue(), *_place(callee), Insn(0x95, 0, 0, 0, 0)]
    for at, insn in enumerate(main):
        if insn.code == op.JMP | op.CALL:
            insn.imm = len(main) - at - 1
    return encode(main + called), (0, len(main))


def _mem(code: int, size: int, dst: int, src: int, off: int, imm: int = 0) -> Insn:
    return Insn(code | _SIZE_BITS[size], dst, src, off, imm)


def _prologue() -> Group:
    out = [_mem(_STX, 8, 10, 1, _CTX_AT)]
    for slot in range(SLOTS):
        out.append(_mem(_LDX, 8, 0, 1, REGS_BYTES + 8 * slot))
        out.append(_mem(_STX, 8, 10, 0, _SLOTS_AT + 8 * slot))
    return out + [_mem(_LDX, 8, reg, 1, 8 * reg) for reg in (0, 2, 3, 4, 5, 6, 7, 8, 9, 1)]


def _epilogue() -> Group:
    out = [_mem(_STX, 8, 10, 1, _SAVE_AT), _mem(_LDX, 8, 1, 10, _CTX_AT)]
    out += [_mem(_STX, 8, 1, reg, 8 * reg) for reg in (0, 2, 3, 4, 5, 6, 7, 8, 9)]
    out += [_mem(_LDX, 8, 2, 10, _SAVE_AT), _mem(_STX, 8, 1, 2, 8)]
    for slot in range(SLOTS):
        out.append(_mem(_LDX, 8, 2, 10, _SLOTS_AT + 8 * slot))
        out.append(_mem(_STX, 8, 1, 2, REGS_BYTES + 8 * slot))
    return [*out, Insn(0x95, 0, 0, 0, 0)]


def _function_prologue() -> Group:
    """R1 to R5 are arguments; the other registers and the slots come from them."""
    out = [Insn(0xBF, reg, 1 + reg % 5, 0, 0) for reg in (0, 6, 7, 8, 9)]
    return out + [_mem(_STX, 8, 10, 1 + slot % 5, _SLOTS_AT + 8 * slot) for slot in range(SLOTS)]


def _body(rng: random.Random, length: int, calls: bool) -> list[Group]:
    makers = [_alu] * 10 + [_unary] * 3 + [_constant] + [_load] * 2 + [_store] * 2 + [_atomic] * 2
    out = [rng.choice(makers)(rng) for _ in range(length)]
    for _ in range(min(6, length // 5)):
        out.insert(rng.randrange(len(out)), _jump(rng))
    if calls:
        reload = [_mem(_LDX, 8, reg, 10, _SLOTS_AT + 8 * reg) for reg in range(1, 6)]
        out.insert(
            rng.randrange(len(out)), [Insn(op.JMP | op.CALL, 0, op.PSEUDO_CALL, 0, 0), *reload]
        )
    return out


def _place(groups: list[Group]) -> Group:
    """The groups in a row; a jump over N groups becomes one over their slots."""
    starts = [0]
    for group in groups:
        starts.append(starts[-1] + len(group))
    for at, group in enumerate(groups):
        last = group[-1]
        if last.klass not in (op.JMP, op.JMP32):
            continue
        long = last.code == op.JMP32 | op.JA
        over = last.imm if long else last.off
        distance = starts[min(at + 1 + over, len(groups))] - starts[at + 1]
        if long:
            last.imm = distance
        else:
            last.off = distance
    return [insn for group in groups for insn in group]


def _imm(rng: random.Random) -> int:
    value = rng.choice(_EDGES) if rng.random() < 0.6 else rng.getrandbits(rng.choice((7, 16, 32)))
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _reg(rng: random.Random) -> int:
    return rng.randrange(10)


def _alu(rng: random.Random) -> Group:
    kind, klass, dst = rng.choice(_BINARY), rng.choice((op.ALU, op.ALU64)), _reg(rng)
    off = rng.choice((0, 1)) if kind in (op.DIV, op.MOD) else 0
    if rng.random() < 0.6:
        if kind == op.MOV:
            off = rng.choice((0, 8, 16, 32) if klass == op.ALU64 else (0, 8, 16))
        return [Insn(klass | kind | 8, dst, _reg(rng), off, 0)]
    imm = _imm(rng)
    if kind in (op.LSH, op.RSH, op.ARSH):
        imm &= 63 if klass == op.ALU64 else 31
    if kind in (op.DIV, op.MOD):
        imm = imm or 3
    return [Insn(klass | kind, dst, 0, off, imm)]


def _unary(rng: random.Random) -> Group:
    code = rng.choice((0x84, 0x87, 0xD4, 0xDC, 0xD7))
    return [Insn(code, _reg(rng), 0, 0, rng.choice((16, 32, 64)) if code & 0xF0 == op.END else 0)]


def _constant(rng: random.Random) -> Group:
    value = rng.choice(_EDGES) if rng.random() < 0.5 else rng.getrandbits(64)
    low, high = struct.unpack("<ii", struct.pack("<Q", value))
    return [Insn(op.LD_IMM64, _reg(rng), 0, 0, low), Insn(0, 0, 0, 0, high)]


def _slot(rng: random.Random, size: int) -> int:
    return _SLOTS_AT + size * rng.randrange(8 * SLOTS // size)


def _load(rng: random.Random) -> Group:
    size = rng.choice((1, 2, 4, 8))
    code = 0x81 if size < 8 and rng.random() < 0.5 else _LDX
    return [_mem(code, size, _reg(rng), 10, _slot(rng, size))]


def _store(rng: random.Random) -> Group:
    size = rng.choice((1, 2, 4, 8))
    if rng.random() < 0.3:
        return [_mem(_ST, size, 10, 0, _slot(rng, size), _imm(rng))]
    return [_mem(_STX, size, 10, _reg(rng), _slot(rng, size))]


def _atomic(rng: random.Random) -> Group:
    size = rng.choice((4, 8))
    return [_mem(0xC3, size, 10, _reg(rng), _slot(rng, size), rng.choice(_ATOMICS))]


def _jump(rng: random.Random) -> Group:
    """A condition over the next groups, or one that skips a plain jump over them."""
    klass, over = rng.choice((op.JMP, op.JMP32)), rng.randrange(1, 12)
    kind = rng.choice(_CONDITIONS)
    if rng.random() < 0.6:
        condition = Insn(klass | kind | 8, _reg(rng), _reg(rng), over, 0)
    else:
        condition = Insn(klass | kind, _reg(rng), 0, over, _imm(rng))
    if rng.random() < 0.7:
        return [condition]
    condition.off = 1
    if rng.random() < 0.5:
        return [condition, Insn(op.JMP | op.JA, 0, 0, over, 0)]
    return [condition, Insn(op.JMP32 | op.JA, 0, 0, 0, over)]
