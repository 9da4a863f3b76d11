"""Random programs with a function: called, or called back by bpf_loop or bpf_for_each_map_elem.

What the function does to the stack that it is given, and what it returns, may decide where the
program reads afterwards: a test of widening, precision and returns.
"""

from __future__ import annotations

import random
import struct

from compat_tests.verifier.fuzz import CALL, EXIT, insn
from compat_tests.verifier.fuzz_pointers import MAPS as MAPS
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import Writer

SCHED_CLS = 3
LOOP, EACH, CALLED = 181, 164, 0
FUNC = 4  # BPF_PSEUDO_FUNC
LD_IMM64 = 0x18
# Of the function: registers with numbers, and with addresses.
NUMBERS = {LOOP: [0, 1], EACH: [0, 5], CALLED: [0, 2]}
ADDRESSES = {LOOP: [2, 10], EACH: [10, 4, 3], CALLED: [1, 10]}
JUMPS = (0x25, 0x35, 0xA5, 0x15, 0x55, 0x65, 0xC5, 0xB5, 0x16, 0x26)


def infos(entry: int) -> tuple[bytes, bytes]:
    """BTF and func_info of the program and its static function."""
    out = Writer()
    long, ptr = out.integer("long", 8, 1), out.ref(kinds.PTR, 0)
    skb = out.ref(kinds.PTR, out.struct("__sk_buff", 8, [("a", long, 0)]))
    main = out.func("main", out.proto(long, [("ctx", skb)]), 0)
    function = out.func("function", out.proto(long, [("a", ptr), ("b", ptr)]), 0)
    return out.blob(), struct.pack("<IIII", 0, main, entry, function)


def body(rnd: random.Random, numbers: list[int], addresses: list[int], count: int) -> list[bytes]:
    """Arithmetic, comparisons, stores and loads."""
    code = []
    for _ in range(count):
        pick = rnd.random()
        r = rnd.choice(numbers)
        if pick < 0.25:
            code.append(insn(rnd.choice((0x07, 0x07, 0x57, 0x27)), r,
                             imm=rnd.choice((1, 2, 7, 8, -1, 16, 63))))  # fmt: skip
        elif pick < 0.35:
            code.append(insn(rnd.choice((0xBF, 0x0F, 0xBC)), r, rnd.choice(numbers + addresses)))
        elif pick < 0.6:
            code.append(insn(rnd.choice(JUMPS), r, 0, rnd.choice((1, 1, 2)),
                             rnd.choice((0, 1, 4, 8, 10, 100))))  # fmt: skip
        else:
            base = rnd.choice(addresses)
            off = rnd.choice((-8, -16, -24) if base == 10 else (-8, -16, 0, 8))
            if pick < 0.8:
                code.append(insn(rnd.choice((0x7B, 0x63, 0x73, 0x7B)), base, r, off))
            else:
                code.append(insn(rnd.choice((0x79, 0x61, 0x71)), r, base, off))
    return code


def before(rnd: random.Random, kind: int) -> tuple[list[bytes], int]:
    """The call with its arguments, and where in that the function is named."""
    frame = [insn(0xBF, 3, 10), insn(0x07, 3, imm=-16)]
    if kind == LOOP:
        known = rnd.random() < 0.7
        count = insn(0xB7, 1, imm=rnd.choice((0, 1, 2, 10, 1000))) if known else insn(0xBF, 1, 7)
        given = frame if rnd.random() < 0.8 else [insn(0xB7, 3)]
        flags = insn(0xB7, 4, imm=0 if rnd.random() < 0.95 else 1)
        return [count, insn(LD_IMM64, 2, FUNC), insn(0), *given, flags, insn(CALL, imm=LOOP)], 1
    if kind == EACH:
        return [insn(LD_IMM64, 1, 1, 0, rnd.randrange(len(MAPS))), insn(0),
                insn(LD_IMM64, 2, FUNC), insn(0), *frame, insn(0xB7, 4),
                insn(CALL, imm=EACH)], 2  # fmt: skip
    return [insn(0xBF, 1, 10), insn(0x07, 1, imm=-16), insn(0xBF, 2, rnd.choice((7, 8))),
            insn(CALL, 0, 1)], 3  # fmt: skip


def program(rnd: random.Random) -> tuple[bytes, int]:
    """Instructions, and where the function begins."""
    code = [insn(0xBF, 6, 1)]
    code += [insn(0x7A, 10, off=-8 * s, imm=rnd.choice((0, 1))) for s in (1, 2, 3, 4)]
    code += [insn(0xB7, 7), insn(0xB7, 8, imm=rnd.choice((0, 5)))]
    code += body(rnd, [7, 8], [10], rnd.randrange(0, 4))
    kind = rnd.choice((LOOP, LOOP, EACH, CALLED, CALLED))
    call, named = before(rnd, kind)
    at = len(code) + named
    code += call + body(rnd, [0, 7, 8], [10], rnd.randrange(0, 4))
    if rnd.random() < 0.5:  # what the function left decides where is read
        code.append(insn(0xBF, 1, 10))
        kept = rnd.random() < 0.6
        code.append(insn(0x79, 2, 10, rnd.choice((-8, -16))) if kept
                    else insn(0xBF, 2, rnd.choice((0, 7, 8))))  # fmt: skip
        if rnd.random() < 0.3:
            code.append(insn(0x57, 2, imm=rnd.choice((7, 15, 24))))
        code += [insn(0x0F, 1, 2), insn(0x71, 0, 1, rnd.choice((0, -32)))]
    code += [insn(0x05)] * 2 + [insn(0xB7), insn(EXIT)]
    entry = len(code)
    code.append(insn(0xB7))
    if kind == EACH:
        code.append(insn(0xB7, 5))
    code += body(rnd, NUMBERS[kind], ADDRESSES[kind], rnd.randrange(1, 7)) + [insn(0x05)] * 2
    if rnd.random() < 0.6:
        code.append(insn(0xB7, imm=rnd.choice((0, 0, 1, 2))))
    elif rnd.random() < 0.5:
        code.append(insn(0x57, imm=1))
    code.append(insn(EXIT))
    far = entry - at - 1
    code[at] = insn(CALL, 0, 1, 0, far) if kind == CALLED else insn(LD_IMM64, 2, FUNC, 0, far)
    return b"".join(code), entry
