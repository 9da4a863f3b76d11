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
_ROUNDS_AT = _SLOTS_AT - 8  # of the loop that runs
STACK_DEPTH = -_ROUNDS_AT

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

    for_kernel: with what keeps Linux 6.18's bugs away, and changes nothing."""
    body, callee = _body(rng, length, calls=True), _body(rng, length // 4, calls=False)
    if for_kernel:
        for group in body + callee:
            _around_bugs(group)
    main = [*_prologue(), *_place(body), *_epilogue()]
    called = [*_function_prologue(), *_place(callee), Insn(0x95, 0, 0, 0, 0)]
    for at, insn in enumerate(main):
        if insn.code == op.JMP | op.CALL:
            insn.imm = len(main) - at - 1
    return encode(main + called), (0, len(main))


def _around_bugs(group: Group) -> None:
    """Linux 6.18 leaves the upper half of R0 as it was after a 32-bit compare-and-exchange (RFC
    9669 5.3: zero-extended) on x86-64 where its verifier overlooks a 64-bit read, as in the caller
    of a function that returns it. The verifier also takes for constants what atomics fetch from
    the stack, and for copies what was filled with its sign (verifier/test_scalar_bugs.py), and
    drops branches that runs take: so it shall know nothing of either."""
    last = group[-1]
    if last.code in (0xC3, 0xDB) and last.imm & op.FETCH:
        flip = _mem(0xC3, 8, 10, last.src, last.off & -8, op.XOR)
        group[:0] = [flip, flip]
    if last.code == 0xC3 and last.imm == op.CMPXCHG:
        group.append(Insn(op.ALU | op.MOV | 8, 0, 0, 0, 0))
    if last.klass == op.LDX and last.code & 0xE0 == op.MODE_MEMSX:
        group.append(Insn(op.ALU64 | op.OR, last.dst, 0, 0, 0))


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
    makers += [_sum] * 2 + [_extension, _rotation, _choice, _address, _indexed, _loop]
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


# what compilers make of common expressions, which a code generator may see as one


def _mov(klass: int, dst: int, src: int) -> Insn:
    return Insn(klass | op.MOV | 8, dst, src, 0, 0)


def _sum(rng: random.Random) -> Group:
    """Copies, sums and scaling, some of them of 32 bits."""
    regs = [_reg(rng) for _ in range(3)]
    out = []
    for _ in range(rng.randrange(2, 6)):
        klass, dst = rng.choice((op.ALU64, op.ALU64, op.ALU)), rng.choice(regs)
        kind = rng.choice((op.MOV, op.MOV, op.ADD, op.ADD, op.LSH, op.SUB, op.MUL))
        if kind == op.LSH:
            out.append(Insn(klass | kind, dst, 0, 0, rng.randrange(5)))
        elif kind == op.MUL:
            out.append(Insn(klass | kind, dst, 0, 0, rng.choice((0, 1, 2, 3, 5, 8, 9, 10, -1))))
        elif rng.random() < 0.3:
            out.append(Insn(klass | kind, dst, 0, 0, _imm(rng)))
        else:
            out.append(Insn(klass | kind | 8, dst, rng.choice(regs), 0, 0))
    return out


def _extension(rng: random.Random) -> Group:
    dst, count = _reg(rng), rng.choice((32, 32, 48, 56))
    back = count if rng.random() < 0.5 else rng.randrange(count - 8, 64)
    kind = rng.choice((op.RSH, op.ARSH))
    return [Insn(op.ALU64 | op.LSH, dst, 0, 0, count), Insn(op.ALU64 | kind, dst, 0, 0, back)]


def _rotation(rng: random.Random) -> Group:
    klass = rng.choice((op.ALU, op.ALU64))
    width, (a, b, value) = 32 if klass == op.ALU else 64, rng.sample(range(10), 3)
    count = rng.randrange(1, width)
    kinds = [op.LSH, op.RSH]
    rng.shuffle(kinds)
    if rng.random() < 0.5:
        value = b
    out = [_mov(klass, a, value), Insn(klass | kinds[0], a, 0, 0, count)]
    out += [_mov(klass, b, value)] if value != b else []
    out.append(Insn(klass | kinds[1], b, 0, 0, width - count))
    join = (a, b) if rng.random() < 0.5 else (b, a)
    out.append(Insn(klass | op.OR | 8, *join, 0, 0))
    if rng.random() < 0.8:
        out.append(Insn(op.ALU64 | op.MOV, join[1], 0, 0, _imm(rng)))
    return out


def _condition(rng: random.Random, over: int) -> Insn:
    klass, kind = rng.choice((op.JMP, op.JMP32)), rng.choice(_CONDITIONS)
    if rng.random() < 0.5:
        return Insn(klass | kind | 8, _reg(rng), _reg(rng), over, 0)
    return Insn(klass | kind, _reg(rng), 0, over, _imm(rng))


def _choice(rng: random.Random) -> Group:
    """One move under a condition."""
    klass, dst = rng.choice((op.ALU, op.ALU64)), _reg(rng)
    out = [Insn(op.ALU64 | op.MOV, dst, 0, 0, _imm(rng))] if rng.random() < 0.4 else []
    move = _mov(klass, dst, _reg(rng))
    if rng.random() < 0.5:
        move = Insn(klass | op.MOV, dst, 0, 0, _imm(rng))
    return [*out, _condition(rng, 1), move]


def _address(rng: random.Random) -> Group:
    """The stack by another register, which is then something else again."""
    pointer, value = rng.sample(range(10), 2)
    size, off = rng.choice((1, 2, 4, 8)), rng.randrange(-64, 64)
    at = _slot(rng, size) - off
    access = _mem(_LDX, size, value, pointer, off)
    if rng.random() < 0.5:
        access = _mem(_STX, size, pointer, value, off)
    return [_mov(op.ALU64, pointer, 10), Insn(op.ALU64 | op.ADD, pointer, 0, 0, at), access,
            Insn(op.ALU64 | op.MOV, pointer, 0, 0, _imm(rng))]


def _indexed(rng: random.Random) -> Group:
    """A slot by its number."""
    pointer, number, value = rng.sample(range(10), 3)
    return [Insn(op.ALU64 | op.AND, number, 0, 0, SLOTS - 1),
            Insn(op.ALU64 | op.LSH, number, 0, 0, 3), _mov(op.ALU64, pointer, 10),
            Insn(op.ALU64 | op.ADD | 8, pointer, number, 0, 0),
            _mem(_LDX, 8, value, pointer, _SLOTS_AT),
            Insn(op.ALU64 | op.MOV, pointer, 0, 0, _imm(rng))]


def _loop(rng: random.Random) -> Group:
    """A few rounds over arithmetic, ended in one of two ways."""
    makers, rounds = (_alu, _sum, _extension, _rotation, _choice), rng.randrange(1, 4)
    body = [i for _ in range(rng.randrange(1, 5)) for i in rng.choice(makers)(rng)]
    left = _reg(rng)
    body += [_mem(_LDX, 8, left, 10, _ROUNDS_AT), Insn(op.ALU64 | op.ADD, left, 0, 0, -1),
             _mem(_STX, 8, 10, left, _ROUNDS_AT)]
    if rng.random() < 0.5:
        ends = [Insn(op.JMP | op.JNE, left, 0, -len(body) - 1, 0)]
    else:
        ends = [Insn(op.JMP | op.JEQ, left, 0, 1, 0), Insn(op.JMP, 0, 0, -len(body) - 2, 0)]
    return [_mem(_ST, 8, 10, 0, _ROUNDS_AT, rounds), *body, *ends,
            Insn(op.ALU64 | op.MOV, left, 0, 0, _imm(rng))]


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
