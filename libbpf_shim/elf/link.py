"""From functions to programs as PROG_LOAD takes them: calls linked, externs and maps put in.

Each program gets its own copies of the functions that it calls, in the order of the first call.
Pure: maps are named by index, and get their descriptors when they have them.
Source: libbpf 1.1 src/libbpf.c, bpf_object__relocate.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from libbpf_shim.btf.core_relo import Resolver, patch, signed32
from libbpf_shim.btf.ext import BtfExt, Info
from libbpf_shim.elf.object import ElfObject, Malformed
from libbpf_shim.elf.program import TEXT, Function, Need, Wants
from libbpf_shim.elf.typeinfo import Extern
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as isa

MAX_INSNS = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
_UNMADE_MAP = 2001000000  # in the place of a map that is not created


@dataclass(frozen=True, slots=True)
class Found:
    """What an extern came to. value: of a kconfig option, or a symbol's address. btf_id: of the
    kernel's variable or function, 0: it is not there, or an address is all. module: where the
    BTF that has it stands among those of the program (fd_array), 0: it is the kernel's own."""

    value: int = 0
    btf_id: int = 0
    module: int = 0


@dataclass(frozen=True, slots=True)
class Linked:
    """A program to be loaded. maps: instruction -> index of the map whose descriptor stands in its
    imm. func_info, line_info: records of the given sizes."""

    name: str
    insns: bytes
    maps: dict[int, int]
    func_info: bytes = b""
    func_size: int = 0
    line_info: bytes = b""
    line_size: int = 0


class Linker:
    """Links the programs of one object. functions are left as they were.

    unmade: indices of maps that are not created."""

    def __init__(
        self, elf: ElfObject, functions: list[Function], externs: list[Extern],
        found: list[Found], kconfig_map: int, ext: BtfExt | None, unmade: frozenset[int],
    ) -> None:
        self._elf, self._externs, self._found, self._ext = elf, externs, found, ext
        self.kconfig_map, self.unmade = kconfig_map, unmade
        self._functions = [
            replace(f, insns=[isa.Insn(i.code, i.dst, i.src, i.off, i.imm) for i in f.insns])
            for f in functions
        ]
        self._text = [f for f in self._functions if f.section_name == TEXT]

    def relocate_core(self, resolver: Resolver, wanted: Callable[[Function], bool]) -> None:
        """Answers the CO-RE relocations of what is loaded. ShimError with the program's name."""
        for section, relos in self._ext.relos if self._ext else ():
            here = [f for f in self._functions if self.section_of(f) == section]
            for relo in relos:
                if relo.insn_off % 8:
                    raise Malformed(self._elf.name, f"CO-RE relocation at byte {relo.insn_off}")
                at = relo.insn_off // 8
                owner = next((f for f in here if f.holds(at)), None)
                if owner is None or not wanted(owner):
                    continue
                try:
                    patch(owner.insns, at - owner.start, resolver.resolve(relo))
                except ShimError as error:
                    raise ShimError(error.code, error.errno,
                                    f"{owner.name}: instruction {at - owner.start}: "
                                    f"{error.message}") from error

    def section_of(self, function: Function) -> str:
        return self._elf.at(function.section).name

    def link(self, name: str) -> Linked:
        """One program with everything that it calls."""
        main = next(f for f in self._functions if f.name == name and not f.subprog)
        return _Program(self, main).finish()

    def wrong(self, name: str, why: str) -> Malformed:
        return Malformed(self._elf.name, f"program {name}: {why}")

    def callee(self, name: str, at: int) -> Function:
        """The function of .text that holds an instruction."""
        found = next((f for f in self._text if f.holds(at)), None)
        if found is None:
            raise self.wrong(name, f"a call of instruction {at} of {TEXT}, where no function is")
        return found

    def info(self, which: str) -> Info:
        """The records of .BTF.ext, "func" or "line"."""
        if self._ext is None:
            return Info()
        return self._ext.func if which == "func" else self._ext.line

    def extern(self, index: int) -> tuple[Extern, Found]:
        return self._externs[index], self._found[index]


