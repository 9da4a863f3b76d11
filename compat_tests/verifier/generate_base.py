"""Programs of generate.py: kinds, maps, and what every statement is written with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.program import MapDesc

SOCKET, KPROBE, CLS, XDP, RAW_TP = 1, 2, 3, 6, 17
Kind = tuple[str, int]
NONE: Kind = ("none", 0)
NUMBER: Kind = ("number", 0)
CTX: Kind = ("ctx", 0)
END: Kind = ("end", 0)
# and: ("mem", bytes), ("stack", offset), ("packet", bytes proven)
SIZES = (1, 2, 4, 8)
LDX = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}
LDSX = {1: 0x91, 2: 0x89, 4: 0x81}
ST = {1: 0x72, 2: 0x6A, 4: 0x62, 8: 0x7A}
STX = {1: 0x73, 2: 0x6B, 4: 0x63, 8: 0x7B}
ATOMIC = {4: 0xC3, 8: 0xDB}
MOV, MOVX, ADD, ADDX, AND, RSH = 0xB7, 0xBF, 0x07, 0x0F, 0x57, 0x77
JEQ, JNE, JGT, JLT, JSLT, JSGT, JA = 0x15, 0x55, 0x25, 0xA5, 0xC5, 0x65, 0x05
CALL, EXIT = op.JMP | op.CALL, Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
BINARY = (op.ADD, op.SUB, op.MUL, op.DIV, op.OR, op.AND, op.LSH, op.RSH, op.MOD, op.XOR, op.MOV,
          op.ARSH)  # fmt: skip
CONDITIONS = (op.JEQ, op.JGT, op.JGE, op.JSET, op.JNE, op.JSGT, op.JSGE, op.JLT, op.JLE, op.JSLT,
              op.JSLE)  # fmt: skip
ATOMICS = (op.ADD, op.OR, op.AND, op.XOR, op.ADD | 1, op.OR | 1, op.AND | 1, op.XOR | 1, op.XCHG,
           op.CMPXCHG)  # fmt: skip
IMMEDIATES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 255, 256, 4095, 0x7FFF, 0x8000,
              0xFFFF, 2**31 - 1, -(2**31), -1, -2, -8, -16, -64, -512)  # fmt: skip
SLOTS = 12  # of a frame's stack that are used, 8 bytes each

DIRECT, HASH, ARRAY, RING, PROGS, PERCPU, FROZEN, LOCKED, NESTED = range(9)


def _lock_types() -> tuple[bytes, int, int]:
    out = Writer()
    u32, u64 = out.integer("unsigned int", 4), out.integer("unsigned long", 8)
    lock = out.struct("bpf_spin_lock", 4, [("val", u32, 0)])
    value = out.struct("value", 24, [("a", u64, 0), ("lock", lock, 8), ("b", u64, 16)])
    return out.blob(), u32, value


_BTF, _KEY, _VALUE = _lock_types()
MAPS = (
    MapDesc(2, 4, 64, 1), MapDesc(1, 4, 48, 16), MapDesc(2, 4, 32, 4), MapDesc(27, 0, 0, 4096),
    MapDesc(3, 4, 4, 4), MapDesc(6, 4, 16, 2),
    MapDesc(2, 4, 32, 1, map_flags=128, contents=bytes(range(8)) * 4),
    MapDesc(1, 4, 24, 16, btf=_BTF, btf_key_type_id=_KEY, btf_value_type_id=_VALUE,
            fields=(("bpf_spin_lock", 8),)),
    MapDesc(12, 4, 4, 4, inner=MapDesc(2, 4, 40, 4)),
)  # fmt: skip
SIZE_OF = {DIRECT: 64, HASH: 48, ARRAY: 32, PERCPU: 16, LOCKED: 8}
NO_LOCKS = (SOCKET, KPROBE, RAW_TP)
FIELDS = {
    SOCKET: (0, 4, 8, 12, 16, 20, 24), CLS: (0, 4, 8, 12, 16, 20, 24, 32, 36, 40), XDP: (12, 16),
    KPROBE: tuple(range(0, 168, 8)), RAW_TP: tuple(range(0, 96, 8)),
}  # fmt: skip
PACKET_FIELDS = {CLS: (76, 80), XDP: (0, 4)}


class Statements:
    """One function being written. args: kinds of R1.. ; calls: those that it may call."""

    # statements, and how often
    WEIGHTS = {
        "arithmetic": 12, "source": 6, "branch": 7, "loop": 2, "spill": 5, "fill": 5,
        "stack_data": 5, "stack_varies": 3, "lookup": 4, "access": 9, "packet": 3, "call":
        3, "call_back": 1, "atomic": 3, "record": 2, "tail": 1, "lock": 1, "copy": 4,
        "choice_of_constants": 3, "leave": 1, "helper_memory": 2, "nested": 1,
        "move_packet": 1, "array": 2, "leak": 1, "kept_over_a_call": 1,
    }  # fmt: skip
    callback = False
    # nothing but its own stack and registers, and what R7 points to; no number is of an address
    alone = False

    def __init__(
        self, rng: random.Random, prog_type: int, args: list[Kind], calls: Sequence[Statements],
        callbacks: Sequence[Statements], budget: int,
    ) -> None:
        self.rng, self.prog_type, self.args, self.budget = rng, prog_type, args, budget
        self.calls, self.callbacks = calls, callbacks
        self.main = args == [CTX]
        self.out: list[Insn] = []
        self.regs: list[Kind] = [NONE] * 10
        self.slots: list[Kind] = [NONE] * SLOTS
        self.loops: list[tuple[list[Kind], list[Kind]]] = []
        self.busy: set[int] = set()  # registers in use by what is around
        self.exits = True  # a return here is allowed
        self.plain = False  # no calls here
        for n, kind in enumerate(args):
            self.regs[n + 1] = kind
        self.named: list[tuple[Insn, Statements]] = []

    # writing

    def emit(self, code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> Insn:
        insn = Insn(code, dst, src, off, imm)
        self.out.append(insn)
        return insn

    def aside(self, write: Callable[[], None]) -> list[Insn]:
        """What write emits, not yet in its place."""
        kept, self.out = self.out, []
        write()
        block, self.out = self.out, kept
        return block

    def wide(self, dst: int, src: int, low: int, high: int = 0) -> Insn:
        insn = self.emit(op.LD_IMM64, dst, src, 0, low)
        self.emit(0, 0, 0, 0, high)
        self.set(dst, NUMBER)
        return insn

    def map(self, dst: int, map: int) -> None:
        self.wide(dst, op.PSEUDO_MAP_FD, map)
        self.regs[dst] = NONE

    def helper(self, number: int, result: Kind = NUMBER) -> None:
        self.emit(CALL, imm=number)
        for r in range(1, 6):
            self.regs[r] = NONE
        self.regs[0] = result

    def set(self, reg: int, kind: Kind) -> None:
        self.regs[reg] = kind

    # choosing

    def may(self, reg: int, kind: Kind) -> bool:
        """The register may be set to that without harm to the next round of a loop."""
        if reg in self.busy:
            return False
        return all(
            regs[reg] == NONE or (regs[reg] == NUMBER and kind == NUMBER) for regs, _ in self.loops
        )

    def may_slot(self, slot: int, kind: Kind) -> bool:
        return all(
            slots[slot] == NONE or (slots[slot] == NUMBER and kind == NUMBER)
            for _, slots in self.loops
        )

    def free(self, kind: Kind, low: int = 0, keep: tuple[int, ...] = ()) -> int | None:
        """A register that may be set, rather one that holds little."""
        able = [r for r in range(low, 10) if r not in keep and self.may(r, kind)]
        poor = [r for r in able if self.regs[r] in (NONE, NUMBER)]
        return self.rng.choice(poor or able) if able else None

    def some(self, name: str) -> int | None:
        """A register of that kind."""
        found = [r for r in range(10) if self.regs[r][0] == name]
        return self.rng.choice(found) if found else None

    def number(self) -> int:
        """A register that holds a number, made if need be."""
        found = self.some("number")
        if found is not None:
            return found
        self.source()
        found = self.some("number")
        if found is None:
            found = next(r for r in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9) if self.may(r, NUMBER))
            self.emit(MOV, found, imm=self.imm())
            self.set(found, NUMBER)
        return found

    def imm(self) -> int:
        value = self.rng.choice(IMMEDIATES)
        return value if self.rng.random() < 0.7 else self.rng.randrange(-300, 300)

    # statements

    def body(self, budget: int) -> None:
        names, weights = list(self.WEIGHTS), list(self.WEIGHTS.values())
        while budget > 0 and len(self.out) < 120:
            before = len(self.out)
            maker: Callable[[], None] = getattr(self, self.rng.choices(names, weights)[0])
            maker()
            budget -= 1 + (len(self.out) > before)
        self.budget = 0

    def source(self) -> None:
        """A number that nothing is known of, or little."""
        rng = self.rng
        dst = self.free(NUMBER)
        if dst is None:
            return
        kind = rng.randrange(5)
        base = self.some("ctx")
        if kind == 0 and self.calls_fit() and not self.alone:
            self.helper(rng.choice((5, 7, 8, 14) if self.prog_type != XDP else (5, 7, 8)))
            return
        if base is not None and kind < 3:
            off = rng.choice(FIELDS[self.prog_type])
            wide = self.prog_type in (KPROBE, RAW_TP)
            self.emit(LDX[8 if wide else 4], dst, base, off)
        elif kind == 3:
            self.emit(MOV if rng.random() < 0.7 else 0xB4, dst, imm=self.imm())
        else:
            base = self.some("mem")
            if base is None or self.regs[base][1] < 8:
                self.wide(dst, 0, rng.getrandbits(31), rng.choice((0, 0, -1, 1)))
                return
            size = rng.choice(SIZES)
            off = size * rng.randrange(self.regs[base][1] // size)
            codes = LDSX if size < 8 and rng.random() < 0.3 else LDX
            self.emit(codes[size], dst, base, off)
        self.set(dst, NUMBER)

    def arithmetic(self) -> None:
        rng = self.rng
        for _ in range(rng.randrange(1, 4)):
            dst = self.number()
            if not self.may(dst, NUMBER):
                return
            klass, kind = rng.choice((op.ALU, op.ALU64)), rng.choice(BINARY)
            off = rng.choice((0, 1)) if kind in (op.DIV, op.MOD) else 0
            if rng.random() < 0.12:
                code = rng.choice((0x84, 0x87, 0xD4, 0xDC, 0xD7))
                bits = rng.choice((16, 32, 64)) if code & 0xF0 == op.END else 0
                self.emit(code, dst, 0, 0, bits)
            elif rng.random() < 0.5:
                src = self.number()
                if kind == op.MOV:
                    off = rng.choice((0, 0, 8, 16, 32) if klass == op.ALU64 else (0, 0, 8, 16))
                self.emit(klass | kind | 8, dst, src, off)
            else:
                imm = self.imm()
                if kind in (op.LSH, op.RSH, op.ARSH):
                    imm &= 63 if klass == op.ALU64 else 31
                if kind in (op.DIV, op.MOD):
                    imm = imm or 3
                self.emit(klass | kind, dst, 0, off, imm)

    def copy(self) -> None:
        """A second name for something, perhaps at a distance; what is learnt of one is of both."""
        src = self.rng.choice([r for r in range(10) if self.regs[r] != NONE] or [-1])
        if src < 0:
            return
        dst = self.free(self.regs[src], keep=(src,))
        if dst is None:
            return
        self.emit(MOVX, dst, src)
        self.set(dst, self.regs[src])
        if self.regs[src] == NUMBER and self.rng.random() < 0.4:
            self.emit(ADD, dst, imm=self.rng.randrange(-8, 9))

    def leak(self) -> None:
        """A number that an address has become."""
        rng = self.rng
        held = [r for r in range(11) if r == 10 or self.regs[r][0] in ("mem", "ctx")]
        src, other = rng.choice(held), rng.choice(held)
        dst = self.free(NUMBER, keep=(src, other))
        if dst is None:
            return
        kind = rng.randrange(5)
        memory, ctx = self.some("mem"), self.some("ctx")
        if kind == 4 and memory is not None and ctx is not None and self.regs[memory][1] >= 8:
            how = rng.choice((None, op.STORE_REL, op.ADD))
            self.emit(STX[8] if how is None else ATOMIC[8], memory, ctx, 0, how or 0)
            return
        if kind == 0:
            self.emit(op.ALU | op.MOV | 8, dst, src)
        elif kind == 1:
            self.emit(MOVX, dst, src, 0)
            self.emit(rng.choice((0x87, 0xDC)), dst, imm=0)
            self.out[-1].imm = 32 if self.out[-1].code == 0xDC else 0
        else:
            self.emit(MOVX, dst, src)
            self.emit(rng.choice((op.ALU64, op.ALU)) | op.SUB | 8, dst, other)
        self.set(dst, NUMBER)

    def condition(self, over: int) -> None:
        """A jump over the next `over` slots, on numbers."""
        rng = self.rng
        dst, klass, kind = self.number(), rng.choice((op.JMP, op.JMP32)), rng.choice(CONDITIONS)
        if rng.random() < 0.4:
            self.emit(klass | kind | 8, dst, self.number(), over)
        else:
            self.emit(klass | kind, dst, 0, over, self.imm())

    def join(self, regs: list[Kind], slots: list[Kind]) -> None:
        """Two ways meet."""
        self.regs = [a if a == b else NONE for a, b in zip(self.regs, regs, strict=True)]
        self.slots = [
            a if a == b else NUMBER if NONE not in (a, b) and not self.alone else NONE
            for a, b in zip(self.slots, slots, strict=True)
        ]

    def address_in(self, slot: int) -> bool:
        """Bytes of an address are in the slot, which no number may be made of."""
        return self.alone and self.slots[slot] not in (NONE, NUMBER)

    def calls_fit(self) -> bool:
        return not self.plain and all(self.may(r, NONE) for r in range(6))

    def at(self, slot: int) -> int:
        return -8 * (slot + 1)
