"""Programs that the verifier mostly accepts and that reach deep into it, from a seed.

A generator keeps book of what each register and stack slot holds (a Kind), so that what it writes
makes sense: nested branches, bounded loops, spills and fills of every size, map values, packets,
subprograms, callbacks, records, locks, atomics, tail calls. Numbers are any, and are bounded in
one of many ways before they become offsets: whether that suffices is the verifier's to say.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from libbpf_shim.btf import kinds as btf_kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.program import MapDesc, Program

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


class Function:
    """One function being written. args: kinds of R1.. ; calls: those that it may call."""

    # statements, and how often
    WEIGHTS = {
        "arithmetic": 12, "source": 6, "branch": 7, "loop": 2, "spill": 5, "fill": 5,
        "stack_data": 5, "stack_varies": 3, "lookup": 4, "access": 9, "packet": 3, "call":
        3, "call_back": 1, "atomic": 3, "record": 2, "tail": 1, "lock": 1, "copy": 4,
        "choice_of_constants": 3, "leave": 1, "helper_memory": 2, "nested": 1,
        "move_packet": 1, "array": 2, "leak": 1, "kept_over_a_call": 1,
    }  # fmt: skip
    alone = False  # nothing but its own stack and registers, and what R7 points to

    def __init__(
        self, rng: random.Random, prog_type: int, args: list[Kind], calls: list[Function],
        callbacks: list[Function], budget: int,
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
        self.named: list[tuple[Insn, Function]] = []

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
            a if a == b else NUMBER if NONE not in (a, b) else NONE
            for a, b in zip(self.slots, slots, strict=True)
        ]

    def branch(self) -> None:
        if len(self.out) > 80:
            return
        self.number()
        self.number()
        regs, slots = self.regs[:], self.slots[:]
        head = len(self.out)
        self.condition(0)
        jump = self.out[-1]
        then = self.aside(lambda: self.body(self.rng.randrange(1, 4)))
        self.out += then
        if self.rng.random() < 0.4:
            jump.off = len(self.out) - head - self.out[head:].index(jump) - 1
            self.join(regs, slots)
            return
        after, after_slots = self.regs, self.slots
        self.regs, self.slots = regs, slots
        other = self.aside(lambda: self.body(self.rng.randrange(1, 4)))
        self.emit(JA, off=len(other))
        jump.off = len(then) + 1
        self.out += other
        self.join(after, after_slots)

    def loop(self) -> None:
        """A counter, in a register or on the stack, and what it counts."""
        rng = self.rng
        counter = self.free(NUMBER, 6)
        if counter is None or len(self.loops) > 1:
            return
        rounds, down = rng.randrange(1, 7), rng.random() < 0.3
        if rng.random() < 0.25:  # as many as some number says, but not more than seven
            limit = self.free(NUMBER, 6, (counter,))
            if limit is None or self.some("number") is None:
                return
            self.emit(MOVX, limit, self.number())
            self.emit(AND, limit, imm=7)
            self.set(limit, NUMBER)
        else:
            limit = None
        if rng.random() < 0.6:
            self.regs[:6] = [NONE] * 6
        self.emit(MOV, counter, imm=rounds if down else 0)
        self.set(counter, NUMBER)
        self.loops.append((self.regs[:], self.slots[:]))
        held = {counter} | ({limit} if limit is not None else set())
        self.busy |= held
        plain, self.plain = self.plain, self.plain or self.regs[:6] != [NONE] * 6
        body = self.aside(lambda: self.body(rng.randrange(1, 4)))
        self.plain = plain
        self.busy -= held
        regs, slots = self.loops.pop()
        body.append(Insn(ADD, counter, 0, 0, -1 if down else 1))
        back = -len(body) - 1
        klass = rng.choice((op.JMP, op.JMP32))
        if limit is not None:
            body.append(Insn(klass | rng.choice((op.JLT, op.JSLT)) | 8, counter, limit, back, 0))
        elif down:
            body.append(Insn(klass | rng.choice((op.JNE, op.JGT, op.JSGT)), counter, 0, back, 0))
        else:
            test = rng.choice((op.JLT, op.JNE, op.JSLT))
            body.append(Insn(klass | test, counter, 0, back, rounds))
        self.out += body
        self.join(regs, slots)

    def at(self, slot: int) -> int:
        return -8 * (slot + 1)

    def spill(self) -> None:
        src = self.rng.choice([r for r in range(10) if self.regs[r] != NONE] or [-1])
        slot = self.rng.randrange(SLOTS)
        if src < 0 or not self.may_slot(slot, self.regs[src]):
            return
        self.emit(STX[8], 10, src, self.at(slot))
        self.slots[slot] = self.regs[src]

    def fill(self) -> None:
        slots = [s for s in range(SLOTS) if self.slots[s] != NONE]
        unset = self.rng.random() < 0.03 and not self.alone
        if not slots or (unset and len(slots) < SLOTS):
            slots = [s for s in range(SLOTS) if self.slots[s] == NONE]
            if not unset or not slots:
                return
            dst = self.free(NUMBER)
            if dst is not None:
                self.emit(LDX[8], dst, 10, self.at(self.rng.choice(slots)))
                self.set(dst, NUMBER)
            return
        slot = self.rng.choice(slots)
        dst = self.free(self.slots[slot])
        if dst is None:
            return
        size = 8 if self.slots[slot] != NUMBER else self.rng.choice(SIZES)
        codes = LDSX if size < 8 and self.rng.random() < 0.2 else LDX
        off = size * self.rng.randrange(8 // size) if self.rng.random() < 0.5 else 0
        self.emit(codes[size], dst, 10, self.at(slot) + off)
        self.set(dst, self.slots[slot])

    def stack_data(self) -> None:
        """Bytes written over whatever is in a slot."""
        rng = self.rng
        slot, size = rng.randrange(SLOTS), rng.choice(SIZES)
        if not self.may_slot(slot, NUMBER):
            return
        if self.slots[slot] == NONE and rng.random() < 0.8:
            size = 8
        off = self.at(slot) + (size * rng.randrange(8 // size) if rng.random() < 0.6 else 0)
        if rng.random() < 0.5:
            self.emit(ST[size], 10, 0, off, rng.choice((0, 0, 1, self.imm())))
        else:
            self.emit(STX[size], 10, self.number(), off)
        self.slots[slot] = NUMBER if self.slots[slot] != NONE or size == 8 else NONE

    def stack_varies(self) -> None:
        """A byte or more of the stack at an offset that is only bounded."""
        rng = self.rng
        first, count, size = rng.randrange(4), rng.randrange(1, 5), rng.choice((1, 1, 2, 4, 8))
        places = range(first, first + count)
        write = rng.random() < 0.5
        if write and not all(self.may_slot(s, NUMBER) for s in places):
            return
        dst = self.free(NUMBER)
        if dst is None:
            return
        for s in places:
            if self.slots[s] == NONE:
                if not self.may_slot(s, NUMBER):
                    return
                self.emit(ST[8], 10, 0, self.at(s), rng.choice((0, 5)))
                self.slots[s] = NUMBER
        self.bounded(8 * count - size, size, lambda index: self.reach(
            index, dst, size, write, lambda reg: (
                self.emit(MOVX, reg, 10), self.emit(ADD, reg, imm=self.at(first + count - 1)))))
        if write:
            for s in places:
                self.slots[s] = NUMBER

    def reach(
        self, index: int, dst: int, size: int, write: bool, base: Callable[[int], object]
    ) -> None:
        """A load or store at what base makes plus R[index]. R[dst] holds the address, then."""
        held = next((r for r in range(10) if r not in (index, dst) and self.may(r, NONE)
                     and self.regs[r] == NONE), dst)  # fmt: skip
        if held == index:
            return
        base(held)
        self.emit(ADDX, held, index)
        if write:
            if held == dst:
                self.emit(ST[size], held, 0, 0, self.imm())
            else:
                self.emit(STX[size], held, index)
        else:
            self.emit(LDX[size], held, held)
        if not write:
            self.emit(MOVX, dst, held)
        else:
            self.emit(MOV, dst, imm=1)
        self.set(dst, NUMBER)
        if held != dst:
            self.set(held, NONE)

    def bounded(self, most: int, step: int, use: Callable[[int], None]) -> None:
        """A number in 0..most, a multiple of step, in one of many ways, given to use."""
        rng = self.rng
        index = self.number()
        if not self.may(index, NUMBER):
            return
        kind = rng.randrange(10)
        mask = (1 << (most + 1).bit_length() - 1) - 1
        skip: list[Insn] = []
        if kind <= 2:
            self.emit(rng.choice((AND, 0x54)), index, imm=mask)
        elif kind == 3:
            self.emit(RSH, index, imm=64 - mask.bit_length() if mask else 63)
            if not mask:
                self.emit(AND, index, imm=0)
        elif kind == 4:
            skip = [self.emit(JGT, index, imm=most)]
        elif kind == 5:
            skip = [self.emit(JSLT, index, imm=0), self.emit(JSGT, index, imm=most)]
        elif kind == 6:
            skip = [self.emit(op.JMP32 | op.JGT, index, imm=most)]
            self.emit(0xBC, index, index)
        elif kind == 7:  # through a copy
            other = self.free(NUMBER, keep=(index,))
            if other is None:
                return
            by = rng.choice((0, 0, 1, -1, 4))
            self.emit(MOVX, other, index)
            if by:
                self.emit(ADD, other, imm=by)
            self.set(other, NUMBER)
            skip = [self.emit(JGT, other, imm=most), self.emit(JLT, other, imm=max(by, 0))]
        elif kind == 8:
            for n, value in enumerate(rng.sample(range(most + 1), min(2, most + 1))):
                self.emit(MOV, index, imm=value)
                if not n:
                    self.condition(1)
        if step > 1:
            self.emit(AND, index, imm=-step)
        regs, slots = self.regs[:], self.slots[:]
        starts = {id(i): n for n, i in enumerate(self.out)}
        self.out += self.aside(lambda: use(index))
        for insn in skip:
            insn.off = len(self.out) - starts[id(insn)] - 1
        if skip:
            self.join(regs, slots)

    def choice_of_constants(self) -> None:
        """One of two constants, told apart by nothing later on but the value."""
        rng = self.rng
        dst = self.free(NUMBER, rng.choice((0, 6)))
        if dst is None:
            return
        self.number()
        a = self.imm()
        self.emit(MOV, dst, imm=a)
        self.set(dst, NUMBER)
        self.condition(1)
        if self.out[-1].src == 0 and rng.random() < 0.5:
            self.out[-1].dst = self.number()
        self.emit(MOV, dst, imm=rng.choice((self.imm(), a ^ 1, a * 8 & 0xFFFF)))

    def array(self) -> None:
        """An element of an array, by a key on the stack that may be anything."""
        self.lookup(rng_map=ARRAY)

    def calls_fit(self) -> bool:
        return not self.plain and all(self.may(r, NONE) for r in range(6))

    def key(self, reg: int) -> bool:
        """R[reg] = the address of four bytes of stack."""
        slot = self.rng.randrange(SLOTS)
        if not self.may_slot(slot, NUMBER):
            return False
        if self.rng.random() < 0.5:
            self.emit(ST[8], 10, 0, self.at(slot), self.rng.randrange(6))
        else:
            self.emit(STX[8], 10, self.number(), self.at(slot))
        self.slots[slot] = NUMBER
        self.emit(MOVX, reg, 10)
        self.emit(ADD, reg, imm=self.at(slot))
        self.regs[reg] = NONE
        return True

    def lookup(self, rng_map: int = -1) -> None:
        """A map value, looked at for NULL at once, or through a copy, or after a spill."""
        rng = self.rng
        if not self.calls_fit():
            return
        map = rng_map if rng_map >= 0 else rng.choice((HASH, ARRAY, PERCPU, DIRECT))
        if map == DIRECT:
            dst = self.free(("mem", 64), 6)
            if dst is not None:
                off = rng.choice((0, 0, 8, 32))
                self.wide(dst, op.PSEUDO_MAP_VALUE, DIRECT, off)
                self.set(dst, ("mem", 64 - off))
            return
        if not self.key(2):
            return
        self.map(1, map)
        size = SIZE_OF[map]
        if rng.random() < 0.15 and self.some("number") is not None:  # one of two maps
            other = rng.choice((HASH, ARRAY, PERCPU))
            self.condition(2)
            self.map(1, other)
            size = min(size, SIZE_OF[other])
        self.helper(1, NONE)
        kind: Kind = ("mem", size)
        keep = self.free(kind, 6)
        how = rng.randrange(4)
        if how == 0 or keep is None:  # used in the branch where it is not NULL
            jump = self.emit(JEQ, 0)
            regs, slots = self.regs[:], self.slots[:]
            self.set(0, kind)
            block = self.aside(lambda: self.body(rng.randrange(1, 5)))
            self.out += block
            jump.off = len(block)
            self.join(regs, slots)
            self.set(0, NONE)
        elif how == 1 and self.exits:
            self.emit(JNE, 0, off=2)
            self.out += [Insn(MOV, 0, 0, 0, 0), EXIT]
            self.emit(MOVX, keep, 0)
            self.set(keep, kind)
            self.set(0, kind)
        else:  # a copy is looked at, R0 is used, or the other way round
            a, b = (0, keep) if how == 2 else (keep, 0)
            self.emit(MOVX, keep, 0)
            jump = self.emit(JEQ, a)
            regs, slots = self.regs[:], self.slots[:]
            self.set(b, kind)
            block = self.aside(lambda: self.body(rng.randrange(1, 4)))
            self.out += block
            jump.off = len(block)
            self.join(regs, slots)
            self.set(0, NONE)
            if keep is not None:
                self.set(keep, NONE)

    def access(self) -> None:
        """A load or store through a pointer to memory, at a fixed or at a bounded offset."""
        rng = self.rng
        base = self.some("mem")
        if base is None or not self.regs[base][1]:
            return
        room, size = self.regs[base][1], rng.choice(SIZES)
        if room < size:
            return
        dst = self.free(NUMBER, keep=(base,))
        if dst is None:
            return
        if rng.random() < 0.45:
            off = rng.randrange(room - size + 1)
            if rng.random() < 0.5:
                self.emit(LDX[size], dst, base, off)
                self.set(dst, NUMBER)
            elif rng.random() < 0.3:
                self.emit(ST[size], base, 0, off, self.imm())
            else:
                self.emit(STX[size], base, self.number(), off)
            return
        write = rng.random() < 0.5
        most = room - size + (rng.random() < 0.05)  # now and then one too far
        self.bounded(most, 1, lambda index: self.reach(
            index, dst, size, write, lambda reg: self.emit(MOVX, reg, base)))

    def packet(self) -> None:
        rng = self.rng
        ctx = self.some("ctx")
        if ctx is None or self.prog_type not in PACKET_FIELDS:
            return
        data, end = self.free(("packet", 0), 0, (ctx,)), None
        if data is not None:
            end = self.free(END, 0, (ctx, data))
        if data is None or end is None:
            return
        there = self.free(NONE, 0, (ctx, data, end))
        if there is None:
            return
        fields = PACKET_FIELDS[self.prog_type]
        self.emit(LDX[4], data, ctx, fields[0])
        self.emit(LDX[4], end, ctx, fields[1])
        self.set(data, NONE)
        self.set(end, NONE)
        self.set(there, NONE)
        need = rng.choice((1, 2, 8, 14, 20, 34))
        held = {data, end, there} - self.busy
        self.busy |= held

        def inside(index: int | None) -> None:
            self.emit(MOVX, there, data)
            if index is not None:
                self.emit(ADDX, there, index)
                self.emit(MOVX, data, there)
            self.emit(ADD, there, imm=need)
            jump = self.emit(rng.choice((op.JGT, op.JGE)) | op.JMP | 8, there, end)
            self.busy.difference_update(held)
            regs, slots = self.regs[:], self.slots[:]
            self.set(data, ("mem", need))
            block = self.aside(lambda: self.body(rng.randrange(1, 4)))
            self.out += block
            jump.off = len(block)
            self.join(regs, slots)
            for r in held:
                self.set(r, NONE)
            self.busy.update(held)

        if rng.random() < 0.5:
            inside(None)
        else:
            self.bounded(63, 1, inside)
        self.busy -= held

    def atomic(self) -> None:
        rng = self.rng
        size = rng.choice((4, 8))
        src = self.number()
        if not self.may(src, NUMBER) or not self.may(0, NUMBER) or src == 0:
            return
        kind = rng.choice(ATOMICS)
        if kind == op.CMPXCHG and self.regs[0] != NUMBER:
            self.emit(MOV, 0, imm=self.imm())
            self.set(0, NUMBER)
        slots = [s for s in range(SLOTS) if self.slots[s] == NUMBER and self.may_slot(s, NUMBER)]
        base = None if self.alone else self.some("mem")
        if base is not None and self.regs[base][1] >= 8 and rng.random() < 0.5:
            off = 8 * rng.randrange(self.regs[base][1] // 8)
        elif slots:
            base, off = 10, self.at(rng.choice(slots))
        else:
            return
        if rng.random() < 0.2:
            small = rng.choice((1, 2, 4, 8))
            code = {1: 0xD3, 2: 0xCB, 4: 0xC3, 8: 0xDB}[small]
            if rng.random() < 0.5:
                self.emit(code, src, base, off, op.LOAD_ACQ)
            else:
                self.emit(code, base, src, off, op.STORE_REL)
            return
        self.emit(ATOMIC[size], base, src, off, kind)
        if kind == op.CMPXCHG and size == 4:
            self.emit(0xBC, 0, 0)  # the upper half of R0: 6.18 on x86-64 may leave it as it was

    def call(self) -> None:
        """A function of the program's own."""
        if not self.calls or not self.calls_fit():
            return
        callee = self.rng.choice(self.calls)
        moves = []
        for n, kind in enumerate(callee.args):
            if kind == NUMBER:
                moves.append((n + 1, self.number()))
            elif kind == CTX:
                ctx = self.some("ctx")
                if ctx is None:
                    return
                moves.append((n + 1, ctx))
            else:
                moves.append((n + 1, -1))
        if any(to != src and src in range(1, 6) for to, src in moves):
            # arguments are moved one after the other: what is needed later must not be lost
            if len({src for _, src in moves if src > 0}) > 1:
                return
        for to, src in sorted(moves, key=lambda m: m[1] >= 0, reverse=True):
            if src >= 0:
                self.emit(MOVX, to, src)
            elif not self.block(to, callee.args[to - 1][1]):
                return
        insn = self.emit(CALL, 0, op.PSEUDO_CALL)
        self.named.append((insn, callee))
        for r in range(1, 6):
            self.regs[r] = NONE
        self.regs[0] = NUMBER

    def block(self, reg: int, size: int) -> bool:
        """R[reg] = the address of size bytes of stack, written."""
        count = size // 8
        first = self.rng.randrange(SLOTS - count)
        if not all(self.may_slot(s, NUMBER) for s in range(first, first + count)):
            return False
        for s in range(first, first + count):
            if self.slots[s] != NUMBER or self.rng.random() < 0.5:
                self.emit(ST[8], 10, 0, self.at(s), self.imm())
            self.slots[s] = NUMBER
        self.emit(MOVX, reg, 10)
        self.emit(ADD, reg, imm=self.at(first + count - 1))
        return True

    def call_back(self) -> None:
        if not self.callbacks or not self.calls_fit():
            return
        callee = self.rng.choice(self.callbacks)
        each = callee.args[0] == NONE
        if not each:
            self.emit(MOVX, 1, self.number())
            if self.rng.random() < 0.5:
                self.emit(AND, 1, imm=self.rng.choice((3, 7)))
            self.regs[1] = NONE
        kept = self.regs[1]
        self.regs[1] = NONE
        if not self.block(3, 16):
            self.regs[1] = kept
            return
        insn = self.wide(2, op.PSEUDO_FUNC, 0)
        self.named.append((insn, callee))
        if each:
            self.map(1, HASH)
        self.emit(MOV, 4, imm=0)
        self.helper(164 if each else 181)

    def record(self) -> None:
        """A record of the ring buffer, from its reservation to its end."""
        rng = self.rng
        keep = self.free(("mem", 16), 6)
        if keep is None or not self.calls_fit() or not self.exits:
            return
        size = rng.choice((8, 16, 24))
        self.map(1, RING)
        self.emit(MOV, 2, imm=size)
        self.emit(MOV, 3, imm=0)
        self.helper(131, NONE)
        self.set(keep, NONE)
        self.emit(MOVX, keep, 0)
        jump = self.emit(JEQ, rng.choice((0, keep)))
        regs, slots = self.regs[:], self.slots[:]
        self.exits = False
        self.busy.add(keep)
        self.set(keep, ("mem", size))
        loops, self.loops = self.loops, [*self.loops, ([NONE] * 10, [NONE] * SLOTS)]

        def use() -> None:
            self.body(rng.randrange(1, 5))
            self.emit(MOVX, 1, keep)
            self.emit(MOV, 2, imm=0)
            self.helper(rng.choice((132, 133)), NONE)

        block = self.aside(use)
        self.busy.discard(keep)
        self.exits, self.loops = True, loops
        self.out += block
        jump.off = len(block)
        self.set(keep, NONE)
        self.join(regs, slots)
        self.set(0, NONE)

    def lock(self) -> None:
        rng = self.rng
        if not self.calls_fit() or self.prog_type in NO_LOCKS or not self.exits:
            return
        keep = self.free(("mem", 8), 6)
        if keep is None or not self.key(2):
            return
        self.map(1, LOCKED)
        self.helper(1, NONE)
        self.set(keep, NONE)
        self.emit(MOVX, keep, 0)
        jump = self.emit(JEQ, keep)
        regs, slots = self.regs[:], self.slots[:]

        def use() -> None:
            for number in (93, 94):
                self.emit(MOVX, 1, keep)
                self.emit(ADD, 1, imm=8)
                self.helper(number, NONE)
                if number == 93:
                    held, self.plain, self.exits = self.plain, True, False
                    self.busy.add(keep)
                    self.set(keep, ("mem", 8))
                    self.body(rng.randrange(1, 4))
                    self.busy.discard(keep)
                    self.plain, self.exits = held, True

        block = self.aside(use)
        self.out += block
        jump.off = len(block)
        self.set(keep, NONE)
        self.join(regs, slots)
        self.set(0, NONE)

    def nested(self) -> None:
        """A value of a map in a map."""
        if not self.calls_fit() or not self.key(2):
            return
        self.map(1, NESTED)
        self.helper(1, NONE)
        first = self.emit(JEQ, 0)
        start = len(self.out)
        regs, slots = self.regs[:], self.slots[:]
        self.emit(MOVX, 1, 0)
        if not self.key(2):
            self.emit(MOVX, 2, 10)
            self.emit(ADD, 2, imm=-8)
        self.helper(1, NONE)
        second = self.emit(JEQ, 0)
        self.emit(LDX[8], 0, 0, 8 * self.rng.randrange(5))
        second.off = 1
        first.off = len(self.out) - start
        self.join(regs, slots)
        self.set(0, NONE)

    def tail(self) -> None:
        ctx = self.some("ctx")
        if not self.calls_fit() or ctx is None or not self.exits or not self.budget_for_tail():
            return
        self.emit(MOVX, 3, self.number())
        self.emit(MOVX, 1, ctx) if ctx != 1 else None
        self.map(2, PROGS)
        self.helper(12, NONE)

    def budget_for_tail(self) -> bool:
        return self.regs[3] != CTX and not self.loops

    def move_packet(self) -> None:
        ctx = self.some("ctx")
        if self.prog_type not in PACKET_FIELDS or not self.calls_fit() or ctx is None:
            return
        self.emit(MOVX, 1, ctx)
        self.emit(MOV, 2, imm=0)
        if self.prog_type == CLS:
            self.emit(MOV, 3, imm=0)
            self.helper(50 if self.rng.random() < 0.5 else 39)
        else:
            self.helper(44)

    def kept_over_a_call(self) -> None:
        """R1 spilled around a call that need not lose it (the kernel drops such spills)."""
        if not self.calls_fit():
            return
        off = self.at(SLOTS + self.rng.randrange(2))
        self.emit(MOV, 1, imm=self.imm())
        self.emit(STX[8], 10, 1, off)
        self.helper(8)
        self.emit(LDX[8], 1, 10, off)
        self.set(1, NUMBER)

    def helper_memory(self) -> None:
        """A helper that reads or fills memory, of a size that is only bounded."""
        rng = self.rng
        if not self.calls_fit():
            return
        size = rng.choice((8, 16, 24))
        ctx = self.some("ctx")
        fills = self.prog_type in (KPROBE, RAW_TP)
        if fills:
            if not self.block(1, size):
                return
            self.regs[1] = NONE
            self.emit(MOV, 2, imm=size)
            self.helper(16)
            return
        if ctx is None or self.prog_type == XDP:
            return
        self.emit(MOVX, 1, ctx)
        kept, self.regs[1] = self.regs[1], NONE
        self.emit(MOV, 2, imm=rng.randrange(20))
        self.regs[2] = NONE
        if not self.block(3, size):
            self.regs[1] = kept
            return
        self.regs[3] = NONE
        self.emit(MOV, 4, imm=size)
        if rng.random() < 0.5:
            self.emit(MOVX, 4, self.number())
            self.emit(AND, 4, imm=7)
            self.emit(ADD, 4, imm=1)
        self.helper(26)

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

    callback = False


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


def link(rng: random.Random, prog_type: int, functions: list[Function], types: bool) -> Program:
    """Functions in a row, those left out that nobody names; calls get their distances."""
    used = [functions[0]]
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
    rng: random.Random, used: list[Function], entries: dict[int, int]
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
