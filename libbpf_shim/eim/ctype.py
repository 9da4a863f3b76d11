"""C types of arguments, results and variables: read from BTF, or from a prototype's text.

Not modelled, and refused where something is granted of it: structures passed by value, functions
with a variable number of arguments, pointers to arrays. Floating point does not use the registers
that are counted here (System V ABI, x86-64).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.btf.write import BOOL

# Of argument registers, in struct pt_regs: rdi, rsi, rdx, rcx, r8, r9; of the result: rax.
REGISTERS = (112, 104, 96, 88, 72, 64)
RESULT_REGISTER = 80

_NUMBERS = {
    "char": (1, True), "signed char": (1, True), "unsigned char": (1, False),
    "short": (2, True), "unsigned short": (2, False), "int": (4, True), "signed": (4, True),
    "unsigned": (4, False), "unsigned int": (4, False), "long": (8, True),
    "unsigned long": (8, False), "long long": (8, True), "unsigned long long": (8, False),
    "_Bool": (1, False), "bool": (1, False), "size_t": (8, False), "ssize_t": (8, True),
    "int8_t": (1, True), "uint8_t": (1, False), "int16_t": (2, True), "uint16_t": (2, False),
    "int32_t": (4, True), "uint32_t": (4, False), "int64_t": (8, True), "uint64_t": (8, False),
    "intptr_t": (8, True), "uintptr_t": (8, False), "off_t": (8, True), "pid_t": (4, True),
    "uid_t": (4, False), "gid_t": (4, False), "mode_t": (4, False), "time_t": (8, True),
}  # fmt: skip
_FLOATS = {"float": 4, "double": 8, "long double": 16}
_DROPPED = frozenset(("const", "volatile", "restrict", "__restrict", "register", "extern",
                      "static", "inline", "_Noreturn"))
_BUILTIN = frozenset(("char", "short", "int", "long", "signed", "unsigned", "void", "float",
                      "double", "_Bool"))
_SIGNED = 1  # BTF_INT_SIGNED
NUMBER, POINTER, VOID, FLOAT, OTHER = "number", "pointer", "void", "float", "other"


@dataclass(frozen=True, slots=True)
class CType:
    """kind: of those above. size: bytes. id: of the type in BTF, 0: BTF has none (or void).
    target: of a pointer, the id of what it points to; 0: nothing that has fields or a size. words:
    as C writes it. name: of a number without a type in BTF."""

    kind: str
    size: int
    words: str
    signed: bool = False
    id: int = 0
    target: int = 0


@dataclass(frozen=True, slots=True)
class Prototype:
    """params: (name, type)."""

    params: tuple[tuple[str, CType], ...]
    result: CType

    def registers(self) -> dict[str, int]:
        """Where arguments are that are numbers or pointers and come in registers: offsets in
        struct pt_regs. After the first one that is passed by value in another way, none is told:
        how many registers that takes is not modelled."""
        found: dict[str, int] = {}
        free = list(REGISTERS)
        for name, type in self.params:
            if type.kind == FLOAT:
                continue
            if type.kind not in (NUMBER, POINTER) or not free:
                break
            found[name] = free.pop(0)
        return found


VOID_TYPE = CType(VOID, 0, "void")


def words(btf: Btf, type_id: int) -> str:
    """The type as C writes it."""
    if not type_id:
        return "void"
    found = btf.type(type_id)
    if found.kind == kinds.PTR:
        inner = words(btf, found.ref)
        return inner + ("*" if inner.endswith("*") else " *")
    if found.kind == kinds.ARRAY:
        return f"{words(btf, found.ref)}[{found.nelems}]"
    if found.kind in (kinds.CONST, kinds.VOLATILE, kinds.RESTRICT, kinds.TYPE_TAG):
        return words(btf, found.ref)
    prefix = {kinds.STRUCT: "struct ", kinds.UNION: "union ", kinds.ENUM: "enum ",
              kinds.ENUM64: "enum "}.get(found.kind, "")
    if found.kind == kinds.FWD:
        prefix = "union " if found.extra else "struct "
    if found.kind == kinds.FUNC_PROTO:
        return "void (*)()"
    return prefix + (found.name or "{...}")


def sized(btf: Btf, type_id: int) -> int:
    """Bytes; 0: it has no size."""
    try:
        return btf.sizeof(type_id)
    except KeyError:
        return 0


def of(btf: Btf, type_id: int) -> CType:
    """The type of that id."""
    found = btf.strip(type_id) if type_id else None
    if found is None:
        return VOID_TYPE
    text = words(btf, type_id)
    if found.kind == kinds.PTR:
        return CType(POINTER, 8, text, id=type_id, target=target(btf, found))
    if found.kind == kinds.INT:
        return CType(NUMBER, found.size, text, bool(found.extra >> 24 & _SIGNED), type_id)
    if found.kind in (kinds.ENUM, kinds.ENUM64):
        return CType(NUMBER, found.size, text, bool(found.extra), type_id)
    if found.kind == kinds.FLOAT:
        return CType(FLOAT, found.size, text, id=type_id)
    return CType(OTHER, sized(btf, type_id), text, id=type_id)


def truth(type: CType, btf: Btf) -> bool:
    """The type is C's bool."""
    if not type.id:
        return type.words in ("_Bool", "bool")
    found = btf.strip(type.id)
    return found is not None and found.kind == kinds.INT and bool(found.extra >> 24 & BOOL)


