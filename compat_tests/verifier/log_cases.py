"""Programs whose verifier logs are compared with the kernel's, level by level (test_logs.py).

`python -m compat_tests.verifier.log_cases` records logs.json from the running kernel, as root.
Programs are our own: those of the verdict, callback and global function tests, and those here,
which are chosen for what the log shows: the notation of every instruction, states at branches,
calls, references, packets, lines of source, loops.
"""

from __future__ import annotations

import json
import re
import struct
import sys
from dataclasses import replace
from pathlib import Path

from compat_tests.oracle import kernel
from compat_tests.verifier import test_callbacks, test_globals, test_verdicts
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.program import MapDesc, Program

FILE = Path(__file__).with_name("logs.json")
LEVELS = (1, 2, 4)
LONGEST = 60000  # of a log that is worth a file
NAMES = {1: "socket_filter", 2: "kprobe", 3: "sched_cls", 6: "xdp"}
SCHED_CLS, XDP = 3, 6
CALL, EXIT = op.JMP | op.CALL, Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV, MOVX, ADD, ADDX = 0xB7, 0xBF, 0x07, 0x0F
STATE_FREQ = 8  # BPF_F_TEST_STATE_FREQ: what was seen before is not looked at again
ZERO = [Insn(MOV, 0, 0, 0, 0), EXIT]
RANDOM = Insn(CALL, 0, 0, 0, 7)
HASH = MapDesc(1, 4, 8, 4, name="hash")
RING = MapDesc(27, 0, 0, 4096, name="ring")
LOOKUP = [
    Insn(0x62, 10, 0, -4, 0), Insn(MOVX, 2, 10, 0, 0), Insn(ADD, 2, 0, 0, -4),
    Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_FD, 0, 0), Insn(0, 0, 0, 0, 0), Insn(CALL, 0, 0, 0, 1),
]  # fmt: skip
PACKET = [Insn(0x61, 2, 1, 4, 0), Insn(0x61, 1, 1, 0, 0), Insn(MOVX, 3, 1, 0, 0),
          Insn(ADD, 3, 0, 0, 14)]  # fmt: skip
WRONG = [Insn(0x79, 9, 9, 0, 0), EXIT]  # refused, so that level 1 has what came before


def arithmetic() -> list[Insn]:
    """Every operation, of both widths, with a register and with a number."""
    out = [RANDOM, Insn(MOVX, 1, 0, 0, 0), RANDOM, Insn(MOVX, 6, 0, 0, 0), Insn(MOV, 7, 0, 0, 3)]
    for kind in (op.ADD, op.SUB, op.MUL, op.DIV, op.OR, op.AND, op.LSH, op.RSH, op.MOD, op.XOR,
                 op.ARSH, op.MOV):  # fmt: skip
        for klass in (op.ALU64, op.ALU):
            out += [Insn(klass | kind, 6, 0, 0, 5), Insn(klass | kind | 8, 6, 7, 0, 0)]
    for klass in (op.ALU64, op.ALU):
        out += [Insn(klass | op.NEG, 6, 0, 0, 0), Insn(klass | op.DIV, 6, 0, 1, 3),
                Insn(klass | op.MOD | 8, 6, 7, 1, 0)]
        out += [Insn(klass | op.MOV | 8, 6, 7, bits, 0) for bits in (8, 16)]
    for bits in (16, 32, 64):
        out += [Insn(op.ALU | op.END, 6, 0, 0, bits), Insn(op.ALU | op.END | 8, 6, 0, 0, bits),
                Insn(op.ALU64 | op.END, 6, 0, 0, bits)]
    return [*out, Insn(op.LD_IMM64, 6, 0, 0, 5), Insn(0, 0, 0, 0, 1), *WRONG]


def memory() -> list[Insn]:
    out = [Insn(MOV, 1, 0, 0, 7), Insn(MOV, 0, 0, 0, 0)]
    for size in (0x10, 0x08, 0x00, 0x18):
        out += [Insn(op.ST | 0x60 | size, 10, 0, -8, 1), Insn(op.STX | 0x60 | size, 10, 1, -16, 0),
                Insn(op.LDX | 0x60 | size, 2, 10, -8, 0)]
        if size != 0x18:
            out.append(Insn(op.LDX | op.MODE_MEMSX | size, 2, 10, -8, 0))
    out += [Insn(0x7A, 10, 0, -8, 0)]
    for size in (0x18, 0x00):
        for kind in (op.ADD, op.AND, op.OR, op.XOR):
            out += [Insn(op.STX | op.MODE_ATOMIC | size, 10, 1, -8, imm)
                    for imm in (kind, kind | op.FETCH)]
        out += [Insn(op.STX | op.MODE_ATOMIC | size, 10, 1, -8, imm)
                for imm in (op.XCHG, op.CMPXCHG, op.STORE_REL)]
        out.append(Insn(op.STX | op.MODE_ATOMIC | size, 3, 10, -8, op.LOAD_ACQ))
    return [*out, *WRONG]


