"""Programs that the verifier mostly accepts and that reach deep into it, from a seed.

A generator keeps book of what each register and stack slot holds (a Kind), so that what it writes
makes sense: nested branches, bounded loops, spills and fills of every size, map values, packets,
subprograms, callbacks, records, locks, atomics, tail calls. Numbers are any, and are bounded in
one of many ways before they become offsets: whether that suffices is the verifier's to say.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

from compat_tests.verifier.generate_base import (
    AND,
    ATOMIC,
    BINARY,
    CLS,
    CONDITIONS,
    CTX,
    EXIT,
    HASH,
    IMMEDIATES,
    KPROBE,
    LDSX,
    LDX,
    LOCKED,
    MAPS,
    MOV,
    MOVX,
    NONE,
    NUMBER,
    PROGS,
    RAW_TP,
    SOCKET,
    ST,
    STX,
    XDP,
    Statements,
)
from compat_tests.verifier.generate_calls import Calls
from libbpf_shim.btf import kinds as btf_kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.verifier.program import Program

__all__ = [
    "ATOMIC", "BINARY", "CLS", "CONDITIONS", "CTX", "Function", "HASH", "IMMEDIATES",
    "LDSX", "LDX", "LOCKED", "MAPS", "NONE", "NUMBER", "PROGS", "ST", "STX", "generate",
    "link",
]  # fmt: skip


class Function(Calls):
    """One function being written."""

    def leave(self) -> None:
        """A return before the end."""
        if not self.exits:
            return
        self.condition(2)
        self.out += [Insn(MOV, 0, 0, 0, self.rng.randrange(2)), EXIT]

    # all of it

    def write(self) -> None:
        if CTX in self.args and self.rng.random() < 0.7:
            at = self.args.index(CTX) + 1
            self.emit(MOVX, 6, at)
            self.set(6, CTX)
            if self.rng.random() < 0.5:
                self.emit(STX[8], 10, at, self.at(0))
                self.slots[0] = CTX
        self.body(self.budget)
        if self.main or self.rng.random() < 0.5:
            self.emit(MOVX, 0, self.number())
        else:
            self.emit(MOV, 0, imm=self.imm())
        if self.callback:
            self.emit(AND, 0, imm=1)
        self.out.append(EXIT)


def generate(seed: int) -> Program:
    """The program of a seed; a quarter have functions that stand alone or are called back."""
    rng = random.Random(seed)
    prog_type = rng.choice((SOCKET, KPROBE, CLS, CLS, XDP, RAW_TP))
    functions: list[Function] = []
    callbacks: list[Function] = []
    callable_: list[Function] = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        args = [rng.choice((NUMBER, NUMBER, CTX, ("mem", 16))) for _ in range(rng.randrange(1, 4))]
        args = [NUMBER] if args == [CTX] else args
        function = Function(rng, prog_type, args, callable_[:], [], rng.randrange(2, 10))
        functions.append(function)
        callable_.append(function)
    with_types = rng.random() < 0.5
    if with_types and rng.random() < 0.7:
        each = rng.random() < 0.4
        args = [NONE, NONE, ("mem", 48), ("mem", 16)] if each else [NUMBER, ("mem", 16)]
        function = Function(rng, prog_type, args, callable_[:], [], rng.randrange(2, 6))
        function.callback = True
        functions.append(function)
        callbacks.append(function)
    main = Function(rng, prog_type, [CTX], callable_, callbacks, rng.randrange(6, 40))
    for function in (*functions, main):
        function.write()
    return link(rng, prog_type, [main, *functions], with_types)


def link(
    rng: random.Random, prog_type: int, functions: Sequence[Statements], types: bool
) -> Program:
    """Functions in a row, those left out that nobody names; calls get their distances."""
    used: list[Statements] = [functions[0]]
    for function in used:
        for _, callee in function.named:
            if callee not in used:
                used.append(callee)
    entries, at = {}, 0
    for function in used:
        entries[id(function)] = at
        at += len(function.out)
    for function in used:
        for insn, callee in function.named:
            here = entries[id(function)] + next(
                n for n, other in enumerate(function.out) if other is insn)
            insn.imm = entries[id(callee)] - here - 1
    code = encode([insn for function in used for insn in function.out])
    blob, info = None, b""
    if types:
        blob, info = _infos(rng, used, entries)
    return Program(code, prog_type, license="GPL", maps=MAPS, btf=blob, func_info=info,
                   func_info_rec_size=8 if types else 0)


def _infos(
    rng: random.Random, used: list[Statements], entries: dict[int, int]
) -> tuple[bytes, bytes]:
    """BTF and func_info: some functions are global."""
    out = Writer()
    long = out.integer("long", 8)
    pointer = out.ref(btf_kinds.PTR, 0)
    names = {SOCKET: "__sk_buff", CLS: "__sk_buff", XDP: "xdp_md", KPROBE: "pt_regs",
             RAW_TP: "bpf_raw_tracepoint_args"}  # fmt: skip
    kind = names[used[0].prog_type]
    ctx = out.ref(btf_kinds.PTR, out.struct(kind, 8, [("x", long, 0)]))
    memory = out.ref(btf_kinds.PTR, out.struct("mem", 16, [("a", long, 0), ("b", long, 8)]))
    rows = b""
    for n, function in enumerate(used):
        types = [
            (f"a{k}", long if a == NUMBER else ctx if a == CTX else memory
             if a == ("mem", 16) else pointer)
            for k, a in enumerate(function.args)
        ]
        proto = out.proto(long, types)
        able = n and not function.callback and ("mem", 16) not in function.args
        linkage = 1 if able and rng.random() < 0.4 else 0
        named = out.func(f"f{n}", proto, linkage)
        rows += struct.pack("<II", entries[id(function)], named)
    return out.blob(), rows
