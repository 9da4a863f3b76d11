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
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.control import Control
from libbpf_shim.jit.emit import REG, Const, Symbol, fits
from libbpf_shim.jit.encode import R8, R9, R10, R11, R12, RAX, RBP, RCX, RDI, RDX, RSI, Mem
from libbpf_shim.jit.flow import CALLER
from libbpf_shim.jit.local import ABOVE, ABOVE_EQUAL, EQUAL, NOT_EQUAL, Local
from libbpf_shim.verifier.program import MapDesc

_VARIADIC: Final = (6,)  # trace_printk
_HASH, _ARRAY, _PERCPU_HASH, _PERCPU_ARRAY = 1, 2, 5, 6  # enum bpf_map_type
LOOKUP: Final = 1  # BPF_FUNC_map_lookup_elem
_CPU: Final = 8  # BPF_FUNC_get_smp_processor_id
_PID_TGID: Final = 14  # BPF_FUNC_get_current_pid_tgid
# struct shim_run, struct shim_thread (csrc/include/shim_run.h): offsets
RUN: Final = {"regs": 8, "thread": 16, "cookie": 24, "func_ip": 32, "vcpu": 44}
THREAD_TID: Final = 8  # tid, and tgid behind it
_REGS_SIZE: Final = 168  # struct shim_pt_regs
# bpf_probe_read, bpf_probe_read_kernel
_READ_KERNEL: Final = (4, 113)
# helpers that are a field of the run: bpf_get_func_ip, bpf_get_attach_cookie
_FIELDS: Final = {173: RUN["func_ip"], 174: RUN["cookie"]}
# struct shim_map_desc (csrc/include/shim_map.h)
DESC: Final = {"base": 0, "nr_vcpus": 52, "stride": 56, "bucket_mask": 60, "bucket_off": 64,
               "elem_off": 72, "nr_elems": 100, "cpu_slots": 156}
