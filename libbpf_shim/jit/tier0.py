"""Tier 0: programs that are interpreted where they run, to hold the compilers against.

An image has, for each function of the program, an entry, a record and its operations (struct
interp_op of csrc/interp/interp.h), and behind them the interpreter, which is the same in every one
(libbpf_shim/_lib/interp.o). Each slot is one operation, with its addresses as relocations.
Nothing is inlined, and nothing taken from the verifier's facts but what an instruction means. It
takes some fifty times as long as tier 1's code, and is chosen by LIBBPF_SHIM_TIER=0 alone.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import struct
from pathlib import Path
from typing import Final

from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as op
from libbpf_shim.isa.disasm import disassemble
from libbpf_shim.isa.insn import Insn, decode, imm64
from libbpf_shim.jit import budget, charge, context, hostcall, kfuncs
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.access import HOST_BYTES, HOST_LOAD, HOST_STORE, KERNEL_LOAD
from libbpf_shim.jit.control import PACKET_LOAD, TAIL_CALL, TIMER_SET_CALLBACK
from libbpf_shim.jit.emit import unsupported
from libbpf_shim.jit.flow import Flow, ends, target
from libbpf_shim.jit.image import OF_HOST, Image, Reloc, RelocKind
from libbpf_shim.jit.inline import arguments
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.kernel import ksym
from libbpf_shim.verifier.policy import NUMBER, HostFunction
from libbpf_shim.verifier.program import Program

_CODE: Final = Path(__file__).parent.parent / "_lib" / "interp.o"
OP: Final = struct.Struct("<BBBBhBBQ")  # struct interp_op
_IMM: Final = 8  # in it
RECORD: Final = struct.Struct("<QQQQQQqIIqQqqQ")  # struct interp_function
_ARENA = 0  # in it
_CHARGE: Final = struct.Struct("<I")
_ENDS, _CALLED = 1 << 30, 1 << 31  # INTERP_ENDS, INTERP_CALLED
_TOLD, _SKIP = 72, 96  # in a record
_HELPERS: Final = {HOST_STORE: 24, PACKET_LOAD: 32, hostcall.FUNC: 40}
# enum interp_kind
BPF, HELPER, FUNCTION, TAIL, LOAD_BY, STORE_BY, PACKET, CAST, DEAD, HOST = range(10)
QUEUE, IN_ARENA = 1, 2  # flags of an operation
_U64: Final = (1 << 64) - 1
_VALUES: Final = (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE)
_JUMPS: Final = frozenset((op.JA, op.JEQ, op.JGT, op.JGE, op.JSET, op.JNE, op.JSGT, op.JSGE,
                           op.JLT, op.JLE, op.JSLT, op.JSLE))
_ATOMICS: Final = frozenset((op.ADD, op.OR, op.AND, op.XOR, op.ADD | op.FETCH, op.OR | op.FETCH,
                             op.AND | op.FETCH, op.XOR | op.FETCH, op.XCHG, op.CMPXCHG))
_ORDERED: Final = (op.LOAD_ACQ, op.STORE_REL)
_GO: Final = Insn(op.JMP | op.JA, 0, 0, 0, 0)
_CALL: Final = Insn(op.JMP | op.CALL, 0, 0, 0, 0)
_FUNC: Final = "func:"  # in the place of a symbol: a function of the program, by its first slot


def _set(regno: int, value: int) -> Insn:
    return Insn(op.ALU64 | op.MOV, regno, 0, 0, value)


def _truth(n: int, wanted: bool) -> tuple[Insn, ...]:
    """If it is wanted, what makes 1 of a register that is not 0; changes R0."""
    if not wanted:
        return ()
    move, both = op.ALU64 | op.MOV | 8, op.ALU64 | op.OR | 8
    return (Insn(move, 0, n, 0, 0), Insn(op.ALU64 | op.NEG, 0, 0, 0, 0), Insn(both, 0, n, 0, 0),
            Insn(op.ALU64 | op.RSH, 0, 0, 0, 63), Insn(move, n, 0, 0, 0))  # (-n | n) >> 63


def _extended(regno: int, size: int, is_signed: bool) -> Insn:
    """A register becomes what its low bytes say."""
    if is_signed:
        return Insn(op.ALU64 | op.MOV | 8, regno, regno, 8 * size, 0)
    if size == 4:
        return Insn(op.ALU | op.MOV | 8, regno, regno, 0, 0)
    return Insn(op.ALU64 | op.AND, regno, 0, 0, (1 << 8 * size) - 1)


@functools.cache
def interpreter() -> tuple[bytes, int]:
    """Its code, and where in it interp_run() begins."""
    from libbpf_shim.jit.tier2 import elf

    try:
        made = elf.parse(_CODE.read_bytes())
    except OSError as error:
        raise ShimError("JT0004", errno.EOPNOTSUPP, f"no interpreter: {error}",
                        "make build") from error
    return made.text, made.functions["interp_run"]


def name() -> str:
    """What tells this code from another build's."""
    return hashlib.blake2b(interpreter()[0], digest_size=16).hexdigest()


