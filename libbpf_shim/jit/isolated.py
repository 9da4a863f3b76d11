"""Tier 1 for isolated programs: whatever the verifier believed, they stay within their window.

Of the facts none is trusted where memory is reached. An access is made at the window's base plus
32 bits, below the window's limit (window.py); else the program ends there (SHIM_SYM_CONTAINED).
Without a test go: the frame, by R10 and a number within it, since R10 is ours and in the window;
and global variables and array elements whose index is a number, since a map's size is no fact. The
machine's stack holds no memory of the program's. What helpers are given is tested in the same way:
memory by its size, maps against the program's own. The host's memory is read by calls that cannot
fault and leave out what is the agent's. Calls in which more is at stake are guarded.py's. What
cannot be tested is refused: stores into the host's memory, kernel functions and those of the
host's, functions as arguments.

Time is not contained: that a program ends is the verifier's word.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Final

from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, decode
from libbpf_shim.jit import budget, charge, shape, window
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.access import HOST_BYTES, Access
from libbpf_shim.jit.control import CALL, TAIL_CALL
from libbpf_shim.jit.emit import OWNER, REG, Const, Expr, Piece, Symbol, fits, unsupported
from libbpf_shim.jit.encode import R9, R10, R11, R12, RAX, RBP, RDI, RDX, RSI, RSP, Mem
from libbpf_shim.jit.features import has_bmi2
from libbpf_shim.jit.flow import CALLER, ends
from libbpf_shim.jit.guarded import MARK
from libbpf_shim.jit.held import Held
from libbpf_shim.jit.hostcall import function
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.places import RUN
from libbpf_shim.jit.tier1 import assembled
from libbpf_shim.verifier.call import helpers
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

_BELOW, _BELOW_EQUAL = 0x2, 0x6  # conditions of jcc
_HASHES: Final = (1, 5)  # BPF_MAP_TYPE_HASH, PERCPU_HASH
_ARRAY: Final = 2
_STACK: Final = 512  # bytes of a frame that are the program's
_ROUNDS: Final = _STACK + 8  # where its budget for may_goto lies, below r10
_INLINE_READS: Final = (4, 113)  # which tier 1 has inline for its own context
_CALL: Final = 5  # bytes of a call
_ROUND: Final = 19  # bytes of movabs, cmp and je
MAIN, INNER = "end:main", "end:inner"  # symbols: where programs end that would leave the window
_MEMORY: Final = (helpers.KEY, helpers.VALUE, helpers.MEM, helpers.OUT, helpers.INOUT)
_SIZES: Final = (helpers.SIZE, helpers.SIZE0)


class Isolated(Held):
    """there: the access that is being compiled is at r11 + r9, within the window. held: machine
    registers whose values have been found to be addresses below the limit, a bit each; found:
    those that are such an address or NULL."""

    there = False
    held = 0
    found = 0
    looked = False
    undo = b""  # main's teardown

    def __init__(self, program: Program, insns: list[Insn], facts: Facts, bmi: bool) -> None:
        super().__init__(program, insns, facts, bmi)
        self._from: dict[int, set[int]] = {}  # slots that lead to one
        self._ways: dict[int, dict[int, int]] = {}  # what each of them holds there

    # functions

    def begin(self, at: int, depths: dict[int, int]) -> None:
        held = self._joined(at) if self.flow.leaders[at] else 0
        super().begin(at, depths)
        self.held |= held
        if at == 0:
            if self.flow.live_in[0] & 2 and not self._from.get(0):
                self.held |= 1 << RDI  # the context's copy
            self.piece.relocs.append((len(MARK) - len(self.piece.entry), "window", 0))
            if self.hands:
                self.piece.relocs.append((self.hosts_at - len(self.piece.entry), "hosts", 0))

    def function(self, at: int, end: int, depth: int, calls: bool) -> None:
        self.frame, self.main, self.rounds, self.framed = _STACK, at == 0, 0, True
        slots = [n for n in range(at, end) if self.flow.seen[n]]
        if any(self.insns[n].code == op.JMP | op.JCOND for n in slots):
            self.rounds = _ROUNDS
        saved = [RBP, *(REG[r] for r in (6, 7, 8, 9) if self.flow.written[at] >> r & 1)]
        self.saved = (*saved, R12) if self.main else tuple(saved)
        self.room = (8 + 8 * len(self.saved)) % 16 if calls else 0
        if self.main:
            self.room += self.frame_size
            self.undo = self.teardown()

    def prologue(self) -> bytes:
        out = x.movabs(R11, 0) if self.main else b""  # by which tail calls know the class
        out += b"".join(map(x.push, self.saved))
        out += self._slot() if self.main else x.lea(RBP, Mem(RBP, -window.FRAME))
        if self.room:
            out += x.alu_imm(x.SUB, RSP, self.room, True)
        if self.main:
            before = len(out)
            out += self.held_frame()
            self.hosts_at += before
        if self.facts.reads_unset:
            for at in range(8, _STACK + 8, 8):
                out += x.mem(b"\xc7", 0, RBP, -at, True) + x.imm32(0)
        if self.rounds:
            out += x.mem(b"\xc7", 0, RBP, -self.rounds, True) + x.imm32(budget.MAY_GOTO_ROUNDS)
        return out

    def _slot(self) -> bytes:
        """r12 = the run, rbp = the end of this thread's slot; R1 = its copy of the context."""
        out = x.mov(R12, RSI) + x.mem(b"\x8b", R10, R12, RUN["thread"], True)
        out += x.mem(b"\x8b", R9, R10, window.THREAD_INDEX, False)
        out += x.alu_imm(x.AND, R9, window.THREADS - 1, False) + x.alu(x.XOR, RAX, RAX, False)
        out += x.mem(b"\x83", x.CMP[1], R10, window.THREAD_OUTER, True) + b"\0"
        out += b"\x0f\x95\xc0"  # setne al
        out += x.lea(R9, Mem(RAX, 0, R9, 2), False)
        out += x.shift(x.SHL, R9, window.SLOT.bit_length() - 1, True)
        out += x.lea(RBP, Mem(R11, window.SLOT, R9, 1))
        if self.flow.live_in[0] & 2:
            for at in self._copied():
                out += x.mem(b"\x8b", RAX, RDI, at, True)
                out += x.mem(b"\x89", RAX, RBP, at - window.SLOT, True)
            out += x.lea(RDI, Mem(RBP, -window.SLOT))
        return out

    def _copied(self) -> list[int]:
        """Offsets of the context's words that the program may look at."""
        words = range(0, window.CONTEXT, 8)
        if self.facts.ctx_escapes:
            return list(words)
        read = {word for off, size in self.facts.ctx_loads
                for word in range(off & ~7, off + size, 8)}
        return [word for word in words if word in read]

    def teardown(self) -> bytes:
        out = x.alu_imm(x.ADD, RSP, self.room, True) if self.room else b""
        return out + b"".join(map(x.pop, reversed(self.saved)))

    # what is known where ways join

    def _joined(self, at: int) -> int:
        """What every way to a place that is jumped to holds; 0 where one has not been compiled
        yet, or comes from elsewhere."""
        if not self._from:
            for slot in self.flow.slots():
                for to in self.flow.successors(slot):
                    self._from.setdefault(to, set()).add(slot)
        ways = self._ways.setdefault(at, {})
        before = at - 2 if at > 1 and self.flow.second_half(at - 1) else at - 1
        if before >= 0 and self.flow.seen[before] and not ends(self.insns[before]):
            ways[before] = self.held & ways.get(before, -1)
        if at in self.flow.starts or set(ways) != self._from.get(at):
            return 0
        held = -1
        for way in ways.values():
            held &= way
        return held

    def _way(self, at: int) -> None:
        """What holds where a jump is taken."""
        if self.piece.jump and self.piece.jump[0] != CALL:
            self._ways.setdefault(self.piece.jump[1], {})[at] = self.held

    def jump(self, i: Insn, at: int) -> None:
        super().jump(i, at)
        if i.code & 0xF0 in (op.JA, op.JCOND):
            self._way(at)

    # the window

    def mark(self, machine: int, narrow: bool) -> None:
        super().mark(machine, narrow)
        self.held &= ~(1 << machine)
        self.found &= ~(1 << machine)

    def reset(self, narrow: int) -> None:
        super().reset(narrow)
        self.held = self.found = 0

    def compute(self, regno: int) -> None:
        """What holds of a register holds of its copy."""
        value = self.values[regno] if regno < 10 else None
        copy = value.copy_of() if isinstance(value, Expr) and value.wide else -1
        held, found = ((mask >> copy & 1 if copy >= 0 else 0) for mask in (self.held, self.found))
        super().compute(regno)
        if copy >= 0:
            self.held |= held << REG[regno]
            self.found |= found << REG[regno]

    def called(self) -> None:
        super().called()
        if self.looked and self.values[0] is None:  # a lookup without a call, or its fallback
            self.found |= 1 << RAX
        self.looked = False

    def branch(self, i: Insn, at: int, kind: int, wide: bool) -> None:
        """Behind a test for NULL an address that was found is one."""
        super().branch(i, at, kind, wide)
        self._way(at)
        plain = i.dst < 10 and self.values[i.dst] is None
        null = kind == op.JEQ and wide and not i.code & 8 and i.imm == 0
        if plain and null and at not in self.flow.selects and self.goes_back(at) < 0:
            self.held |= self.found & 1 << REG[i.dst]

    def _hold(self, machine: int) -> bool:
        """The register itself becomes an address below the limit, which it is unless something is
        wrong, so that later accesses by it need no test. False: nobody may write it now."""
        owner = OWNER.get(machine, -1)
        value = self.values[owner] if 0 <= owner < 10 else None
        if not 0 <= owner < 10 or (value is not None and not value.held):
            return False
        self._within(Mem(machine))
        self.put(x.lea(machine, Mem(R11, 0, R9, 1)))
        self.wrote(owner, False)
        self.held |= 1 << machine
        return True

    def _leave(self) -> None:
        """The program ends here."""
        self.put(b"\xe8" + bytes(4))
        self.piece.relocs.append((len(self.piece.code) - 4, MAIN if self.main else INNER, 0))

    def _index(self, m: Mem) -> None:
        """r9 = index of an address, r11 = the window's base."""
        self.put(x.lea(R9, m._replace(disp=m.disp - window.BASE), False))
        self.address(R11, "window")

    def _within(self, m: Mem) -> None:
        """r11 + r9 is the address, in the window."""
        self._index(m)
        self.put(x.mem(b"\x3b", R9, R11, -8, True) + bytes([0x70 | _BELOW, _CALL]))
        self._leave()

    def dead_end(self) -> None:
        self.main = False
        self._leave()

    def with_dead_jumps(self, pieces: list[Piece]) -> list[Piece]:
        """And the ends of programs that would leave the window: the agent is told where, then
        main's frame is undone; where it was deeper, the agent knows where main was called."""
        pieces = super().with_dead_jumps(pieces)
        used = {name for piece in pieces for _, name, _ in piece.relocs}
        for name in (MAIN, INNER):
            if name not in used:
                continue
            self.ends[name] = len(self.piece.code)
            self.put(x.pop(RDX))
            for reg, symbol in ((RDI, "ctl"), (RSI, "prog"), (x.RCX, "text"),
                                (R11, "sym:CONTAINED")):
                self.address(reg, symbol)
            self.put(x.mov(x.R8, R12) if self.keeps else x.alu(x.XOR, x.R8, x.R8, False))
            self.put(x.call_reg(R11))
            if name == MAIN:
                self.put(x.alu(x.XOR, RAX, RAX, False) + self.undo + b"\xc3")
            else:
                self.address(R11, "sym:UNREACHABLE")
                self.put(x.jmp_reg(R11))
        self.put_data()
        return pieces

    @staticmethod
    def on_frame(m: Mem | None, size: int) -> bool:
        """So many bytes there are the frame's."""
        return m is not None and m.base == RBP and m.by < 0 and -_STACK <= m.disp <= -size

    def known(self, regno: int, off: int, size: int) -> bool:
        """The register is the address of an array's memory, and the access within it."""
        value = self.values[regno] if regno < 10 else None
        if not isinstance(value, Symbol) or not value.name.startswith("mapval:"):
            return False
        found = self.maps[int(value.name.removeprefix("mapval:"))]
        last = (found.value_size + 7 & ~7) * found.max_entries - size
        return found.type == _ARRAY and 0 <= value.addend + off <= last

    def memory(self, regno: int, off: int) -> Mem:
        return Mem(R11, 0, R9, 1) if self.there else super().memory(regno, off)

    def _reach(self, i: Insn, regno: int) -> None:
        """The memory of an access is found by `memory`."""
        self.there = False
        if self.known(regno, i.off, i.size):
            return
        m = self.place(regno, i.off)
        if self.on_frame(m, i.size):
            return
        # a page of nobody's follows each address below the limit
        if m.by < 0 and 0 <= m.disp <= window.BEHIND - i.size and \
                (self.held >> m.base & 1 or self._hold(m.base)):
            return
        if not fits(m.disp - window.BASE):
            self.compute(regno)
            m = Mem(REG[regno], i.off)
        self._within(m)
        self.there = True

    # accesses

    def load(self, i: Insn, at: int) -> None:
        facts = self.facts
        if at in facts.host_loads:
            self.typed_load(i, at, window.HOST_PEEK)
            return
        foreign = at in facts.typed or at in facts.kernel or at in facts.probe_mem
        if not foreign and self.dies(i.dst):
            return
        if not foreign:
            self._reach(i, i.src)
        super().load(i, at)
        self.there = False

    def store(self, i: Insn, at: int) -> None:
        if self._host(i, at):
            return
        atomic = i.code & 0xE0 == op.MODE_ATOMIC
        self._reach(i, i.src if atomic and i.imm == op.LOAD_ACQ else i.dst)
        Access.store(self, i, at)
        self.there = False

    def store_imm(self, i: Insn, at: int) -> None:
        if self._host(i, at):
            return
        self._reach(i, i.dst)
        Access.store_imm(self, i, at)
        self.there = False

    def _host(self, i: Insn, at: int) -> bool:
        """A store into the host's memory, which has been compiled."""
        if at in self.facts.host_loads:
            raise unsupported(at, "isolated: a store that loads from the host's memory")
        if at in self.facts.host_stores:
            self.host_store(i, at)
        return at in self.facts.host_stores

    def constant_insn(self, i: Insn, at: int) -> None:
        if i.code != op.LD_IMM64:
            raise unsupported(at, "isolated: a load from a packet")
        if i.src not in (0, op.PSEUDO_BTF_ID, op.PSEUDO_FUNC) and not 0 <= i.imm < len(self.maps):
            raise unsupported(at, "isolated: no such map")
        super().constant_insn(i, at)

    # calls

    def kernel_function(self, at: int) -> None:
        name = self.facts.kfuncs.get(at, "")
        called = function(self.policy, name)
        if called is None:
            raise unsupported(at, f"isolated: a call of {name or 'a kernel function'}")
        self.host_call(at, called)

    def inlined(self, i: Insn, at: int) -> bool:
        return i.imm not in _INLINE_READS and super().inlined(i, at)

    def find(self, at: int, kind: int) -> None:
        index = self.facts.call_map[at]
        found = self.maps[index]
        self.leave_registers(at)
        key = self._key(found.key_size)
        self.looked = True
        if kind in _HASHES:
            self.address(RDI, f"map:{index}")
            self.write(self.in_hash(found, key))
            return
        known = self.stacked(key.disp, 4) if key.base == RBP else None
        if known is not None and known >= found.max_entries:
            self.answer = Const(0)
        elif known is not None and kind == _ARRAY:
            self.answer = Symbol(f"mapval:{index}", known * (found.value_size + 7 & ~7))
        elif kind == _ARRAY:
            self.write(self.in_array(index, found, key))
        else:
            self.write(self.in_percpu_array(index, found, key, known))

    def _key(self, size: int) -> Mem:
        """Where a key lies: in the frame, or at rsi."""
        m = self.sum_of(2)
        if m is not None and self.on_frame(m, size):
            return m
        self.compute(2)
        self._checked(RSI, size)
        return Mem(RSI)

    def _checked(self, reg: int, size: int, by: int = -1) -> None:
        """The register is the address of so many bytes (by: as many as that register says)."""
        self._index(Mem(reg))
        self.put(x.lea(R10, Mem(R9, size, by, 1)) + x.mem(b"\x3b", R10, R11, -8, True)
                 + bytes([0x70 | _BELOW_EQUAL, _CALL]))
        self._leave()
        self.put(x.lea(reg, Mem(R11, 0, R9, 1)))

    def helper(self, i: Insn, at: int) -> None:
        proto = helpers.proto(self.prog_type, i.imm)
        if proto is None or window.helper_refused(i.imm):
            raise unsupported(at, f"isolated: a call of {helpers.name(i.imm)}")
        if self.tested_call(i, at):
            return
        kinds = [kind & helpers.KIND for kind in proto.args]
        given = [self.sum_of(n + 1) for n in range(len(kinds))]
        sizes = {n: self.constant(n + 1) for n, kind in enumerate(kinds) if kind in _SIZES}
        self.settle(self.flow.live_in[at] & CALLER)
        self.leave_registers(at)
        for n in sizes:
            self.put(x.mov(REG[n + 1], REG[n + 1], False))
        for n, kind in enumerate(kinds):
            if kind == helpers.CTX:
                self.put(x.mem(b"\x8b", REG[n + 1], R12, RUN["regs"], True))
            elif kind == helpers.MAP:
                self._map(at, i.imm, REG[n + 1])
            elif kind in _MEMORY:
                self._memory(at, i.imm, kind, n, given[n], sizes)
            elif kind != helpers.ANY and kind not in _SIZES:
                raise unsupported(at, f"isolated: an argument of {helpers.name(i.imm)}")
        if i.imm in window.READS:
            self._source(i.imm in window.STRINGS)
        checked = self.facts.host_bytes.get(at) if i.imm in window.READS else None
        if checked:
            self.put(x.mov_imm(REG[4], checked[0]) + x.mov_imm(REG[5], checked[1]))
        if not checked and self.read_object(i, sizes.get(1)):
            return
        self.call_helper(HOST_BYTES if checked else i.imm)

    def _candidates(self, at: int, number: int) -> list[int]:
        """Indices of the maps that the helper may be given."""
        if at in self.facts.call_map:
            found = [self.facts.call_map[at]]
        else:
            found = list(range(len(self.maps)))
        found = [n for n in found if 0 <= n < len(self.maps)
                 and window.takes(number, self.maps[n].type)]
        if not found:
            raise unsupported(at, f"isolated: no map for {helpers.name(number)}")
        return found

    def _map(self, at: int, number: int, reg: int) -> None:
        """The register is the address of one of the maps, or the program ends."""
        found = self._candidates(at, number)
        if len(found) == 1:
            self.address(reg, f"map:{found[0]}")
            return
        for n, index in enumerate(found):
            self.address(R11, f"map:{index}")
            left = (len(found) - 1 - n) * _ROUND + _CALL
            self.put(x.alu(x.CMP, reg, R11, True) + b"\x0f\x84" + x.imm32(left))  # je
        self._leave()

    def _memory(self, at: int, number: int, kind: int, n: int, given: Mem | None,
                sizes: dict[int, int | None]) -> None:
        """An argument that is memory: of a known size, or of that which the next one says."""
        if kind in (helpers.KEY, helpers.VALUE):
            found = {window.size_of(kind, self.maps[m]) for m in self._candidates(at, number)}
            if len(found) > 1:
                raise unsupported(at, f"isolated: {helpers.name(number)} of maps that differ")
            size: int | None = found.pop()
        elif n + 1 not in sizes:
            raise unsupported(at, f"isolated: an argument of {helpers.name(number)}")
        else:
            size = sizes[n + 1]
            size = size if size is None else size & 0xFFFFFFFF
        if size is None:
            self._checked(REG[n + 1], 0, REG[n + 2])
        elif not self.on_frame(given, size):
            if not fits(size):
                raise unsupported(at, f"isolated: {size} bytes for {helpers.name(number)}")
            self._checked(REG[n + 1], size)


