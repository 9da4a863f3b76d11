"""Instructions as the rewriter sees them: capstone decodes, this names what matters.

`displaced` says how an instruction's copy is made, or why there can be none.
Source: Intel SDM volume 2 (opcode map, ModRM); the kernel refuses the same prefixes of branches
(arch/x86/kernel/uprobes.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from libbpf_shim.rewrite.plan import CopyKind, Displaced

ENDBR64 = b"\xf3\x0f\x1e\xfa"
UD2 = b"\x0f\x0b"
# lea disp32(%rip), r64: before the displacement
LEA = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]")
# Legacy prefixes without REX.
_PREFIXES = frozenset(b"\xf0\xf2\xf3\x2e\x36\x3e\x26\x64\x65\x66\x67")
_LOOPS = range(0xE0, 0xE4)
# Trap or enter the kernel by their own address.
_INTERRUPTS = {
    "int3", "int1", "int", "syscall", "sysenter", "iretq", "iret", "hlt", "ud0", "ud1", "ud2",
}  # fmt: skip
ENDS = {"ret", "retf", "jmp", "ud2", "hlt", "iretq"}
_FAR = {"lcall", "ljmp"}


class NotMovableError(Exception):
    """This instruction cannot be copied elsewhere; the text says why."""


class Insn(NamedTuple):
    """What most instructions need: `displaced` asks for the operands of the others."""

    address: int
    size: int
    mnemonic: str
    op_str: str
    bytes: bytes


@cache
def _engine() -> Any:
    import capstone

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    return engine


@cache
def _lite() -> Any:
    import capstone

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def instructions(code: bytes, vaddr: int) -> Iterator[Any]:
    """Decodes one after the other, until the first byte that is no instruction."""
    engine = _engine()
    at = 0
    while at < len(code):
        insn = next(engine.disasm(code[at : at + 16], vaddr + at, 1), None)
        if insn is None:
            return
        yield insn
        at += insn.size


def plain(code: bytes, vaddr: int) -> list[Insn]:
    """The same without operands, ten times as fast."""
    return [Insn(at, size, mnemonic, operands, code[at - vaddr : at - vaddr + size])
            for at, size, mnemonic, operands in sweep(code, vaddr)]


def _whole(insn: Any) -> Any:
    """With its operands."""
    return next(instructions(insn.bytes, insn.address)) if isinstance(insn, Insn) else insn


def text(insn: Any) -> str:
    return f"{insn.mnemonic} {insn.op_str}".rstrip()


def stays(word: str) -> bool:
    """An instruction of that name (without prefixes) has no copy that does the same."""
    return word in _INTERRUPTS or word.startswith("xbegin") or word in _FAR


def staying(insn: Any) -> Displaced:
    """An instruction beside a window."""
    return Displaced(insn.address, bytes(insn.bytes), text(insn), CopyKind.STAYS)


def _split(code: bytes) -> tuple[bytes, int, int]:
    """Legacy prefixes, REX (0: none), index of the opcode."""
    at = 0
    while at < len(code) and code[at] in _PREFIXES:
        at += 1
    prefixes = code[:at]
    if at < len(code) and code[at] & 0xF0 == 0x40:
        return prefixes, code[at], at + 1
    return prefixes, 0, at


def _branch(insn: Any, code: bytes) -> Displaced | None:
    """Direct jumps and calls."""
    prefixes, _, at = _split(code)
    op = code[at]
    short = op in _LOOPS or op == 0xEB or 0x70 <= op <= 0x7F
    long = op in (0xE8, 0xE9) or (op == 0x0F and 0x80 <= code[at + 1] <= 0x8F)
    if not (short or long):
        return None
    if b"\x66" in prefixes:
        raise NotMovableError("operand-size prefix on a branch")
    size = 1 if short else 4
    delta = int.from_bytes(code[-size:], "little", signed=True)
    target = insn.address + insn.size + delta
    if op == 0xE8:
        return Displaced(insn.address, code, text(insn), CopyKind.CALL, target)
    if op in (0xE9, 0xEB):
        return Displaced(insn.address, code, text(insn), CopyKind.JMP, target, ends=True)
    kind = CopyKind.LOOP if op in _LOOPS else CopyKind.JCC
    return Displaced(insn.address, code, text(insn), kind, target)


def _rip_operand(insn: Any, code: bytes) -> tuple[int, int] | None:
    """(virtual address that a RIP-relative operand names, index of its disp32)."""
    if "ip" not in insn.op_str:
        return None
    import capstone.x86 as x86

    insn = _whole(insn)
    for op in insn.operands:
        if op.type != x86.X86_OP_MEM:
            continue
        if op.mem.base == x86.X86_REG_EIP:
            raise NotMovableError("EIP-relative operand")
        if op.mem.base == x86.X86_REG_RIP:
            at = insn.disp_offset
            disp = int.from_bytes(code[at : at + 4], "little", signed=True)
            if not at or disp != insn.disp:
                raise NotMovableError("displacement not found")
            return insn.address + insn.size + disp, at
    return None


def _indirect_call(insn: Any, code: bytes) -> bool:
    if insn.mnemonic != "call" or code[_split(code)[2]] != 0xFF:
        return False
    import capstone.x86 as x86

    for op in _whole(insn).operands:
        base = op.mem.base if op.type == x86.X86_OP_MEM else op.reg
        if base in (x86.X86_REG_RSP, x86.X86_REG_ESP, x86.X86_REG_SP):
            raise NotMovableError("call through the stack pointer")
    return True


def displaced(insn: Any, begins: bool = False) -> Displaced:
    """How the copy is made. begins: a function begins there. Raises NotMovableError."""
    code = bytes(insn.bytes)
    mnemonic = insn.mnemonic.split()[-1]
    if begins and code == UD2:
        return Displaced(insn.address, code, text(insn), ends=True)
    if mnemonic in _INTERRUPTS:
        raise NotMovableError(f"'{text(insn)}' enters the kernel by its own address")
    if stays(mnemonic):
        raise NotMovableError(f"'{text(insn)}' is not supported")
    branch = _branch(insn, code)
    if branch:
        return branch
    ends = mnemonic in ENDS
    rip = _rip_operand(insn, code)
    if _indirect_call(insn, code):
        target, at = rip or (0, 0)
        return Displaced(insn.address, code, text(insn), CopyKind.CALL_INDIRECT, target, at)
    if rip:
        return Displaced(insn.address, code, text(insn), CopyKind.RIP, rip[0], rip[1], ends)
    return Displaced(insn.address, code, text(insn), ends=ends)


def true_size(code: bytes, size: int) -> int:
    """Of an instruction of that size: capstone leaves out the operands of ud0 and ud1, which
    clang's traps have."""
    at = _split(code)[2]
    if code[at : at + 1] != b"\x0f" or code[at + 1 : at + 2] not in (b"\xb9", b"\xff"):
        return size
    modrm, sib = [*code[at + 2 : at + 4], 0, 0][:2]
    mod, base = modrm >> 6, modrm & 7
    end = at + 3
    if mod != 3 and base == 4:
        base, end = sib & 7, end + 1
    return end + (1 if mod == 1 else 4 if mod == 2 or (not mod and base == 5) else 0)


def sweep(code: bytes, vaddr: int) -> Iterator[tuple[int, int, str, str]]:
    """(address, size, mnemonic, operands) in order: many times faster than `instructions`."""
    found: Iterator[tuple[int, int, str, str]] = _lite().disasm_lite(code, vaddr)
    return found
