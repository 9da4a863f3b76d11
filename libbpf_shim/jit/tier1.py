"""Tier 1: one pass over verified instructions, each to a few of the machine's.

Registers: R0 rax, R1 to R5 rdi rsi rdx rcx r8, R6 rbx, R7 r13, R8 r14, R9 r15, R10 rbp; the run
(struct shim_run) stays in r12 and goes to helpers in r9; r9, r10, r11 are scratch. A frame's BPF
stack lies below rbp. Semantics: RFC 9669; division by zero gives 0, modulo by zero leaves dst.

A function of the program is entered with its arguments in R1 to R5, r12 = the run and rsp as
after a call in C, and keeps rbx, rbp, r12 to r15 for its caller. A function pointer (ld_imm64
BPF_PSEUDO_FUNC) is the address of that entry, in this image as mapped. Helpers that call back do
so through shim_callback (csrc/include/shim_runtime.h), which sets r12.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as op
from libbpf_shim.isa.disasm import disassemble
from libbpf_shim.isa.insn import Insn, decode, imm64
from libbpf_shim.jit import budget, context, kfuncs
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.encode import R9, R10, R11, R12, RAX, RBP, RCX, RDX, RSP
from libbpf_shim.jit.image import Image, Reloc, RelocKind
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

_REG = (RAX, x.RDI, x.RSI, RDX, RCX, x.R8, x.RBX, x.R13, x.R14, x.R15, RBP)
_SAVED = (x.RBX, x.R13, x.R14, x.R15)  # R6 to R9, which a callee preserves
_TAIL_CALL = 12  # BPF_FUNC_tail_call
_TIMER_SET_CALLBACK = 170  # BPF_FUNC_timer_set_callback: R5 tells it the timer's map
_CLOBBERED = (RAX, x.RDI, x.RSI, RDX, RCX, x.R8)  # an even number: rsp stays a multiple of 16
_PACKET_LOAD = 255  # SHIM_FUNC_PACKET_LOAD
_KERNEL_LOAD = 254  # SHIM_FUNC_KERNEL_LOAD
_MAX_TEXT = 16 << 20
_FUNC = "func"  # in the place of a symbol: a function of the program, by its first slot

_BINARY = {op.ADD: x.ADD, op.SUB: x.SUB, op.OR: x.OR, op.AND: x.AND, op.XOR: x.XOR}
_SHIFTS = {op.LSH: x.SHL, op.RSH: x.SHR, op.ARSH: x.SAR}
# condition codes of jcc
_CONDITIONS = {
    op.JEQ: 0x4,
    op.JNE: 0x5,
    op.JGT: 0x7,
    op.JGE: 0x3,
    op.JLT: 0x2,
    op.JLE: 0x6,
    op.JSGT: 0xF,
    op.JSGE: 0xD,
    op.JSLT: 0xC,
    op.JSLE: 0xE,
    op.JSET: 0x5,
}
_ALWAYS, _CALL = -1, -2  # in the place of a condition: jmp, call
_ATOMICS = {op.ADD: x.ADD, op.OR: x.OR, op.AND: x.AND, op.XOR: x.XOR}
_LOADS = {1: b"\x0f\xb6", 2: b"\x0f\xb7", 4: b"\x8b", 8: b"\x8b"}
_SIGNED_LOADS = {1: b"\x0f\xbe", 2: b"\x0f\xbf", 4: b"\x63"}


@dataclass(slots=True)
class _Piece:
    """The code of one slot. jump: condition and target slot of a jump at its end. entry: of a
    function's first slot, what calls run first and jumps do not."""

    code: bytearray
    relocs: list[tuple[int, str, int]]
    jump: tuple[int, int] | None = None
    entry: bytes = b""


def _unsupported(at: int, what: str) -> ShimError:
    return ShimError("JT0001", errno.EOPNOTSUPP, f"insn {at}: {what} cannot be compiled")