class _Program:
    """One program in the making."""

    def __init__(self, linker: Linker, main: Function) -> None:
        self._linker, self._main = linker, main
        self._insns: list[isa.Insn] = []
        self._needs: list[Need] = []
        self._starts: dict[int, int] = {}  # start in .text -> start here
        self._maps: dict[int, int] = {}
        self._infos = {"func": b"", "line": b""}
        self._failed: set[str] = set()

    def finish(self) -> Linked:
        self._append(self._main)
        for need in self._needs:
            self._fill(need)
        sizes = {which: self._linker.info(which).size if self._infos[which] else 0
                 for which in self._infos}
        return Linked(self._main.name, isa.encode(self._insns), self._maps,
                      self._infos["func"], sizes["func"], self._infos["line"], sizes["line"])

    def _append(self, function: Function) -> None:
        """Adds a function, then, at each call, the functions that are not here yet."""
        pending = [self._place(function)]
        while pending:
            start, function, at = pending.pop()
            calls = self._next_call(function, at)
            if calls is None:
                continue
            at, target = calls
            pending.append((start, function, at + 1))
            insn = self._insns[start + at]
            if target.start not in self._starts:
                placed = self._place(target)
                self._starts[target.start] = placed[0]
                pending.append(placed)
            insn.imm = self._starts[target.start] - (start + at) - 1

    def _place(self, function: Function) -> tuple[int, Function, int]:
        start = len(self._insns)
        if start + len(function.insns) > MAX_INSNS:
            raise self._linker.wrong(self._main.name, f"more than {MAX_INSNS} instructions")
        self._insns += [isa.Insn(i.code, i.dst, i.src, i.off, i.imm) for i in function.insns]
        for need in function.needs.values():
            self._needs.append(replace(need, at=start + need.at))
            if need.wants is Wants.FUNC:
                self._insns[start + need.at].src = isa.PSEUDO_FUNC
        self._add_info("func", function, start)
        self._add_info("line", function, start)
        return start, function, 0

    def _next_call(self, function: Function, at: int) -> tuple[int, Function] | None:
        """The next instruction from `at` that names a function, and that function."""
        for index in range(at, len(function.insns)):
            insn, need = function.insns[index], function.needs.get(index)
            call = (insn.code == isa.JMP | isa.CALL and insn.src == isa.PSEUDO_CALL
                    and not insn.dst and not insn.off)
            address = insn.code == isa.LD_IMM64 and (
                need is not None and need.wants is Wants.FUNC or insn.src == isa.PSEUDO_FUNC)
            if not (call or address) or (need and need.wants is Wants.KFUNC):
                continue
            if need is None:
                if address:
                    raise self._linker.wrong(function.name, "a function's address, not relocated")
                target = function.start + index + insn.imm + 1
            elif need.wants is Wants.CALL:
                target = need.offset // 8 + insn.imm + 1
            elif need.wants is Wants.FUNC:
                target = (need.offset + insn.imm) // 8
            else:
                raise self._linker.wrong(function.name, f"a call at {index} of no function")
            return index, self._linker.callee(function.name, target)
        return None

    def _add_info(self, which: str, function: Function, start: int) -> None:
        """The records of a function, moved to where it lies now. A main program without any has
        none of its callees either."""
        info = self._linker.info(which)
        if which in self._failed:
            return
        moved = b""
        for data in info.of(self._linker.section_of(function)):
            for at in range(0, len(data), info.size):
                offset = struct.unpack_from("<I", data, at)[0] // 8
                if function.holds(offset):
                    place = offset - function.start + start
                    moved += struct.pack("<I", place) + data[at + 4 : at + info.size]
            if moved:
                break
        if not moved:
            self._failed.add(which)
            if start:
                raise self._linker.wrong(function.name, f"no {which} info, its caller has some")
        self._infos[which] += moved

    # what is not code

    def _fill(self, need: Need) -> None:
        insn = self._insns[need.at]
        if need.wants is Wants.MAP:
            self._set_map(need, insn, isa.PSEUDO_MAP_FD)
        elif need.wants is Wants.DATA:
            self._insns[need.at + 1].imm = signed32(insn.imm + need.offset)
            self._set_map(need, insn, isa.PSEUDO_MAP_VALUE)
        elif need.wants is Wants.EXTERN:
            self._set_extern(need, insn)
        elif need.wants is Wants.KFUNC:
            _, found = self._linker.extern(need.index)
            insn.src, insn.imm, insn.off = isa.PSEUDO_KFUNC_CALL, found.btf_id, found.module

    def _set_map(self, need: Need, insn: isa.Insn, src: int) -> None:
        if need.index in self._linker.unmade:
            for at in (need.at, need.at + 1):
                self._insns[at] = isa.Insn(isa.JMP | isa.CALL, 0, 0, 0, _UNMADE_MAP + need.index)
            return
        insn.src, insn.imm = src, 0
        self._maps[need.at] = need.index

    def _set_extern(self, need: Need, insn: isa.Insn) -> None:
        extern, found = self._linker.extern(need.index)
        high = self._insns[need.at + 1]
        if extern.kconfig:
            insn.src, insn.imm, high.imm = isa.PSEUDO_MAP_VALUE, 0, extern.offset
            self._maps[need.at] = self._linker.kconfig_map
        elif extern.type and found.btf_id:
            insn.src, insn.imm, high.imm = isa.PSEUDO_BTF_ID, found.btf_id, found.module
        else:
            insn.imm, high.imm = signed32(found.value), signed32(found.value >> 32)
