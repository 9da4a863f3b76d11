"""Which system calls a module makes: the number in rax where it executes `syscall`.

A function's constants are followed from its start along its branches, since compilers keep a
number that is used more than once in another register. Where control may arrive that is not
followed (targets.py), nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from libbpf_shim.elf import unwind
from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite import decode
from libbpf_shim.rewrite.callsites import ENDS, Body, Code
from libbpf_shim.rewrite.targets import inside, jump_targets, sources

SIGACTION = 13
# A thread's mask of signals, for good, while the call waits, or at the return from a handler:
# rt_sigprocmask, rt_sigreturn, rt_sigsuspend, pselect6, ppoll, epoll_pwait, io_pgetevents,
# io_uring_enter, epoll_pwait2
MASKS = frozenset((14, 15, 130, 270, 271, 281, 333, 426, 441))
SIGNALS = MASKS | {SIGACTION}
JUMP = 5  # bytes of the instruction that diverts
_RAX = 0
_CLOBBERED = frozenset((0, 1, 2, 6, 7, 8, 9, 10, 11))  # by a call: rax rcx rdx rsi rdi r8 to r11
_NAMES = (("rax", "eax", "ax", "al", "ah"), ("rcx", "ecx", "cx", "cl", "ch"),
          ("rdx", "edx", "dx", "dl", "dh"), ("rbx", "ebx", "bx", "bl", "bh"),
          ("rsp", "esp", "sp", "spl"), ("rbp", "ebp", "bp", "bpl"), ("rsi", "esi", "si", "sil"),
          ("rdi", "edi", "di", "dil"),
          *((f"r{n}", f"r{n}d", f"r{n}w", f"r{n}b") for n in range(8, 16)))  # fmt: skip
_REGISTERS = {name: n for n, names in enumerate(_NAMES) for name in names}
_CONSTANT, _COPY, _LOST = range(3)  # what an instruction does to registers
_MOST = 4000  # instructions of a function that is followed

Known: TypeAlias = dict[int, frozenset[int]]  # by register: what may be there; absent: anything
Effect: TypeAlias = tuple[int, int, int]  # what, register, constant or other register


class Call(NamedTuple):
    """A system call. at: of its instruction. place: of the last one before it which a jump fits
    in front of it, where control comes by on its way there; 0: there is none. numbers: all that
    may be; none: any."""

    at: int
    place: int
    numbers: tuple[int, ...]


class _Arrivals:
    """Where control may come to a function's instructions other than by its own branches. Of what
    targets.py collects much is chance: bytes that look like a branch in the midst of others, and,
    in a function that jumps nowhere by a register, like an address."""

    def __init__(self, code: Code, bodies: list[Body], cache: Path | None) -> None:
        self._code, module = code, code.module
        far = jump_targets(module, cache)
        self._at: dict[int, int] = {}  # address: index
        tabled: set[int] = set()
        for body in bodies:
            by_register = any(i.name == "jmp" and not i.target for i in body.insns)
            first, end = body.insns[0].at, body.insns[-1].end
            near = {t for other in code.near(first, end) if other is not body
                    for t in other.targets if first < t < end}
            at = inside(far, first, end)
            while at is not None:
                if by_register:
                    near.add(at)
                else:
                    self._add(body, at)
                at = inside(far, at + 1, end)
            for at in near:
                self._add(body, at)
            tabled |= near
        named = tabled | unwind.landing_pads(module) | {s.vaddr for s in module.symbols}
        branches = sources(module, self._at.keys() - named)
        self._at = {at: index for at, index in self._at.items() if at in named or any(
            self._leads(end, at) for end in branches.get(at, ()))}

    def _add(self, body: Body, at: int) -> None:
        index = body.index(at)
        if index and at not in body.targets:
            self._at[at] = index

    def _leads(self, end: int, target: int) -> bool:
        """Is what ends there an instruction that branches to the target?"""
        body = self._code.around(end - 1)
        return body is None or any(
            i.end == end and i.target == target for i in body.insns) or not any(
            i.at < end <= i.end for i in body.insns)

    def __contains__(self, vaddr: int) -> bool:
        return vaddr in self._at

    def of(self, body: Body) -> set[int]:
        """Indices of instructions."""
        return {0} | {index for at, index in self._at.items()
                      if body.insns[0].at < at < body.insns[-1].end}


def calls(module: Module, cache: Path | None = None) -> Iterator[Call]:
    """All of a module's."""
    code = Code(module)
    found: dict[int, tuple[Body, list[int]]] = {}
    for body, index in code.calls():
        found.setdefault(id(body), (body, []))[1].append(index)
    if not found:
        return
    arrivals = _Arrivals(code, [body for body, _ in found.values()], cache)
    for body, indices in found.values():
        before = _follow(module, body, arrivals.of(body))
        for index in indices:
            known = before[index].get(_RAX, frozenset()) if before else frozenset()
            yield Call(body.insns[index].at, _place(body, index, arrivals), tuple(sorted(known)))


