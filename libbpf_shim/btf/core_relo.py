"""CO-RE: what a compiled access to a kernel type comes to under another BTF.

A relocation names a local type, an access into it and a question (enum bpf_core_relo_kind); the
answer is looked for in every target type of the same essential name (`name___flavor` is `name`)
and must be the same in all that fit. Pure: instructions in, instructions out.
Source: linux/bpf.h struct bpf_core_relo, Documentation/bpf/llvm_reloc.rst; libbpf 1.1
src/relo_core.c for the rules of matching and for what is refused.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, field
from typing import Final

from libbpf_shim.btf import core_match, kinds
from libbpf_shim.btf.core_match import Unfit, essential, skip
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as isa
from libbpf_shim.uapi.bpf import bpf_core_relo_kind as Kind

MAX_DEPTH: Final = 64  # BPF_CORE_SPEC_MAX_LEN
POISON: Final = 195896080  # "bad relo" in hexadecimal speech: 0xbad2310
_SHRT_MAX: Final = 0x7FFF
_SIGNED: Final = 1  # BTF_INT_SIGNED
_SIZE_BITS: Final = {8: 0x18, 4: 0x00, 2: 0x08, 1: 0x10}
_U64: Final = (1 << 64) - 1

FIELD: Final = frozenset((
    Kind.BPF_CORE_FIELD_BYTE_OFFSET, Kind.BPF_CORE_FIELD_BYTE_SIZE, Kind.BPF_CORE_FIELD_EXISTS,
    Kind.BPF_CORE_FIELD_SIGNED, Kind.BPF_CORE_FIELD_LSHIFT_U64, Kind.BPF_CORE_FIELD_RSHIFT_U64,
))
TYPE: Final = frozenset((
    Kind.BPF_CORE_TYPE_ID_LOCAL, Kind.BPF_CORE_TYPE_ID_TARGET, Kind.BPF_CORE_TYPE_EXISTS,
    Kind.BPF_CORE_TYPE_SIZE, Kind.BPF_CORE_TYPE_MATCHES,
))
ENUMVAL: Final = frozenset((Kind.BPF_CORE_ENUMVAL_EXISTS, Kind.BPF_CORE_ENUMVAL_VALUE))


def _wrong(why: str, code: int = errno.EINVAL) -> ShimError:
    return ShimError("BT0010", code, f"CO-RE: {why}")


@dataclass(frozen=True, slots=True)
class Relo:
    """struct bpf_core_relo. insn_off: bytes into the section; access: "0:1:2"."""

    insn_off: int
    type_id: int
    access: str
    kind: int


@dataclass(frozen=True, slots=True)
class Step:
    """A named member of `type`, or (name None) an element of an array of it. index: which."""

    type: int
    index: int
    name: str | None


@dataclass(slots=True)
class Path:
    """An access as it lies in one BTF. bit: offset in bits from the root; raw: steps as written,
    those into anonymous members too."""

    btf: Btf
    root: int
    steps: list[Step] = field(default_factory=list)
    raw: int = 0
    bit: int = 0


@dataclass(frozen=True, slots=True)
class Value:
    """One side's answer. size, type: of the field that is moved, 0 where none is. check: the
    instruction is expected to hold it."""

    value: int
    size: int = 0
    type: int = 0
    check: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of an instruction. poison: there is no answer, the instruction must never be
    reached. old: what it holds, if check says that it must; new: what it will hold. old_size,
    new_size: bytes that a load or store moves, before and after. unfit: they differ and may
    not."""

    poison: bool
    old: int = 0
    new: int = 0
    check: bool = False
    old_size: int = 0
    new_size: int = 0
    unfit: bool = False


POISONED: Final = Outcome(True)


