"""What the compiler knows of a program before it emits anything: a pure function of instructions.

Jumps, which registers may still be read (liveness, backwards over the jumps), which registers
surely have an upper half of zero (forwards), and which conditional moves are written as branches.
Only slots that some run reaches count (Facts.seen). Registers are bits of a mask, R0 bit 0; R10 is
in none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, imm64
from libbpf_shim.verifier.facts import Facts

ALL: Final = 0x3FF
CALLER: Final = 0x3F  # R0 to R5, which a call leaves undefined
ARGS: Final = 0x3E
_TAIL_CALL: Final = 12
_FETCHES: Final = op.FETCH


def ends(i: Insn) -> bool:
    """Whether the next instruction cannot run after this one."""
    return i.klass in (op.JMP, op.JMP32) and i.code & 0xF0 in (op.EXIT, op.JA)


def is_call(i: Insn) -> bool:
    """Of a function of the program."""
    return i.code == op.JMP | op.CALL and i.src == op.PSEUDO_CALL


def target(at: int, i: Insn) -> int:
    """Where a jump inside its function leads; -1: it is none."""
    kind, klass = i.code & 0xF0, i.klass
    if klass not in (op.JMP, op.JMP32) or kind in (op.CALL, op.EXIT):
        return -1
    return at + 1 + (i.imm if klass == op.JMP32 and kind == op.JA else i.off)


def _bit(regno: int) -> int:
    return 1 << regno & ALL


def _alu_effect(i: Insn) -> tuple[int, int]:
    kind, dst = i.code & 0xF0, _bit(i.dst)
    src = _bit(i.src) if i.code & 8 and kind != op.END else 0
    return (src if kind == op.MOV else src | dst), dst


def _atomic_effect(i: Insn) -> tuple[int, int]:
    dst, src = _bit(i.dst), _bit(i.src)
    if i.imm == op.LOAD_ACQ:
        return src, dst
    if i.imm == op.CMPXCHG:
        return dst | src | 1, 1
    return dst | src, src if i.imm & _FETCHES and i.imm != op.STORE_REL else 0


def effect(i: Insn, arguments: Callable[[int], int]) -> tuple[int, int]:
    """Registers that an instruction reads, and that it writes or leaves undefined. arguments: how
    many a helper takes."""
    klass = i.klass
    if klass in (op.ALU, op.ALU64):
        return _alu_effect(i)
    if klass == op.LDX:
        return _bit(i.src), _bit(i.dst)
    if klass == op.ST:
        return _bit(i.dst), 0
    if klass == op.STX:
        return _atomic_effect(i) if i.code & 0xE0 == op.MODE_ATOMIC else (
            _bit(i.dst) | _bit(i.src), 0)
    if klass == op.LD:
        if i.code == op.LD_IMM64:
            return 0, _bit(i.dst)
        return 1 << 6 | (_bit(i.src) if i.code & 0xE0 == op.MODE_IND else 0), CALLER
    kind = i.code & 0xF0
    if kind == op.CALL:
        count = arguments(i.imm) if i.src == 0 else 5
        return (2 << count) - 2, CALLER
    if kind == op.EXIT:
        return 1, 0
    if kind in (op.JA, op.JCOND):
        return 0, 0
    return _bit(i.dst) | (_bit(i.src) if i.code & 8 else 0), 0


def _narrow_alu(i: Insn, before: int) -> bool:
    """Whether the result of 64-bit arithmetic surely fits into 32 bits."""
    kind = i.code & 0xF0
    dst = before >> i.dst & 1
    if not i.code & 8 or kind == op.END:
        imm = i.imm
        if kind == op.MOV:
            return imm >= 0
        if kind == op.AND:
            return imm >= 0 or bool(dst)
        if kind in (op.OR, op.XOR):
            return bool(dst) and imm >= 0
        if kind == op.RSH:
            return bool(dst) or imm & 63 >= 32
        if kind in (op.DIV, op.MOD):
            return bool(dst) and i.off == 0
        return kind == op.END and imm < 64
    src = before >> i.src & 1 if i.src < 10 else 0
    if kind == op.MOV:
        return bool(src) and not i.off
    if kind == op.AND:
        return bool(dst or src)
    if kind in (op.OR, op.XOR):
        return bool(dst and src)
    if kind in (op.DIV, op.MOD):
        return bool(dst) and i.off == 0
    return kind == op.RSH and bool(dst)


def narrow_after(insns: list[Insn], at: int, before: int) -> int:
    """Registers whose upper half is zero after the instruction, from those before it."""
    i = insns[at]
    klass, dst = i.klass, _bit(i.dst)
    if klass == op.ALU:
        whole = i.code & 0xF0 == op.END and i.imm == 64
        return before & ~dst if whole else before | dst
    if klass == op.ALU64:
        return before | dst if _narrow_alu(i, before) else before & ~dst
    if klass == op.LDX:
        zero = i.code & 0xE0 == op.MODE_MEM and i.size < 8
        return before | dst if zero else before & ~dst
    if klass == op.LD and i.code == op.LD_IMM64:
        plain = i.src == 0 and imm64(i, insns[at + 1]) <= 0xFFFFFFFF
        return before | dst if plain else before & ~dst
    if klass == op.STX and i.code & 0xE0 == op.MODE_ATOMIC:
        written = _atomic_effect(i)[1]
        return before | written if i.size < 8 else before & ~written
    if klass == op.LD or (i.code & 0xF0 == op.CALL and klass == op.JMP):
        return before & ~CALLER
    return before


@final
class Flow:
    """leaders: 1 for slots that something jumps to, or where a function begins. live_in: registers
    that may be read from a slot on, live_out: after it, on any way. narrow: by leader, registers
    whose upper half is zero. selects: slots of conditional jumps over one move;
    none where instructions are counted. dead: some way
    leads to a slot that no run reaches. written: by function, registers that it writes."""

    __slots__ = ("insns", "seen", "starts", "leaders", "live_in", "live_out", "narrow", "selects",
                 "dead", "written", "_effects", "_next")

    def __init__(self, insns: list[Insn], facts: Facts, arguments: Callable[[int], int]) -> None:
        self.insns, self.seen, self.starts = insns, facts.seen, frozenset(facts.subprogs)
        count = len(insns)
        self.leaders = bytearray(count)
        self.live_in, self.live_out = [0] * count, [0] * count
        self.narrow: dict[int, int] = {}
        self.selects: set[int] = set()
        self.dead = False
        self._effects = [effect(i, arguments) if facts.seen[at] else (0, 0)
                         for at, i in enumerate(insns)]
        self._next = [self._successors(at) for at in range(count)]
        self._find_leaders(facts)
        self._find_live()
        self._find_narrow()
        self.written = self._find_written()

    def slots(self) -> Iterator[int]:
        """Those that run, without the second halves of constants."""
        half = False
        for at, i in enumerate(self.insns):
            if half:
                half = False
            elif self.seen[at]:
                half = i.code == op.LD_IMM64
                yield at

    def successors(self, at: int) -> tuple[int, ...]:
        """Slots that may run next, if some run reaches them."""
        return self._next[at]

    def second_half(self, at: int) -> bool:
        """Of an ld_imm64."""
        return at > 0 and self.insns[at - 1].code == op.LD_IMM64 and not self.insns[at].code

    def _successors(self, at: int) -> tuple[int, ...]:
        i = self.insns[at]
        if not self.seen[at] or (i.klass == op.LD and i.code == 0):
            return ()
        out = []
        if not ends(i):
            out.append(at + (2 if i.code == op.LD_IMM64 else 1))
        to = target(at, i)
        if to >= 0 and to not in out:
            out.append(to)
        live = tuple(s for s in out if s < len(self.insns) and self.seen[s])
        self.dead = self.dead or len(live) < len(out)
        return live

    def _find_leaders(self, facts: Facts) -> None:
        sources = [0] * len(self.insns)
        for at in self.slots():
            to = target(at, self.insns[at])
            if to >= 0:
                sources[to] += 1
        for at in self.slots():
            if facts.counted < 0 and self._is_select(at, sources):
                self.selects.add(at)
                sources[at + 2] -= 1
        for at, n in enumerate(sources):
            self.leaders[at] = n > 0 or at in self.starts

    def _is_select(self, at: int, sources: list[int]) -> bool:
        """`if c goto +1; a = b`, as conditional moves come out of clang."""
        i = self.insns[at]
        if i.klass not in (op.JMP, op.JMP32) or target(at, i) != at + 2 or \
                at + 2 >= len(self.insns) or i.code & 0xF0 in (op.JA, op.JCOND):
            return False
        move = self.insns[at + 1]
        if move.klass not in (op.ALU, op.ALU64) or move.code & 0xF0 != op.MOV or move.off:
            return False
        fresh = not sources[at + 1] and at + 1 not in self.starts and at + 2 not in self.starts
        return bool(fresh and self.seen[at + 1] and self.seen[at + 2])

    def _find_live(self) -> None:
        order = list(self.slots())
        order.reverse()
        changed = True
        live_in = self.live_in
        calls = {at: at + 1 + self.insns[at].imm for at in order if is_call(self.insns[at])}
        while changed:
            changed = False
            for at in order:
                out = 0
                for after in self._next[at]:
                    out |= live_in[after]
                uses, defs = self._effects[at]
                if at in calls:
                    uses = live_in[calls[at]] & ARGS
                self.live_out[at] = out
                now = uses | out & ~defs
                if now != live_in[at]:
                    live_in[at] = now
                    changed = True

    def _find_narrow(self) -> None:
        """Everything is narrow until some way says that it is not."""
        state = [ALL] * len(self.insns)
        for start in self.starts:
            if start < len(state):
                state[start] = 0
        order = list(self.slots())
        changed = True
        while changed:
            changed = False
            for at in order:
                after = narrow_after(self.insns, at, state[at])
                for to in self._next[at]:
                    if state[to] & ~after:
                        state[to] &= after
                        changed = True
        self.narrow = {at: state[at] for at in order if self.leaders[at]}

    def _find_written(self) -> dict[int, int]:
        found, start = dict.fromkeys(self.starts, 0), 0
        for at in self.slots():
            start = at if at in self.starts else start
            found[start] |= self._effects[at][1]
        return found