def _place(body: Body, index: int, arrivals: _Arrivals) -> int:
    at, call = index, body.insns[index].at
    while call - body.insns[at].at < JUMP:
        here = body.insns[at].at
        if not at or body.insns[at - 1].end != here or here in body.targets or here in arrivals:
            return 0
        at -= 1
        if body.insns[at].name == "call" or body.insns[at].target:
            return 0
    return body.insns[at].at


def _effects(module: Module, body: Body, index: int) -> list[Effect]:
    """What the instruction does to registers' constants."""
    insn = body.insns[index]
    code = module.read(insn.at, insn.size)
    if insn.name == "call":
        return [(_LOST, r, 0) for r in _CLOBBERED]
    if insn.name == "syscall":
        return [(_LOST, r, 0) for r in (0, 1, 11)]
    full = next(decode.instructions(code, insn.at), None)
    if full is None:
        return [(_LOST, r, 0) for r in range(16)]
    written = {_REGISTERS[name] for r in full.regs_access()[1]
               if (name := full.reg_name(r)) in _REGISTERS}
    to, _, source = full.op_str.partition(", ")
    register = _REGISTERS.get(to, -1)
    if written != {register} or to not in _NAMES[register][:2]:
        return [(_LOST, r, 0) for r in written]
    if insn.name in ("xor", "sub") and source == to:
        return [(_CONSTANT, register, 0)]
    if insn.name in ("mov", "movabs"):
        if source in _REGISTERS:
            return [(_COPY, register, _REGISTERS[source])]
        if source[0] in "-0123456789":
            return [(_CONSTANT, register, int(source, 0) & 0xFFFFFFFF)]
    return [(_LOST, r, 0) for r in written]


def _follow(module: Module, body: Body, arrivals: set[int]) -> list[Known]:
    """What is known before each instruction; nothing at all where a function is too large."""
    insns = body.insns
    if len(insns) > _MOST:
        return []
    before: list[Known | None] = [None] * len(insns)
    effects: dict[int, list[Effect]] = {}
    work: list[int] = sorted(arrivals)
    for index in arrivals:
        before[index] = {}
    while work:
        index = work.pop()
        known = dict(before[index] or {})
        if index not in effects:
            effects[index] = _effects(module, body, index)
        for what, register, value in effects[index]:
            if what == _CONSTANT:
                known[register] = frozenset((value,))
            elif what == _COPY and value in known:
                known[register] = known[value]
            else:
                known.pop(register, None)
        insn, nexts = insns[index], []
        if insn.name not in ENDS and index + 1 < len(insns):
            nexts.append(index + 1)
        if insn.target and insn.name != "call" and (to := body.index(insn.target)) is not None:
            nexts.append(to)
        for to in nexts:
            old = before[to]
            new = known if old is None else {
                r: old[r] | known[r] for r in old.keys() & known.keys()}
            if new != old:
                before[to] = new
                work.append(to)
    return [known or {} for known in before]