class Resolver:
    """Answers the relocations of one object against one target. Keeps its findings."""

    def __init__(self, local: Btf, target: Btf | None) -> None:
        self.local, self.target = local, target
        self._candidates: dict[int, list[int]] = {}

    def resolve(self, relo: Relo) -> Outcome:
        """ShimError EINVAL: the relocation makes no sense, or has different answers; EOPNOTSUPP:
        of an unknown kind, or a type without a name."""
        if relo.kind not in FIELD | TYPE | ENUMVAL:
            raise _wrong(f"relocation of kind {relo.kind}", errno.EOPNOTSUPP)
        path = parse_path(self.local, relo)
        if relo.kind == Kind.BPF_CORE_TYPE_ID_LOCAL:
            return Outcome(False, relo.type_id, relo.type_id)
        if self.target is None:
            raise _wrong("no BTF to relocate against", errno.ENOENT)
        if not _type(self.local, relo.type_id).name:
            raise _wrong(f"type {relo.type_id} has no name", errno.EOPNOTSUPP)
        found: list[tuple[int, Path, Outcome]] = []
        for type_id in self._find(relo.type_id):
            there = match(path, relo.kind, self.target, type_id)
            if there is not None:
                outcome = answer(relo.kind, path, there)
                found.append((type_id, there, outcome))
                if there.bit != found[0][1].bit or (outcome.poison, outcome.new) != (
                        found[0][2].poison, found[0][2].new):
                    raise _wrong(f"{self._name(relo)}: candidates {found[0][0]} and {type_id} "
                                 "have different answers")
        if not found:
            return answer(relo.kind, path, None)
        self._candidates[relo.type_id] = [type_id for type_id, _, _ in found]
        return found[0][2]

    def _name(self, relo: Relo) -> str:
        return f"{self.local.type(relo.type_id).name} {relo.access}"

    def _find(self, local_id: int) -> list[int]:
        """Target types of the kind and essential name; those that fitted last time, later."""
        if (known := self._candidates.get(local_id)) is not None:
            return known
        assert self.target
        local = self.local.type(local_id)
        name = essential(local.name)
        found = []
        view: Btf | None = self.target
        while view:
            for type_id in view.ids(name, flavors=True):
                there = self.target.type(type_id)
                if core_match.same_kind(local, there) and essential(there.name) == name:
                    found.append(type_id)
            view = view.base
        self._candidates[local_id] = sorted(found)
        return self._candidates[local_id]


def _type(btf: Btf, type_id: int) -> Type:
    try:
        return btf.type(type_id) if type_id else core_match.VOID
    except KeyError:
        raise _wrong(f"no type {type_id}") from None


def _size(btf: Btf, type_id: int) -> int:
    try:
        return btf.sizeof(type_id)
    except KeyError:
        raise _wrong(f"type {type_id} has no size") from None


def parse_path(btf: Btf, relo: Relo) -> Path:
    """The local access: what the compiler meant."""
    path = Path(btf, relo.type_id)
    if relo.kind in TYPE:
        if relo.access != "0":
            raise _wrong(f"access {relo.access!r} of a type")
        return path
    if not re.fullmatch(r"\d{1,9}(:\d{1,9})*", relo.access):
        raise _wrong(f"access {relo.access!r}")
    indices = [int(i) for i in relo.access.split(":")]
    if len(indices) > MAX_DEPTH:
        raise _wrong(f"access of {len(indices)} steps, at most {MAX_DEPTH}", errno.E2BIG)
    root = skip(btf, _type(btf, relo.type_id).id)
    first = indices[0]
    if relo.kind in ENUMVAL:
        if root.kind not in core_match.ENUMS or len(indices) > 1 or first >= len(root.members):
            raise _wrong(f"enumerator {relo.access} of type {relo.type_id}")
        path.steps.append(Step(root.id, first, root.members[first].name))
        return path
    path.steps.append(Step(root.id, first, None))
    path.bit = first * _size(btf, root.id) * 8
    at = root.id
    for index in indices[1:]:
        at = _walk(path, skip(btf, at), index)
    return path


def _walk(path: Path, there: Type, index: int) -> int:
    """One step into a member or an element; the type that it leads to."""
    if there.kind in kinds.COMPOSITE:
        if index >= len(there.members):
            raise _wrong(f"member {index} of {there.name or there.id}: {len(there.members)} exist")
        member = there.members[index]
        path.bit += member.offset
        if member.name:
            path.steps.append(Step(there.id, index, member.name))
        return member.type
    if there.kind == kinds.ARRAY:
        element = skip(path.btf, there.ref)
        if not flexible(path.btf, path.steps[-1], there) and index >= there.nelems:
            raise _wrong(f"element {index} of {there.nelems}")
        path.steps.append(Step(element.id, index, None))
        path.bit += index * _size(path.btf, element.id) * 8
        return element.id
    raise _wrong(f"a step into type {there.id}, which is no structure and no array")


def flexible(btf: Btf, step: Step, array: Type) -> bool:
    """An array without a size, last in its structure."""
    if not step.name or array.nelems:
        return False
    return step.index == len(_type(btf, step.type).members) - 1


def match(local: Path, kind: int, target: Btf, type_id: int) -> Path | None:
    """The same access in a target type, or None if it is not there."""
    there = Path(target, type_id)
    try:
        if kind in TYPE:
            alike = kind == Kind.BPF_CORE_TYPE_MATCHES
            fits = core_match.matches if alike else core_match.compatible
            return there if fits(local.btf, local.root, target, type_id) else None
        if kind in ENUMVAL:
            return _match_enumerator(local, there)
        return _match_field(local, there)
    except Unfit as error:
        raise _wrong(str(error)) from error