def jumps() -> list[Insn]:
    """Every comparison, decided by nothing."""
    out = [RANDOM, Insn(MOVX, 6, 0, 0, 0), RANDOM]
    for kind in (op.JEQ, op.JGT, op.JGE, op.JSET, op.JNE, op.JSGT, op.JSGE, op.JLT, op.JLE,
                 op.JSLT, op.JSLE):  # fmt: skip
        for klass in (op.JMP, op.JMP32):
            out += [Insn(klass | kind, 6, 0, 0, 100 + len(out)),
                    Insn(klass | kind | 8, 0, 6, 0, 0), RANDOM, Insn(MOVX, 6, 0, 0, 0), RANDOM]
    return [*out, Insn(op.JMP | op.JA, 0, 0, 0, 0), Insn(op.JMP32 | op.JA, 0, 0, 0, 0), *WRONG]


def lines() -> tuple[bytes, bytes, bytes]:
    """BTF, func_info and line_info of a program of six instructions on four lines."""
    out = Writer()
    u32, result = out.integer("unsigned int", 4), out.integer("int", 4, 1)
    skb = out.ref(kinds.PTR, out.struct("__sk_buff", 192, [("len", u32, 0)]))
    main = out.func("main", out.proto(result, [("ctx", skb)]))
    file = out.string("/src/some/prog.bpf.c")
    texts = ["int main(struct __sk_buff *ctx)", "\tu64 a = 1;", "  a += ctx->len;", "return *a;"]
    rows = [(at, file, out.string(text), number << 10 | 2)
            for at, text, number in zip((0, 1, 2, 4), texts, (3, 4, 4, 6), strict=True)]
    return out.blob(), struct.pack("<II", 0, main), b"".join(struct.pack("<IIII", *r)
                                                              for r in rows)


def _own() -> dict[str, Program]:
    code = {
        "notation of arithmetic": (arithmetic(), XDP, ()),
        "notation of memory accesses": (memory(), XDP, ()),
        "notation of jumps": (jumps(), XDP, ()),
        "the other side of a branch is wrong": (
            [*LOOKUP, Insn(0x15, 0, 0, 2, 0), *ZERO, *WRONG], XDP, (HASH,)),
        "both sides of two branches": (
            [*LOOKUP, Insn(0x15, 0, 0, 3, 0), Insn(0x61, 3, 0, 0, 0), Insn(0x25, 3, 0, 1, 10),
             Insn(0x79, 4, 0, 0, 0), *ZERO], XDP, (HASH,)),
        "a packet that is checked, then read too far": (
            [*PACKET, Insn(0x2D, 3, 2, 1, 0), Insn(0x71, 0, 1, 14, 0), *ZERO], XDP, ()),
        "a packet with a variable offset": (
            [*PACKET, Insn(0x71, 4, 1, 0, 0), *ZERO], XDP, ()),
        "a record that is not given back": (
            [Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_FD, 0, 0), Insn(0, 0, 0, 0, 0),
             Insn(MOV, 2, 0, 0, 8), Insn(MOV, 3, 0, 0, 0), Insn(CALL, 0, 0, 0, 131),
             Insn(0x15, 0, 0, 1, 0), Insn(0x7A, 0, 0, 0, 1), *ZERO], XDP, (RING,)),
        "a function that is called": (
            [Insn(MOV, 1, 0, 0, 4), Insn(MOVX, 2, 10, 0, 0), Insn(CALL, 0, 1, 0, 1), *WRONG,
             Insn(0x7B, 2, 1, -8, 0), Insn(MOV, 0, 0, 0, 1), EXIT], XDP, ()),
        "an endless loop": (
            [RANDOM, Insn(0x15, 0, 0, 1, 0), Insn(op.JMP | op.JA, 0, 0, -2, 0), *ZERO], XDP, ()),
        "the same state again": (
            [RANDOM, Insn(MOV, 6, 0, 0, 0), Insn(MOV, 6, 0, 0, 0), Insn(MOV, 6, 0, 0, 0),
             Insn(0x15, 0, 0, 0, 0), Insn(0x15, 0, 0, 0, 1), Insn(0x15, 0, 0, 0, 2),
             Insn(0x15, 0, 0, 0, 3), Insn(MOV, 0, 0, 0, 0), EXIT], XDP, ()),
        "a loop of five rounds": (
            [Insn(MOV, 0, 0, 0, 0), Insn(ADD, 0, 0, 0, 1), Insn(0xA5, 0, 0, -2, 5), EXIT],
            XDP, ()),
        "spilled registers": (
            [RANDOM, Insn(0x7B, 10, 0, -8, 0), Insn(0x63, 10, 0, -16, 0),
             Insn(0x73, 10, 0, -24, 0),
             Insn(0x7B, 10, 1, -32, 0), Insn(0x61, 2, 10, -8, 0), Insn(0x79, 3, 10, -32, 0),
             Insn(0x72, 10, 0, -6, 0), *WRONG], XDP, ()),
        "memory that helpers write twice": (
            [insn for size, off in ((16, -16), (16, -16), (4, -16), (7, -31)) for insn in (
                Insn(MOVX, 1, 10, 0, 0), Insn(ADD, 1, 0, 0, off), Insn(MOV, 2, 0, 0, size),
                Insn(CALL, 0, 0, 0, 16))] + WRONG, 2, ()),
        "scalars that are linked": (
            [RANDOM, Insn(MOVX, 6, 0, 0, 0), Insn(ADD, 6, 0, 0, 4), Insn(0x25, 6, 0, 1, 100),
             Insn(MOVX, 1, 0, 0, 0), *WRONG], XDP, ()),
        "a load from the packet": (
            [Insn(MOVX, 6, 1, 0, 0), Insn(0x28, 0, 0, 0, 12), Insn(0x50, 0, 0, 0, 3), *WRONG],
            SCHED_CLS, ()),
        "a helper that does not exist": ([Insn(CALL, 0, 0, 0, 9999), EXIT], XDP, ()),
        "a function without instructions that are met": (
            [*ZERO, Insn(MOV, 0, 0, 0, 1), EXIT], XDP, ()),
        "may_goto": (
            [Insn(MOV, 0, 0, 0, 0), Insn(op.JMP | op.JCOND, 0, 0, 2, 0), Insn(ADD, 0, 0, 0, 1),
             Insn(op.JMP | op.JA, 0, 0, -3, 0), *WRONG], XDP, ()),
        "a result out of range": ([Insn(MOV, 0, 0, 0, 0), Insn(0x61, 0, 1, 0, 0), EXIT],
                                  8, ()),
    }  # fmt: skip
    made = {name: Program(encode(insns), kind, license="GPL", maps=maps)
            for name, (insns, kind, maps) in code.items()}
    made["notation of jumps"] = replace(made["notation of jumps"], prog_flags=STATE_FREQ)
    btf, funcs, rows = lines()
    insns = [Insn(MOVX, 6, 1, 0, 0), Insn(MOV, 1, 0, 0, 1), Insn(0x61, 2, 6, 0, 0),
             Insn(ADDX, 1, 2, 0, 0), Insn(0x61, 0, 1, 0, 0), EXIT]  # fmt: skip
    made["lines of source"] = Program(
        encode(insns), SCHED_CLS, license="GPL", btf=btf, func_info=funcs, func_info_rec_size=8,
        func_info_cnt=1, line_info=rows, line_info_rec_size=16, line_info_cnt=4)
    insns[4] = Insn(0x61, 0, 6, 400, 0)
    made["a line of source that reads beyond the context"] = replace(
        made["lines of source"], insns=encode(insns))
    return made


