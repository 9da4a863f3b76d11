"""A function as LLVM IR on its way: lines of text, numbered values, the program's registers.

Each register of the program is a variable of 64 bits (an alloca, which LLVM makes values of); R10
is the address behind the stack. Values are written as LLVM writes them: `%t7`, or a number.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit.flow import Flow
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import MapDesc

INT: Final = {1: "i8", 2: "i16", 4: "i32", 8: "i64"}
PURE: Final = "nounwind willreturn memory(none)"
TOLD: Final = -1  # in the place of a number of arguments: told()
_TWO: Final = "{i64, i64}"


class Body:
    """symbols: of the image that the program's code names; shared by its functions. run: the
    struct shim_run's address. frame: bytes of stack. offsets: by slot, what registers are known to
    be R10 plus so many (frames.py). arguments: how many parameters the function has."""

    flow: Flow
    facts: Facts
    maps: tuple[MapDesc, ...]
    context: dict[int, tuple[int, int]]
    prog_type = 0
    arena_start = 0
    arena_size = 0
    frame = 0
    parameters = 2
    whole = ""  # the context, where it is known to be a whole struct shim_pt_regs
    offsets: dict[int, tuple[int | None, ...]]

    def __init__(self, symbols: set[str]) -> None:
        self.symbols = symbols
        self.lines: list[str] = []
        self.asked: set[tuple[int, int]] = set()  # what ask() and told() need
        self._count = 0

    # text

    def do(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def op(self, text: str) -> str:
        """An instruction with a value, and the value."""
        self._count += 1
        self.lines.append(f"  %t{self._count} = {text}")
        return f"%t{self._count}"

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")

    def new_label(self, what: str) -> str:
        self._count += 1
        return f"{what}.{self._count}"

    def go(self, label: str) -> None:
        self.do(f"br label %{label}")

    def choose(self, condition: str, yes: str, no: str, often: bool = False) -> None:
        """often: the first of the two is where most runs go."""
        note = ", !prof !0" if often else ""
        self.do(f"br i1 {condition}, label %{yes}, label %{no}{note}")

    # values

    def symbol(self, name: str, addend: int = 0) -> str:
        """The address of a symbol of the image, as a number that LLVM knows nothing of but that it
        is not 0: as a constant it would go into comparisons, as 32 bits."""
        self.symbols.add(name)
        place = f"{name}+{addend}" if addend else name
        pointer = self.op(f'call nonnull ptr asm "movabsq $${place}, $0", "=r"() {PURE}')
        return self.op(f"ptrtoint ptr {pointer} to i64")

    def get(self, regno: int) -> str:
        return "%fp" if regno == 10 else self.op(f"load i64, ptr %r{regno}")

    def set(self, regno: int, value: str) -> None:
        self.do(f"store i64 {value}, ptr %r{regno}")

    def cut(self, value: str, bits: int) -> str:
        """The low bits of 64."""
        return value if bits == 64 else self.op(f"trunc i64 {value} to i{bits}")

    def widen(self, value: str, bits: int, signed: bool = False) -> str:
        """To 64 bits."""
        if bits == 64:
            return value
        return self.op(f"{'sext' if signed else 'zext'} i{bits} {value} to i64")

    def operand(self, i: Insn, bits: int) -> str:
        """The source of arithmetic or of a comparison."""
        return self.cut(self.get(i.src), bits) if i.code & 8 else str(i.imm)

    # memory

    def pointer(self, value: str) -> str:
        return self.op(f"inttoptr i64 {value} to ptr")

    def plus(self, value: str, number: int) -> str:
        return self.op(f"add i64 {value}, {number}") if number else value

    def in_frame(self, off: int) -> str:
        """The stack's bytes at R10 + off."""
        return self.op(f"getelementptr i8, ptr %stack, i64 {self.frame + off}")

    def framed(self, regno: int, off: int, at: int) -> int | None:
        """Where an access at regno + off lies relative to R10; None: not known, or outside."""
        base = 0 if regno == 10 else self.offsets[at][regno]
        if base is None or not -self.frame <= base + off < 0:
            return None
        return base + off

    def place(self, regno: int, off: int, at: int) -> tuple[str, bool]:
        """A pointer to memory, and whether it may be seen by others."""
        known = self.framed(regno, off, at)
        if known is not None:
            return self.in_frame(known), False
        return self.pointer(self.plus(self.get(regno), off)), at not in self.facts.stack_at

    def read(self, pointer: str, size: int, shared: bool) -> str:
        """size bytes, as a number of that width."""
        volatile = "volatile " if shared else ""
        return self.op(f"load {volatile}{INT[size]}, ptr {pointer}, align 1")

    def write(self, pointer: str, size: int, value: str, shared: bool) -> None:
        volatile = "volatile " if shared else ""
        self.do(f"store {volatile}{INT[size]} {value}, ptr {pointer}, align 1")

    def field(self, base: str, off: int, size: int) -> str:
        """Of a structure that no other thread changes: 64 bits."""
        value = self.read(self.pointer(self.plus(base, off)), size, False)
        return self.widen(value, 8 * size)

    def of_run(self, off: int) -> str:
        """A word of the run's that stays as it is until it is over."""
        pointer = self.pointer(self.plus("%run", off))
        return self.op(f"load i64, ptr {pointer}, align 8, !invariant.load !1")

    # calls

    def helper(self, number: int, *arguments: str) -> str:
        """Calls a helper of the runtime: up to five arguments, and the run."""
        self.symbols.add(f"helper.{number}")
        call = f'asm "movabsq $$helper.{number}, $0", "=r"() {PURE}'
        callee = self.op(f"call ptr {call}")
        given = [f"i64 {a}" for a in arguments] + ["i64 undef"] * (5 - len(arguments))
        return self.op(f"call i64 {callee}({', '.join(given)}, i64 %run)")

    def ask(self, number: int, *arguments: str) -> str:
        """The same where it is seldom called: by a function that keeps all registers, so that who
        does not come here need not have saved any."""
        self.asked.add((number, len(arguments)))
        given = ", ".join(f"i64 {a}" for a in (*arguments, "%run"))
        return self.op(f"call preserve_mostcc i64 @ask{number}.{len(arguments)}({given})")

    def told(self, number: int, size: int, source: str) -> tuple[str, str]:
        """The same of a read to memory: its answer, and what was read."""
        self.asked.add((number, TOLD))
        both = self.op(f"call preserve_mostcc {_TWO} @told{number}(i64 {size}, i64 {source}, "
                       "i64 %run)")
        return (self.op(f"extractvalue {_TWO} {both}, 0"),
                self.op(f"extractvalue {_TWO} {both}, 1"))

    def between(self, number: int, count: int) -> tuple[str, list[str]]:
        """The function of ask() or told(): its type, name and parameters, and its body."""
        names = [f"%a{n}" for n in range(1, 1 + (2 if count == TOLD else count))]
        parameters = ", ".join(f"i64 {name}" for name in (*names, "%run"))
        self.lines = []
        if count != TOLD:
            self.do(f"ret i64 {self.helper(number, *names)}")
            return f"i64 @ask{number}.{count}({parameters})", self.lines
        self.do("%word = alloca i64")
        self.do("store i64 0, ptr %word")
        word = self.op("ptrtoint ptr %word to i64")
        answer = self.helper(number, word, *names)
        both = self.op(f"insertvalue {_TWO} undef, i64 {answer}, 0")
        read = self.op("load i64, ptr %word")
        self.do(f"ret {_TWO} {self.op(f'insertvalue {_TWO} {both}, i64 {read}, 1')}")
        return f"{_TWO} @told{number}({parameters})", self.lines
