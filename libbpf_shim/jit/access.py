"""Loads, stores and atomics; those of the arena are checked, those of packets' contexts moved."""

from __future__ import annotations

from collections.abc import Callable

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import context
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.arith import Arithmetic
from libbpf_shim.jit.emit import REG, U64, Const, Piece, fits, signed64, unsupported
from libbpf_shim.jit.encode import R9, R10, R11, RAX, RBP, Mem
from libbpf_shim.jit.flow import effect
from libbpf_shim.jit.moves import SIGNED_LOADS
from libbpf_shim.verifier.facts import Facts

LOADS = {1: b"\x0f\xb6", 2: b"\x0f\xb7", 4: b"\x8b", 8: b"\x8b"}
KERNEL_LOAD = 254  # SHIM_FUNC_KERNEL_LOAD
HOST_STORE, HOST_LOAD = 218, 219  # SHIM_FUNC_HOST_STORE, SHIM_FUNC_HOST_LOAD
HOST_BYTES = 216  # SHIM_FUNC_HOST_BYTES
_CLOBBERED = (RAX, x.RDI, x.RSI, x.RDX, x.RCX, x.R8)  # an even number: rsp stays aligned
_ATOMICS = {op.ADD: x.ADD, op.OR: x.OR, op.AND: x.AND, op.XOR: x.XOR}


def extended(value: int, size: int) -> int:
    """A number of so many bytes made wider by its sign."""
    sign = 1 << 8 * size - 1
    return (value ^ sign) - sign & U64


