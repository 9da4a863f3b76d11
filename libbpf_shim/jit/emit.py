"""Code on its way: pieces of machine code by slot, and what each register of the program holds.

A register's value may be pending: known as a constant, a symbol's address or an address expression
of other registers, and not yet in its machine register. Moves and additions cost nothing until
somebody needs them, and then often fold into an address, an immediate or a three-operand form.

What holds between instructions: a register without a pending value is in its machine register; an
expression counts with machine registers as they are now, so before one of those is written,
whoever depends on it is computed (protect). Where something jumps to, nothing is pending.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar, final

from libbpf_shim.errors import ShimError
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.encode import R11, RBP, Mem
from libbpf_shim.jit.flow import ALL, Flow

# R0 rax, R1 to R5 as System V passes arguments, R6 to R9 what a callee keeps, R10 rbp
REG: Final = (x.RAX, x.RDI, x.RSI, x.RDX, x.RCX, x.R8, x.RBX, x.R13, x.R14, x.R15, RBP)
OWNER: Final = {machine: regno for regno, machine in enumerate(REG)}
U64: Final = (1 << 64) - 1
U32: Final = (1 << 32) - 1


def fits(value: int) -> bool:
    """Whether an instruction's immediate or displacement can say it."""
    return -(1 << 31) <= value < 1 << 31


def signed64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def unsupported(at: int, what: str) -> ShimError:
    return ShimError("JT0001", errno.EOPNOTSUPP, f"insn {at}: {what} cannot be compiled")


@dataclass(slots=True)
class Piece:
    """The code of one slot. jump: condition and target slot of a jump at its end. entry: of a
    function's first slot, what calls run first and jumps do not."""

    code: bytearray
    relocs: list[tuple[int, str, int]]
    jump: tuple[int, int] | None = None
    entry: bytes = b""


@final
class Const:
    """A number, 64 bits unsigned. held: the machine register has it too."""

    __slots__ = ("value", "held")

    def __init__(self, value: int) -> None:
        self.value, self.held = value, False


@final
class Symbol:
    """The address of a symbol, plus addend."""

    __slots__ = ("name", "addend", "held")

    def __init__(self, name: str, addend: int) -> None:
        self.name, self.addend, self.held = name, addend, False


@final
class Expr:
    """An address expression of machine registers; without wide its low half, zero-extended."""

    __slots__ = ("mem", "wide")
    held: Final = False

    def __init__(self, mem: Mem, wide: bool) -> None:
        self.mem, self.wide = mem, wide

    def copy_of(self) -> int:
        """The one machine register that it is, or -1."""
        m = self.mem
        return m.base if m.by < 0 and not m.disp else -1

    def uses(self, machine: int) -> bool:
        return machine in (self.mem.base, self.mem.by)

    def adds_to(self, dst: int) -> bool:
        """Whether it is computed in dst by an addition, which sets the flags."""
        m = self.mem
        if m.by < 0:
            return m.disp != 0 and m.base == dst
        return m.base >= 0 and not m.disp and m.scale == 1 and dst in (m.base, m.by)


Value = Const | Symbol | Expr
S = TypeVar("S")
T = TypeVar("T")