def _match_enumerator(local: Path, there: Path) -> Path | None:
    found = skip(there.btf, there.root)
    name = essential(local.steps[0].name or "")
    if found.kind in core_match.ENUMS:
        for index, row in enumerate(found.members):
            if essential(row.name) == name:
                there.steps.append(Step(found.id, index, row.name))
                return there
    return None


def _match_field(local: Path, there: Path) -> Path | None:
    at = there.root
    for number, step in enumerate(local.steps):
        if step.name:
            found = _match_member(local.btf, step, there, at)
            if found is None:
                return None
            at = found
            continue
        target = skip(there.btf, at)
        if number:
            if target.kind != kinds.ARRAY:
                return None
            if not flexible(there.btf, there.steps[-1], target) and step.index >= target.nelems:
                return None
            target = skip(there.btf, target.ref)
        _deeper(there)
        there.steps.append(Step(target.id, step.index, None))
        there.bit += step.index * _size(there.btf, target.id) * 8
        at = target.id
    return there


def _deeper(there: Path) -> None:
    if there.raw == MAX_DEPTH:
        raise _wrong(f"more than {MAX_DEPTH} steps", errno.E2BIG)
    there.raw += 1


def _match_member(local: Btf, step: Step, there: Path, at: int) -> int | None:
    """The member of that name, those of anonymous members too; the type of it. Where names agree
    and types do not, nothing fits: `None`."""
    target = skip(there.btf, at)
    if target.kind not in kinds.COMPOSITE:
        return None
    mine = _type(local, step.type).members[step.index]
    for index, member in enumerate(target.members):
        _deeper(there)
        there.bit += member.offset
        if not member.name:
            if (found := _match_member(local, step, there, member.type)) is not None:
                return found
        elif member.name == mine.name:
            if not core_match.fields_fit(local, mine.type, there.btf, member.type):
                return None
            there.steps.append(Step(target.id, index, member.name))
            return member.type
        there.bit -= member.offset
        there.raw -= 1
    return None


def answer(kind: int, local: Path, there: Path | None) -> Outcome:
    """Both sides' values, and whether an instruction may go from one to the other."""
    if kind in FIELD:
        return _field_outcome(kind, local, there)
    if kind in TYPE:
        mine = _type_value(kind, local)
        return Outcome(False, mine.value, _type_value(kind, there).value, mine.check)
    mine_enum, theirs = _enum_value(kind, local), _enum_value(kind, there)
    if mine_enum is None or theirs is None:
        return POISONED
    return Outcome(False, mine_enum, theirs, True)


def _field_outcome(kind: int, local: Path, there: Path | None) -> Outcome:
    if kind == Kind.BPF_CORE_FIELD_EXISTS:
        return Outcome(False, 1, int(there is not None), True)
    mine = _field_value(kind, local)
    if there is None:
        return POISONED
    theirs = _field_value(kind, there)
    unfit = False
    if mine.size != theirs.size:
        old, new = _type(local.btf, mine.type), _type(there.btf, theirs.type)
        pointers = old.kind == new.kind == kinds.PTR
        unsigned = (old.kind == new.kind == kinds.INT
                    and _encoding(old) != _SIGNED and _encoding(new) != _SIGNED)
        unfit = not (pointers or unsigned)
    return Outcome(False, mine.value, theirs.value, mine.check, mine.size, theirs.size, unfit)


def _encoding(integer: Type) -> int:
    return integer.extra >> 24 & 15


