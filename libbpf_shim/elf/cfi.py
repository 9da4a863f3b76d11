"""How frames are left: a module's .eh_frame as rows of (address, rule), for the walker in targets.

A rule says where the caller's stack pointer, return address and rbp are, by rsp and rbp alone
(struct shim_unwind_rule). What needs more is a row that says nothing, and the frame pointer
decides there. A module most of whose functions keep a frame pointer has no rows but those of
signal frames: it is walked as the kernel walks it.
Source: DWARF 5, 6.4 (Call Frame Information); LSB Core, 10.6; System V ABI x86-64, table 3.36.
"""

from __future__ import annotations

import array
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from libbpf_shim.elf.module import Module

NONE, RSP, RBP, RBP_AT, PLT, SIGNAL, END = range(7)  # SHIM_UNWIND_*
SAME, LOST = 0, 1
_REG_RBP, _REG_RSP, _REG_RA = 6, 7, 16
_PT_GNU_EH_FRAME = 0x6474E550
_SIZES = {0x00: "<Q", 0x02: "<H", 0x03: "<I", 0x04: "<Q", 0x0A: "<h", 0x0B: "<i", 0x0C: "<q"}
_OMIT = 0xFF
# breg7 8; breg16 0; lit15; and; litN; ge; lit3; shl; plus: where a PLT stub has pushed its number
_PLT = re.compile(rb"\x77\x08\x80\x00\x3f\x1a([\x30-\x4f])\x2a\x33\x24\x22", re.DOTALL)
# mov $__NR_rt_sigreturn, %rax (or %eax); syscall: where a signal handler returns to
_RESTORER = re.compile(rb"(?:\x48\xc7\xc0|\xb8)\x0f\x00\x00\x00\x0f\x05")
_FRAMES_KEPT = 0.75  # of the functions that change rsp


class Rule(NamedTuple):
    """struct shim_unwind_rule."""

    cfa: int
    rbp: int
    how: int


