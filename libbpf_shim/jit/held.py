"""What isolated programs do with the host's objects, records of ring buffers and locks.

None of it lies in the window, and nothing that the program says of it is believed. What a run has
been handed, and what it holds, is in the part of main's frame on the machine's stack, which no
program can reach (struct shim_held, csrc/include/shim_held.h): the entry's arguments, what host
functions returned, and what was loaded from fields of these that lead to other objects. A store
into the host's memory, an object that a host function is given, a record that is submitted: each
is looked up there by the runtime (csrc/runtime/helpers_held.c) before it is done. What the class
knows of the host's objects is a constant of the image.

Only programs that do such things have that frame.
"""

from __future__ import annotations

import struct
from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import encode as x
from libbpf_shim.jit import hostcall, window
from libbpf_shim.jit.emit import REG, Piece, Symbol, unsupported
from libbpf_shim.jit.encode import R10, R11, R12, RAX, RBP, RCX, RDI, RDX, RSI, RSP, Mem
from libbpf_shim.jit.flow import CALLER
from libbpf_shim.jit.guarded import Guarded
from libbpf_shim.jit.hostcall import extended
from libbpf_shim.jit.image import OF_HOST
from libbpf_shim.jit.local import BELOW_EQUAL, EQUAL, NOT_EQUAL, Local
from libbpf_shim.jit.places import RUN
from libbpf_shim.jit.tier1 import FUNC
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import (
    ENTRY,
    HOST,
    NUMBER,
    PARAMETER,
    READS,
    VOID,
    WRITES,
    HostFunction,
    HostParam,
    Rule,
)
from libbpf_shim.verifier.program import Program

HELD: Final = 212  # SHIM_FUNC_HELD
RUN_HELD: Final = 112  # in struct shim_run
SIZE: Final = 656  # struct shim_held, a multiple of 16
HOSTS, ROOM, ROOM_SIZE, NEXT, KEEPS, LOCK = 0, 8, 16, 24, 28, 32
RECORDS, RECORD, OBJECTS, OBJECT, FRAME = 40, 24, 136, 16, 648
NR_RECORDS, NR_OBJECTS = 4, 32
_ROW: Final = struct.Struct("<IIII")  # struct shim_host_row
ARG, STATE, LINK, WRITE = 0, 1, 2, 3  # SHIM_HOST_*
# SHIM_HELD_*
LOAD, STORE, WRITE_USER, IS_OBJECT, LEARN, READ_USER, READ_KERNEL = 0, 1, 2, 3, 4, 5, 6
RESERVE, SUBMIT, DISCARD, TAKE, GIVE = 7, 8, 9, 10, 11
OR_NULL, RELEASE = 1, 2
CALLBACK: Final = "callback:"  # in the place of a symbol: where C calls a function, by its slot
PROBE_WRITE: Final = 36  # BPF_FUNC_probe_write_user
RINGBUF_RESERVE, SPIN_LOCK = 131, 93
LOOP: Final = 181  # BPF_FUNC_loop
_KEEPS: Final = frozenset((RINGBUF_RESERVE, 132, 133, SPIN_LOCK, 94))
_CALLS: Final = {PROBE_WRITE: WRITE_USER, RINGBUF_RESERVE: RESERVE, 132: SUBMIT, 133: DISCARD,
                 SPIN_LOCK: TAKE, 94: GIVE}
_READ: Final = {4: READ_KERNEL, 112: READ_USER, 113: READ_KERNEL}
_KINDS: Final = 64  # of objects
_SAVED: Final = (RAX, RDI, RSI, RDX, RCX, x.R8)  # an even number
_S64: Final = 1 << 63
# setcc conditions of a comparison that holds: signed, unsigned
_HOLDS: Final = {"==": (4, 4), "!=": (5, 5), "<": (0xC, 2), "<=": (0xE, 6), ">": (0xF, 7),
                 ">=": (0xD, 3)}


