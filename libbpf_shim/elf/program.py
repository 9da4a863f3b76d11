"""The functions of an object, and what each relocation in them asks for.

Source: libbpf 1.1 src/libbpf.c, bpf_object__add_programs and bpf_program__record_reloc: which
symbols are programs, and what is refused.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from enum import Enum, auto

from libbpf_shim.elf.maps import MapSpec
from libbpf_shim.elf.object import (
    SHN_LORESERVE,
    STB_GLOBAL,
    STB_LOCAL,
    STT_FUNC,
    STT_SECTION,
    STV_HIDDEN,
    STV_INTERNAL,
    ElfObject,
    Malformed,
    Section,
    Symbol,
)
from libbpf_shim.elf.secdef import SecDef, find
from libbpf_shim.elf.typeinfo import Extern
from libbpf_shim.isa import insn as isa

TEXT = ".text"


class Wants(Enum):
    """What stands where a relocation is."""

    MAP = auto()
    DATA = auto()
    EXTERN = auto()
    KFUNC = auto()
    CALL = auto()
    FUNC = auto()


@dataclass(frozen=True, slots=True)
class Need:
    """at: instruction, from the function's first. index: of the map or extern. offset: bytes into
    the map's value, or into .text."""

    at: int
    wants: Wants
    index: int = 0
    offset: int = 0


@dataclass(slots=True)
class Function:
    """One function. start: its first instruction in the section. subprog: it is called, and never
    loaded by itself. autoload: it is loaded unless somebody says no. hidden: judged as static."""

    name: str
    section: int
    section_name: str
    start: int
    insns: list[isa.Insn]
    definition: SecDef | None
    autoload: bool
    hidden: bool
    subprog: bool = False
    needs: dict[int, Need] = field(default_factory=dict)

    def holds(self, at: int) -> bool:
        """An instruction of the section is one of this function."""
        return self.start <= at < self.start + len(self.insns)


def functions(elf: ElfObject) -> list[Function]:
    """All functions, in the order of sections and places."""
    found: list[Function] = []
    for section in elf.sections:
        if section.executable and section.size:
            found += _of_section(elf, section)
    found.sort(key=lambda f: (f.section, f.start))
    text = _text(elf)
    for function in found:
        function.subprog = function.section == text and len(found) > 1
    return found


def _text(elf: ElfObject) -> int:
    """Index of .text with instructions; 0: there is none."""
    return next((s.index for s in elf.sections if s.name == TEXT and s.executable and s.size), 0)


def _of_section(elf: ElfObject, section: Section) -> list[Function]:
    found = []
    data = section.data
    for symbol in elf.symbols:
        if symbol.section != section.index or symbol.type != STT_FUNC:
            continue
        where = f"program {symbol.name}"
        if not symbol.name:
            raise Malformed(elf.name, f"{where}: no name")
        if symbol.value % 8 or symbol.size % 8 or not symbol.size or (
                symbol.value + symbol.size > len(data)):
            raise Malformed(elf.name, f"{where}: {symbol.size} bytes at {symbol.value} of "
                                      f"{len(data)}")
        if section.name != TEXT and symbol.bind == STB_LOCAL:
            raise Malformed(elf.name, f"{where}: static, in section {section.name}",
                            errno.ENOTSUP, "make it global, or move it to .text")
        code = data[symbol.value : symbol.value + symbol.size]
        name = section.name.removeprefix("?")
        found.append(Function(
            symbol.name, section.index, name, symbol.value // 8, isa.decode(code), find(name),
            autoload=not section.name.startswith("?"),
            hidden=symbol.bind != STB_LOCAL and symbol.visibility in (STV_HIDDEN, STV_INTERNAL)))
    return found


class Needs:
    """Reads the relocations of one object into its functions."""

    def __init__(
        self, elf: ElfObject, found: list[Function], maps: list[MapSpec], externs: list[Extern]
    ) -> None:
        self._elf, self._functions, self._maps = elf, found, maps
        self._externs = {e.symbol: i for i, e in enumerate(externs)}
        self._text = _text(elf)

    def collect(self) -> None:
        """ShimError EINVAL where libbpf says LIBBPF_ERRNO__RELOC or FORMAT."""
        for index, relocs in self._elf.relocs.items():
            section = self._elf.at(index)
            if not section.executable or not section.size:
                continue
            for reloc in relocs:
                if reloc.symbol >= len(self._elf.symbols):
                    raise self._wrong(section.name, reloc.offset, f"symbol {reloc.symbol}")
                if reloc.offset % 8 or reloc.offset >= section.size:
                    raise self._wrong(section.name, reloc.offset, "no instruction is there")
                at = reloc.offset // 8
                owner = next((f for f in self._functions
                              if f.section == index and f.holds(at)), None)
                if owner:  # a weak function that was overridden leaves relocations behind
                    local = at - owner.start
                    owner.needs[local] = self._need(
                        owner, local, self._elf.symbols[reloc.symbol])

    def _wrong(self, where: str, at: int, why: str) -> Malformed:
        return Malformed(self._elf.name, f"{where}: relocation at {at}: {why}")

    def _need(self, owner: Function, at: int, symbol: Symbol) -> Need:
        insn = owner.insns[at]
        call = insn.code == isa.JMP | isa.CALL
        if not call and (insn.code != isa.LD_IMM64 or at + 1 >= len(owner.insns)):
            raise self._wrong(owner.name, at, f"instruction of code {insn.code:#x}")
        if symbol.extern:
            if symbol.index not in self._externs:
                raise self._wrong(owner.name, at, f"extern {symbol.name!r} is not known")
            return Need(at, Wants.KFUNC if call else Wants.EXTERN, self._externs[symbol.index])
        if call:
            return self._call(owner, at, insn, symbol)
        if not 0 < symbol.section < SHN_LORESERVE:
            raise self._wrong(owner.name, at, f"{symbol.name} is in section {symbol.section:#x}: "
                                              "a global variable that is not initialised?")
        if self._is_subprog(symbol):
            if symbol.value % 8 or insn.imm % 8:
                raise self._wrong(owner.name, at, "not the address of an instruction")
            return Need(at, Wants.FUNC, offset=symbol.value)
        return self._map(owner, at, symbol)

    def _call(self, owner: Function, at: int, insn: isa.Insn, symbol: Symbol) -> Need:
        if insn.src != isa.PSEUDO_CALL:
            raise self._wrong(owner.name, at, "a call that is none of a function")
        if not symbol.section or symbol.section != self._text or symbol.value % 8:
            raise self._wrong(owner.name, at, f"call of {symbol.name or symbol.section}, which is "
                                              f"not in {TEXT}")
        return Need(at, Wants.CALL, offset=symbol.value)

    def _is_subprog(self, symbol: Symbol) -> bool:
        if symbol.section != self._text:
            return False
        if symbol.bind == STB_LOCAL and symbol.type == STT_SECTION:
            return True
        return symbol.bind == STB_GLOBAL and symbol.type == STT_FUNC

    def _map(self, owner: Function, at: int, symbol: Symbol) -> Need:
        for index, spec in enumerate(self._maps):
            if spec.section != symbol.section or spec.internal == ".kconfig":
                continue
            if spec.internal:
                return Need(at, Wants.DATA, index, symbol.value)
            if spec.offset == symbol.value:
                return Need(at, Wants.MAP, index)
        section = self._elf.at(symbol.section).name
        raise self._wrong(owner.name, at, f"{symbol.name or 'data'} in {section} is no map")
