"""Calls of isolated programs in which more is at stake than numbers and memory of their own.

Each is tested when it is made, whatever was proved of it:
- a tail call leads to programs of the same class alone: these begin with the address of the
  class's window, and what begins otherwise is to them an empty slot;
- bpf_override_return() gets a value that the class allows, and never in a program that was tail
  called, since what that was called from may stand at a place where nothing can be skipped;
- formats are those of frozen maps, and stand in the image, which nobody can write; what %s and its
  like print lies in the window.

Where the class has a counter, every run is counted, whatever was proved of its length.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import charge, window
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.control import TAIL_CALL
from libbpf_shim.jit.emit import REG, Symbol, fits, unsupported
from libbpf_shim.jit.encode import R9, R10, R11, R12, RAX, RDI, RDX, RSI, Mem
from libbpf_shim.jit.flow import CALLER
from libbpf_shim.jit.hostcall import extended
from libbpf_shim.jit.local import BELOW_EQUAL, EQUAL, NOT_EQUAL, Local
from libbpf_shim.jit.places import RUN
from libbpf_shim.jit.tier1 import Compiler
from libbpf_shim.verifier.call import formats, helpers
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

OVERRIDE: Final = 58  # BPF_FUNC_override_return
STRNCMP: Final = 182  # (mem, size, string)
PRINTK: Final = 6  # BPF_FUNC_trace_printk
# Helpers with a format: the argument that is it, the one that says its size (0: up to its NUL)
FORMATS: Final = {PRINTK: (1, 2), 165: (3, 0), 177: (1, 2)}
GUARDED: Final = frozenset((TAIL_CALL, OVERRIDE, STRNCMP, *FORMATS))
_TAIL_CALLS: Final = 52  # struct shim_run
_RDONLY_PROG: Final = 1 << 7  # BPF_F_RDONLY_PROG
_S64: Final = (-(1 << 63), (1 << 63) - 1)
_LEAVE: Final = 5  # bytes of what ends a program


MARK: Final = x.movabs(R11, 0)[:2]  # what isolated programs begin with; the window's base follows


class Guarded(Compiler):
    """data: constants of the image, by the symbols that stand for them."""

    def __init__(self, program: Program, insns: list[Insn], facts: Facts, bmi: bool) -> None:
        super().__init__(program, insns, facts, bmi)
        self.data: dict[str, bytes] = {}

    # what isolated.py has

    def _leave(self) -> None:
        """The program ends here."""
        raise NotImplementedError

    def _index(self, m: Mem) -> None:
        """r9 = index of an address, r11 = the window's base."""
        raise NotImplementedError

    def _checked(self, reg: int, size: int, by: int = -1) -> None:
        """The register is the address of so many bytes (by: as many as that register says)."""
        raise NotImplementedError

    def _map(self, at: int, number: int, reg: int) -> None:
        """The register is the address of one of the maps, or the program ends."""
        raise NotImplementedError

    def charge(self, row: charge.Charge) -> None:
        """And a run that is over, and goes on since it holds something, goes on for so long: then
        it was let through wrongly."""
        super().charge(row)
        if not row.ends:
            self.put(x.mem(b"\x81", x.CMP[1], R12, charge.LEFT, True) + x.imm32(charge.OVER))
            self.put(bytes([0x7D, _LEAVE]))  # jge
            self._leave()

    # constants in the image

    def constant_address(self, reg: int, name: str, data: bytes) -> None:
        self.data[name] = data
        self.near_address(reg, name)

    def near_address(self, reg: int, name: str) -> None:
        """reg = the address of something in this image."""
        self.put(bytes([0x48 | (reg >> 3) << 2, 0x8D, (reg & 7) << 3 | 5]) + bytes(4))
        self.piece.relocs.append((len(self.piece.code) - 4, name, 0))

    def put_data(self) -> None:
        """Behind all code."""
        for name, data in self.data.items():
            self.ends[name] = len(self.piece.code)
            self.put(data)

    # calls

    def tested_call(self, i: Insn, at: int) -> bool:
        """The call is one of these, and has been compiled."""
        if i.imm not in GUARDED:
            return False
        text = self._text(i.imm, at) if i.imm in FORMATS else b""
        self.settle(self.flow.live_in[at] & CALLER)
        self.leave_registers(at)
        if i.imm == OVERRIDE:
            self._override(at)
        elif i.imm == STRNCMP:
            self.put(x.mov(RSI, RSI, False))
            self._checked(RDI, 0, RSI)
            self._string(RDX, RSI)
        else:
            self._format(i.imm, at, text)
        self.call_helper(i.imm)
        return True

    def tail_call(self) -> None:
        """As control.py has it; the other program has this one's slot, and copies the context."""
        at = self.here
        if not self.main or self.policy is None:
            raise unsupported(at, "isolated: a tail call in a function of the program")
        self._map(at, TAIL_CALL, RSI)
        self.put(x.mov(RDX, RDX, False))
        self.call_helper(TAIL_CALL)
        over = Local()
        over.put(x.rr(b"\x85", RAX, RAX, True))
        over.jump("on", EQUAL)
        over.put(x.mem(b"\x0f\xb7", R10, RAX, 0, False),
                 x.alu_imm(x.CMP, R10, int.from_bytes(MARK, "little"), False))
        over.jump("on", NOT_EQUAL)
        over.address(R11, "window")
        over.put(x.mem(b"\x3b", R11, RAX, len(MARK), True))
        over.jump("on", NOT_EQUAL)
        over.put(x.mem(b"\x8b", RDI, R12, RUN["regs"], True), x.mov(RSI, R12), self.teardown(),
                 x.jmp_reg(RAX))
        over.label("on")
        self.write(over)

    def _ends_unless(self, code: Local) -> None:
        """The program ends, unless the code jumps to "fine"."""
        code.put(bytes(_LEAVE))  # in whose place comes what ends it
        code.label("fine")
        self.write(code)
        del self.piece.code[-_LEAVE:]
        self._leave()

    def _override(self, at: int) -> None:
        """rsi is one of the values that the class allows."""
        policy = self.policy
        if policy is None or policy.override is None:
            raise unsupported(at, "isolated: an override, which the class does not grant,")
        code = Local()
        code.put(x.mem(b"\x83", x.CMP[1], R12, _TAIL_CALLS, False) + b"\0")
        code.jump("fine", EQUAL)
        self._ends_unless(code)
        if policy.override != (_S64,):
            code = Local()
            code.put(extended(R11, RSI, *policy.result))
            self._among(code, policy.override)
            self._ends_unless(code)
        self.put(x.mem(b"\x8b", RDI, R12, RUN["regs"], True))

    @staticmethod
    def _among(code: Local, ranges: tuple[tuple[int, int], ...]) -> None:
        """Jumps to "fine" if r11, of 64 bits, lies in one of the ranges."""
        for low, high in ranges:
            code.put(x.mov_imm(R10, -low), x.alu(x.ADD, R10, R11, True))
            if fits(high - low):
                code.put(x.alu_imm(x.CMP, R10, high - low, True))
            else:
                code.put(x.mov_imm(R9, high - low), x.alu(x.CMP, R10, R9, True))
            code.jump("fine", BELOW_EQUAL)

    def _string(self, reg: int, size: int) -> None:
        """The register is the address of a string in the window, of which no more than as many
        bytes as the other says are looked at, and none that is not there."""
        self._index(Mem(reg))
        self.put(x.mem(b"\x8b", R10, R11, -8, True) + x.alu(x.SUB, R10, R9, True))
        self.put(bytes([0x77, _LEAVE]))  # ja
        self._leave()
        self.put(x.alu(x.CMP, size, R10, True) + x.cmov(0x7, size, R10, True))
        self.put(x.lea(reg, Mem(R11, 0, R9, 1)))

    # formats

    def _text(self, number: int, at: int) -> bytes:
        """The format, as it stands in its map."""
        regno, size_at = FORMATS[number]
        value, why = self.values[regno], f"isolated: a format of {helpers.name(number)}"
        if not isinstance(value, Symbol) or not value.name.startswith("mapval:"):
            raise unsupported(at, f"{why} that is not known")
        found = self.maps[int(value.name.removeprefix("mapval:"))]
        if found.contents is None or not found.map_flags & _RDONLY_PROG or \
                not 0 <= value.addend < len(found.contents):
            raise unsupported(at, f"{why} that is not frozen")
        text = found.contents[value.addend :]
        end = text.find(b"\0") + 1
        size = self.constant(size_at) if size_at else end
        if not end or size is None or not 0 < size <= len(text):
            raise unsupported(at, f"{why} without an end")
        return text[:size]

    def _format(self, number: int, at: int, text: bytes) -> None:
        """The format is the image's own; the memory that it is written to, and its arguments',
        is the window's."""
        regno, size_at = FORMATS[number]
        read = formats.reading(text.partition(b"\0")[0])
        if read is None or (number != PRINTK and any(read)):
            raise unsupported(at, f"isolated: what {helpers.name(number)} prints")
        if number == PRINTK:
            for reg, reads in zip((RDX, x.RCX, x.R8), read, strict=False):
                if reads:
                    self._printed(reg)
        else:
            self._pair(*((REG[1], REG[2]) if number == 165 else (REG[3], REG[4])))
            if number == 165:
                self._pair(REG[4], REG[5])
        if size_at:
            self.put(x.mov_imm(REG[size_at], len(text)))
        self.constant_address(REG[regno], f"data:{at}", text)

    def _printed(self, reg: int) -> None:
        """A string is read as far as it can be."""
        self._index(Mem(reg))
        self.put(x.mem(b"\x3b", R9, R11, -8, True) + bytes([0x72, _LEAVE]))  # jb
        self._leave()
        self.put(x.lea(reg, Mem(R11, 0, R9, 1)))

    def _pair(self, reg: int, size: int) -> None:
        """Memory, or NULL, and its size; nothing is tested where that is 0."""
        self.put(x.mov(size, size, False) + x.rr(b"\x85", size, size, False))
        before = len(self.piece.code)
        self.put(b"\x0f\x84" + bytes(4))  # je
        self._checked(reg, 0, size)
        to = len(self.piece.code) - before - 6
        self.piece.code[before + 2 : before + 6] = x.imm32(to)

    # what is read by a helper

    def _source(self, string: bool) -> None:
        """rdx is an address of the host's, rsi bytes: not those that are the agent's. A string is
        read up to there, anything else fails."""
        code = Local()
        code.put(*map(x.push, (RDI, RSI, RDX, RDX)), x.mov(RDI, RDX), x.mov(R9, R12))
        code.address(R11, f"helper:{window.HOST_CLIP}")
        code.put(x.call_reg(R11), *map(x.pop, (RDX, RDX, RSI, RDI)), x.alu(x.CMP, RAX, RSI, True))
        code.jump("all", EQUAL)
        if string:
            code.put(x.rr(b"\x85", RAX, RAX, True))
            code.jump("some", NOT_EQUAL)
        code.put(x.alu(x.XOR, RDX, RDX, False))
        if string:
            code.jump("all")
            code.label("some")
            code.put(x.mov(RSI, RAX))
        code.label("all")
        self.write(code)