NOTHING = Rule(0, SAME, NONE)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows sorted by address (bytes from the module's load_base). frame_pointers: the module keeps
    them."""

    addresses: array.array[int]  # u32
    rules: bytes
    frame_pointers: bool

    def __len__(self) -> int:
        return len(self.addresses)

    def packed(self) -> bytes:
        """As the walker reads it: addresses, rules from the next multiple of 8 bytes on."""
        head = self.addresses.tobytes()
        return head + bytes(-len(head) % 8) + self.rules


class _State(NamedTuple):
    """register and offset of the CFA (register -1: block is its expression), rbp's rule, and
    whether the return address is known to be none."""

    register: int
    offset: int
    block: bytes
    rbp: int
    rbp_block: bytes
    end: bool


_FRESH = _State(_REG_RSP, 8, b"", SAME, b"", False)


class _Cie(NamedTuple):
    code: int
    data: int
    pointer: int
    augmented: bool
    signal: bool
    state: _State


def _uleb(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7


def _sleb(data: bytes, at: int) -> tuple[int, int]:
    start = at
    value, at = _uleb(data, at)
    if data[at - 1] & 0x40:
        value -= 1 << 7 * (at - start)
    return value, at


def _pointer(data: bytes, at: int, encoding: int, vaddr: int) -> tuple[int, int]:
    form = encoding & 0x0F
    if form in (0x01, 0x09):
        value, end = (_uleb if form == 1 else _sleb)(data, at)
    else:
        kind = _SIZES[form]
        (value,) = struct.unpack_from(kind, data, at)
        end = at + struct.calcsize(kind)
    if encoding & 0x70 == 0x10:
        value += vaddr + at
    return value & (2**64 - 1), end


def _rule(state: _State, fits: int = 1 << 15) -> Rule:
    """What of a state fits into a row."""
    register, offset, block, rbp, rbp_block, end = state
    if end:
        return Rule(0, SAME, END)
    if rbp_block and register >= 0:
        rbp = LOST
    if not -fits <= rbp < fits or not -(1 << 31) <= offset < 1 << 31:
        return NOTHING
    if register == _REG_RSP:
        return Rule(offset, rbp, RSP)
    if register == _REG_RBP:
        return Rule(offset, rbp, RBP)
    if register < 0:
        if found := _PLT.fullmatch(block):
            return Rule(found[1][0] - 0x30, SAME, PLT)
        if block[:1] == b"\x76" and block[-1:] == b"\x06" and rbp_block == b"\x76\x00":
            where, at = _sleb(block, 1)
            if at == len(block) - 1:
                return Rule(where, SAME, RBP_AT)
    return NOTHING


class _Program:
    """Runs call frame instructions; rows: (address, state) where a state begins."""

    def __init__(self, data: bytes, vaddr: int, cie: _Cie, start: int) -> None:
        self.data, self.vaddr, self.cie = data, vaddr, cie
        self.pc = start
        self.rows: list[tuple[int, _State]] = []

    def run(self, at: int, end: int) -> _State:
        """Over 60 lines in one loop: it is most of what a table costs."""
        data, code, scale = self.data, self.cie.code, self.cie.data
        initial = self.cie.state
        register, offset, block, rbp, rbp_block, last = initial
        stack: list[_State] = []
        while at < end:
            op = data[at]
            at += 1
            high, low = op & 0xC0, op & 0x3F
            if high == 0x40 or op in (0x01, 0x02, 0x03, 0x04):
                self.rows.append(
                    (self.pc, _State(register, offset, block, rbp, rbp_block, last)))
                if high:
                    self.pc += low * code
                elif op == 0x01:
                    self.pc, at = _pointer(data, at, self.cie.pointer, self.vaddr)
                else:
                    size = 1 << op - 2
                    self.pc += int.from_bytes(data[at : at + size], "little") * code
                    at += size
            elif high == 0x80:  # offset
                value, at = _uleb(data, at)
                if low == _REG_RBP:
                    rbp, rbp_block = value * scale, b""
            elif high == 0xC0:  # restore
                if low == _REG_RBP:
                    rbp, rbp_block = initial.rbp, initial.rbp_block
            elif op == 0x0E:  # def_cfa_offset
                offset, at = _uleb(data, at)
            elif op == 0x0C:  # def_cfa
                register, at = _uleb(data, at)
                offset, at = _uleb(data, at)
            elif op == 0x0D:  # def_cfa_register
                register, at = _uleb(data, at)
            elif op == 0x0A:  # remember_state
                stack.append(_State(register, offset, block, rbp, rbp_block, last))
            elif op == 0x0B:  # restore_state
                register, offset, block, rbp, rbp_block, last = stack.pop()
            elif op == 0x0F:  # def_cfa_expression
                size, at = _uleb(data, at)
                register, block = -1, bytes(data[at : at + size])
                at += size
            elif op in (0x10, 0x16):  # expression, val_expression
                which, at = _uleb(data, at)
                size, at = _uleb(data, at)
                if which == _REG_RBP:
                    rbp, rbp_block = LOST, bytes(data[at : at + size]) if op == 0x10 else b""
                elif which == _REG_RA:
                    register, block = -1, b""
                at += size
            elif op in (0x05, 0x11, 0x14, 0x15, 0x2F):  # offset_extended and its kin
                which, at = _uleb(data, at)
                value, at = (_sleb if op in (0x11, 0x15) else _uleb)(data, at)
                if which == _REG_RBP:
                    rbp, rbp_block = value * scale * (-1 if op == 0x2F else 1), b""
                    if op in (0x14, 0x15):
                        rbp = LOST
            elif op in (0x06, 0x08):  # restore_extended, same_value
                which, at = _uleb(data, at)
                if which == _REG_RBP:
                    rbp, rbp_block = (initial.rbp, initial.rbp_block) if op == 6 else (SAME, b"")
            elif op == 0x07:  # undefined
                which, at = _uleb(data, at)
                if which == _REG_RA:
                    last = True
                elif which == _REG_RBP:
                    rbp, rbp_block = LOST, b""
            elif op == 0x09:  # register
                which, at = _uleb(data, at)
                _, at = _uleb(data, at)
                if which == _REG_RBP:
                    rbp, rbp_block = LOST, b""
                elif which == _REG_RA:
                    register, block = -1, b""
            elif op in (0x12, 0x13):  # def_cfa_sf, def_cfa_offset_sf
                if op == 0x12:
                    register, at = _uleb(data, at)
                value, at = _sleb(data, at)
                offset = value * scale
            elif op == 0x2E:  # GNU_args_size
                _, at = _uleb(data, at)
            elif op:
                raise ValueError(f"call frame instruction {op:#x}")
        return _State(register, offset, block, rbp, rbp_block, last)


def _cie(data: bytes, at: int, end: int, vaddr: int) -> _Cie:
    version = data[at]
    stop = data.index(0, at + 1)
    augmentation = data[at + 1 : stop]
    code, at = _uleb(data, stop + 1)
    scale, at = _sleb(data, at)
    _, at = (data[at], at + 1) if version == 1 else _uleb(data, at)
    pointer, augmented = 0, augmentation.startswith(b"z")
    if augmented:
        size, at = _uleb(data, at)
        body = at + size
        for letter in augmentation[1:]:
            if letter == ord("R"):
                pointer, at = data[at], at + 1
            elif letter == ord("L"):
                at += 1
            elif letter == ord("P"):
                _, at = _pointer(data, at + 1, data[at], vaddr)
        at = body
    bare = _Cie(code, scale, pointer, augmented, b"S" in augmentation, _FRESH)
    return bare._replace(state=_Program(data, vaddr, bare, 0).run(at, end))


class _Builder:
    """Rows of a whole section."""

    def __init__(self, data: bytes, vaddr: int) -> None:
        self.data, self.vaddr = data, vaddr
        self.cies: dict[int, _Cie] = {}
        self.found: list[tuple[int, int, list[tuple[int, Rule]]]] = []  # start, end, rows
        self.framed = self.moving = 0  # functions: with a frame pointer; that move rsp
        self._rules: dict[_State, Rule] = {}

    def entries(self) -> None:
        data, at = self.data, 0
        while at + 8 <= len(data):
            length, delta = struct.unpack_from("<II", data, at)
            if length in (0, 0xFFFFFFFF):
                break
            if delta:
                where = at + 4 - delta
                if where not in self.cies:
                    (size,) = struct.unpack_from("<I", data, where)
                    self.cies[where] = _cie(data, where + 8, where + 4 + size, self.vaddr)
                self._fde(self.cies[where], at + 8, at + 4 + length)
            at += 4 + length

    def _fde(self, cie: _Cie, at: int, end: int) -> None:
        data = self.data
        start, at = _pointer(data, at, cie.pointer, self.vaddr)
        size, at = _pointer(data, at, cie.pointer & 0x0F, self.vaddr)
        if cie.augmented:
            skip, at = _uleb(data, at)
            at += skip
        if cie.signal or not start or not size:
            return
        program = _Program(data, self.vaddr, cie, start)
        try:
            last = program.run(at, end)
        except (ValueError, IndexError):  # of this function nothing is known
            self.found.append((start, start + size, [(start, NOTHING)]))
            return
        program.rows.append((program.pc, last))
        rows = [(pc, self._of(state)) for pc, state in program.rows]
        self.found.append((start, start + size, rows))
        if len(rows) > 1 and all(rule.how != PLT for _, rule in rows):
            self.moving += 1
            self.framed += any(rule.how in (RBP, RBP_AT) for _, rule in rows)

    def _of(self, state: _State) -> Rule:
        rule = self._rules.get(state)
        if rule is None:
            rule = self._rules[state] = _rule(state)
        return rule

    @property
    def frame_pointers(self) -> bool:
        return self.moving > 0 and self.framed >= _FRAMES_KEPT * self.moving

    def rows(self) -> dict[int, Rule]:
        """Of every function, and NOTHING behind its end; a function that begins there goes on."""
        ends = {end: NOTHING for _, end, _ in self.found}
        for start, _, _ in self.found:
            ends.pop(start, None)
        rows = dict(ends)
        for _, _, own in sorted(self.found):
            rows.update(own)
        return rows


def _restorers(module: Module) -> dict[int, Rule]:
    """Where handlers return to. From a byte earlier on, as is their own FDE: the caller's rule is
    looked for at the byte before a return address."""
    rows = {}
    for seg in module.text:
        for match in _RESTORER.finditer(module.read_at(seg.offset, seg.filesz)):
            rows[seg.vaddr + match.start() - 1] = Rule(0, SAME, SIGNAL)
            rows[seg.vaddr + match.end()] = NOTHING
    return rows


def _section(module: Module) -> tuple[bytes, int]:
    """.eh_frame, by the header that the program headers name; b"": none."""
    for seg in module.segments:
        if seg.type == _PT_GNU_EH_FRAME:
            head = module.read(seg.vaddr, 16)
            frame, _ = _pointer(head, 4, head[1], seg.vaddr)
            return module.read(frame, 1 << 30), frame
    return b"", 0


def size(module: Module) -> int:
    """Bytes of the section: what a table of it costs is in proportion."""
    try:
        return len(_section(module)[0])
    except (struct.error, IndexError, KeyError):
        return 0


def table(module: Module) -> Table:
    """The module's rows; none where its section is absent or cannot be read."""
    rows: dict[int, Rule] = {}
    frame_pointers = False
    try:
        data, vaddr = _section(module)
        builder = _Builder(data, vaddr)
        builder.entries()
        frame_pointers = builder.frame_pointers
        if not frame_pointers:
            rows = builder.rows()
    except (struct.error, IndexError, ValueError, KeyError):
        rows = {}
    rows.update(_restorers(module))
    base, addresses, rules = module.load_base, array.array("I"), bytearray()
    before = NOTHING
    pack = struct.Struct("<ihBx").pack
    for pc in sorted(rows):
        rule = rows[pc]
        if rule != before and 0 <= pc - base < 1 << 32:
            addresses.append(pc - base)
            rules += pack(*rule)
            before = rule
    return Table(addresses, bytes(rules), frame_pointers)
