"""The reference interpreter: what an eBPF program means, in the plainest Python.

It models every instruction of RFC 9669 with the v3 and v4 extensions, bpf-to-bpf calls, calls of
helpers and kernel functions, and atomics (no other thread sees the memory), over addressable
regions that are bounds-checked at each access. Tail calls go to other machines. It is the oracle
of the compilers, and runs PROG_TEST_RUN where compiled code cannot. semantics.py has what the
operations give. Source: RFC 9669.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, decode, imm64
from libbpf_shim.jit import budget
from libbpf_shim.jit.context import NO_QUEUE_MAPPING, QUEUE_MAPPING
from libbpf_shim.jit.memory import REGION_BITS, InterpreterError, Memory, MemoryFault
from libbpf_shim.jit.semantics import (
    ALU,
    ALU_SIGNED,
    ATOMIC,
    ATOMIC_IMMS,
    JMP,
    MOVSX,
    signed,
    swap,
)

__all__ = [
    "Arena",
    "IllegalInstruction",
    "InterpreterError",
    "Machine",
    "Memory",
    "MemoryFault",
    "StepLimit",
    "run",
]

U32: Final = 0xFFFFFFFF
U64: Final = 0xFFFFFFFFFFFFFFFF
STACK_SIZE: Final = 512  # MAX_BPF_STACK, linux/filter.h
MAX_CALL_FRAMES: Final = 8  # linux/bpf_verifier.h
TAIL_CALL: Final = 12  # BPF_FUNC_tail_call
MAX_TAIL_CALLS: Final = 33  # MAX_TAIL_CALL_CNT, linux/bpf.h
TEXT_REGION: Final = 0xFFFFFFFF  # addresses of functions: no load or store can reach them
POISON: Final = 0xBAD0BAD0BAD0BAD0  # what a call leaves in R1 to R5: no run may depend on it

Helper = Callable[["Machine", int, int, int, int, int], int]
# (context, offset, bytes) -> what is there, in network order; None: nothing
PacketLoad = Callable[[int, int, int], int | None]


class IllegalInstruction(InterpreterError):
    """An opcode, a register, a jump or a call that the interpreter does not know."""


class StepLimit(InterpreterError):
    """The run took more instructions than it was allowed."""


@dataclass(frozen=True, slots=True)
class Arena:
    """A program's arena, and where the program uses it (verifier/facts.py). start: its address in
    its loader; address: in this memory; size: bytes."""

    accesses: frozenset[int]
    arithmetic: frozenset[int]
    start: int
    address: int
    size: int


class Machine:
    """One program, its memory and its helpers; run it as often as you like.

    insns: 8 bytes an instruction. memory: what ctx, maps and stack frames live in. helpers: by
    number (enum bpf_func_id). kfuncs: kernel functions, by the BTF id that calls name. maps: what
    an ld_imm64 of map index I gives. values: address of the first value of array map I
    (BPF_PSEUDO_MAP_VALUE). context: accesses of a packet's context,
    jit/context.py. packet_load: what LD_ABS and LD_IND find. arena: the program's, if it has one.
    step_limit: instructions of one run, its callbacks included. tails: of what an ld_imm64 of a
    PROG_ARRAY gives, the machines in it, None where it is empty; they share this one's memory.
    """

    __slots__ = (
        "arena",
        "_depth",
        "_insns",
        "_rounds",
        "_step_limit",
        "_steps",
        "context",
        "helpers",
        "kfuncs",
        "_tails",
        "maps",
        "memory",
        "packet_load",
        "tails",
        "values",
    )

    def __init__(
        self,
        insns: bytes,
        *,
        memory: Memory | None = None,
        helpers: Mapping[int, Helper] | None = None,
        kfuncs: Mapping[int, Helper] | None = None,
        maps: Sequence[int] = (),
        values: Mapping[int, int] | None = None,
        context: Mapping[int, tuple[int, int]] | None = None,
        packet_load: PacketLoad | None = None,
        arena: Arena | None = None,
        step_limit: int = 1_000_000,
        tails: Mapping[int, Sequence[Machine | None]] | None = None,
    ) -> None:
        self._insns = decode(insns)
        self.tails = tails if tails is not None else {}
        self._tails = 0
        self.memory = memory if memory is not None else Memory()
        self.helpers = helpers if helpers is not None else {}
        self.kfuncs = kfuncs if kfuncs is not None else {}
        self.maps = maps
        self.values = values if values is not None else {}
        self.context = context if context is not None else {}
        self.packet_load = packet_load
        self.arena = arena
        self._step_limit = step_limit
        self._steps = 0
        self._depth = 0
        self._rounds = 0

    def run(self, *arguments: int) -> int:
        """Run from the first instruction with R1 to R5. Returns R0, unsigned 64 bits.

        Raises MemoryFault, IllegalInstruction, StepLimit, and what a helper raises."""
        self._steps = self._depth = self._tails = 0
        return self.call(TEXT_REGION << REGION_BITS, *arguments)

    def call(self, function: int, *arguments: int) -> int:
        """Call a function of the program by its address (ld_imm64 BPF_PSEUDO_FUNC): for helpers
        with
        callbacks, which count into the run in progress. Returns R0."""
        if function >> REGION_BITS != TEXT_REGION:
            raise IllegalInstruction(f"call of {function:#x}: no function")
        if len(arguments) > 5:
            raise ValueError(f"{len(arguments)} arguments: R1 to R5 are five")
        regs = [POISON, *(a & U64 for a in arguments)]
        regs += [POISON] * (11 - len(regs))
        self._call(function & U32, regs)
        return regs[0]

    def _tail_call(self, insn: Insn, pc: int, regs: list[int]) -> int:
        """The slot to go on at: the next one, or -1 where another program has ended the function.
        Only calls that find a program count."""
        if regs[2] not in self.tails:
            raise self._illegal(insn, pc)
        programs, index = self.tails[regs[2]], regs[3] & U32
        other = programs[index] if index < len(programs) else None
        if other is None or self._tails >= MAX_TAIL_CALLS:
            regs[:6] = [POISON] * 6
            return pc + 1
        # a machine may be entered again, from itself too: its frames are those of the run
        kept = other._depth
        other._steps, other._tails, other._depth = self._steps, self._tails + 1, 0
        other._step_limit = self._step_limit
        regs[0] = other.call(TEXT_REGION << REGION_BITS, regs[1])
        self._steps, self._tails = other._steps, other._tails
        other._depth = kept
        return -1

    def _call(self, pc: int, regs: list[int]) -> None:
        """Run one function to its exit; on return R0 is its value and R6 to R10 are the
        caller's."""
        if self._depth == MAX_CALL_FRAMES:
            raise IllegalInstruction(f"insn {pc}: call {MAX_CALL_FRAMES + 1} frames deep")
        saved = regs[6:]
        frame = self.memory.add(bytearray(STACK_SIZE))
        regs[10] = frame + STACK_SIZE
        self._depth += 1
        rounds, self._rounds = self._rounds, budget.MAY_GOTO_ROUNDS
        try:
            while pc >= 0:
                pc = self._step(pc, regs)
        finally:
            self._depth -= 1
            self._rounds = rounds
            self.memory.remove(frame)
        regs[1:6] = [POISON] * 5
        regs[6:] = saved

    def _step(self, pc: int, regs: list[int]) -> int:
        """Carry out the instruction at slot pc; the slot of the next one, -1 after an exit."""
        if not 0 <= pc < len(self._insns):
            raise IllegalInstruction(f"insn {pc}: outside the program")
        self._steps += 1
        if self._steps > self._step_limit:
            raise StepLimit(f"insn {pc}: more than {self._step_limit} instructions")
        insn = self._insns[pc]
        if insn.dst > 10 or insn.src > 10:
            raise IllegalInstruction(f"insn {pc}: register above R10")
        if self.arena and pc in self.arena.accesses:
            return self._in_arena(self.arena, insn, pc, regs)
        return _CLASS[insn.code & 7](self, insn, pc, regs)

    def _in_arena(self, arena: Arena, insn: Insn, pc: int, regs: list[int]) -> int:
        """An access of the arena: outside of it a load gives 0, and nothing is stored."""
        loads = insn.klass == op.LDX or insn.code & 0xE0 == op.MODE_ATOMIC and \
            insn.imm == op.LOAD_ACQ
        at = (regs[insn.src if loads else insn.dst] & U32) + insn.off - (arena.start & U32)
        if 0 <= at <= arena.size - insn.size:
            regs.append(arena.address + at)  # a register for the access alone
            dst, src = (insn.dst, 11) if loads else (11, insn.src)
            place = Insn(insn.code, dst, src, 0, insn.imm)
            _CLASS[insn.code & 7](self, place, pc, regs)
            regs.pop()
        elif loads:
            regs[insn.dst] = 0
        return pc + 1

    def _cast(self, arena: Arena, insn: Insn, pc: int, regs: list[int]) -> int:
        """addr_space_cast: the lower half, with the loader's upper half or none."""
        half = regs[insn.src] & U32
        user = insn.imm == op.CAST_USER and half
        regs[insn.dst] = half | (arena.start >> 32 << 32 if user else 0)
        return pc + 1

    def _illegal(self, insn: Insn, pc: int) -> IllegalInstruction:
        return IllegalInstruction(f"insn {pc}: {insn!r} is unknown or not modelled")

    def _alu(self, insn: Insn, pc: int, regs: list[int]) -> int:
        bits = 64 if insn.klass == op.ALU64 else 32
        if self.arena and pc in self.arena.arithmetic:
            bits = 32
        mask = (1 << bits) - 1
        kind = insn.code & 0xF0
        dst = regs[insn.dst] & mask
        src = (regs[insn.src] if insn.code & 8 else insn.imm) & mask
        if insn.dst == 10:
            raise self._illegal(insn, pc)  # the frame pointer is read-only
        if kind == op.END:
            regs[insn.dst] = self._end(insn, pc, regs[insn.dst])
            return pc + 1
        if self.arena and kind == op.MOV and bits == 64 and insn.code & 8 and \
                insn.off == op.ADDR_SPACE_CAST:
            return self._cast(self.arena, insn, pc, regs)
        operation = ALU.get(kind)
        if insn.off and kind in ALU_SIGNED and insn.off == 1:
            operation = ALU_SIGNED[kind]
        elif insn.off and kind == op.MOV and insn.code & 8 and insn.off in MOVSX[insn.klass]:
            src = signed(src, insn.off)
        elif insn.off:
            operation = None
        if operation is None:
            raise self._illegal(insn, pc)
        regs[insn.dst] = operation(dst, src, bits) & mask
        return pc + 1

    def _end(self, insn: Insn, pc: int, value: int) -> int:
        if insn.imm not in (16, 32, 64) or insn.off or (insn.klass == op.ALU64 and insn.code & 8):
            raise self._illegal(insn, pc)
        if insn.klass == op.ALU64 or insn.code & 8:  # bswap, or to big endian
            return swap(value, insn.imm)
        return value & ((1 << insn.imm) - 1)

    def _jmp(self, insn: Insn, pc: int, regs: list[int]) -> int:
        kind = insn.code & 0xF0
        wide = insn.klass == op.JMP
        if kind == op.JA and not insn.code & 8:
            return self._target(insn, pc, insn.off if wide else insn.imm)
        if kind == op.EXIT and wide:
            return -1
        if kind == op.CALL and wide and not insn.code & 8:
            return self._call_insn(insn, pc, regs)
        if kind == op.JCOND and wide and not (insn.code & 8 or insn.src or insn.dst or insn.imm):
            return self._may_goto(insn, pc)
        taken = JMP.get(kind)
        if taken is None:
            raise self._illegal(insn, pc)
        mask = U64 if wide else U32
        src = (regs[insn.src] if insn.code & 8 else insn.imm) & mask
        if taken(regs[insn.dst] & mask, src, 64 if wide else 32):
            return self._target(insn, pc, insn.off)
        return pc + 1

    def _may_goto(self, insn: Insn, pc: int) -> int:
        if not self._rounds:
            return self._target(insn, pc, insn.off)
        self._rounds -= 1
        return pc + 1

    def _target(self, insn: Insn, pc: int, distance: int) -> int:
        target = pc + 1 + distance
        if target < 0:  # a negative slot would read as an exit
            raise self._illegal(insn, pc)
        return target

    def _call_insn(self, insn: Insn, pc: int, regs: list[int]) -> int:
        """The slot to go on at."""
        if insn.src == op.PSEUDO_CALL:
            self._call(self._target(insn, pc, insn.imm), regs)
            return pc + 1
        if insn.imm == TAIL_CALL and insn.src == 0:
            return self._tail_call(insn, pc, regs)
        helper = None
        if insn.src in (0, op.PSEUDO_KFUNC_CALL):
            helper = (self.kfuncs if insn.src else self.helpers).get(insn.imm)
        if helper is None:
            raise self._illegal(insn, pc)
        regs[0] = helper(self, *regs[1:6]) & U64
        regs[1:6] = [POISON] * 5
        return pc + 1

    def _ld(self, insn: Insn, pc: int, regs: list[int]) -> int:
        if insn.code & 0xE0 in (op.MODE_ABS, op.MODE_IND) and self.packet_load:
            return self._load_packet(insn, pc, regs, self.packet_load)
        if insn.code != op.LD_IMM64 or pc + 1 >= len(self._insns) or insn.dst == 10:
            raise self._illegal(insn, pc)
        high = self._insns[pc + 1]
        if high.code or high.dst or high.src or high.off:
            raise self._illegal(high, pc + 1)
        if insn.src == 0:
            value = imm64(insn, high)
        elif insn.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_IDX) and 0 <= insn.imm < len(self.maps):
            value = self.maps[insn.imm]
        elif (
            insn.src in (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE) and insn.imm in self.values
        ):
            value = self.values[insn.imm] + (high.imm & U32)
        elif insn.src == op.PSEUDO_FUNC:
            value = (TEXT_REGION << REGION_BITS) + self._target(insn, pc, insn.imm)
        else:
            raise self._illegal(insn, pc)
        regs[insn.dst] = value & U64
        return pc + 2

    def _load_packet(self, insn: Insn, pc: int, regs: list[int], load: PacketLoad) -> int:
        """LD_ABS, LD_IND: a load that fails ends the function with R0 = 0."""
        off = insn.imm + (regs[insn.src] if insn.code & 0xE0 == op.MODE_IND else 0)
        value = load(regs[6], signed(off, 32), insn.size)
        regs[0] = value or 0
        regs[1:6] = [POISON] * 5
        return -1 if value is None else pc + 1

    def _ldx(self, insn: Insn, pc: int, regs: list[int]) -> int:
        mode = insn.code & 0xE0
        size = insn.size
        if insn.dst == 10 or mode not in (op.MODE_MEM, op.MODE_MEMSX):
            raise self._illegal(insn, pc)
        if mode == op.MODE_MEMSX and size == 8:  # nothing to extend
            raise self._illegal(insn, pc)
        off, size = self.context.get(pc, (insn.off, size))
        value = self.memory.load((regs[insn.src] + off) & U64, size)
        regs[insn.dst] = signed(value, 8 * size) & U64 if mode == op.MODE_MEMSX else value
        return pc + 1

    def _st(self, insn: Insn, pc: int, regs: list[int]) -> int:
        if insn.code & 0xE0 != op.MODE_MEM:
            raise self._illegal(insn, pc)
        self._store(insn, pc, regs, insn.imm)
        return pc + 1

    def _store(self, insn: Insn, pc: int, regs: list[int], value: int) -> None:
        off, size = self.context.get(pc, (insn.off, insn.size))
        if pc in self.context and off == QUEUE_MAPPING and value >= NO_QUEUE_MAPPING:
            return
        self.memory.store((regs[insn.dst] + off) & U64, size, value)

    def _stx(self, insn: Insn, pc: int, regs: list[int]) -> int:
        mode = insn.code & 0xE0
        if mode == op.MODE_MEM:
            self._store(insn, pc, regs, regs[insn.src])
        elif mode == op.MODE_ATOMIC:
            self._atomic(insn, pc, regs)
        else:
            raise self._illegal(insn, pc)
        return pc + 1

    def _atomic(self, insn: Insn, pc: int, regs: list[int]) -> None:
        size, memory = insn.size, self.memory
        if insn.imm == op.LOAD_ACQ and insn.dst != 10:
            regs[insn.dst] = memory.load((regs[insn.src] + insn.off) & U64, size)
            return
        address = (regs[insn.dst] + insn.off) & U64
        if insn.imm == op.STORE_REL:
            memory.store(address, size, regs[insn.src])
            return
        if insn.imm not in ATOMIC_IMMS or size < 4 or (insn.imm & op.FETCH and insn.src == 10):
            raise self._illegal(insn, pc)
        old = memory.load(address, size)
        if insn.imm == op.CMPXCHG:
            if regs[0] & ((1 << 8 * size) - 1) == old:
                memory.store(address, size, regs[insn.src])
            regs[0] = old
            return
        memory.store(address, size, ATOMIC[insn.imm & ~op.FETCH](old, regs[insn.src]))
        if insn.imm & op.FETCH:
            regs[insn.src] = old


_CLASS: Final[dict[int, Callable[[Machine, Insn, int, list[int]], int]]] = {
    op.LD: Machine._ld,
    op.LDX: Machine._ldx,
    op.ST: Machine._st,
    op.STX: Machine._stx,
    op.ALU: Machine._alu,
    op.ALU64: Machine._alu,
    op.JMP: Machine._jmp,
    op.JMP32: Machine._jmp,
}


def run(
    insns: bytes,
    ctx: bytearray,
    *,
    memory: Memory | None = None,
    helpers: Mapping[int, Helper] | None = None,
    step_limit: int = 1_000_000,
) -> int:
    """Run insns once with R1 = the address of ctx, which the program may change. Returns R0.

    memory, helpers, step_limit and the errors raised: as for Machine."""
    machine = Machine(insns, memory=memory, helpers=helpers, step_limit=step_limit)
    address = machine.memory.add(ctx)
    try:
        return machine.run(address)
    finally:
        machine.memory.remove(address)