class Emitter:
    """values: of R0 to R9, None: in its machine register and nothing known. narrow: machine
    registers whose upper half is zero, a bit each. here: slot that is compiled."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.piece = Piece(bytearray(), [])
        self.values: list[Value | None] = [None] * 10
        self.narrow = 0
        self.here = 0
        self.emitted = 0
        self.tested = (-1, False, -1)  # register, width of a result whose flags stand; emitted
        self.stack: dict[int, int] = {}  # bytes of the frame that are known, by rbp's offset
        self.symbols: dict[int, tuple[str, int]] = {}  # that machine registers hold

    def put(self, code: bytes) -> None:
        self.piece.code += code
        self.emitted += 1

    def address(self, dst: int, name: str, addend: int = 0) -> None:
        """dst = address of a symbol, which is known when the image is placed."""
        self.put(x.movabs(dst, 0))
        self.piece.relocs.append((len(self.piece.code) - 8, name, addend))

    # what is known

    def reset(self, narrow: int) -> None:
        """At a place that is jumped to. narrow: of the program's registers."""
        self.values = [None] * 10
        self.narrow = 0
        self.stack.clear()
        self.symbols.clear()
        for regno in range(10):
            if narrow >> regno & 1:
                self.narrow |= 1 << REG[regno]
        self.tested = (-1, False, -1)

    def is_narrow(self, machine: int) -> bool:
        return bool(self.narrow >> machine & 1)

    def wrote(self, regno: int, narrow: bool) -> None:
        """The register's machine register has its new value."""
        self.values[regno] = None
        self.mark(REG[regno], narrow)

    def mark(self, machine: int, narrow: bool) -> None:
        """The machine register was written."""
        self.symbols.pop(machine, None)
        self.narrow = self.narrow | 1 << machine if narrow else self.narrow & ~(1 << machine)

    def constant(self, regno: int) -> int | None:
        value = self.values[regno] if regno < 10 else None
        return value.value if isinstance(value, Const) else None

    def dies(self, regno: int) -> bool:
        """Nobody reads it after this instruction."""
        return not self.flow.live_out[self.here] >> regno & 1

    def narrow_value(self, regno: int) -> bool:
        """Whether the register's upper half is zero."""
        value = self.values[regno] if regno < 10 else None
        if regno == 10 or isinstance(value, Symbol):
            return False
        if isinstance(value, Const):
            return value.value <= U32
        if isinstance(value, Expr):
            copy = value.copy_of()
            return not value.wide or (copy >= 0 and self.is_narrow(copy))
        return self.is_narrow(REG[regno])

    # pending values

    def protect(self, machine: int, keep: int) -> None:
        """The machine register is about to be written: compute what depends on it, of the
        registers in keep. Others that this instruction reads stay pending, the rest is forgotten.
        """
        owner, live = OWNER.get(machine, -1), self.all_live()
        for regno in range(10):
            value = self.values[regno]
            if regno == owner or not isinstance(value, Expr) or not value.uses(machine):
                continue
            if keep >> regno & 1:
                self.compute(regno)
            elif not live >> regno & 1:
                self.values[regno] = None

    def all_live(self) -> int:
        return self.flow.live_in[self.here] | self.flow.live_out[self.here]

    def compute(self, regno: int) -> None:
        """Puts a pending value into its machine register."""
        value = self.values[regno] if regno < 10 else None
        if value is None or value.held:
            return
        dst = REG[regno]
        self.protect(dst, self.all_live())
        if isinstance(value, Const):
            self.put(x.mov_imm(dst, value.value))
            self.mark(dst, value.value <= U32)
            value.held = True
        elif isinstance(value, Symbol):
            self._compute_symbol(dst, value)
            self.mark(dst, False)
            self.symbols[dst] = (value.name, value.addend)
            value.held = True
        else:
            self.put(self.expression(dst, value.mem, value.wide))
            if value.adds_to(dst):
                self.tested = (dst, value.wide, self.emitted)
            copy = value.copy_of()
            self.wrote(regno, not value.wide or (copy >= 0 and self.is_narrow(copy)))

    def near(self, value: Symbol) -> Mem | None:
        """A symbol's address by a register that holds it, or one not far from it."""
        for machine, (name, addend) in self.symbols.items():
            if name == value.name and fits(value.addend - addend):
                return Mem(machine, value.addend - addend)
        return None

    def bind(self, regno: int) -> None:
        """A symbol as an address expression of a register that holds it."""
        value = self.values[regno] if regno < 10 else None
        if isinstance(value, Symbol) and not value.held:
            m = self.near(value)
            if m and m.base != REG[regno]:
                self.free(regno)
                m = self.near(value)
            if m:
                self.values[regno] = Expr(m, True)
            else:
                self.compute(regno)

    def _compute_symbol(self, dst: int, value: Symbol) -> None:
        m = self.near(value)
        if m:
            self.put(self.expression(dst, m, True))
        else:
            self.address(dst, value.name, value.addend)

    @staticmethod
    def expression(dst: int, m: Mem, wide: bool) -> bytes:
        """dst = an address expression, in the form that costs least."""
        if m.by < 0 and not m.disp:
            return x.mov(dst, m.base, wide) if dst != m.base or not wide else b""
        if Expr(m, wide).adds_to(dst):
            if m.by < 0:
                return x.alu_imm(x.ADD, dst, m.disp, wide)
            return x.alu(x.ADD, dst, m.by if dst == m.base else m.base, wide)
        if m.base < 0 and not m.disp:
            shift = x.shift(x.SHL, dst, m.scale.bit_length() - 1, wide)
            return shift if dst == m.by else x.mov(dst, m.by, wide) + shift
        return x.lea(dst, m, wide)

    def settle(self, mask: int) -> None:
        """Computes what is pending of these registers."""
        for regno in range(10):
            if mask >> regno & 1:
                self.compute(regno)

    def settle_all(self) -> None:
        """Everything that may still be read is in its machine register."""
        self.settle(self.all_live() & ALL)

    # one instruction: free what it writes, then its operands, then the code

    def free(self, regno: int) -> int:
        """The register's machine register, about to be written or bound to an expression. Its
        operands may still be read from where they are."""
        self.protect(REG[regno], self.flow.live_out[self.here])
        return REG[regno]

    def fresh(self, regno: int, *sources: int) -> int:
        """free() of a register whose old value is not wanted, unless it is among the sources."""
        if regno not in sources:
            self.values[regno] = None
        return self.free(regno)

    def own(self, regno: int) -> int:
        """free() of a register that is changed: its machine register, with its value."""
        self.compute(regno)
        return self.free(regno)

    def both(self, one: Callable[[], S], other: Callable[[], T]) -> tuple[S, T]:
        """Two operands, once to find one does not move the other any more."""
        while True:
            before = self.emitted
            found = one(), other()
            if self.emitted == before:
                return found

    def over(self) -> None:
        """The instruction is complete: what nobody reads from here on is forgotten."""
        out = self.flow.live_out[self.here]
        for regno in range(10):
            if not out >> regno & 1:
                self.values[regno] = None

    # operands

    def reg(self, regno: int, wide: bool = True) -> int:
        """A machine register that holds the value, or without wide its low half."""
        value = self.values[regno] if regno < 10 else None
        if isinstance(value, Expr):
            copy = value.copy_of()
            if copy >= 0 and (value.wide or not wide or self.is_narrow(copy)):
                return copy
        self.compute(regno)
        return REG[regno]

    def sum_of(self, regno: int) -> Mem | None:
        """The register as a 64-bit address expression without computing it, if it is one."""
        value = self.values[regno] if regno < 10 else None
        if value is None:
            return Mem(REG[regno])
        if isinstance(value, Expr):
            if value.wide:
                return value.mem
            copy = value.copy_of()
            return value.mem if copy >= 0 and self.is_narrow(copy) else None
        return Mem(REG[regno]) if value.held else None

    def place(self, regno: int, off: int) -> Mem:
        """The memory at a register plus an offset."""
        self.bind(regno)
        m = self.sum_of(regno)
        if m is None or not fits(m.disp + off):
            self.compute(regno)
            m = Mem(REG[regno])
        return m._replace(disp=m.disp + off)

    def scratch_constant(self, value: int, wide: bool) -> int:
        """r11 = a constant."""
        self.put(x.mov_imm(R11, value, wide))
        return R11