class Held(Guarded):
    """hands: the program is given objects of the host's, by which something is done. keeps: it has
    records, or locks. loops: it has functions that are called back. hosts_at: where held_frame()
    has the address of what the class knows."""

    hosts_at = -1

    def __init__(self, program: Program, insns: list[Insn], facts: Facts, bmi: bool) -> None:
        super().__init__(program, insns, facts, bmi)
        called = [hostcall.function(self.policy, name) for name in facts.kfuncs.values()]
        helpers = {i.imm for i in insns if i.code == op.JMP | op.CALL and i.src == 0}
        self.keeps = bool(helpers & _KEEPS)
        self.loops = LOOP in helpers
        self.hands = bool(facts.host_stores) or PROBE_WRITE in helpers or any(
            f and any(p.kind == HOST for p in f.params) for f in called)
        self.gpl, self.callbacks = program.gpl_compatible, set[str]()
        if self.hands and self.policy and self.policy.probes is not None:
            raise unsupported(0, "isolated: what is done by objects that USDT probes pass")
        if self.hands and self.policy and len(self.policy.nodes) > _KINDS:
            raise unsupported(0, f"isolated: more than {_KINDS} kinds of objects of the host's")

    # the frame

    @property
    def frame_size(self) -> int:
        """Bytes of it that main has."""
        return SIZE if self.keeps or self.hands or self.loops else 0

    def held_frame(self) -> bytes:
        """The end of main's prologue, once rsp is where it stays."""
        if not self.frame_size:
            return b""
        out = x.mem(b"\x89", RSP, R12, RUN_HELD, True)
        if self.hands:
            self.hosts_at = len(out) + 3
            out += bytes([0x4C, 0x8D, 0x1D]) + bytes(4)  # lea r11, [rip + hosts]
            out += x.mem(b"\x89", R11, RSP, HOSTS, True)
        if self.keeps:
            out += x.lea(R11, Mem(RBP, window.RECORDS - window.SLOT))
            out += x.mem(b"\x89", R11, RSP, ROOM, True)
            out += x.mem(b"\xc7", 0, RSP, ROOM_SIZE, True) + x.imm32(window.RECORDS_SIZE)
            out += x.alu(x.XOR, R11, R11, False)
            for at in (NEXT, LOCK, *range(RECORDS, OBJECTS, RECORD)):
                out += x.mem(b"\x89", R11, RSP, at, True)
        else:
            out += x.mem(b"\xc7", 0, RSP, NEXT, True) + x.imm32(0)
        return out

    def nothing_kept(self) -> None:
        """The program ends if it has a record or a lock."""
        if self.keeps:
            code = Local()
            code.put(x.mem(b"\x8b", R11, R12, RUN_HELD, True),
                     x.mem(b"\x83", x.CMP[1], R11, KEEPS, False) + b"\0")
            code.jump("fine", EQUAL)
            self._ends_unless(code)

    def epilogue(self) -> None:
        if self.main:
            self.nothing_kept()
        super().epilogue()

    def over_here(self, first: int) -> None:
        self.main = first == 0
        if self.main:
            self.nothing_kept()
        super().over_here(first)

    def tail_call(self) -> None:
        self.nothing_kept()
        super().tail_call()

    def hosts(self) -> tuple[bytes, list[tuple[int, str]]]:
        """What the class knows of the host's objects; addresses in it: where, whose."""
        policy = self.policy
        assert policy is not None
        rows: list[bytes] = []
        relocs: list[tuple[int, str]] = []
        rows += [_ROW.pack(ARG, arg.node, arg.off, 0) for arg in policy.args if arg.node >= 0]
        for number, node in policy.state:
            relocs.append((8 + len(rows) * _ROW.size + 8, hostcall.variable(policy, number)))
            rows.append(_ROW.pack(STATE, node, 0, 0))
        for n, row in enumerate(policy.nodes):
            rows += [_ROW.pack(WRITE, n, low, high) for low, high in row.writes]
            rows += [_ROW.pack(LINK, n, off, to) for off, to in row.links
                     if policy.untyped_reads or any(a <= off and off + 8 <= b
                                                    for a, b in row.reads)]
        return len(rows).to_bytes(8, "little") + b"".join(rows), relocs

    def put_data(self) -> None:
        super().put_data()
        for name in sorted(self.callbacks):
            self.ends[name] = len(self.piece.code)
            self._callback(int(name.removeprefix(CALLBACK)))
        if not self.hands:
            return
        self.ends["hosts"] = start = len(self.piece.code)
        data, relocs = self.hosts()
        self.put(data)
        used = {name for _, name in relocs} & self.named
        # of a variable that the program does not name nothing is known: it may not be there
        self.piece.relocs += [(start + at, name, 0) for at, name in relocs if name in used]

    @property
    def named(self) -> set[str]:
        """Variables of the host's that the program names."""
        return {hostcall.variable(self.policy, i.imm) for i in self.insns
                if i.code == op.LD_IMM64 and i.src == op.PSEUDO_BTF_ID} - {""}

    # calls of the runtime

    def ask(self, what: int) -> None:
        self.put(x.mov_imm(x.R8, what, False))
        self.call_helper(HELD)

    def _saved(self, piece: bytes, what: int) -> None:
        """The call, which keeps what helpers change; the program ends unless it answers 0."""
        self.put(b"".join(map(x.push, _SAVED)) + piece)
        self.ask(what)
        self.put(x.mov(R11, RAX) + b"".join(map(x.pop, reversed(_SAVED))))
        code = Local()
        code.put(x.rr(b"\x85", R11, R11, True))
        code.jump("fine", EQUAL)
        self._ends_unless(code)

    # records and locks

    def tested_call(self, i: Insn, at: int) -> bool:
        if i.imm == LOOP:
            self._loop(at)
            return True
        what = _CALLS.get(i.imm)
        if what is None:
            return super().tested_call(i, at)
        size = self.constant(2) if i.imm == RINGBUF_RESERVE else None
        if size is not None and size > window.RECORDS_SIZE:
            raise unsupported(at, f"isolated: a record of more than {window.RECORDS_SIZE} bytes")
        self.settle(self.flow.live_in[at] & CALLER)
        self.leave_registers(at)
        if i.imm == RINGBUF_RESERVE:
            self._map(at, i.imm, RDI)
        elif what in (TAKE, GIVE):
            self._checked(RDI, 4)
        elif what == WRITE_USER:
            self.put(x.mov(RDX, RDX, False))
            self._checked(RSI, 0, RDX)
        self.ask(what)
        if what != RESERVE:
            code = Local()
            code.put(x.alu_imm(x.CMP, RAX, 1, True))  # SHIM_HELD_OUTSIDE
            code.jump("fine", NOT_EQUAL)
            self._ends_unless(code)
        return True

    # callbacks

    def _loop(self, at: int) -> None:
        """bpf_loop(rounds, function, context, flags): of a function that is known here. What the
        helper's own frame has in rbp is no R10, so that of this function is kept meanwhile."""
        value = self.values[2]
        if not isinstance(value, Symbol) or not value.name.startswith(FUNC):
            raise unsupported(at, "isolated: a callback that is not known")
        name = CALLBACK + value.name.removeprefix(FUNC)
        self.callbacks.add(name)
        self.settle(self.flow.live_in[at] & CALLER & ~4)
        self.leave_registers(at)
        self.put(x.mem(b"\x8b", R11, R12, RUN_HELD, True) + x.mem(b"\xff", 6, R11, FRAME, False))
        self.put(x.push(R11) + x.mem(b"\x89", RBP, R11, FRAME, True))
        self.near_address(RSI, name)
        self.call_helper(LOOP)
        self.put(x.pop(R11) + x.mem(b"\x8f", 0, R11, FRAME, False))

    def _callback(self, slot: int) -> None:
        """Where C calls a function of the program: its R10 is below that of who called back."""
        self.put(x.push(RBP) + x.mem(b"\x8b", RBP, R12, RUN_HELD, True))
        self.put(x.mem(b"\x8b", RBP, RBP, FRAME, True))
        self.address(R11, f"{FUNC}{slot}")
        self.put(x.call_reg(R11) + x.pop(RBP) + b"\xc3")

    # accesses

    def typed_load(self, i: Insn, at: int, number: int) -> None:
        self.loads_object = self.hands and number == window.HOST_PEEK
        super().typed_load(i, at, number)
        self.loads_object = False

    loads_object = False

    def call_helper(self, number: int) -> None:
        if self.loads_object and number == window.HOST_PEEK:
            self.put(x.mov_imm(x.R8, LOAD, False))
            number = HELD
        super().call_helper(number)

    def host_store(self, i: Insn, at: int) -> None:
        """Into an object that the run was handed, bytes that are granted."""
        if i.code & 0xE0 != op.MODE_MEM:
            raise unsupported(at, "isolated: an atomic in the host's memory")
        self.settle_all()
        code = x.push(REG[i.src]) if i.klass == op.STX else b""
        code += x.mem(b"\x8d", RDI, REG[i.dst], i.off, True)
        code += x.pop(RSI) if i.klass == op.STX else x.mov_imm(RSI, i.imm)
        self._saved(code + x.mov_imm(RDX, i.size, False), STORE)
        self.stack.clear()

    def read_object(self, i: Insn, size: int | None) -> bool:
        """bpf_probe_read*() of 8 bytes, which may be the address of an object."""
        if not self.hands or size != 8 or i.imm not in _READ:
            return False
        self.ask(_READ[i.imm])
        return True

    # functions of the host's

    def host_call(self, at: int, called: HostFunction) -> None:
        if not called.granted or (called.gpl and not self.gpl):
            raise unsupported(at, f"isolated: a call of {called.name}, which is not granted,")
        self.settle(self.flow.live_in[at] & CALLER)
        self.leave_registers(at)
        self.nothing_kept()
        self.put(hostcall.arguments(called))
        for n, param in enumerate(called.params):
            if param.kind in (READS, WRITES):
                self._given_memory(called, n, param)
        for rule in called.pre:
            self._holds(at, called, rule)
        pinned = {rule.left for rule in called.pre if rule.kind == ENTRY}
        for n, param in enumerate(called.params):
            if param.kind == HOST and (n not in pinned or called.releases == n):
                self._given_object(n, param, called.releases == n)
            elif param.kind == HOST and param.nonnull:
                code = Local()
                code.put(x.rr(b"\x85", REG[n + 1], REG[n + 1], True))
                code.jump("fine", NOT_EQUAL)
                self._ends_unless(code)
        self.address(R10, OF_HOST + called.symbol)
        self.call_helper(hostcall.FUNC)
        self.put(hostcall.result(called))
        if self.hands and called.node >= 0 and called.result not in (VOID, NUMBER):
            self.put(x.push(RAX) + x.push(RAX) + x.mov(RDI, RAX))
            self.put(x.mov_imm(RSI, called.node, False))
            self.put(x.mov_imm(RDX, called.acquires, False))
            self.ask(LEARN)
            self.put(x.pop(RAX) + x.pop(RAX))

    def _given_memory(self, called: HostFunction, n: int, param: HostParam) -> None:
        """The window's, as much as the function reads or writes; or NULL where it may be."""
        before, self.piece = self.piece, Piece(bytearray(), [])
        reg = REG[n + 1]
        if param.size >= 0:
            self._checked(reg, param.size)
        else:
            size = called.params[param.size_of]
            code, many = Local(), REG[param.size_of + 1]
            code.put(extended(many, many, size.size, size.signed),
                     x.mov_imm(R10, (1 << 31) - 1), x.alu(x.CMP, many, R10, True))
            code.jump("fine", BELOW_EQUAL)
            self._ends_unless(code)
            self._checked(reg, 0, many)
        inside, self.piece = self.piece, before
        if not param.nonnull:
            self.put(x.rr(b"\x85", reg, reg, True) + b"\x0f\x84" + x.imm32(len(inside.code)))
        start = len(self.piece.code)
        self.piece.relocs += [(start + off, name, add) for off, name, add in inside.relocs]
        self.put(bytes(inside.code))

    def _given_object(self, n: int, param: HostParam, release: bool) -> None:
        """One of that type that the run has been handed."""
        policy = self.policy
        assert policy is not None
        nodes = [k for k, node in enumerate(policy.nodes)
                 if not param.type_id or node.type_id == param.type_id]
        code = Local()
        if not release:  # mostly it is what the entry passed
            if param.nonnull:
                code.put(x.rr(b"\x85", REG[n + 1], REG[n + 1], True))
                code.jump("ask", EQUAL)
            code.put(x.mem(b"\x8b", R11, R12, RUN["regs"], True))
            for arg in policy.args:
                if arg.node in nodes:
                    code.put(x.mem(b"\x3b", REG[n + 1], R11, arg.off, True))
                    code.jump("fine", EQUAL)
            code.label("ask")
        flags = 0 if param.nonnull else OR_NULL
        before, self.piece = self.piece, Piece(bytearray(), [])
        given = x.mov(RDI, REG[n + 1]) + x.mov_imm(RSI, sum(1 << k for k in nodes))
        self._saved(given + x.mov_imm(RDX, flags | RELEASE * release, False), IS_OBJECT)
        inside, self.piece = self.piece, before
        self.around(code, inside)

    def around(self, code: Local, inside: Piece) -> None:
        """The code, which jumps to "fine" or comes to what is inside; that follows it."""
        code.put(bytes(len(inside.code)))
        code.label("fine")
        self.write(code)
        del self.piece.code[-len(inside.code) :]
        start = len(self.piece.code)
        self.piece.relocs += [(start + off, name, add) for off, name, add in inside.relocs]
        self.put(bytes(inside.code))

    def _holds(self, at: int, called: HostFunction, rule: Rule) -> None:
        """What was proved of the arguments, once more."""
        policy, param = self.policy, called.params[rule.left]
        assert policy is not None
        code, left = Local(), REG[rule.left + 1]
        if rule.kind == ENTRY:
            code.put(x.mem(b"\x8b", R11, R12, RUN["regs"], True))
            for arg in policy.args:
                if arg.node == rule.value:
                    code.put(x.mem(b"\x3b", left, R11, arg.off, True))
                    code.jump("fine", EQUAL)
            self._ends_unless(code)
            return
        code.put(_value(R11, left, param))
        if rule.kind == PARAMETER and rule.op != "in":
            other = called.params[rule.value]
            wide = [not p.signed and p.size >= 8 or p.kind != NUMBER for p in (param, other)]
            signed = [p.kind == NUMBER and p.signed for p in (param, other)]
            if any(wide) and any(signed):
                raise unsupported(at, f"isolated: {called.name}: {rule.text}, of numbers of "
                                      "which one has a sign,")
            code.put(_value(R10, REG[rule.value + 1], other), x.alu(x.CMP, R11, R10, True))
            code.jump("fine", _HOLDS[rule.op][any(wide)])
        else:
            self._among(code, _ranges(rule, param))
        self._ends_unless(code)


def _value(dst: int, src: int, param: HostParam) -> bytes:
    """dst = what the argument is, 64 bits wide."""
    if param.kind != NUMBER:
        return x.mov(dst, src)
    return extended(dst, src, param.size, param.signed)


def _ranges(rule: Rule, param: HostParam) -> tuple[tuple[int, int], ...]:
    """What the condition allows, of a number of 64 bits."""
    signed = param.kind == NUMBER and param.signed
    low, high = (-_S64, _S64 - 1) if signed else (0, 2 * _S64 - 1)
    value = rule.value
    found: dict[str, tuple[tuple[int, int], ...]] = {
        "==": ((value, value),), "!=": ((low, value - 1), (value + 1, high)),
        "<": ((low, value - 1),), "<=": ((low, value),), ">": ((value + 1, high),),
        ">=": ((value, high),), "in": rule.ranges}
    return tuple((max(a, low), min(b, high)) for a, b in found[rule.op]
                 if max(a, low) <= min(b, high))
