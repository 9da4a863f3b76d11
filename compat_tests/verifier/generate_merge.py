"""Programs in which two paths meet with one thing different, and that thing matters later.

Pruning must tell the paths apart, or must not have looked at the thing. What differs: a constant,
a range, which scalars are equal, an address, what is in a slot, whether it was written. How it
gets to where it matters (through copies, arithmetic, the stack, calls, callbacks) and what it does
there are chosen from a seed. About a third is refused, since one path is wrong.
"""

from __future__ import annotations

import random
import struct

from compat_tests.verifier.asm import assemble
from compat_tests.verifier.generate import CLS, HASH, MAPS, PROGS
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.program import Program

ROOM = 48  # bytes of the value that R7 points to
BEGIN = f"""r6 = r1; *(u32 *)(r10 - 4) = 0; r2 = r10; r2 += -4; r1 = map {HASH}; call 1
if r0 != 0 goto there; r0 = 0; exit; there: r7 = r0"""


class Merge:
    """One program: the text so far; functions come behind it. names: labels given."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.functions: list[str] = []
        self.names = 0

    def label(self) -> str:
        self.names += 1
        return f"L{self.names}"

    def unknown(self, reg: int) -> str:
        return f"r{reg} = *(u32 *)(r6 + {self.rng.choice((8, 12, 16, 32))})"

    def fork(self, first: str, second: str) -> str:
        """The first path is explored first, whichever way the jump goes."""
        other, merged = self.label(), self.label()
        test = self.rng.choice(("r0 > 5", "w0 == 7", "r0 s< 9", "w0 & 1".replace("&", "&")))
        return (f"{self.unknown(0)}; if {test} goto {other}; {first}; goto {merged}; "
                f"{other}: {second}; {merged}: r0 = 0")  # fmt: skip

    def filler(self) -> str:
        """Jumps that teach nothing of what matters, so that states are recorded."""
        text = []
        for _ in range(self.rng.randrange(4)):
            after = self.label()
            text.append(f"{self.unknown(0)}; if r0 > {self.rng.randrange(9)} goto {after}; "
                        f"r0 = 1; r0 += 2; {after}: r0 = 0")  # fmt: skip
        return "; ".join(text) or "r0 = 0"

    def constant(self) -> int:
        return self.rng.choice((0, 1, 2, 4, 8, 16, 24, 32, 40)) if self.rng.random() < 0.92 else 60

    # what differs, in R8 at the end

    def differs(self) -> str:
        kind = self.rng.randrange(8)
        a, b = self.constant(), self.constant()
        if kind < 4:
            return self.fork(f"r8 = {a}", f"r8 = {b}")
        if kind == 4:
            masks = self.rng.sample((1, 7, 15, 31, 63), 2)
            return f"{self.unknown(8)}; " + self.fork(f"r8 &= {masks[0]}", f"r8 &= {masks[1]}")
        if kind == 5:  # equal to R9, or not: what R9 is later tells of R8
            equal, bound = self.fork(
                f"{self.unknown(8)}; r9 = r8", f"{self.unknown(8)}; {self.unknown(9)}"), 40
            if self.rng.random() < 0.3:
                equal = self.fork(f"{self.unknown(8)}; r9 = r8; r9 += 4",
                                  f"{self.unknown(8)}; r9 = r8; r9 += {self.rng.choice((4, 8))}")
            out = self.label()
            return (f"{equal}; {self.filler()}; if r9 < 8 goto {out}; if r9 > {bound} goto {out}; "
                    f"goto {out}x; {out}: r0 = 0; exit; {out}x: r0 = 0")  # fmt: skip
        if kind == 6:  # known from a comparison with a register that differs
            out = self.label()
            return (f"{self.fork(f'r9 = {a}', f'r9 = {b}')}; {self.filler()}; {self.unknown(8)}; "
                    f"if r8 > r9 goto {out}; goto {out}x; {out}: r0 = 0; exit; {out}x: r0 = 0")
        return (f"{self.unknown(8)}; " + self.fork("r8 &= 7", f"if r8 > 40 goto no{self.names}; "
                f"goto yes{self.names}; no{self.names}: r0 = 0; exit; yes{self.names}: r0 = 0"))

    # how it gets further

    def channel(self) -> str:
        kind = self.rng.randrange(12)
        slot = 8 * self.rng.randrange(2, 9)
        if kind == 10:
            return self.twice()
        if kind == 11:  # overwritten by a callee that another program may end before
            name = f"t{self.label()}"
            self.functions.append(
                f"{name}: r6 = r2; r2 = map {PROGS}; r3 = 0; call 12; "
                f"*(u64 *)(r6 + 0) = {self.constant()}; r0 = 0; exit")
            return (f"*(u64 *)(r10 - {slot}) = r8; r1 = r6; r2 = r10; r2 += -{slot}; "
                    f"call {name}; r8 = *(u64 *)(r10 - {slot})")
        if kind == 0:
            return "r9 = r8; r8 = 5; r8 = r9"
        if kind == 1:
            return "r9 = 0; r9 += r8; r8 = r9"
        if kind == 2:
            return f"*(u64 *)(r10 - {slot}) = r8; r8 = 99; r8 = *(u64 *)(r10 - {slot})"
        if kind == 3:
            size = self.rng.choice((8, 16, 32))
            return f"*(u{size} *)(r10 - {slot}) = r8; r8 = *(u{size} *)(r10 - {slot})"
        if kind == 4:
            return "r9 = 63; r8 &= r9" if self.rng.random() < 0.5 else "w8 = w8"
        name = f"f{self.label()}"
        if kind == 5:  # an argument that comes back
            how = self.rng.choice(("r0 = r1; exit", "r0 = 0; r0 += r1; exit",
                                   "*(u64 *)(r10 - 8) = r1; r0 = *(u64 *)(r10 - 8); exit",
                                   f"r6 = r1; {self.deep()}r0 = r6; exit"))
            self.functions.append(f"{name}: {how}")
            return f"r1 = r8; call {name}; r8 = r0"
        if kind == 6:  # read by the callee from its caller's stack
            self.functions.append(f"{name}: r0 = *(u64 *)(r1 + 0); exit")
            return (f"*(u64 *)(r10 - {slot}) = r8; r1 = r10; r1 += -{slot}; call {name}; r8 = r0")
        if kind == 7:  # written by the callee to its caller's stack
            self.functions.append(f"{name}: *(u64 *)(r1 + 0) = r2; r0 = 0; exit")
            return (f"*(u64 *)(r10 - {slot}) = 0; r1 = r10; r1 += -{slot}; r2 = r8; call {name}; "
                    f"r8 = *(u64 *)(r10 - {slot})")
        if kind == 8:  # kept over a callback, which may put another number there
            write = self.rng.choice(("r0 = 0", f"*(u64 *)(r2 + 0) = {self.constant()}",
                                     "r3 = *(u64 *)(r2 + 0); *(u64 *)(r2 + 0) = r3"))
            self.functions.append(f"{name}: {write}; r0 = 0; exit")
            return (f"*(u64 *)(r10 - {slot}) = r8; r1 = {self.rng.randrange(4)}; "
                    f"r2 = func {name}; r3 = r10; r3 += -{slot}; r4 = 0; call 181; "
                    f"r8 = *(u64 *)(r10 - {slot})")
        return "r0 = r8; r8 = 1; r8 += -1; r8 |= r0"

    def twice(self) -> str:
        """One function called twice, that calls another: the same but for where it returns to."""
        name = self.label()
        self.functions += [
            f"f{name}: call g{name}; r0 = 0; exit",
            f"g{name}: r0 = *(u32 *)(r1 + 8); if r0 > 3 goto h{name}; r0 = 1; "
            f"h{name}: r0 = 0; exit",
        ]
        call = f"r1 = r6; call f{name}; r0 = 0"
        return self.fork(call, f"{call}; r0 = 1")

    def deep(self) -> str:
        """A call in between."""
        name = f"g{self.label()}"
        self.functions.append(f"{name}: r0 = 7; exit")
        return f"call {name}; "

    # where it matters

    def matters(self) -> str:
        kind = self.rng.randrange(6)
        if kind <= 1:
            return f"r1 = r7; r1 += r8; r0 = *(u{self.rng.choice((8, 64))} *)(r1 + 0)"
        if kind == 2:
            here = self.label()
            return (f"r9 = {self.constant()}; if r8 == {self.constant()} goto {here}; "
                    f"r9 = {self.constant()}; {here}: r1 = r7; r1 += r9; r0 = *(u8 *)(r1 + 0)")
        if kind == 3:
            return ("*(u64 *)(r10 - 104) = 0; *(u64 *)(r10 - 96) = 0; r8 &= 15; r1 = r10; "
                    "r1 += r8; r0 = *(u8 *)(r1 - 104)")
        name = f"h{self.label()}"
        if kind == 4:  # in a function
            self.functions.append(f"{name}: r1 += r2; r0 = *(u8 *)(r1 + 0); exit")
            return f"r1 = r7; r2 = r8; call {name}"
        self.functions.append(f"{name}: r0 = 0; if r1 > 9 goto {name}x; r0 = 8; {name}x: exit")
        return f"r1 = r8; call {name}; r7 += r0; r0 = *(u64 *)(r7 + 0)"

    # other things that differ

    def address(self) -> str:
        """Where R9 points to, or what a slot holds."""
        kind = self.rng.randrange(6)
        slot = 8 * self.rng.randrange(2, 9)
        a, b = self.rng.sample((0, 8, 16, 32), 2)
        if kind == 0:
            return self.join(f"r9 = r7; r9 += {a}", f"r9 = r7; r9 += {b}", "r0 = *(u64 *)(r9 + 0)")
        if kind == 1:
            return self.join(f"r9 = r7; r9 += {a}; *(u64 *)(r10 - {slot}) = r9",
                             f"r9 = r7; r9 += {b}; *(u64 *)(r10 - {slot}) = r9",
                             f"r1 = *(u64 *)(r10 - {slot}); r0 = *(u64 *)(r1 + 0)")
        if kind == 2:  # an address or a number
            return self.join(f"*(u64 *)(r10 - {slot}) = r7", f"*(u64 *)(r10 - {slot}) = 5",
                             f"r1 = *(u64 *)(r10 - {slot}); r0 = *(u64 *)(r1 + 0)")
        if kind == 3:  # written or not
            return self.join(f"*(u64 *)(r10 - {slot}) = {a}", "r0 = 1",
                             f"r0 = *(u64 *)(r10 - {slot})")
        if kind == 4:  # zero or anything
            return self.join(f"*(u64 *)(r10 - {slot}) = 0; *(u8 *)(r10 - {slot - 1}) = 0",
                             f"*(u64 *)(r10 - {slot}) = {b}; *(u8 *)(r10 - {slot - 1}) = {a}",
                             f"r1 = *(u8 *)(r10 - {slot - 1}); r7 += r1; r0 = *(u64 *)(r7 + 0)")
        return self.packet(a, b)

    def packet(self, a: int, b: int) -> str:
        out = self.label()
        begin = "r8 = *(u32 *)(r6 + 80); r9 = *(u32 *)(r6 + 76)"
        checked = f"r1 = r9; r1 += 8; if r1 > r8 goto {out}; r0 = *(u64 *)(r9 + 0); {out}: r0 = 0"
        kind = self.rng.randrange(4)
        if kind == 0:
            return f"{begin}; " + self.join(f"r9 += {a}", f"r9 += {b}", checked)
        if kind == 1:  # R2 is where R9 is, or elsewhere
            varies = f"{begin}; {self.unknown(3)}; {self.unknown(4)}; r3 &= 31; r4 &= 31; r9 += r3"
            return f"{varies}; " + self.join(
                "r2 = r9", "r2 = *(u32 *)(r6 + 76); r2 += r4",
                f"r2 += 8; if r2 > r8 goto {out}; r0 = *(u64 *)(r9 + 0); {out}: r0 = 0")
        if kind == 2:  # behind the end, and back
            test = self.rng.choice((">", ">="))
            down = self.rng.choice(("r9 += -20", "r9 -= 20", "r3 = 20; r9 -= r3",
                                    f"{self.unknown(3)}; r3 &= 15; r9 -= r3", "r9 += 0"))
            return (f"{begin}; r9 += 20; if r9 {test} r8 goto {out}; r0 = 0; exit; {out}: r0 = 1; "
                    f"{down}; if r9 {test} r8 goto e{out}; r0 = 2; e{out}: r0 = 0")
        early = f"r1 = r9; r1 += {8 + a}; if r1 > r8 goto e{out}; goto f{out}; " \
                f"e{out}: r0 = 0; exit; f{out}: r0 = 0"
        other = f"r1 = r9; r1 += {8 + b}; if r1 > r8 goto g{out}; goto h{out}; " \
                f"g{out}: r0 = 0; exit; h{out}: r0 = 0"
        return f"{begin}; " + self.join(early, other, f"r0 = *(u64 *)(r9 + {a})")

    def join(self, first: str, second: str, use: str) -> str:
        return f"{self.fork(first, second)}; {self.filler()}; {use}"

    def text(self) -> str:
        if self.rng.random() < 0.35:
            parts = [BEGIN, self.address()]
        else:
            parts = [BEGIN, self.differs(), self.filler(), self.channel(), self.filler()]
            if self.rng.random() < 0.4:
                parts += [self.channel(), self.filler()]
            parts.append(self.matters())
        return "; ".join([*parts, "r0 = 0; exit", *self.functions])


def merge(seed: int) -> Program:
    """The program of a seed, with types for its functions."""
    insns = assemble(Merge(random.Random(seed)).text())
    blob, info = types(insns)
    return Program(encode(insns), CLS, license="GPL", maps=MAPS, btf=blob, func_info=info,
                   func_info_rec_size=8)


def types(insns: list[Insn]) -> tuple[bytes, bytes]:
    """BTF and func_info; every function is static."""
    out = Writer()
    u64 = out.integer("unsigned long", 8)
    main = out.func("main", out.proto(u64, [("ctx", out.ref(kinds.PTR, 0))]))
    proto = out.proto(u64, [("a", u64), ("b", u64)])
    rows = struct.pack("<II", 0, main)
    starts = {at + 1 + i.imm for at, i in enumerate(insns)
              if (i.code == op.JMP | op.CALL or i.code == op.LD_IMM64)
              and i.src in ((op.PSEUDO_CALL,) if i.code != op.LD_IMM64 else (op.PSEUDO_FUNC,))}
    for entry in sorted(starts):
        rows += struct.pack("<II", entry, out.func(f"f{entry}", proto, 0))
    return out.blob(), rows