def cases() -> dict[str, Program]:
    found = _own()
    for name, text, kind, maps, _, _ in test_verdicts.CASES:
        named = tuple(replace(m, name=f"map{n}") for n, m in enumerate(maps))
        found[name] = test_verdicts.build(text, kind, named)
    for name, code, linkage, _, _ in test_callbacks.CASES:
        found[f"callback: {name}"] = test_callbacks.build(code, linkage)
    for name, (code, entry), linkage, _, _ in test_globals.CASES:
        btf, funcs = test_globals.infos(entry, linkage)
        found[f"function: {name}"] = Program(
            encode(code), SCHED_CLS, license="GPL", btf=btf, func_info=funcs, func_info_rec_size=8)
    return found


def asked(program: Program, level: int) -> str:
    """The running kernel's log."""
    rows = [test_verdicts.row(m) | {"name": m.name} for m in program.maps]
    names = {**NAMES, 8: "cgroup_skb"}
    return str(kernel.driver().kernel_verdict(
        program.insns, names[program.prog_type], maps=rows or None, license="GPL",
        log_level=level, prog_flags=program.prog_flags, btf=program.btf,
        func_info=program.func_info, line_info=program.line_info).log)  # fmt: skip


def plain(log: str) -> str:
    """Without what is the machine's: addresses, and what their length pads; the time; and how the
    kernel finds what is live in the stack."""
    log = re.sub(r"= 0x(ffff[0-9a-f]{12}|0)\b *", "= 0x0 ", log)
    log = re.sub(r"verification time \d+ usec\n", "", log)
    return re.sub(r"^(\(\d+(,\d+)*\)|SCC) .*\n", "", log, flags=re.M)


def main() -> int:
    found: dict[str, dict[str, str]] = {}
    for name, program in cases().items():
        logs = {str(level): plain(asked(program, level)) for level in LEVELS}
        found[name] = {level: log for level, log in logs.items() if len(log) <= LONGEST}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
