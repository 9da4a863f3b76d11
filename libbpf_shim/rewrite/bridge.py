"""Functions that look whether their thread is cancelled and, if not, make a system call.

glibc (since 2.41) and musl make all cancellable calls by one such function. The handler of the
signal that pthread_cancel() sends ends the thread only if the instruction pointer lies between
that look and the call: a signal that comes while a hook runs there would be lost, and the thread
wait for ever. So the hook before the call runs before the look, with the registers that the call
will have, and all that follows is the function's own code in its own place.

Such a function is known by its shape: from its start a test of a word in memory, a branch out if
it says so, and moves alone up to the `syscall`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from libbpf_shim.rewrite.callsites import ENDS, PADDING, Body, Insn

_NAMES = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
          *(f"r{n}" for n in range(8, 16)))  # fmt: skip
_VOLATILE = frozenset(_NAMES) - {"rbx", "rsp", "rbp", "r12", "r13", "r14", "r15"}
_TESTS = ("test", "cmp")
Whole = Callable[[Insn], Any]  # the instruction with its operands


@dataclass(frozen=True, slots=True)
class Bridge:
    """Code for a trampoline at the function's start. look: the test; when: the condition on which
    control goes out; there: moves that make the registers the call's; back: that undo it."""

    look: bytes
    when: int
    there: bytes
    back: bytes


@dataclass(frozen=True, slots=True)
class Shape:
    """Indexes of instructions in the body: the function's first, the one that reads the word,
    the branch."""

    first: int
    reads: int
    branch: int
    bridge: Bridge


def shape(body: Body, call: int, whole: Whole) -> Shape | None:
    """call: index of the `syscall`. None: it is none of these functions."""
    insns, branch = body.insns, call - 1
    while branch > 0 and insns[branch].name == "mov":
        branch -= 1
    test = branch - 1
    if test < 0 or call - branch < 2 or not insns[branch].target \
            or insns[branch].name[0] != "j" or insns[branch].name in ("jmp", "jrcxz", "jecxz") \
            or insns[test].name not in _TESTS:
        return None
    reads = test if _word(whole(insns[test])) else test - 1
    word = _word(whole(insns[reads])) if reads >= 0 else ""
    if not word or (reads < test and insns[reads].name != "mov"):
        return None
    first = reads
    if first and insns[first - 1].name == "mov" and _word(whole(insns[first - 1])):
        first -= 1  # what it reads is looked at by nobody
    if first and insns[first - 1].name == "endbr64":
        first -= 1
    start, made = insns[first].at, insns[call]
    apart = any(a.end != b.at for a, b in zip(insns[first:call], insns[first + 1 :], strict=False))
    if apart or (first and insns[first - 1].name not in (*ENDS, *PADDING)) \
            or any(start < t <= made.at for t in body.targets):
        return None
    moves = _moves([whole(i) for i in insns[branch + 1 : call]], word)
    if moves is None:
        return None
    look = b"".join(bytes(whole(i).bytes) for i in insns[reads:branch])
    code = bytes(whole(insns[branch]).bytes)
    return Shape(first, reads, branch, Bridge(look, code[-5 if code[0] == 0x0F else -2] & 15,
                                              *moves))


def _word(full: Any) -> str:
    """The register that holds the address of the memory it reads, and may be an argument's; "":
    it reads none, or otherwise."""
    import capstone as cs
    import capstone.x86 as x86

    for op in full.operands:
        if op.type == x86.X86_OP_MEM and op.access == cs.CS_AC_READ:
            base = full.reg_name(op.mem.base) if op.mem.base and not op.mem.index else ""
            return base if base in _VOLATILE and not op.mem.segment else ""
    return ""


def _moves(fulls: Sequence[Any], word: str) -> tuple[bytes, bytes] | None:
    """The moves as the hook needs them, and those back. None: what they change cannot be had
    again, or is not the caller's to lose."""
    import capstone.x86 as x86

    there, back, stored = b"", b"", False
    pairs: list[tuple[str, str]] = []
    holds = {name: name for name in _NAMES}
    for full in fulls:
        to, source = full.operands
        names = [full.reg_name(op.reg) if op.type == x86.X86_OP_REG else "" for op in (to, source)]
        memory = [op.mem for op in (to, source) if op.type == x86.X86_OP_MEM]
        if any(full.reg_name(m.base) != "rsp" or m.index or m.segment or m.disp < 8
               for m in memory) or any(n and n not in _VOLATILE for n in names):
            return None
        if not names[0]:  # an argument on the stack, which the call itself does not take
            stored = True
            continue
        if (memory and stored) or names[0] == "rcx" or not (memory or names[1]):
            return None
        there += bytes(full.bytes)
        holds[names[0]] = holds[names[1]] if names[1] else "memory"
        if names[1]:
            pairs.append((names[0], names[1]))
    for to, source in reversed(pairs):
        back += _mov(source, to)
        holds[source] = holds[to]
    kept = all(holds[name] == name for name in (word, *(source for _, source in pairs)))
    return (there, back) if kept else None


def _mov(to: str, source: str) -> bytes:
    a, b = _NAMES.index(to), _NAMES.index(source)
    return bytes((0x48 | b >> 3 << 2 | a >> 3, 0x89, 0xC0 | (b & 7) << 3 | a & 7))


def windows(found: Shape, insns: Sequence[Insn], jump: int, short: int) -> list[tuple[int, int]]:
    """Windows that lead to the hook, best first: behind their last instruction, and the bytes that
    a jump has there. The last one moves the test too: then a signal at the few instructions from
    there to behind the jump back is lost still."""
    start = insns[found.first].at
    room = insns[found.reads].at - start
    tries = [(found.reads, size) for size in (jump, short) if room >= size]
    last = found.reads + 1
    while insns[last - 1].end - start < jump and last <= found.branch:
        last += 1
    return [*tries, (last, jump)]
