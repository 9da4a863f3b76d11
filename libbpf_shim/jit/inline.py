"""Helpers that need no call: who runs, which CPU, and lookups in arrays and hash maps.

Lookups are the runtime's (csrc/runtime/map_array.c, map_percpu_array.c, map_hash.c), for the map
that the verifier says is always given: the bounds and sizes of a map's descriptor are the
program's own facts, addresses come from the descriptor. A hash lookup walks a few elements; what
is not as it must be (a chain that changes under its feet, a longer one) goes to the helper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import clocks, places
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.control import Control
from libbpf_shim.jit.emit import REG, Const, Symbol
from libbpf_shim.jit.encode import R8, R9, R10, R11, R12, RAX, RBP, RCX, RDI, RDX, RSI, Mem
from libbpf_shim.jit.flow import CALLER
from libbpf_shim.jit.local import ABOVE, ABOVE_EQUAL, EQUAL, NOT_EQUAL, Local
from libbpf_shim.jit.places import DESC, LOOKUP, RUN, room
from libbpf_shim.verifier.program import MapDesc

_VARIADIC: Final = (6,)  # trace_printk


def arguments(prog_type: int) -> Callable[[int], int]:
    """By number of a helper: how many arguments it reads."""
    from libbpf_shim.verifier.call import helpers

    def count(number: int) -> int:
        proto = helpers.proto(prog_type, number)
        return 5 if proto is None or number in _VARIADIC else len(proto.args)

    return count


def _load(dst: int, base: int, off: int, wide: bool) -> bytes:
    return x.mem(b"\x8b", dst, base, off, wide)


class Inline(Control):
    """maps: of the program. own_clock: clocks.unordered()."""

    maps: tuple[MapDesc, ...] = ()
    own_clock = False

    def needs_run(self, at: int) -> bool:
        """Whether the slot's code reads r12."""
        i = self.flow.insns[at]
        if i.code == op.JMP | op.CALL:
            return i.src != op.PSEUDO_CALL and self.lookup_of(i, at) != places.ARRAY
        return self.reaches(at) or (i.klass == op.LD and i.code != op.LD_IMM64)

    def reaches(self, at: int) -> bool:
        """The slot accesses memory that is not the program's, which is called for."""
        facts = self.facts
        return at in facts.typed or at in facts.host_loads or at in facts.host_stores

    def calls_c(self, at: int) -> bool:
        """Whether the slot's code calls something."""
        i = self.flow.insns[at]
        if i.code == op.JMP | op.CALL:
            arrays = (places.ARRAY, places.PERCPU_ARRAY)
            return bool(i.src) or not (
                i.imm in places.FIELDS or self.lookup_of(i, at) in arrays)
        return self.reaches(at) or (i.klass == op.LD and i.code not in (op.LD_IMM64, 0))

    def lookup_of(self, i: Insn, at: int) -> int:
        """Type of the map that a lookup without a call is in; 0: there is a call."""
        return places.lookup_of(self.maps, self.facts.call_map, i, at)

    def changes_nothing(self, i: Insn) -> bool:
        return i.imm in (LOOKUP, places.CPU, places.PID_TGID) or i.imm in places.FIELDS

    def inlined(self, i: Insn, at: int) -> bool:
        kind = self.lookup_of(i, at)
        if i.imm in places.FIELDS:
            self.leave_registers(at)
            self.put(_load(RAX, R12, places.FIELDS[i.imm], True))
        elif i.imm in (places.CPU, places.PID_TGID):
            self.leave_registers(at)
            self.write(self.processor() if i.imm == places.CPU else self.who())
        elif i.imm == clocks.KTIME and self.own_clock:
            self.leave_registers(at)
            self.write(self.time())
        elif at in self.facts.host_bytes:
            return False
        elif i.imm in places.READ_KERNEL and self.constant(2) in (4, 8):
            size = self.constant(2) or 0
            self.settle(self.flow.live_in[at] & CALLER)
            self.leave_registers(at)
            self.write(self.of_context(i.imm, size))
        elif kind:
            self.find(at, kind)
        else:
            return False
        return True

    def write(self, code: Local) -> None:
        """The code, with its relocations."""
        text, relocs = code.done()
        start = len(self.piece.code)
        self.piece.relocs += [(start + at, name, addend) for at, name, addend in relocs]
        self.put(text)

    def fall_back(self, code: Local, number: int) -> None:
        """Calls the helper, whose arguments are in their registers."""
        code.put(x.mov(R9, R12))
        code.address(R11, f"helper:{number}")
        code.put(x.call_reg(R11))

    def processor(self) -> Local:
        """The CPU that this run has claimed, or else the helper's answer."""
        code = Local()
        code.put(_load(RAX, R12, RUN["vcpu"], False), x.alu_imm(x.CMP, RAX, -1, False))
        code.jump("known", NOT_EQUAL)
        self.fall_back(code, places.CPU)
        code.label("known")
        return code

    def who(self) -> Local:
        code = Local()
        code.put(_load(RAX, R12, RUN["thread"], True), x.rr(b"\x85", RAX, RAX, True))
        code.jump("none", EQUAL)
        code.put(_load(RAX, RAX, places.THREAD_TID, True))
        code.jump("known")
        code.label("none")
        self.fall_back(code, places.PID_TGID)
        code.label("known")
        return code

    def time(self) -> Local:
        code = clocks.code()
        code.jump("end")
        code.label("slow")
        self.fall_back(code, clocks.OWN)
        code.label("end")
        return code

    def of_context(self, number: int, size: int) -> Local:
        """A read of a register of the context, as bpf_usdt_arg() makes it; else the helper's."""
        code, wide = Local(), size == 8
        code.put(_load(R11, R12, RUN["regs"], True), x.mov(RAX, RDX))
        code.put(x.rr(b"\x85", R11, R11, True))
        code.jump("slow", EQUAL)
        last = places.REGS_SIZE - size
        code.put(x.alu(x.SUB, RAX, R11, True), x.alu_imm(x.CMP, RAX, last, True))
        code.jump("slow", ABOVE)
        code.put(_load(RAX, RDX, 0, wide), x.mem(b"\x89", RAX, RDI, 0, wide))
        code.put(x.alu(x.XOR, RAX, RAX, False))
        code.jump("end")
        code.label("slow")
        self.fall_back(code, number)
        code.label("end")
        return code

    # lookups

    def find(self, at: int, kind: int) -> None:
        index = self.facts.call_map[at]
        found = self.maps[index]
        if kind in (places.HASH, places.PERCPU_HASH):
            self.settle(1 << 1)
        self.leave_registers(at)
        key = self.stable_key()
        if kind in (places.HASH, places.PERCPU_HASH):
            self.write(self.in_hash(found, key))
            return
        known = self.stacked(key.disp, 4) if key.base == RBP and key.by < 0 else None
        if known is not None and known >= found.max_entries:
            self.answer = Const(0)
        elif known is not None and kind == places.ARRAY:
            self.answer = Symbol(f"mapval:{index}", known * room(found.value_size))
        elif kind == places.ARRAY:
            self.write(self.in_array(index, found, key))
        else:
            self.write(self.in_percpu_array(index, found, key, known))

    def stable_key(self) -> Mem:
        """Where the key lies, by a register that the code of a lookup does not use itself."""
        m = self.place(2, 0)
        if m.by >= 0 or m.base in (REG[0], *(REG[n] for n in (1, 3, 4, 5))):
            self.compute(2)
            m = Mem(RSI)
        return m

    @staticmethod
    def scaled(stride: int) -> tuple[bytes, Mem]:
        """What is done to an index in r11, and rax + index * stride behind it."""
        if stride == 8:
            return b"", Mem(RAX, 0, R11, 8)
        if stride & stride - 1 == 0:
            return x.shift(x.SHL, R11, stride.bit_length() - 1, True), Mem(RAX, 0, R11, 1)
        return x.rr(b"\x69", R11, R11, True) + x.imm32(stride), Mem(RAX, 0, R11, 1)

    def in_array(self, index: int, found: MapDesc, key: Mem) -> Local:
        code, (scale, m) = Local(), self.scaled(room(found.value_size))
        code.put(x.at(b"\x8b", R11, key, False), x.alu(x.XOR, RAX, RAX, False))
        code.put(x.alu_imm(x.CMP, R11, found.max_entries, False))
        code.jump("end", ABOVE_EQUAL)
        code.put(self.held_below(R11, False))
        code.address(RAX, f"mapval:{index}")
        code.put(scale, x.lea(RAX, m))
        code.label("end")
        return code

    def in_percpu_array(self, index: int, found: MapDesc, key: Mem, known: int | None) -> Local:
        """The value of the CPU that the run has claimed: (cpu * cpu_slots + index) * stride."""
        code, (scale, m) = Local(), self.scaled(room(found.value_size))
        if known is None:
            code.put(x.at(b"\x8b", R9, key, False))
        code.put(_load(R11, R12, RUN["vcpu"], False), x.alu(x.XOR, RAX, RAX, False))
        if known is None:
            code.put(x.alu_imm(x.CMP, R9, found.max_entries, False))
            code.jump("end", ABOVE_EQUAL)
            code.put(self.held_below(R9, False))
        code.address(R10, f"map:{index}")
        code.put(x.mem(b"\x3b", R11, R10, DESC["nr_vcpus"], False))
        code.jump("end", ABOVE_EQUAL)
        slots = places.cpu_slots(found)
        if slots != 1:
            code.put(x.rr(b"\x69", R11, R11, True) + x.imm32(slots))
        if known is None:
            code.put(x.alu(x.ADD, R11, R9, True))
        elif known:
            code.put(x.alu_imm(x.ADD, R11, known, True))
        code.put(_load(RAX, R10, DESC["base"], True), scale, x.lea(RAX, m))
        code.label("end")
        return code

    def in_hash(self, found: MapDesc, key: Mem) -> Local:
        """rdi: the map. eax: the key's hash, ecx: index + 1 of an element, r9: its address, r10:
        where one with index + 1 = 0 would lie, r8d: how many elements may follow. Where the key's
        address is in rsi, it stays there for the helper."""
        code, size = Local(), found.key_size
        self.hash_of(code, size, key)
        code.put(_load(R10, RDI, DESC["base"], True), _load(R9, RDI, DESC["bucket_off"], True))
        code.put(_load(RCX, RDI, DESC["bucket_mask"], False), x.alu(x.AND, RCX, RAX, False))
        head = Mem(R9, places.HEAD, RCX, 8)
        code.put(x.alu(x.ADD, R9, R10, True), x.at(b"\x8b", RCX, head, False))
        code.put(x.rr(b"\x85", RCX, RCX, False))
        code.jump("none", EQUAL)
        code.put(_load(R9, RDI, DESC["stride"], False))
        code.put(x.mem(b"\x03", R10, RDI, DESC["elem_off"], True), x.alu(x.SUB, R10, R9, True))
        code.put(x.mov_imm(R8, places.HOPS, False))
        code.label("next")
        code.put(x.mem(b"\x3b", RCX, RDI, DESC["nr_elems"], False))
        code.jump("slow", ABOVE)
        code.put(_load(R9, RDI, DESC["stride"], False), x.rr(b"\x0f\xaf", R9, RCX, True))
        code.put(x.alu(x.ADD, R9, R10, True), _load(R11, R9, places.NEXT, False))
        code.put(x.mem(b"\x39", RAX, R9, places.HASH_AT, False))
        code.jump("other", NOT_EQUAL)
        code.put(x.mem(b"\x83", x.CMP[1], R9, places.TRANSIT, False) + bytes([places.FREE]))
        code.jump("slow", EQUAL)
        self.compare_key(code, size, key)
        if found.type == places.HASH:
            code.put(x.mem(b"\x8d", RAX, R9, places.value_at(size), True))
        else:
            self.percpu_value(code, found)
        code.jump("end")
        code.label("other")
        code.put(_load(RCX, R9, places.HASH_AT, False), x.alu(x.XOR, RCX, RAX, False))
        code.put(x.mem(b"\x85", RCX, RDI, DESC["bucket_mask"], False))
        code.jump("slow", NOT_EQUAL)
        code.put(x.mem(b"\x83", x.CMP[1], R9, places.TRANSIT, False) + bytes([places.FREE]))
        code.jump("slow", EQUAL)
        code.put(x.mov(RCX, R11, False), x.alu_imm(x.SUB, R8, 1, False))
        code.jump("slow", EQUAL)
        code.put(x.rr(b"\x85", RCX, RCX, False))
        code.jump("next", NOT_EQUAL)
        code.label("none")
        code.put(x.alu(x.XOR, RAX, RAX, False))
        code.jump("end")
        code.label("slow")
        if key != Mem(RSI):
            code.put(x.lea(RSI, key))
        self.fall_back(code, LOOKUP)
        code.label("end")
        return code

    @staticmethod
    def percpu_value(code: Local, found: MapDesc) -> None:
        """rax = elements + nr_elems * stride + (cpu * cpu_slots + index) * value's size."""
        code.put(_load(RAX, R12, RUN["vcpu"], False))
        code.put(x.mem(b"\x3b", RAX, RDI, DESC["nr_vcpus"], False))
        code.jump("none", ABOVE_EQUAL)
        code.put(_load(R11, RDI, DESC["cpu_slots"], False), x.rr(b"\x0f\xaf", RAX, R11, True))
        code.put(_load(R11, RDI, DESC["nr_elems"], False))
        code.put(x.lea(RAX, Mem(RAX, -1, RCX, 1)))
        code.put(x.rr(b"\x69", RAX, RAX, True) + x.imm32(room(found.value_size)))
        code.put(_load(R9, RDI, DESC["stride"], False), x.rr(b"\x0f\xaf", R11, R9, True))
        code.put(x.alu(x.ADD, RAX, R11, True), x.mem(b"\x03", RAX, RDI, DESC["elem_off"], True))
        code.put(x.mem(b"\x03", RAX, RDI, DESC["base"], True))

    @staticmethod
    def hash_of(code: Local, size: int, key: Mem) -> None:
        """eax = hash_key(): words of 8 bytes, then what is left of one; rdx has the last word."""

        def fold(constant: int) -> None:
            code.put(x.mov_imm(R8, constant), x.rr(b"\x0f\xaf", RAX, R8, True))
            code.put(x.mov(R8, RAX), x.shift(x.SHR, R8, 32, True), x.alu(x.XOR, RAX, R8, True))

        code.put(x.mov_imm(RAX, places.hash_seed(size)))
        for off, width in places.key_words(size):
            code.put(x.at(b"\x8b", RDX, key._replace(disp=key.disp + off), width == 8))
            code.put(x.alu(x.XOR, RAX, RDX, True))
            if factor := places.hash_factor(width):
                fold(factor)
        fold(places.LAST)

    @staticmethod
    def compare_key(code: Local, size: int, key: Mem) -> None:
        """Two keys of one hash are rare: another one than that at r9 is the helper's to find."""
        *before, (last, width) = places.key_words(size)
        code.put(x.mem(b"\x39", RDX, R9, places.KEY + last, width == 8))
        code.jump("slow", NOT_EQUAL)
        for off, _ in before:
            code.put(x.at(b"\x8b", RDX, key._replace(disp=key.disp + off), True))
            code.put(x.mem(b"\x39", RDX, R9, places.KEY + off, True))
            code.jump("slow", NOT_EQUAL)
