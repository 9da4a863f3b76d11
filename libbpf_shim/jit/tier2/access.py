"""Loads, stores and atomics as LLVM IR; those of the arena are checked, those of packets' contexts
moved."""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import context
from libbpf_shim.jit.access import HOST_LOAD, HOST_STORE, KERNEL_LOAD, extended
from libbpf_shim.jit.emit import unsupported
from libbpf_shim.jit.tier2.arith import Arithmetic
from libbpf_shim.jit.tier2.body import INT

_ATOMICS: Final = {op.ADD: "add", op.OR: "or", op.AND: "and", op.XOR: "xor"}
_SUFFIX: Final = {4: "l", 8: "q"}
_CLOBBERS: Final = "~{memory},~{dirflag},~{fpsr},~{flags}"


class Access(Arithmetic):
    """Instructions of the classes LDX, ST and STX."""

    _inside = ""  # the pointer of an access of the arena

    def place(self, regno: int, off: int, at: int) -> tuple[str, bool]:
        if self._inside:
            return self._inside, True
        return super().place(regno, off, at)

    def access(self, i: Insn, at: int) -> None:
        """One access, of the arena too."""
        if at not in self.facts.arena:
            self._plain(i, at)
            return
        loads = i.klass == op.LDX or i.imm == op.LOAD_ACQ and i.code & 0xE0 == op.MODE_ATOMIC
        low = self.widen(self.cut(self.get(i.src if loads else i.dst), 32), 32)
        there = self.plus(low, i.off - (self.arena_start & 0xFFFFFFFF))
        inside, outside, done = map(self.new_label, ("inside", "outside", "done"))
        fits = self.op(f"icmp ule i64 {there}, {self.arena_size - i.size}")
        self.choose(fits, inside, outside)
        self.label(inside)
        start = self.symbol(f"mapval.{self.facts.arena_map}")
        self._inside = self.pointer(self.op(f"add i64 {there}, {start}"))
        self._plain(i, at)
        self._inside = ""
        self.go(done)
        self.label(outside)
        if loads:
            self.set(i.dst, "0")
        self.go(done)
        self.label(done)

    def _plain(self, i: Insn, at: int) -> None:
        if i.klass == op.LDX:
            self._load(i, at)
        elif at in self.facts.kernel:
            raise unsupported(at, "a store into the kernel's memory")
        elif at in self.facts.host_stores or at in self.facts.host_loads:
            self._host_store(i, at)
        elif i.klass == op.STX and i.code & 0xE0 == op.MODE_ATOMIC:
            self._atomic(i, at)
        elif i.klass == op.STX and i.code & 0xE0 != op.MODE_MEM:
            raise unsupported(at, f"opcode {i.code:#x}")
        elif at in self.context:
            self._store_context(i, at)
        else:
            pointer, shared = self.place(i.dst, i.off, at)
            self.write(pointer, i.size, self._source(i, i.size), shared)

    def _host_store(self, i: Insn, at: int) -> None:
        """Into the host's memory: called for."""
        if i.code & 0xE0 != op.MODE_MEM:
            raise unsupported(at, "an atomic in the host's memory")
        value = self.get(i.src) if i.klass == op.STX else str(i.imm)
        self.helper(HOST_STORE, self.plus(self.get(i.dst), i.off), value, str(i.size))

    def _source(self, i: Insn, size: int) -> str:
        """What a store writes."""
        if i.klass == op.STX:
            return self.cut(self.get(i.src), 8 * size)
        return str(i.imm & (1 << 8 * size) - 1)

    def _load(self, i: Insn, at: int) -> None:
        mode = i.code & 0xE0
        off, size = self.context.get(at, (i.off, i.size))
        if mode not in (op.MODE_MEM, op.MODE_MEMSX) or mode == op.MODE_MEMSX and size == 8:
            raise unsupported(at, f"opcode {i.code:#x}")
        signed = mode == op.MODE_MEMSX
        number = KERNEL_LOAD if at in self.facts.typed else HOST_LOAD
        if at in self.facts.typed or at in self.facts.host_loads:
            where = self.plus(self.get(i.src), i.off)
            whole = self.helper(number, where, str(size))
            self.set(i.dst, self.widen(self.cut(whole, 8 * size), 8 * size, True)
                     if signed else whole)
            return
        if at in self.facts.kernel:
            raise unsupported(at, "a load from the kernel's memory")
        if at in self.facts.probe_mem:
            raise unsupported(at, "a load that may fault")
        if at in self.facts.loaded:
            known = self.facts.loaded[at]
            self.set(i.dst, str(extended(known, size) if signed else known))
            return
        pointer, shared = self.place(i.src, off, at)
        self.set(i.dst, self.widen(self.read(pointer, size, shared), 8 * size, signed))

    def _store_context(self, i: Insn, at: int) -> None:
        """16 bits, and none at all of what is no queue."""
        value, done = self._source(i, 2), ""
        if i.off == context.QUEUE_MAPPING:
            whole = self._source(i, 4)
            store, done = self.new_label("store"), self.new_label("done")
            small = self.op(f"icmp ult i32 {whole}, {context.NO_QUEUE_MAPPING}")
            self.choose(small, store, done)
            self.label(store)
        pointer, shared = self.place(i.dst, i.off, at)
        self.write(pointer, 2, value, shared)
        if done:
            self.go(done)
            self.label(done)

    # atomics

    def _atomic(self, i: Insn, at: int) -> None:
        kind, size = i.imm, i.size
        if kind == op.LOAD_ACQ:  # ordinary loads acquire and stores release (SDM 3A 9.2)
            pointer, shared = self.place(i.src, i.off, at)
            value = self.read(pointer, size, True)
            self._barrier()
            self.set(i.dst, self.widen(value, 8 * size))
            return
        if kind == op.STORE_REL:
            self._barrier()
            pointer, shared = self.place(i.dst, i.off, at)
            self.write(pointer, size, self._source(i, size), True)
            return
        if size < 4:
            raise unsupported(at, f"an atomic of {size} bytes")
        pointer, _ = self.place(i.dst, i.off, at)
        source = self.cut(self.get(i.src), 8 * size)
        if kind in _ATOMICS:
            self._change(_ATOMICS[kind], pointer, source, size)
        elif kind in (op.ADD | op.FETCH, op.XCHG):
            name = "xchg" if kind == op.XCHG else "lock xadd"
            old = self._exchange(name, pointer, source, size)
            self.set(i.src, self.widen(old, 8 * size))
        elif kind == op.CMPXCHG:
            old = self._compare(pointer, self.cut(self.get(0), 8 * size), source, size)
            self.set(0, self.widen(old, 8 * size))
        elif kind & ~op.FETCH in _ATOMICS:
            old = self._fetch(_ATOMICS[kind & ~op.FETCH], pointer, source, size)
            self.set(i.src, self.widen(old, 8 * size))
        else:
            raise unsupported(at, f"atomic {kind:#x}")

    def _barrier(self) -> None:
        """LLVM moves no access over it."""
        self.do(f'call void asm sideeffect "", "{_CLOBBERS}"()')

    def _change(self, name: str, pointer: str, value: str, size: int) -> None:
        """An atomic whose old value nobody wants."""
        t, constant = INT[size], "er" if size == 8 else "ir"
        self.do(f'call void asm sideeffect "lock {name}{_SUFFIX[size]} $1, $0", '
                f'"=*m,{constant},*m,{_CLOBBERS}"(ptr elementtype({t}) {pointer}, {t} {value}, '
                f"ptr elementtype({t}) {pointer})")

    def _exchange(self, name: str, pointer: str, value: str, size: int) -> str:
        t = INT[size]
        return self.op(f'call {t} asm sideeffect "{name}{_SUFFIX[size]} $0, $1", '
                       f'"=r,=*m,0,*m,{_CLOBBERS}"(ptr elementtype({t}) {pointer}, {t} {value}, '
                       f"ptr elementtype({t}) {pointer})")

    def _compare(self, pointer: str, old: str, new: str, size: int) -> str:
        t = INT[size]
        return self.op(
            f'call {t} asm sideeffect "lock cmpxchg{_SUFFIX[size]} $2, $1", '
            f'"={{ax}},=*m,r,0,*m,{_CLOBBERS}"(ptr elementtype({t}) {pointer}, {t} {new}, '
            f"{t} {old}, ptr elementtype({t}) {pointer})")

    def _fetch(self, name: str, pointer: str, value: str, size: int) -> str:
        """A loop of cmpxchg."""
        t, variable = INT[size], f"%old{size}"
        loop, done = self.new_label("again"), self.new_label("done")
        self.do(f"store {t} {self.read(pointer, size, True)}, ptr {variable}")
        self.go(loop)
        self.label(loop)
        old = self.op(f"load {t}, ptr {variable}")
        found = self._compare(pointer, old, self.op(f"{name} {t} {old}, {value}"), size)
        self.do(f"store {t} {found}, ptr {variable}")
        self.choose(self.op(f"icmp eq {t} {found}, {old}"), done, loop)
        self.label(done)
        return found