class Access(Arithmetic):
    """facts: of the program. context: accesses of its context that are made elsewhere."""

    facts: Facts
    context: dict[int, tuple[int, int]]
    in_arena = False  # the access's address is in r9
    arena_size = 0
    hardened = False  # a processor that runs ahead of a branch is to be held (speculation.py)

    def stacked(self, off: int, size: int) -> int | None:
        """The constant that lies on the stack, at rbp + off."""
        found = [self.stack.get(n) for n in range(off, off + size)]
        return sum(b << 8 * n for n, b in enumerate(found) if b is not None) \
            if None not in found else None

    def stored(self, m: Mem, size: int, value: int | None) -> None:
        """A store, and what is known of it. Through an address that is not the frame's it may
        have changed everything."""
        if m.base != RBP or m.by >= 0:
            self.stack.clear()
            return
        for n in range(size):
            if value is None:
                self.stack.pop(m.disp + n, None)
            else:
                self.stack[m.disp + n] = value >> 8 * n & 0xFF

    def call_helper(self, number: int) -> None:
        raise NotImplementedError

    def memory(self, regno: int, off: int) -> Mem:
        return Mem(R9) if self.in_arena else self.place(regno, off)

    def from_memory(self, i: Insn) -> int:
        """The machine register that a load writes. By which register its address is told is known
        before: that may be the one that is written."""
        if i.src != i.dst:
            self.values[i.dst] = None
        self.bind(i.src)
        return self.fresh(i.dst, i.src)

    def written(self, i: Insn, narrow: bool) -> None:
        """Code of fixed registers has changed what the instruction changes."""
        for regno in range(10):
            if effect(i, lambda _: 5)[1] >> regno & 1:
                self.wrote(regno, narrow)

    def held_below(self, index: int, wide: bool) -> bytes:
        """Behind a comparison and a jump where it is not below: then it is 0, for a processor that
        has not decided the jump. Changes r10."""
        if not self.hardened:
            return b""
        return x.alu(x.SBB, R10, R10, wide) + x.alu(x.AND, index, R10, wide)

    def arena(self, i: Insn, at: int, access: Callable[[Insn, int], None]) -> None:
        """An access of the arena. Outside of its pages a load gives 0, and nothing is stored."""
        loads = i.klass == op.LDX or i.imm == op.LOAD_ACQ and i.code & 0xE0 == op.MODE_ATOMIC
        self.settle_all()
        shift, last = i.off - (self.arena_start & 0xFFFFFFFF), self.arena_size - i.size
        self.put(x.mov(R9, REG[i.src if loads else i.dst], False))
        self.put(x.mov_imm(R11, shift) + x.alu(x.ADD, R9, R11, True))
        self.put(x.mov_imm(R11, last + 1) + x.alu(x.CMP, R9, R11, True))
        outside = x.alu(x.XOR, REG[i.dst], REG[i.dst], False) if loads else b""
        before, self.piece = self.piece, Piece(bytearray(), [])
        self.put(self.held_below(R9, True))
        self.address(R11, f"mapval:{self.facts.arena_map}")
        self.put(x.alu(x.ADD, R9, R11, True))
        self.in_arena = True
        access(i, at)
        self.in_arena = False
        if outside:
            self.put(bytes([0xEB, len(outside)]))
        inside, self.piece = self.piece, before
        self.put(b"\x0f\x83" + x.imm32(len(inside.code)))  # jae
        start = len(self.piece.code)
        self.piece.relocs += [(start + off, name, addend) for off, name, addend in inside.relocs]
        self.put(bytes(inside.code) + outside)
        self.written(i, False)

    def load(self, i: Insn, at: int) -> None:
        if at in self.facts.arena and not self.in_arena:
            self.arena(i, at, self.load)
            return
        if at in self.facts.typed:
            self.typed_load(i, at, KERNEL_LOAD)
            return
        if at in self.facts.host_loads:
            self.typed_load(i, at, HOST_LOAD)
            return
        if at in self.facts.kernel:
            raise unsupported(at, "a load from the kernel's memory")
        if at in self.facts.probe_mem:
            raise unsupported(at, "a load that may fault")
        mode = i.code & 0xE0
        off, size = self.context.get(at, (i.off, i.size))
        if mode == op.MODE_MEM:
            opcode, wide = LOADS[size], size == 8
        elif mode == op.MODE_MEMSX and size != 8:
            opcode, wide = SIGNED_LOADS[size], True
        else:
            raise unsupported(at, f"opcode {i.code:#x}")
        if self.dies(i.dst):
            return
        if at in self.facts.loaded:
            known = self.facts.loaded[at]
            self.values[i.dst] = Const(extended(known, size) if mode == op.MODE_MEMSX else known)
            return
        dst = self.from_memory(i)
        self.put(x.at(opcode, dst, self.memory(i.src, off), wide))
        self.wrote(i.dst, not wide)

    def typed_load(self, i: Insn, at: int, number: int) -> None:
        """From a structure of the kernel's or the host's: a call, which keeps all registers but
        dst. number: of what is called with the address and the size."""
        dst, mode = REG[i.dst], i.code & 0xE0
        if mode not in (op.MODE_MEM, op.MODE_MEMSX):
            raise unsupported(at, f"opcode {i.code:#x}")
        self.settle_all()
        self.put(b"".join(map(x.push, _CLOBBERED)))
        self.put(x.mem(b"\x8d", x.RDI, REG[i.src], i.off, True))
        self.put(x.mov_imm(x.RSI, i.size, False))
        self.call_helper(number)
        self.put(x.mov(R11, RAX) + b"".join(map(x.pop, reversed(_CLOBBERED))))
        if mode == op.MODE_MEM or i.size == 8:
            self.put(x.mov(dst, R11))
        else:
            self.put(x.rr(SIGNED_LOADS[i.size], dst, R11, True))
        self.wrote(i.dst, False)

    def host_store(self, i: Insn, at: int) -> None:
        """Into the host's memory: a call, which keeps all registers."""
        if i.code & 0xE0 != op.MODE_MEM:
            raise unsupported(at, "an atomic in the host's memory")
        self.settle_all()
        self.put(b"".join(map(x.push, _CLOBBERED)))
        if i.klass == op.STX:
            self.put(x.push(REG[i.src]))
        self.put(x.mem(b"\x8d", x.RDI, REG[i.dst], i.off, True))
        self.put(x.pop(x.RSI) if i.klass == op.STX else x.mov_imm(x.RSI, i.imm))
        self.put(x.mov_imm(x.RDX, i.size, False))
        self.call_helper(HOST_STORE)
        self.put(b"".join(map(x.pop, reversed(_CLOBBERED))))
        self.stack.clear()

    def store(self, i: Insn, at: int) -> None:
        if at in self.facts.host_stores or at in self.facts.host_loads:
            self.host_store(i, at)
            return
        if at in self.facts.arena and not self.in_arena:
            self.arena(i, at, self.store)
            return
        if at in self.facts.kernel:
            raise unsupported(at, "a store into the kernel's memory")
        if i.code & 0xE0 == op.MODE_ATOMIC:
            self.atomic(i, at)
        elif i.code & 0xE0 == op.MODE_MEM:
            if at in self.context:
                self.store_context(i)
            else:
                self.store_register(i)
        else:
            raise unsupported(at, f"opcode {i.code:#x}")

    def store_register(self, i: Insn) -> None:
        known, size = self.constant(i.src), i.size
        if known is not None and (size < 8 or fits(signed64(known))):
            self.store_number(i.dst, i.off, known, size)
            return
        src, m = self.both(lambda: self.reg(i.src, size == 8),
                           lambda: self.memory(i.dst, i.off))
        opcode, prefix = (b"\x88" if size == 1 else b"\x89"), (b"\x66" if size == 2 else b"")
        self.put(x.at(opcode, src, m, size == 8, prefix, low_byte=size == 1))
        self.stored(m, size, None)

    def store_number(self, regno: int, off: int, number: int, size: int) -> None:
        m = self.memory(regno, off)
        opcode, prefix = (b"\xc6" if size == 1 else b"\xc7"), (b"\x66" if size == 2 else b"")
        code = x.at(opcode, 0, m, size == 8, prefix)
        self.put(code + (number & 0xFFFFFFFF).to_bytes(4, "little")[: min(size, 4)])
        self.stored(m, size, number & (1 << 64) - 1)

    def store_context(self, i: Insn) -> None:
        """16 bits, and none at all of what is no queue."""
        self.settle_all()
        store = x.mem(b"\x89", REG[i.src], REG[i.dst], i.off, False, b"\x66")
        if i.off == context.QUEUE_MAPPING:  # cmp src, 0xffff; jae over the store
            number = x.imm32(context.NO_QUEUE_MAPPING)
            self.put(x.rr(b"\x81", x.CMP[1], REG[i.src], False) + number)
            self.put(bytes([0x73, len(store)]))
        self.put(store)

    def store_imm(self, i: Insn, at: int) -> None:
        if at in self.facts.host_stores:
            self.host_store(i, at)
            return
        if at in self.facts.arena and not self.in_arena:
            self.arena(i, at, self.store_imm)
            return
        size = i.size
        if at in self.context:
            if i.off == context.QUEUE_MAPPING and i.imm >= context.NO_QUEUE_MAPPING:
                return
            size = 2
        self.store_number(i.dst, i.off, i.imm, size)

    # atomics

    def atomic(self, i: Insn, at: int) -> None:
        wide, kind = i.size == 8, i.imm
        self.stack.clear()
        if kind == op.LOAD_ACQ:  # ordinary loads acquire and stores release (SDM 3A 9.2)
            dst = self.from_memory(i)
            self.put(x.at(LOADS[i.size], dst, self.memory(i.src, i.off), wide))
            self.wrote(i.dst, not wide)
        elif kind == op.STORE_REL:
            self.store_register(i)
        elif i.size < 4:
            raise unsupported(at, f"an atomic of {i.size} bytes")
        elif kind in _ATOMICS:
            self.change(i, _ATOMICS[kind], wide)
        elif kind in (op.ADD | op.FETCH, op.XCHG):
            opcode, prefix = (b"\x87", b"") if kind == op.XCHG else (b"\x0f\xc1", b"\xf0")
            self.bind(i.dst)
            src = self.own(i.src)
            self.put(x.at(opcode, src, self.memory(i.dst, i.off), wide, prefix))
            self.wrote(i.src, not wide)
        elif kind == op.CMPXCHG:
            self.compare_exchange(i, wide)
        elif kind & ~op.FETCH in _ATOMICS:
            self.settle_all()
            self.fetch(_ATOMICS[kind & ~op.FETCH], REG[i.src], self.memory(i.dst, i.off), wide)
            self.wrote(i.src, not wide)
        else:
            raise unsupported(at, f"atomic {kind:#x}")

    def change(self, i: Insn, operation: tuple[int, int], wide: bool) -> None:
        """An atomic whose old value nobody wants."""
        known = self.constant(i.src)
        if known is not None and (not wide or fits(signed64(known))):
            number = signed64(known) if wide else (known & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)
            m = self.memory(i.dst, i.off)
            short = -128 <= number < 128
            code = x.at(b"\x83" if short else b"\x81", operation[1], m, wide, b"\xf0")
            self.put(code + (bytes([number & 0xFF]) if short else x.imm32(number)))
            return
        src, m = self.both(lambda: self.reg(i.src, wide), lambda: self.memory(i.dst, i.off))
        self.put(x.at(bytes([operation[0]]), src, m, wide, b"\xf0"))

    def compare_exchange(self, i: Insn, wide: bool) -> None:
        self.bind(i.dst)
        self.own(0)
        src, m = self.both(lambda: self.reg(i.src, wide), lambda: self.memory(i.dst, i.off))
        self.put(x.at(b"\x0f\xb1", src, m, wide, b"\xf0"))
        if not wide:  # when it succeeds, cmpxchg leaves the upper half alone
            self.put(x.mov(RAX, RAX, False))
        self.wrote(0, not wide)

    def fetch(self, operation: tuple[int, int], src: int, m: Mem, wide: bool) -> None:
        """A loop of cmpxchg. Address in r9, operand in r11; src, which gets the old value, holds
        the new one meanwhile (r10, if src is rax itself)."""
        new = R10 if src == RAX else src
        self.put(x.lea(R9, m) + x.mov(R11, src, True))
        if src != RAX:
            self.put(x.mov(R10, RAX))
        self.put(x.mem(b"\x8b", RAX, R9, 0, wide))
        loop = x.mov(new, RAX, True) + x.alu(operation, new, R11, wide)
        loop += x.mem(b"\x0f\xb1", new, R9, 0, wide, b"\xf0")
        self.put(loop + bytes([0x75, -(len(loop) + 2) & 0xFF]))
        if src == RAX:
            self.put(x.mov(RAX, RAX, False) if not wide else b"")
        else:
            self.put(x.mov(src, RAX, wide) + x.mov(RAX, R10))
