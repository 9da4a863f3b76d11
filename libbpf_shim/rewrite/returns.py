"""`plan_returns`: how the return of a function is to be seen.

Mostly by its return address, which a slot of the agent takes the place of. A function that looks
at its return address itself would find the slot: setjmp and getcontext keep it for a second
return, vfork for a return of two processes, dlsym and dlopen ask whose code it is. Of those the
instructions that leave them are probed instead, in all that they jump to; the stack stays as it
is.

Which ones they are is found by following the code from the entry with the distance between stack
pointer and return address. What cannot be followed (alloca, switched stacks, jump tables) counts
as harmless. Source: System V ABI, AMD64, 3.2.2; the kernel's uretprobes break such functions.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from libbpf_shim.elf import unwind
from libbpf_shim.elf.module import STT_FUNC, STT_GNU_IFUNC, Module, Symbol
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite import decode

_MOST = 20_000  # instructions of one function
_FUNCTIONS = 16  # that it jumps to at its end
_ALL = 256  # of these, where each `ret` is to be probed
_CHUNK = 256
_LONGEST = 4096  # bytes of a function whose end nothing tells
_RAISED = re.compile(r"(add|lea) rsp, ")
_MEMORY = re.compile(r"\[(rsp|rbp)(?: ([+-]) (0x[0-9a-f]+|\d+))?\]")
_IMMEDIATE = re.compile(r"^rsp, (-?(?:0x[0-9a-f]+|\d+))$")
_LEA = re.compile(r"^(rsp|rbp), \[(rsp|rbp)(?: ([+-]) (0x[0-9a-f]+|\d+))?\]$")
# The word at the stack pointer is none of theirs: nobody calls them.
_NOT_CALLED = ("_dl_runtime_resolve", "_dl_runtime_profile", "_dl_tlsdesc", "_start",
               "_dl_start_user")
# V8 finds its frames by their return addresses; each of these jumps to the next.
_ENGINE = "Builtins_"
# What a compiler has put apart of a function: it is jumped to, with that function's frame made.
_APART = re.compile(r"\.cold(\.\d+)?$")


@dataclass(frozen=True, slots=True)
class Stack:
    """Distances in bytes above the return address's place: depth of rsp below it, frame of rbp
    below it. None: not known."""

    depth: int | None = 0
    frame: int | None = None


@dataclass(slots=True)
class Body:
    """What following one function finds. looks: it reads or changes its return address, or takes
    its arguments off the stack with it. pops: it keeps it in a register, and returns as often as
    something else decides (vfork). leaves: addresses of its `ret`s. next: functions that it jumps
    to at its end."""

    start: int
    looks: bool = False
    pops: bool = False
    unknown: bool = False  # it calls something else at its end, one cannot see what
    leaves: set[int] = field(default_factory=set)
    next: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Returns:
    """kept: the return address stays, and the instructions at the virtual addresses leaves are
    probed; none: it never returns. again: it may return more than once for one call."""

    kept: bool = False
    leaves: tuple[int, ...] = ()
    again: bool = False


def _number(text: str) -> int:
    return int(text, 16) if "0x" in text else int(text)


def _offset(sign: str | None, digits: str | None) -> int:
    value = int(digits or "0", 16) if digits and digits.startswith("0x") else int(digits or 0)
    return -value if sign == "-" else value


def _own_word(operands: str, stack: Stack) -> bool:
    """A memory operand is the return address's place."""
    for base, sign, digits in _MEMORY.findall(operands):
        below = stack.depth if base == "rsp" else stack.frame
        if below is not None and _offset(sign, digits) == below:
            return True
    return False


def _lea(operands: str, stack: Stack) -> Stack:
    found = _LEA.match(operands)
    if not found:
        return Stack(None if operands.startswith("rsp,") else stack.depth,
                     None if operands.startswith("rbp,") else stack.frame)
    to, base, sign, digits = found.groups()
    below = stack.depth if base == "rsp" else stack.frame
    value = None if below is None else below - _offset(sign, digits)
    return Stack(value, stack.frame) if to == "rsp" else Stack(stack.depth, value)


