"""Does what the verifier recorded contain what a machine does?

For every step of a run (world.py) some state that the verifier met at that instruction must cover
the machine's. Where nothing was pruned, every register, byte of stack and equality must lie in it.
Where states were pruned, what the run itself will still read must: a scalar only where it is
marked precise, since the pruning relation takes any other for unknown. What is handed to the
compiler (Facts) is checked against the same runs.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass, field

from compat_tests.verifier.world import STACK, START, U32, U64, Moment, World, function_at
from libbpf_shim.isa import insn as op
from libbpf_shim.isa.disasm import disassemble
from libbpf_shim.isa.insn import Insn, decode
from libbpf_shim.jit import context
from libbpf_shim.jit.access import extended
from libbpf_shim.jit.interp import InterpreterError
from libbpf_shim.verifier import state as st
from libbpf_shim.verifier.call import helpers
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.memory.pointers import BEYOND_END
from libbpf_shim.verifier.program import Program
from libbpf_shim.verifier.scalar.domains import to_s32, to_s64
from libbpf_shim.verifier.state import (
    ADD_CONST,
    ADD_CONST32,
    MAYBE_NULL,
    SCALAR,
    SPILL,
    TYPE_MASK,
    ZERO,
    Reg,
    State,
)
from libbpf_shim.verifier.verify import verify
from libbpf_shim.verifier.watch import PLAIN, Watch

ALL = (1 << STACK) - 1
# (callsite, entry) of each frame: states are compared with moments in the same functions only
Chain = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Totals:
    """What was done, so that a test can tell whether it was much."""

    programs: int = 0
    accepted: int = 0
    runs: int = 0
    ended: int = 0  # runs that came to an exit
    steps: int = 0
    compared: int = 0  # states with moments
    pruned: int = 0
    calls: int = 0
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Live:
    """What the rest of the run reads: registers of each frame, bytes of stack by its R10."""

    regs: list[int]
    stack: dict[int, int]


def in_range(reg: Reg, value: int) -> bool:
    """The number is one that the register may be."""
    signed, low = to_s64(value), value & U32
    return (
        reg.umin <= value <= reg.umax and reg.smin <= signed <= reg.smax
        and value & ~reg.tm & U64 == reg.tv
        and reg.u32min <= low <= reg.u32max and reg.s32min <= to_s32(low) <= reg.s32max
    )


def moved(reg: Reg, by: int) -> bool:
    """A pointer's variable offset may be `by`: the 32-bit halves mean nothing there."""
    value, signed = by & U64, to_s64(by & U64)
    return (
        reg.umin <= value <= reg.umax and reg.smin <= signed <= reg.smax
        and value & ~reg.tm & U64 == reg.tv
    )