class _Lowered:
    """One program's operations, by slot, and behind them those that some slot jumps to and that
    jump back (extras: which). relocs: slot, symbol, addend, of an operation's imm."""

    def __init__(self, program: Program, facts: Facts) -> None:
        self.insns, self.facts = decode(program.insns), facts
        self.program, self.prog_type, self.policy = program, program.prog_type, program.policy
        self.context = context.accesses(program, self.insns, facts)
        self.relocs: list[tuple[int, str, int]] = []
        self.symbols: set[str] = set()  # of records
        arena = program.maps[facts.arena_map] if facts.arena_map >= 0 else None
        self.arena_start = arena.arena[0] if arena else 0
        self.arena_size = arena.max_entries * 4096 if arena else 0
        self.ops = [b""] * len(self.insns)
        self.extras: dict[int, range] = {}
        self.charges = self.counts()
        self.lower()

    def counts(self) -> dict[int, charge.Charge]:
        if self.facts.counted < 0:
            return {}
        flow = Flow(self.insns, self.facts, arguments(self.prog_type))
        return charge.charges(flow, self.facts)

    def lower(self) -> None:
        insns, seen = self.insns, self.facts.seen
        dead = set()
        half = False  # the second slot of an ld_imm64
        for at, i in enumerate(insns):
            if not half and seen[at]:
                self.ops[at] = self.one(i, at)
                after = at + (2 if i.code == op.LD_IMM64 else 1)
                leads = {target(at, i)} if ends(i) else {target(at, i), after}
                dead |= {to for to in leads if 0 <= to < len(insns) and not seen[to]}
            half = not half and i.code == op.LD_IMM64
        for at in range(len(insns)):
            if at in dead:
                self.relocs.append((at, "sym:UNREACHABLE", 0))
            if not self.ops[at]:  # nothing comes here, or what the agent ends
                self.ops[at] = OP.pack(0, DEAD, 0, 0, 0, 0, 0, 0)

    def one(self, i: Insn, at: int) -> bytes:
        if i.klass in (op.ALU, op.ALU64):
            return self.arithmetic(i, at)
        if i.klass == op.LD:
            return self.constant(i, at)
        if i.klass in (op.JMP, op.JMP32):
            return self.jump(i, at)
        return self.access(i, at)

    def pack(self, i: Insn, kind: int = BPF, imm: int | None = None, *, code: int | None = None,
             off: int | None = None, size: int = 0, flags: int = 0) -> bytes:
        """The instruction, changed."""
        return OP.pack(i.code if code is None else code, kind, i.dst, i.src,
                       i.off if off is None else off, size, flags,
                       (i.imm if imm is None else imm) & _U64)

    def symbol(self, i: Insn, at: int, kind: int, name: str, addend: int = 0,
               size: int = 0) -> bytes:
        """With an address for its imm."""
        self.relocs.append((at, name, addend))
        return self.pack(i, kind, 0, size=size)

    def arithmetic(self, i: Insn, at: int) -> bytes:
        kind = i.code & 0xF0
        wide = i.klass == op.ALU64 and at not in self.facts.arena_alu
        cast = kind == op.MOV and wide and i.code & 8 and i.off == op.ADDR_SPACE_CAST
        if cast and self.facts.arena_map >= 0:
            user = i.imm == op.CAST_USER
            return self.pack(i, CAST, self.arena_start >> 32 << 32 if user else 0)
        offs: tuple[int, ...] = (0,)
        if kind in (op.DIV, op.MOD):
            offs = (0, 1)
        elif kind == op.MOV and i.code & 8:
            offs = (0, 8, 16, 32) if wide else (0, 8, 16)
        if kind > op.END or i.off not in offs:
            raise unsupported(at, f"opcode {i.code:#x}")
        if kind == op.END and i.imm not in (16, 32, 64):
            raise unsupported(at, f"byte swap of {i.imm} bits")
        return self.pack(i, code=i.code if wide or i.klass == op.ALU or kind == op.END
                         else i.code & ~7 | op.ALU)

    def constant(self, i: Insn, at: int) -> bytes:
        """ld_imm64 of all kinds, and loads from the packet."""
        if i.code & 0xE0 in (op.MODE_ABS, op.MODE_IND):
            self.symbols.add(f"helper:{PACKET_LOAD}")
            return self.pack(i, PACKET, size=i.size)
        if i.code != op.LD_IMM64:
            raise unsupported(at, f"opcode {i.code:#x}")
        high = self.insns[at + 1]
        offset = high.imm & 0xFFFFFFFF
        if i.src == 0:
            return self.pack(i, imm=imm64(i, high))
        if i.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_IDX):
            return self.symbol(i, at, BPF, f"map:{i.imm}")
        if i.src in _VALUES and i.imm == self.facts.arena_map:
            return self.pack(i, imm=self.arena_start + offset)
        if i.src in _VALUES:
            return self.symbol(i, at, BPF, f"mapval:{i.imm}", offset)
        if i.src == op.PSEUDO_FUNC:
            return self.symbol(i, at, BPF, f"{_FUNC}{at + 1 + i.imm}")
        if i.src == op.PSEUDO_BTF_ID and (name := hostcall.variable(self.policy, i.imm)):
            return self.symbol(i, at, BPF, name)
        if i.src == op.PSEUDO_BTF_ID and not self.insns[at + 1].imm and (
                there := ksym.function(self.program, i.imm)) >= 0:  # fmt: skip
            return self.pack(i, imm=there)
        raise unsupported(at, f"a constant of kind {i.src}")

    def jump(self, i: Insn, at: int) -> bytes:
        kind, wide = i.code & 0xF0, i.klass == op.JMP
        if kind == op.CALL and wide:
            return self.call(i, at)
        if kind == op.JA:
            return self.pack(i, imm=target(at, i) - at - 1)
        if kind in _JUMPS or wide and kind in (op.EXIT, op.JCOND):
            return self.pack(i)
        raise unsupported(at, f"opcode {i.code:#x}")

    def call(self, i: Insn, at: int) -> bytes:
        if i.src == op.PSEUDO_CALL:
            return self.pack(i, FUNCTION)  # the way there is known once all is laid out
        number, kind = i.imm, HELPER
        if i.src:
            name = self.facts.kfuncs.get(at, "")
            if called := hostcall.function(self.policy, name):
                return self.host_call(at, called)
            number = kfuncs.number(name, self.prog_type)
            if not number:
                raise unsupported(at, f"kernel function {name}".rstrip())
        elif number == TAIL_CALL:
            kind = TAIL
        elif number == TIMER_SET_CALLBACK:
            return self.with_map(at)
        elif checked := self.facts.host_bytes.get(at):
            return self.instead(at, [
                (_set(4, checked[0]), BPF, ""), (_set(5, checked[1]), BPF, ""),
                (_CALL, HELPER, f"helper:{HOST_BYTES}")])
        return self.symbol(i, at, kind, f"helper:{number}")

    def instead(self, at: int, rows: list[tuple[Insn, int, str]]) -> bytes:
        """Several operations in the place of one: instruction, kind, symbol of its imm if it has
        one."""
        first = len(self.ops)
        for i, kind, symbol in rows:
            there = len(self.ops)
            self.ops.append(self.symbol(i, there, kind, symbol) if symbol else self.pack(i, kind))
            if i.code == op.LD_IMM64:
                self.ops.append(bytes(OP.size))
        self.ops.append(self.pack(_GO))
        self.extras[at] = range(first, len(self.ops))
        return self.pack(_GO)

    def with_map(self, at: int) -> bytes:
        """A call of bpf_timer_set_callback(), which R5 tells the timer's map."""
        index = self.facts.call_map.get(at)
        five = _set(5, 0) if index is None else Insn(op.LD_IMM64, 5, 0, 0, 0)
        return self.instead(at, [(five, BPF, "" if index is None else f"map:{index}"),
                                 (_CALL, HELPER, f"helper:{TIMER_SET_CALLBACK}")])

    def host_call(self, at: int, called: HostFunction) -> bytes:
        """A call of the application's function: its narrow arguments are extended before, its
        result behind."""
        self.symbols.add(f"helper:{hostcall.FUNC}")
        rows = [(i, BPF, "") for n, param in enumerate(called.params, 1)
                if param.kind == NUMBER and param.size < 4
                for i in (_extended(n, param.size, param.signed), *_truth(n, param.truth))]
        rows.append((_CALL, HOST, OF_HOST + called.symbol))
        if called.result == NUMBER and called.result_size < 8:
            rows.append((_extended(0, called.result_size, called.result_signed), BPF, ""))
        return self.instead(at, rows)

    def access(self, i: Insn, at: int) -> bytes:
        """Loads, stores and atomics."""
        facts, mode = self.facts, i.code & 0xE0
        swaps = i.klass == op.STX and mode == op.MODE_ATOMIC
        known = mode == op.MODE_MEM or i.klass == op.LDX and mode == op.MODE_MEMSX and i.size < 8
        if not known and not swaps:
            raise unsupported(at, f"opcode {i.code:#x}")
        if i.klass == op.LDX and (at in facts.typed or at in facts.host_loads):
            number = KERNEL_LOAD if at in facts.typed else HOST_LOAD
            return self.symbol(i, at, LOAD_BY, f"helper:{number}", size=i.size)
        if at in facts.host_stores or at in facts.host_loads:
            if swaps:
                raise unsupported(at, "an atomic in the host's memory")
            self.symbols.add(f"helper:{HOST_STORE}")
            return self.pack(i, STORE_BY, size=i.size)
        if at in facts.kernel:
            raise unsupported(at, "an access of the kernel's memory")
        if at in facts.probe_mem:
            raise unsupported(at, "a load that may fault")
        if swaps:
            self.check_atomic(i, at)
        off, size = self.context.get(at, (i.off, i.size))
        flags = IN_ARENA if at in facts.arena else 0
        if at in self.context and i.klass != op.LDX and i.off == context.QUEUE_MAPPING:
            flags |= QUEUE
        return self.pack(i, off=off, size=size, flags=flags)


    def check_atomic(self, i: Insn, at: int) -> None:
        if i.imm in _ORDERED:
            return
        if i.size < 4:
            raise unsupported(at, f"an atomic of {i.size} bytes")
        if i.imm not in _ATOMICS:
            raise unsupported(at, f"atomic {i.imm:#x}")