def numbers(type: CType, btf: Btf) -> tuple[int, int]:
    """The least and the most that a number or pointer may be."""
    if truth(type, btf):
        return 0, 1
    bits = 8 * type.size
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if type.signed else (0, (1 << bits) - 1)


def target(btf: Btf, pointer: Type) -> int:
    """What a pointer leads to that can be granted: a structure, a number, a pointer, an array of
    such; 0: nothing."""
    found = btf.strip(pointer.ref) if pointer.ref else None
    if found is None or found.kind in (kinds.FWD, kinds.FUNC_PROTO, kinds.FUNC):
        return 0
    return found.id if sized(btf, found.id) else 0


def prototype_of(btf: Btf, name: str) -> Prototype | None:
    """Of a function that BTF describes."""
    found = btf.find(name, kinds.FUNC)
    if found is None:
        return None
    proto = btf.type(found.ref)
    params = tuple((m.name or f"arg{n}", of(btf, m.type)) for n, m in enumerate(proto.members))
    return Prototype(params, of(btf, proto.ref))


def prototype(text: str, btf: Btf) -> Prototype:
    """ValueError: a type that there is not, or that is not modelled."""
    head, _, rest = text.partition("(")
    result, _ = declared(head, btf, True)
    inside = rest.rstrip()[:-1].strip()
    params: list[tuple[str, CType]] = []
    for n, one in enumerate(inside.split(",") if inside and inside != "void" else ()):
        type, name = declared(one, btf, False)
        name = name or f"arg{n}"
        if type.kind == VOID:
            raise ValueError(f"{one.strip()!r}: an argument of type void")
        if any(name == other for other, _ in params):
            raise ValueError(f"{name}: two arguments of that name")
        params.append((name, type))
    return Prototype(tuple(params), result)


def split(text: str, head: bool) -> tuple[list[str], int, str]:
    """The words of the base type, how many stars follow, the name that is declared (head: of a
    function, which may follow the type). ValueError."""
    tokens = re.findall(r"\w+|\*|\S", text)
    for token in tokens:
        if not re.fullmatch(r"\w+|\*", token):
            raise ValueError(f"{text.strip()!r}: {token} is not modelled here")
    tokens = [token for token in tokens if token not in _DROPPED]
    stars = tokens.count("*")
    base = tokens[: tokens.index("*")] if stars else tokens
    after = [t for t in tokens[len(base) :] if t != "*"]
    least = 2 if base and base[0] in ("struct", "union", "enum") else 1
    name = after[0] if after else ""
    if not name and len(base) > least and base[-1] not in _BUILTIN:
        name, base = base[-1], base[:-1]
    if not base or len(after) > 1 or (tokens and tokens[-1] == "*" and after):
        raise ValueError(f"{text.strip()!r} is no {'type' if head else 'argument'}")
    return base, stars, name


def declared(text: str, btf: Btf, head: bool) -> tuple[CType, str]:
    """A type and the name that it declares. ValueError."""
    base, stars, name = split(text, head)
    found = _base(base, btf)
    if not stars:
        if found.kind == OTHER and not found.size:
            raise ValueError(f"{found.words}: its definition is not in the types")
        return found, name
    return _pointer(found, stars, btf), name


def _base(base: Sequence[str], btf: Btf) -> CType:
    text = " ".join(base)
    if base[0] in ("struct", "union", "enum"):
        kind = {"struct": (kinds.STRUCT,), "union": (kinds.UNION,),
                "enum": (kinds.ENUM, kinds.ENUM64)}[base[0]]
        found = btf.find(base[1] if len(base) == 2 else "", *kind)
        if found is None:
            raise ValueError(f"{text}: not in the types")
        return of(btf, found.id)
    if text == "void":
        return VOID_TYPE
    if len(base) == 1 and (named := btf.find(base[0], kinds.TYPEDEF, kinds.INT)):
        return of(btf, named.id)
    if text in _FLOATS:
        return CType(FLOAT, _FLOATS[text], text)
    plain = _plain(base)
    if plain in _NUMBERS:
        size, signed = _NUMBERS[plain]
        return CType(NUMBER, size, text, signed)
    raise ValueError(f"{text}: not in the types")


def _plain(base: Sequence[str]) -> str:
    """`long unsigned int` as `unsigned long`."""
    rest = [w for w in base if w not in ("signed", "unsigned", "int")]
    if not rest and ("int" in base or "signed" in base or "unsigned" in base):
        return "unsigned" if "unsigned" in base else "int"
    if rest == ["char"] and "signed" in base:
        return "char"
    if all(w in _BUILTIN for w in base):
        return ("unsigned " if "unsigned" in base else "") + " ".join(rest)
    return " ".join(base)


def _pointer(base: CType, stars: int, btf: Btf) -> CType:
    text = f"{base.words} {'*' * stars}"
    if stars > 1 or base.kind == VOID or not base.size or not base.id:
        return CType(POINTER, 8, text)
    stripped = btf.strip(base.id)
    assert stripped
    return CType(POINTER, 8, text, target=stripped.id)