class Cover:
    """One verification beside the runs of its program."""

    def __init__(self, program: Program, watch: Watch, facts: Facts) -> None:
        self.program, self.watch, self.facts = program, watch, facts
        self.insns: list[Insn] = decode(program.insns)
        self.strict = watch.mode == PLAIN  # every scalar counts
        self.whole = self.strict and not watch.pruned  # what is dead counts too
        self.by: dict[tuple[int, Chain], list[int]] = defaultdict(list)
        for n, state in enumerate(watch.met):
            chain = tuple((f.callsite, facts.subprogs[f.subprog]) for f in state.frames)
            self.by[state.insn, chain].append(n)
        self.next = 0
        self.compared = 0
        self.world: World
        self.moment: Moment
        self.ids: dict[int, int] = {}

    # one run

    def check(self, world: World) -> str:
        """Nothing, or what is wrong with the run."""
        self.world, self.next = world, 0
        lives = self.lives(world.moments)
        for n, moment in enumerate(world.moments):
            wrong = self.covered(moment, lives[n]) or self.fact(moment, lives[n])
            if not wrong and n + 1 < len(world.moments):
                wrong = self.loaded(moment, world.moments[n + 1])
            if wrong:
                return f"step {n}: {wrong}"
        return self.unset(world.moments)

    def covered(self, moment: Moment, live: Live) -> str:
        chain = [(f[0], f[1]) for f in moment.frames]
        first = 0
        for n in range(1, len(chain)):  # a global function is verified by itself
            if chain[n][1] in self.watch.globals and not moment.frames[n][2]:
                first = n
        if first:
            chain = [(-1, chain[first][1]), *chain[first + 1 :]]
        known = self.by.get((moment.at, tuple(chain)), [])
        self.moment = moment
        # the state after the last one's is the likeliest
        for n in ([self.next] if self.next in known else []) + known:
            self.compared += 1
            if not self.differs(n, first, live):
                self.next = n + 1
                return ""
        why = [self.differs(n, first, live) for n in known[-3:]]
        text = disassemble(self.insns, moment.at, str)
        return f"insn {moment.at} ({text}): none of {len(known)} states covers it: {why}"

    def differs(self, n: int, first: int, live: Live) -> str:
        """Why the n-th state met does not cover the moment; nothing if it does."""
        state, kept, moment = self.watch.met[n], self.watch.kept[n], self.moment
        self.ids = {}
        frames = moment.frames[first:]
        top = len(frames) - 1
        for f, (_, _, _, saved, _, stack) in enumerate(frames):
            frame = state.frames[f]
            want = 0x3FF if self.whole else live.regs[first + f]
            for r in range(10) if f == top else range(6, 10):
                if want >> r & 1:
                    value = moment.regs[r] if f == top else saved[r - 6]
                    strict = self.strict or kept is not None and kept.frames[f].precise >> r & 1
                    why = self.outside(state, frame.regs[r], value, bool(strict), first)
                    if why:
                        return f"frame {f} R{r} {why}"
            read = ALL if self.whole else live.stack.get(frames[f][4], 0)
            marks = -1 if self.strict else int(kept.frames[f].precise_stack) if kept else 0
            why = self.stack_outside(state, f, stack, read, marks, first)
            if why:
                return f"frame {f} {why}"
        return self.sections(state, first)

    def sections(self, state: State, first: int) -> str:
        moment = self.moment
        ats = [at for _, at in state.refs]
        for at in moment.refs:
            if at in ats:
                ats.remove(at)
            elif not first:
                return f"a reference of insn {at} is open"
        if any(at not in moment.tried for at in ats):
            return f"no reference of insn {ats} is open"
        if not first and bool(state.locks) != moment.locked:
            return f"locked: {moment.locked}"
        return ""

    def stack_outside(
        self, state: State, f: int, stack: bytes, read: int, marks: int, first: int
    ) -> str:
        slots = state.frames[f].stack
        for s, slot in enumerate(slots):
            at = STACK - 8 * (s + 1)
            wanted = read >> at & 0xFF
            if not wanted or slot is st.EMPTY_SLOT:
                continue
            types = slot.types
            for b in range(8):
                if types[b] == ZERO and wanted >> b & 1 and stack[at + b]:
                    return f"byte {at + b - STACK} is {stack[at + b]}, not 0"
            if types[0] == SPILL and slot.reg is not None:
                size = types.rfind(SPILL) + 1
                if wanted & ((1 << size) - 1):
                    value = int.from_bytes(stack[at : at + size], "little")
                    strict = bool(marks >> s & 1) and slot.reg.umax < 1 << 8 * size
                    if not strict and (value ^ slot.reg.tv) & ~slot.reg.tm & ((1 << 8 * size) - 1):
                        if marks >> s & 1:
                            return f"slot {at - STACK} = {value:#x} is not {describe(slot.reg)}"
                    why = self.outside(state, slot.reg, value, strict, first)
                    if why:
                        return f"slot {at - STACK} {why}"
        return ""

    # one register

    def same(self, ident: int, value: int) -> bool:
        """What has the id has one value."""
        return self.ids.setdefault(ident, value & U64) == value & U64

    def outside(self, state: State, reg: Reg, value: int, strict: bool, first: int) -> str:
        kind = reg.type & TYPE_MASK
        if kind == st.NOT_INIT:
            return ""
        if kind == SCALAR:
            if not strict:
                return ""
            if not in_range(reg, value):
                return f"= {value:#x} is not in {describe(reg)}"
            base = value - reg.off if reg.id & ADD_CONST else value
            if reg.id & ADD_CONST32:
                base &= U32
            if reg.id and not self.same(reg.id & ~ADD_CONST, base):
                return f"= {value:#x} is not what others of id {reg.id:#x} are"
            return ""
        if reg.type & MAYBE_NULL:
            if reg.id and not self.same(-reg.id, int(value == 0)):
                return f"= {value:#x}: of id {reg.id} not all are NULL"
            if value == 0:
                return ""
        start = self.base(reg, kind, first)
        if start is None:
            return self.elsewhere(reg, kind, value)
        if not moved(reg, value - start - reg.off):
            return f"= {value:#x} is not {describe(reg)} from {start:#x}"
        return self.packet_range(reg, kind, value) if kind in (st.PKT, st.PKT_META) else ""

    def packet_range(self, reg: Reg, kind: int, value: int) -> str:
        """The bytes that were proven are there; what was found behind the end is."""
        region = self.world.places.region(self.moment.packet)
        assert region
        end = region.address + (len(region.data) if kind == st.PKT else region.meta)
        if reg.range >= 0:
            fits = not reg.range or value - reg.off + reg.range <= end
        else:
            fits = value > end if reg.range == BEYOND_END else value >= end
        if not fits:
            return f"= {value:#x}, range {reg.range}: the packet ends at {end:#x}"
        if reg.id and not self.same(-reg.id, value - reg.off):
            return f"= {value:#x} is not where others of id {reg.id} are"
        return ""

    def base(self, reg: Reg, kind: int, first: int) -> int | None:
        """The address that the pointer's offsets count from, where that is known."""
        world, moment = self.world, self.moment
        if kind == st.CTX:
            return world.ctx
        if kind == st.STACK:
            return moment.frames[first + reg.frame][4]
        if kind == st.FUNC:
            entry = self.facts.subprogs[reg.map]
            return world_function(entry)
        if kind in (st.PKT, st.PKT_META, st.PKT_END):
            region = world.places.region(moment.packet)
            assert region
            if kind == st.PKT_META:
                return moment.packet
            return moment.packet + (region.meta if kind == st.PKT else len(region.data))
        return None

    def elsewhere(self, reg: Reg, kind: int, value: int) -> str:
        """Pointers into something that there are several of."""
        world = self.world
        if kind == st.MAP_PTR:
            desc = world.handles.get(value)
            right = desc is not None and desc == self.desc(reg.map)
            return "" if right else f"= {value:#x} is not map {reg.map}"
        if kind not in (st.MAP_VALUE, st.MAP_KEY, st.MEM):
            return ""  # opaque: no one looks behind it
        region = world.places.region(value)
        if region is None:
            return f"= {value:#x} points to nothing, not {describe(reg)}"
        if kind == st.MEM:
            start = region.address if region.kind == "record" else value - reg.off
            if region.kind != "record" and reg.tm:
                return ""  # an argument of a global function: where it began is not known
            room = region.address + len(region.data) - start
            if room < reg.mem_size or not moved(reg, value - start - reg.off):
                return f"= {value:#x} is not {describe(reg)}"
            return ""
        wanted = "value" if kind == st.MAP_VALUE else "key"
        if region.kind != wanted or region.desc != self.desc(reg.map):
            return f"= {value:#x} points to a {region.kind}, not {describe(reg)}"
        if not moved(reg, value - region.address - reg.off):
            return f"= {value:#x} is not {describe(reg)} from {region.address:#x}"
        return ""

    def desc(self, map: int) -> object:
        if map < len(self.program.maps):
            return self.program.maps[map]
        inner = [m.inner for m in self.program.maps if m.inner]
        return inner[0] if len(inner) == 1 else None

    # what the run still reads

    def lives(self, moments: list[Moment]) -> list[Live]:
        """By moment, from the last to the first."""
        found: list[Live] = []
        regs = [0] * 10
        stack: dict[int, int] = {}
        for n in range(len(moments) - 1, -1, -1):
            moment = moments[n]
            depth = len(moment.frames) - 1
            after = moments[n + 1] if n + 1 < len(moments) else None
            self.before(moment, after, regs, depth)
            for access in moment.accesses:
                if access.write:
                    self.touch(stack, access.address, access.size, False)
            for access in moment.accesses:
                if not access.write:
                    self.touch(stack, access.address, access.size, True)
            found.append(Live(regs[:], dict(stack)))
        return found[::-1]

    def touch(self, stack: dict[int, int], address: int, size: int, read: bool) -> None:
        at = (address & U32) - START
        top = address - at + STACK
        mask = ((1 << size) - 1) << at
        if read:
            stack[top] = stack.get(top, 0) | mask
        elif top in stack:
            stack[top] &= ~mask

    def before(self, moment: Moment, after: Moment | None, regs: list[int], depth: int) -> None:
        """Registers read from before the moment on, from those after it."""
        i = self.insns[moment.at]
        if i.code == op.JMP | op.EXIT:
            alone = not depth or moment.frames[depth][2]
            regs[depth] = 1 if alone or regs[depth - 1] & 1 else 0
            if not alone:
                regs[depth - 1] &= ~0x3F
            return
        if i.code == op.JMP | op.CALL:
            entered = after is not None and len(after.frames) > depth + 1
            if i.src == op.PSEUDO_CALL:
                args = regs[depth + 1] & 0x3E if entered else 0
                regs[depth] = regs[depth] & ~0x3F | args
            else:
                regs[depth] = regs[depth] & ~0x3F | (1 << moment.args + 1) - 2
            regs[depth + 1] = 0
            return
        used, set_ = registers(i)
        regs[depth] = regs[depth] & ~set_ | used

    # facts

    def fact(self, moment: Moment, live: Live) -> str:
        facts, world, at = self.facts, self.world, moment.at
        i = self.insns[at]
        if not facts.seen[at]:
            return f"insn {at} ran, and was not seen"
        if i.code == op.JMP | op.CALL:
            return self.call_fact(moment, i, live.regs[len(moment.frames) - 1])
        mine = [a for a in moment.accesses if not a.helper]
        to_ctx = any(world.ctx <= a.address < world.ctx + STACK * 16 for a in mine)
        if to_ctx != (at in facts.ctx_at) and mine:
            return f"insn {at}: of the context: {to_ctx}, in ctx_at: {at in facts.ctx_at}"
        if to_ctx and (i.off, i.size) not in facts.ctx_loads:
            return f"insn {at} reaches bytes of the context that are not in ctx_loads"
        tops = [f[4] for f in moment.frames]
        if at in facts.stack_at and not all(
                any(top - STACK <= a.address < top for top in tops) for a in mine):
            return f"insn {at}: of something else than the stack, and in stack_at"
        if i.klass == op.STX and i.size == 8 and moment.regs[i.src] == world.ctx:
            if not facts.ctx_escapes:
                return f"insn {at} stores the context's address"
        return ""

    def loaded(self, moment: Moment, after: Moment) -> str:
        """What a load gave that gives one number always."""
        known, i = self.facts.loaded.get(moment.at), self.insns[moment.at]
        if known is None or i.klass != op.LDX:
            return ""
        expected = extended(known, i.size) if i.code & 0xE0 == op.MODE_MEMSX else known
        return "" if after.regs[i.dst] == expected else (
            f"insn {moment.at} gave {after.regs[i.dst]:#x}, which was to be {expected:#x}")

    def call_fact(self, moment: Moment, i: Insn, read: int) -> str:
        facts, world, at = self.facts, self.world, moment.at
        given = [moment.regs[r] for r in range(1, 6) if read >> r & 1]
        blind = not i.src and i.imm in helpers.BLIND
        if world.ctx in given and not facts.ctx_escapes and not blind:
            return f"insn {at} gives the context away"
        if i.src:
            return ""
        if i.imm not in facts.helpers:
            return f"insn {at} calls helper {i.imm}, which is not in helpers"
        index = facts.call_map.get(at)
        if index is not None:
            maps = [a for a in given if a in world.handles]
            if list(world.handles)[index] not in maps:
                return f"insn {at} is not given map {index}"
        return ""

    def unset(self, moments: list[Moment]) -> str:
        """Stack that is read before it is written, and how far down it reaches."""
        written: dict[int, int] = defaultdict(int)
        subs = {f[4]: f[1] for m in moments for f in m.frames}
        depth = dict(zip(self.facts.subprogs, self.facts.stack_depth, strict=True))
        for moment in moments:
            for a in moment.accesses:
                at = (a.address & U32) - START
                top = a.address - at + STACK
                if top not in subs or not a.size:
                    continue
                if STACK - at > depth[subs[top]]:
                    return f"insn {moment.at} reaches {STACK - at} bytes down, {depth}"
                mask = ((1 << a.size) - 1) << at
                if a.write:
                    written[top] |= mask
                elif mask & ~written[top] and not self.facts.reads_unset:
                    return f"insn {moment.at} reads stack never written"
        return ""