def _goes_on(i: Insn) -> bool:
    """Whether the next instruction can run after this one."""
    kind = i.code & 0xF0
    return i.klass not in (op.JMP, op.JMP32) or kind not in (op.EXIT, op.JA)


class _Compiler:
    """One program on its way."""

    def __init__(self, program: Program, insns: list[Insn], facts: Facts) -> None:
        self.insns, self.facts, self.prog_type = insns, facts, program.prog_type
        self.context = context.accesses(program, insns, facts)
        self.piece = _Piece(bytearray(), [])
        self.frame = 0  # bytes of stack of the current function
        self.rounds = 0  # its budget for may_goto is at rbp minus this; 0: it needs none
        self.main = True
        self.in_arena = False  # the access's address is in r9
        start = program.maps[facts.arena_map].arena[0] if facts.arena_map >= 0 else 0
        self.arena_start = start
        self.arena_size = program.maps[facts.arena_map].max_entries * 4096 if start else 0

    def put(self, code: bytes) -> None:
        self.piece.code += code

    def symbol(self, dst: int, name: str, addend: int = 0) -> None:
        """dst = address of a symbol."""
        self.put(x.movabs(dst, 0))
        self.piece.relocs.append((len(self.piece.code) - 8, name, addend))

    # functions

    def prologue(self) -> bytes:
        """Keeps rsp a multiple of 16 below the saved registers: helpers are C functions."""
        out = x.push(RBP) + b"".join(map(x.push, _SAVED))
        if self.main:
            out += x.push(R12) + x.alu_imm(x.SUB, RSP, 8, True) + x.mov(R12, x.RSI)
        out += x.mov(RBP, RSP)
        if self.frame:
            out += x.alu_imm(x.SUB, RSP, self.frame, True)
        if self.facts.reads_unset:  # nothing of the host's stack shows, and runs are repeatable
            for at in range(8, self.frame + 8, 8):
                out += x.mem(b"\xc7", 0, RBP, -at, True) + x.imm32(0)
        if self.rounds:
            out += x.mem(b"\xc7", 0, RBP, -self.rounds, True) + x.imm32(budget.MAY_GOTO_ROUNDS)
        return out

    def teardown(self) -> bytes:
        """Undoes the prologue; only rax and what arguments travel in are kept."""
        out = b""
        if self.main:
            out = x.mem(b"\x8d", RSP, RBP, 8, True) + x.pop(R12)
        elif self.frame:
            out = x.mov(RSP, RBP)
        return out + b"".join(map(x.pop, reversed(_SAVED))) + x.pop(RBP)

    def epilogue(self) -> None:
        self.put(self.teardown() + b"\xc3")

    # arithmetic

    def alu(self, i: Insn, at: int) -> None:
        w, kind, dst = i.klass == op.ALU64, i.code & 0xF0, _REG[i.dst]
        w = w and at not in self.facts.arena_alu
        by_reg = bool(i.code & 8)
        src = _REG[i.src] if by_reg else -1
        if kind in _BINARY:
            operation = _BINARY[kind]
            self.put(
                x.alu(operation, dst, src, w) if by_reg else x.alu_imm(operation, dst, i.imm, w)
            )
        elif kind == op.MOV:
            self.move(i, dst, src, w)
        elif kind in _SHIFTS:
            self.shift(_SHIFTS[kind], dst, src, i.imm, w)
        elif kind == op.NEG:
            self.put(x.rr(b"\xf7", 3, dst, w))
        elif kind == op.MUL:
            self.put(
                x.rr(b"\x0f\xaf", dst, src, w)
                if by_reg
                else x.rr(b"\x69", dst, dst, w) + x.imm32(i.imm)
            )
        elif kind in (op.DIV, op.MOD):
            self.divide(i, dst, src, w)
        elif kind == op.END:
            self.swap(i, dst, w, at)
        else:
            raise _unsupported(at, f"opcode {i.code:#x}")

    def move(self, i: Insn, dst: int, src: int, w: bool) -> None:
        if not i.code & 8:
            self.put(x.mov_imm(dst, i.imm, w))
        elif i.off == op.ADDR_SPACE_CAST and w:
            self.cast(i.imm, dst, src)
        elif i.off:  # sign extension of so many bits
            self.put(x.rr(_SIGNED_LOADS[i.off // 8], dst, src, w, low_byte=i.off == 8))
        else:
            self.put(x.mov(dst, src, w))

    def cast(self, kind: int, dst: int, src: int) -> None:
        """Between the arena's addresses of programs, 32 bits, and its user's; NULL is NULL."""
        self.put(x.mov(dst, src, False))
        if kind == op.CAST_USER:
            half = x.movabs(R11, self.arena_start >> 32 << 32) + x.alu(x.OR, dst, R11, True)
            self.put(x.rr(b"\x85", dst, dst, False) + bytes([0x74, len(half)]) + half)

    def shift(self, kind: int, dst: int, src: int, count: int, w: bool) -> None:
        if src < 0:
            count &= 63 if w else 31
            self.put(x.shift(kind, dst, count, w) if count or w else x.mov(dst, dst, False))
        elif dst == RCX:
            self.put(x.mov(R11, RCX) + (x.mov(RCX, src) if src != RCX else b""))
            self.put(x.shift_cl(kind, R11, w) + x.mov(RCX, R11))
        elif src == RCX:
            self.put(x.shift_cl(kind, dst, w))
        else:
            self.put(x.mov(R11, RCX) + x.mov(RCX, src) + x.shift_cl(kind, dst, w))
            self.put(x.mov(RCX, R11))

    def divide(self, i: Insn, dst: int, src: int, w: bool) -> None:
        """Divisor in r11; what is special jumps to code behind the division."""
        signed, modulo = i.off == 1, i.code & 0xF0 == op.MOD
        self.put(x.mov_imm(R11, i.imm, w) if src < 0 else x.mov(R11, src, w))
        body = self.division(dst, w, signed, modulo)
        if_zero = (
            (x.mov(dst, dst, False) if not w else b"") if modulo else x.alu(x.XOR, dst, dst, False)
        )
        if_minus = x.alu(x.XOR, dst, dst, False) if modulo else x.rr(b"\xf7", 3, dst, w)
        if signed:
            if_zero += bytes([0xEB, len(if_minus)])
        else:
            if_minus = b""
        body += bytes([0xEB, len(if_zero) + len(if_minus)])
        if signed:  # cmp r11, -1; je: over the body and the code for zero
            test = x.alu_imm(x.CMP, R11, -1, w)
            body = test + bytes([0x74, len(body) + len(if_zero)]) + body
        self.put(x.rr(b"\x85", R11, R11, w) + bytes([0x74, len(body)]))
        self.put(body + if_zero + if_minus)

    @staticmethod
    def division(dst: int, w: bool, signed: bool, modulo: bool) -> bytes:
        """dst = dst op r11; rax and rdx are kept unless they are dst."""
        out = b"" if dst == RDX else x.push(RDX)
        if dst != RAX:
            out += x.mov(R10, RAX) + x.mov(RAX, dst, w)
        if signed:
            out += (b"\x48" if w else b"") + b"\x99"  # cqo, cdq
        else:
            out += x.alu(x.XOR, RDX, RDX, False)
        out += x.rr(b"\xf7", 7 if signed else 6, R11, w)
        out += x.mov(R11, RDX if modulo else RAX, w)
        if dst != RAX:
            out += x.mov(RAX, R10)
        if dst != RDX:
            out += x.pop(RDX)
        return out + x.mov(dst, R11, w)

    def swap(self, i: Insn, dst: int, w: bool, at: int) -> None:
        swapped = w or i.code & 8
        if i.imm == 16:
            if swapped:
                self.put(b"\x66" + x.shift(x.ROR, dst, 8, False))
            self.put(x.rr(b"\x0f\xb7", dst, dst, False))
        elif i.imm == 32:
            self.put(x.bswap(dst, False) if swapped else x.mov(dst, dst, False))
        elif i.imm == 64:
            self.put(x.bswap(dst, True) if swapped else b"")
        else:
            raise _unsupported(at, f"byte swap of {i.imm} bits")

    # memory

    def place(self, regno: int, off: int) -> tuple[int, int]:
        """The machine's register and offset of an access to memory."""
        return (R9, 0) if self.in_arena else (_REG[regno], off)

    def arena(self, i: Insn, at: int, access: Callable[[Insn, int], None]) -> None:
        """An access of the arena. Outside of its pages a load gives 0, and nothing is stored."""
        loads = i.klass == op.LDX or i.imm == op.LOAD_ACQ and i.code & 0xE0 == op.MODE_ATOMIC
        shift, last = i.off - (self.arena_start & 0xFFFFFFFF), self.arena_size - i.size
        self.put(x.mov(R9, _REG[i.src if loads else i.dst], False))
        self.put(x.mov_imm(R11, shift) + x.alu(x.ADD, R9, R11, True))
        self.put(x.mov_imm(R11, last) + x.alu(x.CMP, R9, R11, True))
        outside = x.alu(x.XOR, _REG[i.dst], _REG[i.dst], False) if loads else b""
        before, self.piece = self.piece, _Piece(bytearray(), [])
        self.symbol(R11, f"mapval:{self.facts.arena_map}")
        self.put(x.alu(x.ADD, R9, R11, True))
        self.in_arena = True
        access(i, at)
        self.in_arena = False
        if outside:
            self.put(bytes([0xEB, len(outside)]))
        inside, self.piece = self.piece, before
        self.put(b"\x0f\x87" + x.imm32(len(inside.code)))  # ja
        start = len(self.piece.code)
        self.piece.relocs += [(start + off, name, addend) for off, name, addend in inside.relocs]
        self.put(bytes(inside.code) + outside)

    def load(self, i: Insn, at: int) -> None:
        if at in self.facts.arena and not self.in_arena:
            self.arena(i, at, self.load)
            return
        dst, mode = _REG[i.dst], i.code & 0xE0
        base, off = self.place(i.src, i.off)
        if at in self.facts.typed:
            self.typed_load(i, at)
            return
        if at in self.facts.kernel:
            raise _unsupported(at, "a load from the kernel's memory")
        if at in self.facts.probe_mem:
            raise _unsupported(at, "a load that may fault")
        if mode == op.MODE_MEM:
            off, size = self.context.get(at, (off, i.size))
            self.put(x.mem(_LOADS[size], dst, base, off, size == 8))
        elif mode == op.MODE_MEMSX and i.size != 8:
            self.put(x.mem(_SIGNED_LOADS[i.size], dst, base, off, True))
        else:
            raise _unsupported(at, f"opcode {i.code:#x}")

    def typed_load(self, i: Insn, at: int) -> None:
        """From a structure of the kernel's: a call, which keeps all registers but dst."""
        dst, mode = _REG[i.dst], i.code & 0xE0
        if mode not in (op.MODE_MEM, op.MODE_MEMSX):
            raise _unsupported(at, f"opcode {i.code:#x}")
        self.put(b"".join(map(x.push, _CLOBBERED)))
        self.put(x.mem(b"\x8d", x.RDI, _REG[i.src], i.off, True))
        self.put(x.mov_imm(x.RSI, i.size, False))
        self.call_helper(_KERNEL_LOAD)
        self.put(x.mov(R11, RAX) + b"".join(map(x.pop, reversed(_CLOBBERED))))
        if mode == op.MODE_MEM or i.size == 8:
            self.put(x.mov(dst, R11))
        else:
            self.put(x.rr(_SIGNED_LOADS[i.size], dst, R11, True))

    def store(self, i: Insn, at: int) -> None:
        if at in self.facts.arena and not self.in_arena:
            self.arena(i, at, self.store)
            return
        if at in self.facts.kernel:
            raise _unsupported(at, "a store into the kernel's memory")
        if i.code & 0xE0 == op.MODE_ATOMIC:
            self.atomic(i, at)
        elif i.code & 0xE0 == op.MODE_MEM:
            if at in self.context:
                self.store_context(i)
            else:
                self.store_register(i)
        else:
            raise _unsupported(at, f"opcode {i.code:#x}")

    def store_register(self, i: Insn) -> None:
        src, size = _REG[i.src], i.size
        base, off = self.place(i.dst, i.off)
        opcode, prefix = (b"\x88" if size == 1 else b"\x89"), (b"\x66" if size == 2 else b"")
        self.put(x.mem(opcode, src, base, off, size == 8, prefix, low_byte=size == 1))

    def store_context(self, i: Insn) -> None:
        """16 bits, and none at all of what is no queue."""
        store = x.mem(b"\x89", _REG[i.src], _REG[i.dst], i.off, False, b"\x66")
        if i.off == context.QUEUE_MAPPING:  # cmp src, 0xffff; jae over the store
            self.put(x.alu_imm(x.CMP, _REG[i.src], context.NO_QUEUE_MAPPING, True))
            self.put(bytes([0x73, len(store)]))
        self.put(store)

    def store_imm(self, i: Insn, at: int) -> None:
        if at in self.facts.arena and not self.in_arena:
            self.arena(i, at, self.store_imm)
            return
        size = i.size
        base, off = self.place(i.dst, i.off)
        if at in self.context:
            if i.off == context.QUEUE_MAPPING and i.imm >= context.NO_QUEUE_MAPPING:
                return
            size = 2
        opcode, prefix = (b"\xc6" if size == 1 else b"\xc7"), (b"\x66" if size == 2 else b"")
        self.put(x.mem(opcode, 0, base, off, size == 8, prefix))
        self.put((i.imm & 0xFFFFFFFF).to_bytes(4, "little")[: min(size, 4)])

    def atomic(self, i: Insn, at: int) -> None:
        src, w, kind = _REG[i.src], i.size == 8, i.imm
        base, off = self.place(i.dst, i.off)
        if kind == op.LOAD_ACQ:  # ordinary loads acquire and stores release (SDM 3A 9.2)
            base, off = self.place(i.src, i.off)
            self.put(x.mem(_LOADS[i.size], _REG[i.dst], base, off, w))
        elif kind == op.STORE_REL:
            self.store_register(i)
        elif i.size < 4:
            raise _unsupported(at, f"an atomic of {i.size} bytes")
        elif kind in _ATOMICS:
            self.put(x.mem(bytes([_ATOMICS[kind][0]]), src, base, off, w, b"\xf0"))
        elif kind == op.ADD | op.FETCH:
            self.put(x.mem(b"\x0f\xc1", src, base, off, w, b"\xf0"))
        elif kind == op.XCHG:
            self.put(x.mem(b"\x87", src, base, off, w))
        elif kind == op.CMPXCHG:
            self.put(x.mem(b"\x0f\xb1", src, base, off, w, b"\xf0"))
            if not w:  # when it succeeds, cmpxchg leaves the upper half alone
                self.put(x.mov(RAX, RAX, False))
        elif kind & ~op.FETCH in _ATOMICS:
            self.fetch(_ATOMICS[kind & ~op.FETCH], src, base, off, w)
        else:
            raise _unsupported(at, f"atomic {kind:#x}")

    def fetch(self, operation: tuple[int, int], src: int, base: int, off: int, w: bool) -> None:
        """A loop of cmpxchg. Address in r9, operand in r11; src, which gets the old value, holds
        the new one meanwhile (r10, if src is rax itself)."""
        new = R10 if src == RAX else src
        self.put(x.mem(b"\x8d", R9, base, off, True) + x.mov(R11, src, True))
        if src != RAX:
            self.put(x.mov(R10, RAX))
        self.put(x.mem(b"\x8b", RAX, R9, 0, w))
        loop = x.mov(new, RAX, True) + x.alu(operation, new, R11, w)
        loop += x.mem(b"\x0f\xb1", new, R9, 0, w, b"\xf0")
        self.put(loop + bytes([0x75, -(len(loop) + 2) & 0xFF]))
        if src == RAX:
            self.put(x.mov(RAX, RAX, False) if not w else b"")
        else:
            self.put(x.mov(src, RAX, w) + x.mov(RAX, R10))

    def constant(self, i: Insn, at: int) -> None:
        """ld_imm64 of all kinds, and loads from the packet."""
        if i.code != op.LD_IMM64:
            self.packet_load(i, at)
            return
        high, dst = self.insns[at + 1], _REG[i.dst]
        if i.src == 0:
            self.put(x.mov_imm(dst, imm64(i, high)))
        elif i.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_IDX):
            self.symbol(dst, f"map:{i.imm}")
        elif i.src in (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE) and \
                i.imm == self.facts.arena_map:
            self.put(x.mov_imm(dst, self.arena_start + (high.imm & 0xFFFFFFFF)))
        elif i.src in (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE):
            self.symbol(dst, f"mapval:{i.imm}", high.imm & 0xFFFFFFFF)
        elif i.src == op.PSEUDO_FUNC:  # its place is known once all is laid out
            self.symbol(dst, _FUNC, at + 1 + i.imm)
        else:
            raise _unsupported(at, f"a constant of kind {i.src}")

    def packet_load(self, i: Insn, at: int) -> None:
        """LD_ABS and LD_IND: a call; a load that fails ends the function with R0 = 0."""
        if i.code & 0xE0 not in (op.MODE_ABS, op.MODE_IND):
            raise _unsupported(at, f"opcode {i.code:#x}")
        if i.code & 0xE0 == op.MODE_IND:
            self.put(x.mem(b"\x8d", x.RSI, _REG[i.src], i.imm, False))
        else:
            self.put(x.mov_imm(x.RSI, i.imm, False))
        self.put(x.mov(x.RDI, x.RBX) + x.mov_imm(RDX, i.size, False))
        self.call_helper(_PACKET_LOAD)
        body = self.piece.code
        self.piece.code = bytearray(x.alu(x.XOR, RAX, RAX, False))
        self.epilogue()
        out, self.piece.code = self.piece.code, body
        self.put(x.rr(b"\x85", RAX, RAX, True) + bytes([0x79, len(out)]) + out)

    # control

    def jump(self, i: Insn, at: int) -> None:
        kind, w = i.code & 0xF0, i.klass == op.JMP
        if kind == op.CALL and w:
            self.call(i, at)
        elif kind == op.EXIT and w:
            self.epilogue()
        elif kind == op.JA:
            self.piece.jump = (_ALWAYS, at + 1 + (i.off if w else i.imm))
        elif kind in _CONDITIONS:
            self.compare(i, kind, w)
            self.piece.jump = (_CONDITIONS[kind], at + 1 + i.off)
        elif kind == op.JCOND and w:
            self.may_goto()
            self.piece.jump = (_CONDITIONS[op.JLT], at + 1 + i.off)
        else:
            raise _unsupported(at, f"opcode {i.code:#x}")

    def may_goto(self) -> None:
        """Takes one of the budget, which stays 0 once it is; the carry says that it was 0."""
        self.put(x.mem(b"\x8b", R11, RBP, -self.rounds, True) + x.alu_imm(x.SUB, R11, 1, True))
        self.put(b"\x49\x83\xd3\x00")  # adc r11, 0
        self.put(x.mem(b"\x89", R11, RBP, -self.rounds, True))

    def function(self, at: int, depth: int) -> None:
        """One begins at slot at, with so many bytes of stack."""
        self.frame, self.main = depth + 15 & ~15, at == 0
        end = next((s for s in self.facts.subprogs if s > at), len(self.insns))
        self.rounds = 0
        if any(i.code == op.JMP | op.JCOND for i in self.insns[at:end]):
            self.frame += 16
            self.rounds = self.frame

    def compare(self, i: Insn, kind: int, w: bool) -> None:
        dst = _REG[i.dst]
        if i.code & 8:
            src = _REG[i.src]
            self.put(x.rr(b"\x85", src, dst, w) if kind == op.JSET else x.alu(x.CMP, dst, src, w))
        elif kind == op.JSET:
            self.put(x.rr(b"\xf7", 0, dst, w) + x.imm32(i.imm))
        elif i.imm == 0 and kind in (op.JEQ, op.JNE):
            self.put(x.rr(b"\x85", dst, dst, w))
        else:
            self.put(x.alu_imm(x.CMP, dst, i.imm, w))

    def call(self, i: Insn, at: int) -> None:
        if i.src == op.PSEUDO_CALL:
            self.piece.jump = (_CALL, at + 1 + i.imm)
        elif i.src:
            self.kernel_function(at)
        elif i.imm == _TAIL_CALL:
            self.tail_call()
        else:
            if i.imm == _TIMER_SET_CALLBACK and at in self.facts.call_map:
                self.symbol(x.R8, f"map:{self.facts.call_map[at]}")
            elif i.imm == _TIMER_SET_CALLBACK:
                self.put(x.alu(x.XOR, x.R8, x.R8, False))
            self.call_helper(i.imm)

    def kernel_function(self, at: int) -> None:
        name = self.facts.kfuncs.get(at, "")
        number = kfuncs.number(name, self.prog_type)
        if not number:
            raise _unsupported(at, f"kernel function {name}".rstrip())
        self.call_helper(number)

    def call_helper(self, number: int) -> None:
        self.put(x.mov(R9, R12))
        self.symbol(R11, f"helper:{number}")
        self.put(x.call_reg(R11))

    def tail_call(self) -> None:
        """Helper 12 counts, and answers where the other program begins. It is entered as this
        function was, its frame in the place of this one's: it returns to this one's caller."""
        self.put(x.push(_REG[1]) + x.alu_imm(x.SUB, RSP, 8, True))
        self.call_helper(_TAIL_CALL)
        self.put(x.alu_imm(x.ADD, RSP, 8, True) + x.pop(_REG[1]))
        leave = x.mov(_REG[2], R12) + self.teardown() + x.jmp_reg(RAX)
        self.put(x.rr(b"\x85", RAX, RAX, True) + bytes([0x74, len(leave)]) + leave)

    def compile(self) -> list[_Piece]:
        """A piece for each slot, empty where nothing runs, and one for dead jumps."""
        by_class: dict[int, Callable[[Insn, int], None]] = {
            op.LD: self.constant, op.LDX: self.load, op.ST: self.store_imm, op.STX: self.store,
            op.ALU: self.alu, op.ALU64: self.alu, op.JMP: self.jump, op.JMP32: self.jump,
        }  # fmt: skip
        starts = dict(zip(self.facts.subprogs, self.facts.stack_depth, strict=True))
        pieces = []
        half = False  # the second slot of an ld_imm64
        for at, i in enumerate(self.insns):
            self.piece = _Piece(bytearray(), [])
            pieces.append(self.piece)
            if at in starts:
                self.function(at, starts[at])
            if half or not self.facts.seen[at]:
                if not half and at and self.facts.seen[at - 1] and _goes_on(self.insns[at - 1]):
                    self.piece.jump = (_ALWAYS, at)  # after a branch that is always taken
                half = not half and i.code == op.LD_IMM64
                continue
            if at in starts:
                self.piece.entry = self.prologue()
            by_class[i.klass](i, at)
            half = i.code == op.LD_IMM64
        self.piece = _Piece(bytearray(), [])
        dead = [p for p in pieces if p.jump and not self.facts.seen[p.jump[1]]]
        if dead:  # where branches that are never taken lead
            self.symbol(R11, "sym:UNREACHABLE")
            self.put(x.jmp_reg(R11))
        for piece in dead:
            assert piece.jump
            piece.jump = (piece.jump[0], len(pieces))
        return [*pieces, self.piece]


def _jump_size(condition: int, near: bool) -> int:
    if condition == _CALL:
        return 5
    return 2 if near else 5 if condition == _ALWAYS else 6


def _layout(pieces: list[_Piece]) -> tuple[list[int], list[int], list[bool]]:
    """Where each piece's own code begins, where each ends, and which jumps fit into two bytes. A
    jump once long stays long."""
    near = [True] * len(pieces)
    while True:
        offsets, ends, at = [], [], 0
        for n, piece in enumerate(pieces):
            at += len(piece.entry)
            offsets.append(at)
            at += len(piece.code) + (_jump_size(piece.jump[0], near[n]) if piece.jump else 0)
            ends.append(at)
        grown = False
        for n, piece in enumerate(pieces):
            if not piece.jump or not near[n]:
                continue
            if not -128 <= offsets[piece.jump[1]] - ends[n] < 128:
                near[n] = False
                grown = True
        if not grown:
            return offsets, ends, near


def _jump_code(condition: int, near: bool, distance: int) -> bytes:
    if condition == _CALL:
        return b"\xe8" + x.imm32(distance)
    if near:
        return bytes([0xEB if condition == _ALWAYS else 0x70 | condition, distance & 0xFF])
    opcode = b"\xe9" if condition == _ALWAYS else bytes([0x0F, 0x80 | condition])
    return opcode + x.imm32(distance)


def compile_program(program: Program, facts: Facts) -> Image:
    """The image of a verified program. ShimError EOPNOTSUPP: what stands in the way."""
    insns = decode(program.insns)
    compiler = _Compiler(program, insns, facts)
    pieces = compiler.compile()
    offsets, ends, near = _layout(pieces)
    if ends[-1] > _MAX_TEXT:
        raise ShimError("JT0002", errno.E2BIG, f"program: {ends[-1]} bytes of code")
    text, relocs = bytearray(), []
    for n, piece in enumerate(pieces):
        text += piece.entry
        for at, name, addend in piece.relocs:
            if name == _FUNC:
                name, addend = "text", offsets[addend] - len(pieces[addend].entry)
            relocs.append(Reloc(len(text) + at, RelocKind.ABS64, name, addend))
        text += piece.code
        if piece.jump:
            condition, target = piece.jump
            to = offsets[target] - (len(pieces[target].entry) if condition == _CALL else 0)
            text += _jump_code(condition, near[n], to - ends[n])
    places = tuple(
        at if facts.seen[n] and (pieces[n].code or pieces[n].jump) else -1
        for n, at in enumerate(offsets[:-1])
    )
    return Image(
        bytes(text),
        tuple(relocs),
        # programs that this one goes on in may touch per-CPU storage
        facts.percpu or _TAIL_CALL in facts.helpers,
        max(facts.stack_depth, default=0),
        _listing(insns, places),
        places,
    )


def _listing(insns: list[Insn], places: tuple[int, ...]) -> str:
    """Offset, slot, and the instruction that was compiled there."""
    return "".join(
        f"{at:6x}  {n:4}: {disassemble(insns, n, str)}\n" for n, at in enumerate(places) if at >= 0
    )