class _Laid:
    """The functions one after the other, and the interpreter behind them."""

    def __init__(self, lowered: _Lowered, facts: Facts) -> None:
        self.lowered, self.facts = lowered, facts
        self.text, self.relocs = bytearray(), list[Reloc]()
        self.places = [-1] * len(lowered.ops)  # of operations
        self.entries: dict[int, int] = {}  # of functions, by first slot
        self.records: dict[int, int] = {}
        code, start = interpreter()
        self._calls: list[int] = []  # ends of the fields that lead to the interpreter
        for n, first in enumerate(facts.subprogs):
            end = (*facts.subprogs, len(lowered.insns))[n + 1]
            self.function(first, end, facts.stack_depth[n])
        self.align(16)
        there = len(self.text) + start
        self.text += code
        for at in self._calls:
            self.text[at - 4 : at] = x.imm32(there - at)
        self.resolve()

    def align(self, to: int) -> None:
        self.text += b"\x90" * (-len(self.text) % to)

    def field(self, at: int, symbol: str, addend: int = 0) -> None:
        self.relocs.append(Reloc(at, RelocKind.ABS64, symbol, addend))

    def function(self, first: int, end: int, depth: int) -> None:
        self.align(16)
        self.entries[first] = len(self.text)
        record_field = self.entry(first == 0)
        self.align(16)
        record = self.records[first] = len(self.text)
        self.text[record_field - 4 : record_field] = x.imm32(record - record_field)
        low = self.lowered
        ops = record + (RECORD.size + 15 & ~15)
        self.text += bytes(RECORD.size)
        if low.arena_size:
            self.field(record + _ARENA, f"mapval:{self.facts.arena_map}")
        for number, at in _HELPERS.items():
            if f"helper:{number}" in low.symbols:
                self.field(record + at, f"helper:{number}")
        self.align(16)
        assert len(self.text) == ops
        extras = [slot for at in range(first, end) for slot in low.extras.get(at, ())]
        for slot in (*range(first, end), *extras):
            self.places[slot] = len(self.text)
            self.text += low.ops[slot]
        table = len(self.text) - record if low.charges else 0
        if low.charges:
            self.table([*range(first, end), *extras])
        left, answer = self.counted(record) if low.charges and first == 0 else (0, 0)
        RECORD.pack_into(self.text, record, 0, low.arena_start, low.arena_size, 0, 0, 0,
                         ops - record, depth + 7 & ~7, budget.MAY_GOTO_ROUNDS, table, 0, left,
                         answer, 0)

    def table(self, slots: list[int]) -> None:
        """What each operation is charged with."""
        for slot in slots:
            row = self.lowered.charges.get(slot)
            flags = (row.ends and _ENDS) | (row.called and _CALLED) if row else 0
            self.text += _CHARGE.pack(row.count | flags if row else 0)

    def counted(self, record: int) -> tuple[int, int]:
        """Of the first function: what a run has, and what it comes to if it is over."""
        value, skips = charge.answer(self.lowered.policy)
        self.field(record + _TOLD, f"helper:{charge.TELL}")
        if skips:
            self.field(record + _SKIP, f"helper:{charge.OVERRIDE}")
        return charge.start(self.facts), value - (1 << 64) if value >> 63 > 0 else value

    def entry(self, main: bool) -> int:
        """As an image, or as a function that shim_callback() calls; gives it to the interpreter,
        and leads to the image that it ends in. Where the field for the record ends."""
        run = x.RSI if main else x.R12
        self.text += x.mov(x.R9, run) + x.push(x.R9) + x.push(x.R9)
        self.text += b"\x48\x8d\x05" + bytes(4)  # lea record(%rip), %rax
        field = len(self.text)
        self.text += x.push(x.RAX) + b"\xe8" + bytes(4)
        self._calls.append(len(self.text))
        self.text += x.pop(x.RCX) + x.pop(x.RSI) + x.pop(x.RCX)
        tail = x.mov(x.RDI, x.RAX) + x.jmp_reg(x.RDX)
        self.text += x.rr(b"\x85", x.RDX, x.RDX, True) + bytes([0x75, 1]) + b"\xc3" + tail
        return field

    def leads(self, slot: int, far: int) -> None:
        """The operation's imm."""
        place = self.places[slot] + _IMM
        self.text[place : place + 8] = (far & _U64).to_bytes(8, "little")

    def resolve(self) -> None:
        """Calls among functions, jumps to extras, and addresses."""
        places = self.places
        for at, i in enumerate(self.lowered.insns):
            if i.code == op.JMP | op.CALL and i.src == op.PSEUDO_CALL and self.facts.seen[at]:
                self.leads(at, self.records[at + 1 + i.imm] - places[at])
        for at, more in self.lowered.extras.items():
            self.leads(at, (places[more[0]] - places[at]) // OP.size - 1)
            self.leads(more[-1], (places[at] - places[more[-1]]) // OP.size)
        for slot, symbol, addend in self.lowered.relocs:
            if symbol.startswith(_FUNC):
                symbol, addend = "text", self.entries[int(symbol.removeprefix(_FUNC))]
            self.field(self.places[slot] + _IMM, symbol, addend)


def compile_program(program: Program, facts: Facts) -> Image:
    """The image of a verified program. ShimError EOPNOTSUPP: what stands in the way."""
    lowered = _Lowered(program, facts)
    laid, slots = _Laid(lowered, facts), len(lowered.insns)
    listing = "".join(f"{laid.places[n]:6x}  {n:4}: {disassemble(lowered.insns, n, str)}\n"
                      for n in range(slots) if facts.seen[n] and lowered.insns[n].code)
    return Image(bytes(laid.text), tuple(laid.relocs), facts.percpu or TAIL_CALL in facts.helpers,
                 max(facts.stack_depth, default=0), listing, (-1,) * slots, jited=False)