def world_function(entry: int) -> int:
    address = (U32 << 32) + entry
    assert function_at(address) == entry
    return address


def describe(reg: Reg) -> str:
    return (f"type {reg.type:#x} off {reg.off} u[{reg.umin:#x},{reg.umax:#x}] "
            f"s[{reg.smin},{reg.smax}] w[{reg.u32min:#x},{reg.u32max:#x}] "
            f"sw[{reg.s32min},{reg.s32max}] tnum {reg.tv:#x}/{reg.tm:#x} id {reg.id:#x} "
            f"size {reg.mem_size} map {reg.map}")  # fmt: skip


def registers(i: Insn) -> tuple[int, int]:
    """(read, written) masks of an instruction other than calls and exit."""
    dst, src = 1 << i.dst, 1 << i.src
    by_reg = src if i.code & 8 else 0
    kind = i.code & 0xF0
    if i.klass in (op.ALU, op.ALU64):
        if kind == op.MOV:
            return by_reg, dst
        return dst if kind in (op.END, op.NEG) else dst | by_reg, dst
    if i.klass in (op.JMP, op.JMP32):
        return (0 if kind == op.JA else dst | by_reg), 0
    if i.klass == op.LDX:
        return src, dst
    if i.klass == op.ST:
        return dst, 0
    if i.klass == op.LD:
        if i.code == op.LD_IMM64:
            return 0, dst
        return 1 << 6 | (src if i.code & 0xE0 == op.MODE_IND else 0), 0x3F
    if i.code & 0xE0 != op.MODE_ATOMIC or i.imm == op.STORE_REL:
        return dst | src, 0
    if i.imm == op.LOAD_ACQ:
        return src, dst
    if i.imm == op.CMPXCHG:
        return dst | src | 1, 1
    return dst | src, src if i.imm & op.FETCH else 0


def judge(
    program: Program, mode: int, seed: int, totals: Totals, runs: int = 3, limit: int = 4000,
    steps: int = 600,
) -> str:
    """Verify, run a few times, compare. What is wrong; nothing if all is well."""
    watch = Watch(mode, limit)
    verdict = verify(program, watch=watch)
    totals.programs += 1
    if verdict.facts is None:
        line = verdict.log.strip().split("\n")[0][:60]
        totals.refused[line] = totals.refused.get(line, 0) + 1
        return ""
    totals.accepted += 1
    totals.pruned += watch.pruned
    cover = Cover(program, watch, verdict.facts)
    accesses = context.accesses(program, cover.insns, verdict.facts)
    for n in range(runs):
        world = World(program, accesses, random.Random(seed * 31 + n), steps)
        fault = ""
        try:
            totals.ended += world.run_once() is not None
        except InterpreterError as error:
            fault = f"{type(error).__name__} at insn {world.moments[-1].at}: {error}"
        totals.runs += 1
        totals.steps += len(world.moments)
        wrong = cover.check(world) or fault
        if wrong:
            return f"mode {mode}, run {n}: {wrong}"
    totals.compared += cover.compared
    return ""
