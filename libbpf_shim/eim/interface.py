"""The developer's file: entries, variables and functions of an application, with their types.

`read` gives the interface and everything that is wrong with it; an interface with errors is of no
use to anybody. What each key means: docs/eim.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
from libbpf_shim.eim import (
    builds,
    capability,
    constraint,
    ctype,
    document,
    lengths,
    schema,
    sites,
    types,
)
from libbpf_shim.eim.capability import Path
from libbpf_shim.eim.constraint import Condition, Ranges
from libbpf_shim.eim.ctype import NUMBER, POINTER, VOID, CType, Prototype
from libbpf_shim.eim.document import Document, PolicyError, Where
from libbpf_shim.eim.sites import Site
from libbpf_shim.eim.tree import READ, Tree

RTN = capability.RESULT
_RESERVED = (capability.REGS, RTN, "entry", "NULL", "in")
Offers = tuple[tuple[str, Path], ...]  # (read or write, path)


@dataclass(frozen=True, slots=True)
class Entry:
    """where: before, after or instead. offers: what may be granted of its arguments, None: any
    read, no write. override: what it may be made to return, None: nothing. usdt: PROVIDER:NAME
    of a probe, and then its places; "": a function."""

    name: str
    function: str
    where: str
    proto: Prototype
    nonnull: frozenset[str]
    override: Ranges | None
    offers: Offers | None
    usdt: str = ""
    sites: tuple[Site, ...] = ()

    def registers(self) -> dict[int, tuple[str, CType]]:
        """Arguments by the offset of their register in the context."""
        if self.usdt:
            found = sites.registers(self.sites, len(self.proto.params))
            return {off: self.proto.params[at] for off, at in found.items()}
        if self.where == "after":
            result = self.proto.result
            return {ctype.RESULT_REGISTER: (RTN, result)} \
                if result.kind in (NUMBER, POINTER) else {}
        types = dict(self.proto.params)
        return {off: (name, types[name]) for name, off in self.proto.registers().items()}


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the host's."""

    name: str
    type: CType
    offers: Offers | None


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the host's. name: as programs call it. memory: by parameter, (reads or writes,
    bytes or the parameter that says how many)."""

    name: str
    function: str
    proto: Prototype
    pre: tuple[Condition, ...]
    post: tuple[Condition, ...]
    nonnull: frozenset[str]
    memory: dict[str, tuple[str, int | str]]
    acquires: bool
    releases: str
    may_fail: bool
    gpl: bool


@dataclass(slots=True)
class Interface:
    """blob: BTF of all that is named, functions and variables too; btf: the same, parsed. bytes:
    pointers whose lengths are checked when they are read through. build_ids: of the binary, one
    of them; (): any."""

    document: Document
    name: str
    binary: str = ""
    blob: bytes = b""
    entries: dict[str, Entry] = field(default_factory=dict)
    state: dict[str, Variable] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    bytes: tuple[lengths.Declared, ...] = ()
    build_ids: tuple[str, ...] = ()

    @property
    def btf(self) -> Btf:
        return types.parsed(self.blob)


def read(path: str) -> tuple[Interface | None, list[PolicyError]]:
    """The interface, None: it cannot be read; and what is wrong."""
    try:
        found = document.read(path)
    except PolicyError as error:
        return None, [error]
    wrong = schema.check(found, "interface")
    if wrong:
        return None, wrong
    reader = _Reader(found)
    return reader.read(), reader.wrong


class _Reader:
    def __init__(self, source: Document) -> None:
        self._doc, self._rows = source, source.value
        self.wrong: list[PolicyError] = []
        self._btf: Btf | None = None
        self._bytes: tuple[lengths.Declared, ...] = ()

    def read(self) -> Interface | None:
        blob = self._types()
        if blob is None:
            return None
        self._btf = types.parsed(blob)
        found = Interface(self._doc, self._rows["interface"], self._rows.get("binary", ""),
                          build_ids=builds.declared(self._rows))
        self._bytes = found.bytes = self._lengths()
        for name, row in self._rows["entries"].items():
            if entry := self._entry(name, row or {}, ("entries", name)):
                found.entries[name] = entry
        for name, row in (self._rows.get("state") or {}).items():
            if variable := self._variable(name, row or {}, ("state", name)):
                found.state[name] = variable
        for name, row in (self._rows.get("functions") or {}).items():
            if function := self._function(name, row or {}, ("functions", name)):
                found.functions[name] = function
        self._conflicts(found)
        found.blob = _complete(blob, found)
        return found

    def _error(self, where: Where, what: str, hint: str = "") -> None:
        self.wrong.append(self._doc.error(where, what, hint))

    # types

    def _types(self) -> bytes | None:
        row = self._rows["types"]
        kinds_given = [k for k in ("btf", "dwarf", "header") if k in row]
        if len(kinds_given) != 1:
            self._error(("types",), "one of btf, dwarf and header is expected")
            return None
        kind = kinds_given[0]
        if "flags" in row and kind != "header":
            self._error(("types", "flags"), "flags are for a header")
        path = self._doc.beside(row[kind])
        try:
            if kind == "btf":
                return types.from_btf(path)
            if kind == "dwarf":
                symbols = self._symbols("entries") + self._symbols("functions")
                names = [name.split()[-1] for name in self._bases()]
                return types.from_dwarf(path, symbols, list(self._rows.get("state") or {}), names)
            from libbpf_shim.eim import header

            return header.from_header(path, row.get("flags", []), self._bases())
        except types.TypesError as error:
            self._error(("types", kind), str(error))
            return None

    def _symbols(self, what: str) -> list[str]:
        rows = self._rows.get(what) or {}
        return [(row or {}).get("function", name) for name, row in rows.items()
                if "usdt" not in (row or {})]

    def _bases(self) -> list[str]:
        """Names of types that prototypes and variables are written with."""
        texts: list[str] = []
        for what in ("entries", "functions"):
            for row in (self._rows.get(what) or {}).values():
                head, _, rest = (row or {}).get("prototype", "").partition("(")
                texts += [head, *rest.rstrip(" )").split(",")]
        texts += [(row or {}).get("type", "") for row in (self._rows.get("state") or {}).values()]
        texts += [row["type"] for row in self._rows.get("bytes") or ()]
        found: dict[str, None] = {}
        for text in texts:
            try:
                base = " ".join(ctype.split(text, False)[0])
            except ValueError:
                continue
            if base and not all(word in ctype._BUILTIN for word in base.split()):
                found[base] = None
        return list(found)

    def _proto(self, row: dict[str, Any], symbol: str, where: Where) -> Prototype | None:
        assert self._btf
        if text := row.get("prototype"):
            try:
                return ctype.prototype(text, self._btf)
            except ValueError as error:
                self._error((*where, "prototype"), str(error))
                return None
        found = ctype.prototype_of(self._btf, symbol)
        if found is None:
            self._error(where, f"function {symbol} is not in the types",
                        "give its prototype: \"int (struct request *r)\"")
        return found

    def _lengths(self) -> tuple[lengths.Declared, ...]:
        assert self._btf
        found: list[lengths.Declared] = []
        for n, row in enumerate(self._rows.get("bytes") or ()):
            try:
                one = lengths.declared(row, self._btf)
            except ValueError as error:
                self._error(("bytes", n), str(error))
                continue
            if any((o.type_id, o.pointer) == (one.type_id, one.pointer) for o in found):
                self._error(("bytes", n), f"{row['type']}.{row['pointer']} stands twice")
            found.append(one)
        return tuple(found)

    # rows

    def _probe(self, name: str, row: dict[str, Any], where: Where) -> Entry | None:
        """An entry that is a USDT probe. Its prototype is that of the arguments, by position."""
        for key in ("function", "override"):
            if key in row:
                self._error((*where, key), "a USDT probe is no function")
        if row.get("where", "before") != "before":
            self._error((*where, "where"), "of a USDT probe it is before, or not said")
        proto = self._proto({"prototype": row.get("prototype", "void (void)")}, name, where)
        if proto is None:
            return None
        places: tuple[Site, ...] = ()
        if not (binary := self._rows.get("binary", "")):
            self._error((*where, "usdt"), "its places are read from the binary: say which")
        else:
            try:
                places = sites.of(binary, row["usdt"], proto.params)
            except ValueError as error:
                self._error((*where, "usdt"), str(error))
        roots = {n: type.target for n, type in proto.params}
        return Entry(name, "", "before", proto, self._pointers(row, proto, where, False), None,
                     self._offers(row, roots, where), row["usdt"], places)

    def _entry(self, name: str, row: dict[str, Any], where: Where) -> Entry | None:
        if "usdt" in row:
            return self._probe(name, row, where)
        if "where" not in row:
            self._error(where, "where is missing")
            return None
        symbol = row.get("function", name)
        proto = self._proto(row, symbol, where)
        if proto is None:
            return None
        after = row["where"] == "after"
        found = {RTN: proto.result} if after else dict(proto.params)
        roots = {n: type.target for n, type in found.items()}
        return Entry(name, symbol, row["where"], proto,
                     self._pointers(row, proto, where, after),
                     self._override(row, proto, where), self._offers(row, roots, where))

    def _pointers(self, row: dict[str, Any], proto: Prototype, where: Where,
                  after: bool) -> frozenset[str]:
        types_of = {RTN: proto.result} if after else dict(proto.params)
        for n, name in enumerate(row.get("nonnull", ())):
            if name not in types_of:
                self._error((*where, "nonnull", n), f"no argument {name}")
            elif types_of[name].kind != POINTER:
                self._error((*where, "nonnull", n), f"{name} is no pointer")
        return frozenset(row.get("nonnull", ()))

    def _override(self, row: dict[str, Any], proto: Prototype, where: Where) -> Ranges | None:
        if "override" not in row:
            return None
        at = (*where, "override")
        if row["where"] != "instead":
            self._error(at, f"nothing can be overridden {row['where']} the function; "
                            "where: instead")
            return None
        if row["override"] == "skip":
            if proto.result.kind != VOID:
                self._error(at, "skip is for functions that return nothing; say which values")
            return ((-(1 << 63), (1 << 63) - 1),)
        if proto.result.kind not in (NUMBER, POINTER):
            self._error(at, f"the function returns {proto.result.words}: only skip is possible")
            return None
        try:
            found = constraint.values(row["override"])
        except ValueError as error:
            self._error(at, str(error))
            return None
        assert self._btf
        low, high = ctype.numbers(proto.result, self._btf)
        for number in sorted({n for pair in found for n in pair if not low <= n <= high}):
            self._error(at, f"{number}: no value of {proto.result.words}")
        return found

    def _offers(self, row: dict[str, Any], roots: dict[str, int],
                where: Where) -> Offers | None:
        """roots: of each name, what it points to; 0: nothing, or it is not known yet."""
        assert self._btf
        if "offers" not in row:
            return None
        tree = Tree(self._btf, self._bytes)
        for name, target in roots.items():
            if target:
                tree.root(name, target, False)
        found = []
        for n, text in enumerate(row["offers"]):
            at = (*where, "offers", n)
            try:
                one = capability.parse(text)
            except ValueError as error:
                self._error(at, str(error))
                continue
            if one.path is None or one.path.result or one.path.root not in roots:
                self._error(at, f"{text}: it is to be of {', '.join(sorted(roots)) or 'nothing'}")
                continue
            if where[0] == "entries" and not roots[one.path.root]:
                if one.kind != READ:
                    self._error(at, f"{text}: an argument itself cannot be written")
                elif one.path.parts or one.path.deref:
                    self._error(at, f"{text}: {one.path.root} is no pointer to an object")
            try:
                if one.path.root in tree.roots:
                    tree.grant(one.kind, one.path, text)
            except ValueError as error:
                self._error(at, str(error))
                continue
            found.append((one.kind, one.path))
        return tuple(found)

    def _variable(self, name: str, row: dict[str, Any], where: Where) -> Variable | None:
        assert self._btf
        if text := row.get("type"):
            try:
                found, _ = ctype.declared(text, self._btf, True)
            except ValueError as error:
                self._error((*where, "type"), str(error))
                return None
        else:
            known = self._btf.find(name, kinds.VAR)
            if known is None:
                self._error(where, f"variable {name} is not in the types", "give its type")
                return None
            found = ctype.of(self._btf, known.ref)
        if found.kind not in (NUMBER, POINTER, ctype.OTHER) or not found.size:
            self._error(where, f"a variable of type {found.words}")
            return None
        return Variable(name, found, self._offers(row, {name: found.id}, where))

    def _function(self, name: str, row: dict[str, Any], where: Where) -> Function | None:
        symbol = row.get("function", name)
        proto = self._proto(row, symbol, where)
        if proto is None:
            return None
        params = dict(proto.params)
        if len(params) > 5:
            self._error(where, f"{len(params)} arguments, 5 at most are called with")
        for param, found in proto.params:
            if found.kind not in (NUMBER, POINTER):
                self._error(where, f"{param}: arguments of type {found.words} are not supported")
        if proto.result.kind not in (NUMBER, POINTER, VOID):
            self._error(where, f"results of type {proto.result.words} are not supported")
        memory = self._memory(row.get("memory") or {}, params, where)
        self._unnamed(params, memory, where)
        self._life(row, proto, where)
        return Function(
            name, symbol, proto, self._conditions(row, "pre", proto, where),
            self._conditions(row, "post", proto, where), self._pointers(row, proto, where, False),
            memory, row.get("acquires", False), row.get("releases", ""),
            row.get("may_fail", False), row.get("gpl", False))

    def _unnamed(self, params: dict[str, CType], memory: dict[str, tuple[str, int | str]],
                 where: Where) -> None:
        """A pointer of which nothing is said has to lead to an object of the host's."""
        for name, found in params.items():
            if found.kind == POINTER and name not in memory and not found.target:
                self._error(where, f"{name}: of type {found.words}, and memory does not say what "
                                   "the function does with it")

    def _life(self, row: dict[str, Any], proto: Prototype, where: Where) -> None:
        pointer = proto.result.kind == POINTER and proto.result.target
        if row.get("acquires") and not pointer:
            self._error((*where, "acquires"), "what is acquired is a pointer to an object")
        if row.get("may_fail") and not pointer:
            self._error((*where, "may_fail"), "may_fail is for results that are pointers to "
                                              "objects; for numbers say post")
        if proto.result.kind == POINTER and not pointer:
            self._error(where, f"results of type {proto.result.words} are not supported")
        released = row.get("releases", "")
        if released and dict(proto.params).get(released, ctype.VOID_TYPE).kind != POINTER:
            self._error((*where, "releases"), f"no pointer {released} among the arguments")

    def _memory(self, rows: dict[str, Any], params: dict[str, CType],
                where: Where) -> dict[str, tuple[str, int | str]]:
        found: dict[str, tuple[str, int | str]] = {}
        for name, row in rows.items():
            at = (*where, "memory", name)
            if params.get(name, ctype.VOID_TYPE).kind != POINTER:
                self._error(at, f"no pointer {name} among the arguments")
            elif not isinstance(row, dict) or len(row) != 1:
                self._error(at, "one of reads and writes is expected")
            else:
                how, size = next(iter(row.items()))
                if isinstance(size, str) and params.get(size, ctype.VOID_TYPE).kind != NUMBER:
                    self._error((*at, how), f"no number {size} among the arguments")
                    continue
                found[name] = (how, size)
        return found

    def _conditions(self, row: dict[str, Any], key: str, proto: Prototype,
                    where: Where) -> tuple[Condition, ...]:
        found = []
        for n, text in enumerate(row.get(key, ())):
            try:
                one = constraint.parse(text)
                self._fits(one, key, proto)
                found.append(one)
            except ValueError as error:
                self._error((*where, key, n), str(error))
        return tuple(found)

    def _fits(self, one: Condition, key: str, proto: Prototype) -> None:
        """The names are there, and numbers are compared with numbers. ValueError."""
        params = dict(proto.params)
        numbered = {f"arg{n}": name for n, (name, _) in enumerate(proto.params)}
        left = numbered.get(one.left, one.left)
        if (left == RTN) != (key == "post"):
            raise ValueError(f"{one.text}: a condition of {key} is on "
                             + ("rtn" if key == "post" else "an argument"))
        type = proto.result if left == RTN else params.get(left)
        if type is None:
            raise ValueError(f"{one.text}: no argument {one.left}")
        other = numbered.get(one.name, one.name)
        if one.name and params.get(other, ctype.VOID_TYPE).kind != NUMBER:
            raise ValueError(f"{one.text}: no number {one.name} among the arguments")
        if one.entry and left == RTN:
            raise ValueError(f"{one.text}: of a result, entry.NAME is not supported")
        if one.entry:
            self._of_entry(one, type)
        elif type.kind == POINTER and (one.op != "!=" or one.number != 0):
            raise ValueError(f"{one.text}: of a pointer only != NULL and == entry.NAME can hold")
        elif type.kind not in (POINTER, NUMBER):
            raise ValueError(f"{one.text}: {left} is of type {type.words}")

    def _of_entry(self, one: Condition, type: CType) -> None:
        if type.kind != POINTER or not type.target:
            raise ValueError(f"{one.text}: {one.left} is no pointer to an object")

    def _conflicts(self, found: Interface) -> None:
        names = {n for e in found.entries.values() for n, _ in e.proto.params}
        for name in found.state:
            if name in names:
                self._error(("state", name), "an argument of an entry has that name too")
        for name in _RESERVED:
            if name in found.state:
                self._error(("state", name), "the name means something else in capabilities")
        for name, function in found.functions.items():
            for one in function.pre:
                if one.entry and one.entry not in names:
                    self._error(("functions", name, "pre"), f"{one.text}: no entry has an "
                                                            f"argument {one.entry}")


def _complete(blob: bytes, found: Interface) -> bytes:
    """The types with a FUNC of each function and a VAR of each variable, under the names that
    programs use."""
    more = types.writer(blob)

    def number(type: CType) -> int:
        if type.id or type.kind == VOID:
            return type.id
        if type.kind == POINTER:
            return more.ref(kinds.PTR, type.target)
        return more.integer(type.words, type.size, 1 if type.signed else 0)

    for function in found.functions.values():
        params = [(name, number(type)) for name, type in function.proto.params]
        more.func(function.name, more.proto(number(function.proto.result), params))
    for variable in found.state.values():
        more.variable(variable.name, number(variable.type))
    return types.extended(blob, more)