def _moved(stack: Stack, by: int) -> Stack:
    return Stack(None if stack.depth is None else stack.depth + by, stack.frame)


def _after(mnemonic: str, operands: str, stack: Stack) -> Stack:
    """Where the stack pointer is after an instruction that does not branch."""
    if mnemonic in ("push", "pushfq"):
        return _moved(stack, 8)
    if mnemonic in ("pop", "popfq"):
        after = _moved(stack, -8)
        return Stack(after.depth, None) if operands == "rbp" else after
    if mnemonic == "leave":
        return Stack(None if stack.frame is None else stack.frame - 8, None)
    if mnemonic in ("add", "sub") and (found := _IMMEDIATE.match(operands)):
        return _moved(stack, _number(found[1]) * (1 if mnemonic == "sub" else -1))
    if mnemonic == "lea":
        return _lea(operands, stack)
    if operands == "rbp, rsp" and mnemonic == "mov":
        return Stack(stack.depth, stack.depth)
    if operands == "rsp, rbp" and mnemonic == "mov":
        return Stack(stack.frame, stack.frame)
    if mnemonic in ("cmp", "test"):
        return stack
    first = operands.split(",")[0]
    if first in ("rsp", "esp"):
        return Stack(None, stack.frame)
    if first in ("rbp", "ebp"):
        return Stack(stack.depth, None)
    return stack


def _symbols(module: Module, vaddr: int) -> list[Symbol]:
    """Functions that begin there."""
    known: dict[int, list[Symbol]] | None = module.__dict__.get("_functions_at")
    if known is None:
        known = module.__dict__["_functions_at"] = {}
        for symbol in module.symbols:
            if symbol.type in (STT_FUNC, STT_GNU_IFUNC):
                known.setdefault(symbol.vaddr, []).append(symbol)
    return known.get(vaddr, [])


class _Follower:
    """Follows one function's code from its entry."""

    def __init__(self, module: Module, start: int) -> None:
        self.module, self.body = module, Body(start)
        self.start, self.end = start, self._end(start)
        self.seen: dict[int, Stack] = {}
        self.waiting = [(start, Stack())]
        self.table = False  # some of it is reached by a jump table

    def follow(self) -> Body:
        while self.waiting and len(self.seen) < _MOST:
            self._run(*self.waiting.pop())
        if self.table or self.waiting:
            self._rest()
        return self.body

    def _rest(self) -> None:
        """What leaves the part that was not followed: perhaps more than does."""
        code = self.module.read(self.start, self.end - self.start)
        taken_down = False  # its frame, by what leads here: no jump by a table comes then
        for address, _, mnemonic, operands in decode.sweep(code, self.start):
            mnemonic = mnemonic.split()[-1]
            if address in self.seen or mnemonic.startswith(("j", "ret", "loop")):
                if address not in self.seen:
                    self._left(address, mnemonic, operands, taken_down)
                taken_down = False
            elif mnemonic in ("pop", "leave") or _RAISED.match(f"{mnemonic} {operands}"):
                taken_down = True

    def _left(self, address: int, mnemonic: str, operands: str, taken_down: bool) -> None:
        """By a jump or return that was not followed."""
        if mnemonic in ("ret", "retf"):
            self._leaves(address, operands)
        elif mnemonic == "jmp" and operands.startswith("0x"):
            if not self.start <= int(operands, 16) < self.end:
                self.body.next.add(int(operands, 16))
        elif mnemonic == "jmp" and taken_down:
            self.body.unknown = True

    def _leaves(self, address: int, operands: str) -> None:
        """operands: bytes of arguments that go with the return address. A slot would look for its
        own address right below the stack pointer."""
        self.body.leaves.add(address)
        self.body.looks = self.body.looks or bool(operands)

    def _end(self, at: int) -> int:
        """Of the function, or the part of one, that begins at or about there."""
        found = unwind.enclosing(self.module, at)
        size = max((s.size for s in _symbols(self.module, at)), default=0) or _LONGEST
        return found.end if found else at + size

    def _instructions(self, at: int) -> Iterator[tuple[int, int, str, str]]:
        while code := self.module.read(at, _CHUNK):
            before = at
            for found in decode.sweep(code, at):
                yield found
                at = found[0] + found[1]
            if at == before:
                return

    def _run(self, at: int, stack: Stack) -> None:
        """Until control goes elsewhere, or to where it was before."""
        end = self._end(at)
        for address, _, mnemonic, operands in self._instructions(at):
            if address in self.seen or address >= end or len(self.seen) >= _MOST:
                return  # what falls through the end has called what does not return
            self.seen[address] = stack
            mnemonic = mnemonic.split()[-1]
            if mnemonic != "lea" and _own_word(operands, stack):
                self.body.looks = True
            if mnemonic == "pop" and stack.depth == 0:
                self.body.looks = self.body.pops = True
            if mnemonic in ("ret", "retf"):
                self._leaves(address, operands)
                return
            if mnemonic.startswith(("j", "loop")):
                self._branch(mnemonic, operands, stack)
                if mnemonic == "jmp":
                    return
            elif mnemonic in ("ud2", "hlt", "int3"):
                return
            elif mnemonic != "call":
                stack = _after(mnemonic, operands, stack)

    def _branch(self, mnemonic: str, operands: str, stack: Stack) -> None:
        target = int(operands, 16) if operands.startswith("0x") else None
        if target is None:
            self.body.unknown = self.body.unknown or stack.depth == 0
            self.table = True
        elif self.start <= target < self.end or stack.depth != 0:
            self.waiting.append((target, stack))  # its own, or a part that lies apart
        else:
            self.body.next.add(target)


