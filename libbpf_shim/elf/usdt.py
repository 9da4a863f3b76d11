"""USDT probes of a binary: where they are, and where their arguments are found.

A probe is a note (.note.stapsdt): the address of a nop, a semaphore, names, and the arguments as
assembly operands. Source: systemtap's sys/sdt.h (the note), libbpf 1.1 src/usdt.c (which operands
are understood), bpf/usdt.bpf.h (the form in which programs read them).
"""

from __future__ import annotations

import errno
import re
import struct
from dataclasses import dataclass
from typing import Final

from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError

MAX_ARGS: Final = 12  # BPF_USDT_MAX_ARG_CNT
CONST, REG, DEREF = 0, 1, 2  # enum __bpf_usdt_arg_type
SPEC_SIZE: Final = 208  # bytes of struct __bpf_usdt_spec
_ARG, _TAIL = struct.Struct("<QIhbb"), struct.Struct("<Qh6x")
_NOTE_TYPE, _OWNER = 3, b"stapsdt\0"
_U64 = (1 << 64) - 1

# Offsets in struct pt_regs (asm/ptrace.h), by every name of the register.
_ORDER = ("r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx",
          "si", "di", "", "ip", "", "", "sp")


def _names(register: str) -> tuple[str, ...]:
    if register[0] == "r":
        return (register, f"{register}d", f"{register}w", f"{register}b")
    low = f"{register}l" if register in ("bp", "sp", "si", "di") else f"{register[0]}l"
    return (f"r{register}", f"e{register}", register, low)


REGISTERS: Final = {name: 8 * index for index, register in enumerate(_ORDER) if register
                    for name in _names(register)}


@dataclass(frozen=True, slots=True)
class Argument:
    """value: the constant, or the offset that is added before memory is read. register: offset in
    pt_regs. size: bytes."""

    type: int
    value: int
    register: int
    size: int
    signed: bool

    def pack(self) -> bytes:
        """struct __bpf_usdt_arg_spec."""
        return _ARG.pack(self.value & _U64, self.type, self.register, self.signed,
                         64 - self.size * 8)


@dataclass(frozen=True, slots=True)
class Probe:
    """One place. offset: of the nop, semaphore: of its counter, in the file; 0: it has none."""

    provider: str
    name: str
    offset: int
    semaphore: int
    arguments: str

    def spec(self, cookie: int) -> bytes:
        """struct __bpf_usdt_spec. EINVAL: an argument that programs cannot read."""
        found = [argument(text) for text in self.arguments.split()]
        if len(found) > MAX_ARGS:
            raise ShimError("EU0001", errno.E2BIG, f"usdt {self.name}: {len(found)} arguments, at "
                                                   f"most {MAX_ARGS}")
        rows = b"".join(a.pack() for a in found).ljust(MAX_ARGS * _ARG.size, b"\0")
        return rows + _TAIL.pack(cookie, len(found))


_FORMS: Final = (
    (re.compile(r"(-?\d+)@(-?\d+)?\(%(\w+)\)"), DEREF),
    (re.compile(r"(-?\d+)@()%(\w+)"), REG),
    (re.compile(r"(-?\d+)@\$(-?\d+)()"), CONST),
)


def argument(text: str) -> Argument:
    """Of one operand: `-4@-20(%rbp)`, `8@%rdi`, `4@$5`. EINVAL: another form or size."""
    for form, kind in _FORMS:
        if found := form.fullmatch(text):
            size, value, register = found.groups()
            if abs(int(size)) not in (1, 2, 4, 8) or (kind != CONST and register not in REGISTERS):
                break
            return Argument(kind, int(value or 0), REGISTERS.get(register, 0), abs(int(size)),
                            size.startswith("-"))
    raise ShimError("EU0001", errno.EINVAL, f"usdt: an argument at {text!r} cannot be read")


def probes(module: Module) -> list[Probe]:
    """Every probe of a binary, in the order of its notes."""
    notes = module.section(".note.stapsdt")
    if notes is None:
        return []
    base = module.section(".stapsdt.base")
    data = module.read_at(notes.offset, notes.size)
    found, at = [], 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, at)
        name = at + 12
        start = name + (name_size + 3 & ~3)
        at = start + (size + 3 & ~3)
        if kind == _NOTE_TYPE and data[name : name + name_size] == _OWNER and at <= len(data) + 3:
            if probe := _probe(module, data[start : start + size], base.address if base else 0):
                found.append(probe)
    return found


def _probe(module: Module, note: bytes, base: int) -> Probe | None:
    """None: a note that is cut off, or of an address outside the file."""
    parts = note[24:].split(b"\0")
    if len(note) < 24 or len(parts) < 3:
        return None
    address, expected, semaphore = struct.unpack_from("<QQQ", note)
    moved = base - expected if base else 0  # prelink moves code and leaves notes alone
    provider, name, arguments = (p.decode(errors="replace") for p in parts[:3])
    try:
        offset = module.vaddr_to_offset(address + moved)
        counter = module.vaddr_to_offset(semaphore + moved) if semaphore else 0
    except ShimError:
        return None
    return Probe(provider, name, offset, counter, arguments)