# struct bucket, struct elem (csrc/runtime/map_hash.h)
_HEAD: Final = 4
_NEXT, _HASH_AT, _TRANSIT, _KEY = 0, 4, 8, 16
_FREE: Final = 1  # ELEM_FREE
# hash_key()
_SEED: Final = 0x9E3779B97F4A7C15
_MIX: Final = 0xFF51AFD7ED558CCD
_LAST: Final = 0xC4CEB9FE1A85EC53
_HOPS: Final = 8  # elements of a chain that are looked at
_LONGEST: Final = 32  # bytes of a key


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
    """maps: of the program."""

    maps: tuple[MapDesc, ...] = ()

    def needs_run(self, at: int) -> bool:
        """Whether the slot's code reads r12."""
        i = self.flow.insns[at]
        if i.code == op.JMP | op.CALL:
            return i.src != op.PSEUDO_CALL and self.lookup_of(i, at) != _ARRAY
        return self.reaches(at) or (i.klass == op.LD and i.code != op.LD_IMM64)

    def reaches(self, at: int) -> bool:
        """The slot accesses memory that is not the program's, which is called for."""
        facts = self.facts
        return at in facts.typed or at in facts.host_loads or at in facts.host_stores

    def calls_c(self, at: int) -> bool:
        """Whether the slot's code calls something."""
        i = self.flow.insns[at]
        if i.code == op.JMP | op.CALL:
            return bool(i.src) or not (
                i.imm in _FIELDS or self.lookup_of(i, at) in (_ARRAY, _PERCPU_ARRAY))
        return self.reaches(at) or (i.klass == op.LD and i.code not in (op.LD_IMM64, 0))

    def lookup_of(self, i: Insn, at: int) -> int:
        """Type of the map that a lookup without a call is in; 0: there is a call."""
        if i.src or i.imm != LOOKUP or at not in self.facts.call_map:
            return 0
        found = self.maps[self.facts.call_map[at]]
        stride = found.value_size + 7 & ~7
        if found.type in (_ARRAY, _PERCPU_ARRAY):
            return found.type if found.max_entries < 1 << 31 and fits(stride) else 0
        plain = found.type in (_HASH, _PERCPU_HASH) and found.key_size % 4 == 0 and \
            found.key_size <= _LONGEST
        return found.type if plain else 0

    def changes_nothing(self, i: Insn) -> bool:
        return i.imm in (LOOKUP, _CPU, _PID_TGID) or i.imm in _FIELDS

    def inlined(self, i: Insn, at: int) -> bool:
        kind = self.lookup_of(i, at)
        if i.imm in _FIELDS:
            self.leave_registers(at)
            self.put(_load(RAX, R12, _FIELDS[i.imm], True))
        elif i.imm in (_CPU, _PID_TGID):
            self.leave_registers(at)
            self.write(self.processor() if i.imm == _CPU else self.who())
        elif at in self.facts.host_bytes:
            return False
        elif i.imm in _READ_KERNEL and self.constant(2) in (4, 8):
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
        self.fall_back(code, _CPU)
        code.label("known")
        return code

    def who(self) -> Local:
        code = Local()
        code.put(_load(RAX, R12, RUN["thread"], True), x.rr(b"\x85", RAX, RAX, True))
        code.jump("none", EQUAL)
        code.put(_load(RAX, RAX, THREAD_TID, True))
        code.jump("known")
        code.label("none")
        self.fall_back(code, _PID_TGID)
        code.label("known")
        return code

    def of_context(self, number: int, size: int) -> Local:
        """A read of a register of the context, as bpf_usdt_arg() makes it; else the helper's."""
        code, wide = Local(), size == 8
        code.put(_load(R11, R12, RUN["regs"], True), x.mov(RAX, RDX))
        code.put(x.rr(b"\x85", R11, R11, True))
        code.jump("slow", EQUAL)
        code.put(x.alu(x.SUB, RAX, R11, True), x.alu_imm(x.CMP, RAX, _REGS_SIZE - size, True))
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
        if kind in (_HASH, _PERCPU_HASH):
            self.settle(1 << 1)
        self.leave_registers(at)
        key = self.stable_key()
        if kind in (_HASH, _PERCPU_HASH):
            self.write(self.in_hash(found, key))
            return
        known = self.stacked(key.disp, 4) if key.base == RBP and key.by < 0 else None
        if known is not None and known >= found.max_entries:
            self.answer = Const(0)
        elif known is not None and kind == _ARRAY:
            self.answer = Symbol(f"mapval:{index}", known * (found.value_size + 7 & ~7))
        elif kind == _ARRAY:
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
        code, (scale, m) = Local(), self.scaled(found.value_size + 7 & ~7)
        code.put(x.at(b"\x8b", R11, key, False), x.alu(x.XOR, RAX, RAX, False))
        code.put(x.alu_imm(x.CMP, R11, found.max_entries, False))
        code.jump("end", ABOVE_EQUAL)
        code.address(RAX, f"mapval:{index}")
        code.put(scale, x.lea(RAX, m))
        code.label("end")
        return code

    def in_percpu_array(self, index: int, found: MapDesc, key: Mem, known: int | None) -> Local:
        """The value of the CPU that the run has claimed: (cpu * max_entries + index) * stride."""
        code, (scale, m) = Local(), self.scaled(found.value_size + 7 & ~7)
        if known is None:
            code.put(x.at(b"\x8b", R9, key, False))
        code.put(_load(R11, R12, RUN["vcpu"], False), x.alu(x.XOR, RAX, RAX, False))
        if known is None:
            code.put(x.alu_imm(x.CMP, R9, found.max_entries, False))
            code.jump("end", ABOVE_EQUAL)
        code.address(R10, f"map:{index}")
        code.put(x.mem(b"\x3b", R11, R10, DESC["nr_vcpus"], False))
        code.jump("end", ABOVE_EQUAL)
        if found.max_entries != 1:
            code.put(x.rr(b"\x69", R11, R11, True) + x.imm32(found.max_entries))
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
        code.put(x.alu(x.ADD, R9, R10, True), x.at(b"\x8b", RCX, Mem(R9, _HEAD, RCX, 8), False))
        code.put(x.rr(b"\x85", RCX, RCX, False))
        code.jump("none", EQUAL)
        code.put(_load(R9, RDI, DESC["stride"], False))
        code.put(x.mem(b"\x03", R10, RDI, DESC["elem_off"], True), x.alu(x.SUB, R10, R9, True))
        code.put(x.mov_imm(R8, _HOPS, False))
        code.label("next")
        code.put(x.mem(b"\x3b", RCX, RDI, DESC["nr_elems"], False))
        code.jump("slow", ABOVE)
        code.put(_load(R9, RDI, DESC["stride"], False), x.rr(b"\x0f\xaf", R9, RCX, True))
        code.put(x.alu(x.ADD, R9, R10, True), _load(R11, R9, _NEXT, False))
        code.put(x.mem(b"\x39", RAX, R9, _HASH_AT, False))
        code.jump("other", NOT_EQUAL)
        code.put(x.mem(b"\x83", x.CMP[1], R9, _TRANSIT, False) + bytes([_FREE]))
        code.jump("slow", EQUAL)
        self.compare_key(code, size, key)
        if found.type == _HASH:
            code.put(x.mem(b"\x8d", RAX, R9, _KEY + (size + 7 & ~7), True))
        else:
            self.percpu_value(code, found)
        code.jump("end")
        code.label("other")
        code.put(_load(RCX, R9, _HASH_AT, False), x.alu(x.XOR, RCX, RAX, False))
        code.put(x.mem(b"\x85", RCX, RDI, DESC["bucket_mask"], False))
        code.jump("slow", NOT_EQUAL)
        code.put(x.mem(b"\x83", x.CMP[1], R9, _TRANSIT, False) + bytes([_FREE]))
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
        code.put(x.rr(b"\x69", RAX, RAX, True) + x.imm32(found.value_size + 7 & ~7))
        code.put(_load(R9, RDI, DESC["stride"], False), x.rr(b"\x0f\xaf", R11, R9, True))
        code.put(x.alu(x.ADD, RAX, R11, True), x.mem(b"\x03", RAX, RDI, DESC["elem_off"], True))
        code.put(x.mem(b"\x03", RAX, RDI, DESC["base"], True))

    @staticmethod
    def hash_of(code: Local, size: int, key: Mem) -> None:
        """eax = hash_key(): words of 8 bytes, then what is left of one; rdx has the last word."""

        def fold(constant: int) -> None:
            code.put(x.mov_imm(R8, constant), x.rr(b"\x0f\xaf", RAX, R8, True))
            code.put(x.mov(R8, RAX), x.shift(x.SHR, R8, 32, True), x.alu(x.XOR, RAX, R8, True))

        code.put(x.mov_imm(RAX, size * _SEED))
        for off in range(0, size & ~7, 8):
            code.put(x.at(b"\x8b", RDX, key._replace(disp=key.disp + off), True))
            code.put(x.alu(x.XOR, RAX, RDX, True))
            fold(_MIX)
        if size % 8:
            code.put(x.at(b"\x8b", RDX, key._replace(disp=key.disp + size - 4), False))
            code.put(x.alu(x.XOR, RAX, RDX, True))
        fold(_LAST)

    @staticmethod
    def compare_key(code: Local, size: int, key: Mem) -> None:
        """Two keys of one hash are rare: another one than that at r9 is the helper's to find."""
        last = size - (size % 8 or 8)
        code.put(x.mem(b"\x39", RDX, R9, _KEY + last, size % 8 == 0))
        code.jump("slow", NOT_EQUAL)
        for off in range(0, last, 8):
            code.put(x.at(b"\x8b", RDX, key._replace(disp=key.disp + off), True))
            code.put(x.mem(b"\x39", RDX, R9, _KEY + off, True))
            code.jump("slow", NOT_EQUAL)
