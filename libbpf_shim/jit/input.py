"""An input with which a refused program does what it was refused for: found by trying.

The interpreter runs the program on contexts, map values and helper results drawn from a fixed
sequence of numbers, with a packet where its type has one, until a load or store at the refused
instruction leaves its memory or the run does not end. Nothing is proven where nothing is found.
"""

from __future__ import annotations

import random
from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, decode
from libbpf_shim.jit import context
from libbpf_shim.jit.interp import (
    Helper,
    InterpreterError,
    Machine,
    Memory,
    MemoryFault,
    StepLimit,
)
from libbpf_shim.verifier.call import helpers
from libbpf_shim.verifier.diagnose.errors import context_accesses
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

_RUNS: Final = 300
_STEPS: Final = 20_000  # instructions of one run
_ALL_STEPS: Final = 300_000
_CONTEXT: Final = 256  # bytes
_LONGEST: Final = 80  # bytes of a packet
_SHOWN: Final = 192  # of them, what programs see of a packet's; behind it are addresses
_PACKETS: Final = frozenset((1, 3, 4, 6, 8, 10, 11, 12, 14))
_NUMBERS: Final = (0, 1, 2, 7, 8, 15, 16, 31, 63, 64, 100, 127, 128, 255, 256, 511, 4095, 4096,
                   65535, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_PROBE: Final = frozenset((4, 45, 67, 112, 113, 114, 115, 148))  # reads: (where to, size, ...)
_TOLD: Final = 4  # of what was read, how much is said


class _Noted(Memory):
    """Memory that remembers what of the input was read."""

    __slots__ = ("names", "seen")

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[int, str] = {}
        self.seen: dict[str, None] = {}

    def named(self, name: str, data: bytearray) -> int:
        address = self.add(data)
        self.names[address >> 32] = name
        return address

    def read(self, address: int, size: int) -> bytes:
        data = super().read(address, size)
        name = self.names.get(address >> 32)
        if name and not (name == "context" and address & 0xFFFFFFFF >= _SHOWN):
            value = int.from_bytes(data, "little")
            self.seen[f"{name}, {size} bytes at {address & 0xFFFFFFFF}: {value:#x}"] = None
        return data


class _Run(Machine):
    """A machine that knows where it is."""

    __slots__ = ("at",)

    def _step(self, pc: int, regs: list[int]) -> int:
        self.at = pc
        return super()._step(pc, regs)


class _Trial:
    def __init__(self, program: Program, insns: list[Insn], rng: random.Random) -> None:
        self.program, self.rng, self.memory = program, rng, _Noted()
        self.insns = insns
        self.values: list[int] = []

    def number(self) -> int:
        return self.rng.choice((*_NUMBERS, self.rng.getrandbits(64), self.rng.getrandbits(16)))

    def bytes(self, size: int) -> bytearray:
        out = b"".join(self.number().to_bytes(8, "little") for _ in range(size // 8 + 1))
        return bytearray(out[:size])

    def helper(self, number: int) -> int:
        """What a helper answers, which is part of the input."""
        proto = helpers.proto(self.program.prog_type, number)
        kind = proto.ret & helpers.KIND if proto else helpers.INT
        if kind == helpers.VALUE:
            found = self.rng.random() < 0.8 and self.values
            result = self.rng.choice(self.values) if found else 0
            told = "a value" if result else "NULL"
        elif kind in (helpers.INT, helpers.VOID):
            result = self.number()
            told = f"{result:#x}"
        else:
            result, told = 0, "NULL"
        self.memory.seen[f"{helpers.name(number)}() = {told}"] = None
        return result

    def start(self, changed: dict[int, tuple[int, int]]) -> tuple[_Run, int]:
        memory, maps = self.memory, self.program.maps
        names = [desc.name or f"map {n}" for n, desc in enumerate(maps)]
        self.values = [memory.named(f"value of {name}", bytearray(desc.contents or
                                                                 self.bytes(desc.value_size)))
                       for name, desc in zip(names, maps, strict=True)]
        ctx = self.bytes(_CONTEXT)
        if self.program.prog_type in _PACKETS:
            packet = self.bytes(self.rng.randrange(_LONGEST))
            base = memory.named(f"packet of {len(packet)} bytes", packet)
            for at, value in ((192, base), (200, base + len(packet)), (208, base)):
                ctx[at : at + 8] = value.to_bytes(8, "little")
        used = {i.imm for i in self.insns if i.code == op.JMP | op.CALL and i.src == 0}
        table = {number: self._bound(number) for number in used}
        run = _Run(self.program.insns, memory=memory, helpers=table,
                   maps=[memory.add(bytearray(8)) for _ in maps],
                   values=dict(enumerate(self.values)), context=changed, step_limit=_STEPS)
        return run, memory.named("context", ctx)

    def _bound(self, number: int) -> Helper:
        def call(machine: Machine, a: int, b: int, c: int, d: int, e: int) -> int:
            if number in _PROBE and b < 1 << 16:
                machine.memory.write(a, bytes(self.bytes(b)))
            return self.helper(number)

        return call


def failing(program: Program, at: int) -> str:
    """In words, for the instruction at slot `at`; "": none was found."""
    if at < 0 or any(i.src == op.PSEUDO_KFUNC_CALL for i in decode(program.insns)
                     if i.code == op.JMP | op.CALL):
        return ""
    insns, rng = decode(program.insns), random.Random(1)
    facts = Facts((0,), (0,), b"", ctx_at=context_accesses(program))
    changed = context.accesses(program, insns, facts)
    left = _ALL_STEPS
    for _ in range(_RUNS):
        trial = _Trial(program, insns, rng)
        run, ctx = trial.start(changed)
        fault = ""
        try:
            run.run(ctx)
        except MemoryFault as error:
            address = error.address & 0xFFFFFFFF
            where = trial.memory.names.get(error.address >> 32)
            what = f"{where}, offset {address}" if where else f"address {error.address:#x}"
            fault = f"a {error.what} of {error.size} bytes at {what}" if run.at == at else ""
        except StepLimit:
            fault = f"a run of more than {_STEPS} instructions"
        except InterpreterError:
            pass
        if fault:
            read = list(trial.memory.seen)[-_TOLD:]
            return f"{'; '.join(read)}: {fault}" if read else fault
        left -= run._steps
        if left <= 0:
            break
    return ""