def follow(module: Module, vaddr: int) -> Body:
    """What one function does with its stack. Many functions end in the same few."""
    known: dict[int, Body] = module.__dict__.setdefault("_followed", {})
    if vaddr not in known:
        known[vaddr] = _Follower(module, vaddr).follow()
    return known[vaddr]


def _refused(module: Module, vaddr: int, why: str) -> ShimError:
    return ShimError("RW0003", errno.EOPNOTSUPP,
                     f"{module.path}+{vaddr:#x}: its return cannot be probed: {why}")


def plan_returns(module: Module, vaddr: int, kept: bool = False) -> Returns:
    """How the return of the function at a virtual address of the module is to be seen. kept: its
    return address is to stay where it is in any case.

    Raises ShimError EOPNOTSUPP: it is no function that is called, or is left in a way that
    cannot be followed; EINVAL: it is the inside of a function.
    """
    names = [s.name for s in _symbols(module, vaddr)]
    around = unwind.enclosing(module, vaddr)
    if around and vaddr > around.start and not names and not (
        vaddr == around.start + 4 and module.read(around.start, 4) == decode.ENDBR64
    ):  # fmt: skip
        raise ShimError("RW0003", errno.EINVAL,
                        f"{module.path}+{vaddr:#x}: no function begins there that could return")
    if vaddr == module.entry or any(n.startswith(_NOT_CALLED) for n in names):
        raise _refused(module, vaddr, "it is not called")
    if any(n.startswith(_ENGINE) for n in names):
        raise _refused(module, vaddr, "the engine that it belongs to looks return addresses up")
    if names and all(_APART.search(name) for name in names):
        return Returns(True)  # never called, so it never returns
    if around and around.start == vaddr and not unwind.is_called(module, around):
        raise _refused(module, vaddr, "it is not called, as its unwind table has it")
    bodies: dict[int, Body] = {}
    waiting = [vaddr]
    while waiting and len(bodies) < (_ALL if kept else _FUNCTIONS):
        at = waiting.pop()
        if at not in bodies:
            bodies[at] = follow(module, at)
            waiting += bodies[at].next
    looks = any(body.looks for body in bodies.values())
    if not looks and not kept:
        return Returns()
    leaves = sorted(set[int]().union(*(body.leaves for body in bodies.values())))
    unknown = any(body.unknown for body in bodies.values()) or not bodies.keys() >= set(waiting)
    if unknown and not (leaves and looks):
        why = "it uses its return address" if looks else "its return address must stay"
        raise _refused(module, vaddr, f"{why}, and it may end by a jump that cannot be followed")
    return Returns(True, tuple(leaves), any(body.pops for body in bodies.values()))