def _field_value(kind: int, path: Path) -> Value:
    last = path.steps[-1]
    if last.name is None:
        size = _size(path.btf, last.type)
        if kind == Kind.BPF_CORE_FIELD_BYTE_OFFSET:
            return Value(path.bit // 8, size, last.type)
        if kind == Kind.BPF_CORE_FIELD_BYTE_SIZE:
            return Value(size)
        raise _wrong(f"relocation of kind {kind} of an array's element")
    member = _type(path.btf, last.type).members[last.index]
    mine = skip(path.btf, member.type)
    bits = member.bits
    if bits:
        start, size = _load_unit(path.bit, bits, mine.size)
    else:
        size = _size(path.btf, mine.id)
        start, bits = path.bit // 8, size * 8
    plain = not member.bits
    if kind == Kind.BPF_CORE_FIELD_BYTE_OFFSET:
        return Value(start, size, mine.id) if plain else Value(start, check=False)
    if kind == Kind.BPF_CORE_FIELD_BYTE_SIZE:
        return Value(size, check=plain)
    if kind == Kind.BPF_CORE_FIELD_SIGNED:
        signed = bool(mine.extra) if mine.kind in core_match.ENUMS else (
            mine.kind == kinds.INT and bool(_encoding(mine) & _SIGNED))
        return Value(int(signed))
    if kind == Kind.BPF_CORE_FIELD_LSHIFT_U64:
        return Value(64 - (path.bit + bits - start * 8) & 0xFFFFFFFF, check=plain)
    return Value(64 - bits & 0xFFFFFFFF)


def _load_unit(bit: int, bits: int, size: int) -> tuple[int, int]:
    """Bytes (start, size) of the smallest aligned load that holds a bit field of a type of `size`
    bytes."""
    if not 0 < size <= 8:
        raise _wrong(f"bit field of a type of {size} bytes")
    start = bit // 8 // size * size
    while bit + bits - start * 8 > size * 8:
        if size >= 8:
            raise _wrong("bit field that no load of 8 bytes holds", errno.E2BIG)
        size *= 2
        start = bit // 8 // size * size
    return start, size


def _type_value(kind: int, path: Path | None) -> Value:
    if path is None:
        return Value(0)
    if kind == Kind.BPF_CORE_TYPE_ID_TARGET:
        return Value(path.root, check=False)
    if kind == Kind.BPF_CORE_TYPE_SIZE:
        return Value(_size(path.btf, path.root))
    return Value(1)


def _enum_value(kind: int, path: Path | None) -> int | None:
    if kind == Kind.BPF_CORE_ENUMVAL_EXISTS:
        return int(path is not None)
    if path is None:
        return None
    step = path.steps[0]
    found = _type(path.btf, step.type)
    value = found.members[step.index].value
    if found.kind == kinds.ENUM:  # 32 bits, taken as signed whatever the enum says
        value = (value & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
    return value & _U64


def patch(insns: list[isa.Insn], at: int, outcome: Outcome) -> None:
    """Makes the instruction say what the outcome says. ShimError EINVAL: it is none that can, or
    does not hold what the compiler should have written; ERANGE: an offset beyond 16 bits."""
    insn = insns[at]
    wide = insn.code == isa.LD_IMM64
    if outcome.poison:
        if wide:
            _poison(insns, at + 1)
        _poison(insns, at)
        return
    if insn.klass in (isa.ALU, isa.ALU64):
        _patch_alu(insn, outcome)
    elif insn.klass in (isa.LDX, isa.ST, isa.STX):
        _patch_memory(insns, at, outcome)
    elif wide:
        _patch_wide(insns, at, outcome)
    else:
        raise _wrong(f"instruction {at} of code {insn.code:#x} takes no relocation")


def _poison(insns: list[isa.Insn], at: int) -> None:
    if at < len(insns):
        insns[at] = isa.Insn(isa.JMP | isa.CALL, 0, 0, 0, POISON)


def signed32(value: int) -> int:
    """The low 32 bits, signed."""
    return (value & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def _expect(held: int, outcome: Outcome, what: str) -> None:
    if outcome.check and held & _U64 != outcome.old:
        raise _wrong(f"{what} is {held}, expected {outcome.old}")


def _patch_alu(insn: isa.Insn, outcome: Outcome) -> None:
    if insn.code & 8:  # BPF_X
        raise _wrong(f"instruction of code {insn.code:#x} has no immediate")
    _expect(insn.imm, outcome, "immediate")
    insn.imm = signed32(outcome.new)


def _patch_memory(insns: list[isa.Insn], at: int, outcome: Outcome) -> None:
    insn = insns[at]
    _expect(insn.off, outcome, "offset")
    if outcome.new > _SHRT_MAX:
        raise _wrong(f"offset {outcome.new} does not fit", errno.ERANGE)
    if outcome.unfit:
        _poison(insns, at)
        return
    insn.off = outcome.new
    if outcome.new_size != outcome.old_size:
        if insn.size != outcome.old_size or outcome.new_size not in _SIZE_BITS:
            raise _wrong(f"access of {insn.size} bytes, {outcome.old_size} expected, "
                         f"{outcome.new_size} needed")
        insn.code = insn.code & 0xE7 | _SIZE_BITS[outcome.new_size]


def _patch_wide(insns: list[isa.Insn], at: int, outcome: Outcome) -> None:
    low = insns[at]
    if at + 1 >= len(insns) or low.src or low.off or insns[at + 1].code:
        raise _wrong(f"instruction {at} is no plain 64-bit constant")
    high = insns[at + 1]
    if outcome.check and isa.imm64(low, high) != outcome.old:
        raise _wrong(f"constant is {isa.imm64(low, high)}, expected {outcome.old}")
    low.imm, high.imm = signed32(outcome.new), signed32(outcome.new >> 32)