def compile_program(program: Program, facts: Facts, bmi: bool | None = None) -> Image:
    """The image of an isolated program. ShimError EOPNOTSUPP: what stands in the way, or facts
    that do not fit the program."""
    policy = program.policy
    if policy is None:
        raise ShimError("JT0003", errno.EOPNOTSUPP, "isolated: a program without a class")
    for found in program.maps:
        if why := window.map_refused(found):
            raise ShimError("JT0003", errno.EOPNOTSUPP, f"isolated: map {found.name}: {why}")
    insns, facts = decode(program.insns), charge.always(facts, policy)
    if wrong := shape.wrong(insns, facts):
        raise ShimError("JT0003", errno.EOPNOTSUPP, f"isolated: {wrong}")
    try:
        image = assembled(Isolated(program, insns, facts, has_bmi2() if bmi is None else bmi))
    except (LookupError, ValueError) as error:
        raise ShimError("JT0003", errno.EOPNOTSUPP,
                        f"isolated: facts that do not fit the program: {error}") from error
    # what a program is called with, and those that it goes on in, may be per-CPU
    calls = any(reloc.symbol == f"helper:{TAIL_CALL}" for reloc in image.relocs)
    return replace(image, window=policy.name, needs_vcpu=image.needs_vcpu or calls)
