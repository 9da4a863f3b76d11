"""The manager's file: classes of extensions, and which programs have which.

`read` gives classes with inheritance resolved, and everything that is wrong. What a class comes
to, against its interface, is policy.py's.
"""

from __future__ import annotations

import fnmatch
import pwd
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libbpf_shim.eim import (
    builds,
    capability,
    constraint,
    document,
    ed25519,
    interface,
    schema,
    signed,
)
from libbpf_shim.eim.capability import Capability
from libbpf_shim.eim.constraint import Ranges
from libbpf_shim.eim.document import Document, PolicyError, Where
from libbpf_shim.eim.interface import Interface

_LIMITS = ("instructions", "memory", "stack")
_MAP_LIMITS = ("count", "bytes", "entries")
_SET = re.compile(r"\[[^\]]*\]")  # of a pattern: one of these characters
_LONGEST = 15  # characters of a program's name: BPF_OBJ_NAME_LEN
CHOICES = {  # and what holds if nothing is said
    "isolation": "verify-only", "spectre": "off", "budget": "static",
}


@dataclass(frozen=True, slots=True)
class Class:
    """allow, deny: with what is inherited. override: None: nothing; (): whatever the entries
    allow; else the values. limits: of those that are set. choices: isolation, spectre and
    budget, as written. default: what a run comes to that has used up its instructions, None:
    nothing is said."""

    name: str
    entries: tuple[str, ...]
    allow: tuple[Capability, ...]
    deny: tuple[Capability, ...]
    override: Ranges | None
    limits: dict[str, int]
    maps: dict[str, int]
    extends: tuple[str, ...]
    choices: dict[str, str]
    default: int | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """Programs that have a class: all that is given has to fit. users: uids. signature: a public
    key, by whose owner they are signed."""

    of: str
    name: str = ""
    tag: str = ""
    sha256: str = ""
    users: tuple[int, ...] = ()
    signature: str = ""

    def fits(self, name: str, digest: bytes, uid: int, signatures: Path) -> bool:
        """digest: SHA-256 of the instructions, without what maps they name (the tag is its first
        8 bytes). signatures: a folder of them."""
        if self.name and not fnmatch.fnmatchcase(name, self.name):
            return False
        if self.tag and digest[:8].hex() != self.tag:
            return False
        if self.sha256 and digest.hex() != self.sha256:
            return False
        if self.users and uid not in self.users:
            return False
        return not self.signature or signed.by(self.signature, signatures, digest)


@dataclass(slots=True)
class Grants:
    """One deployment's. build_ids: of the binary, one of them; (): any."""

    document: Document
    name: str
    interface: Interface
    classes: dict[str, Class] = field(default_factory=dict)
    bindings: tuple[Binding, ...] = ()
    build_ids: tuple[str, ...] = ()
    signatures: str = signed.FOLDER

    def bound(self, name: str, digest: bytes, uid: int) -> tuple[str, ...]:
        """Classes that bindings give to a program. Only exactly one will do."""
        folder = self.document.beside(self.signatures)
        found = {row.of: None for row in self.bindings if row.fits(name, digest, uid, folder)}
        return tuple(found)


def read(path: str) -> tuple[Grants | None, list[PolicyError]]:
    """The grants, None: they cannot be read; and what is wrong with them or their interface."""
    try:
        found = document.read(path)
    except PolicyError as error:
        return None, [error]
    wrong = schema.check(found, "grants")
    if wrong:
        return None, wrong
    declared, wrong = interface.read(str(found.beside(found.value["interface"])))
    if declared is None:  # of a file that cannot be read the line that names it is said
        return None, [e if e.line else found.error(("interface",), e.message, e.hint)
                      for e in wrong]
    reader = _Reader(found, declared)
    grants = reader.read()
    return grants, wrong + reader.wrong


class _Reader:
    def __init__(self, source: Document, declared: Interface) -> None:
        self._doc, self._rows, self._interface = source, source.value["classes"], declared
        self._known: dict[str, Class | None] = {}
        self.wrong: list[PolicyError] = []

    def _error(self, where: Where, what: str, hint: str = "") -> None:
        self.wrong.append(self._doc.error(where, what, hint))

    def read(self) -> Grants:
        found = Grants(self._doc, self._doc.value["grants"], self._interface,
                       build_ids=builds.declared(self._doc.value))
        found.signatures = self._doc.value.get("signatures", signed.FOLDER)
        for name in self._rows:
            if (one := self._class(name, ())) is not None:
                found.classes[name] = one
        rows = self._doc.value.get("bindings") or []
        found.bindings = tuple(b for n, row in enumerate(rows) if (b := self._binding(row, n)))
        return found

    def _class(self, name: str, below: tuple[str, ...]) -> Class | None:
        if name in self._known:
            return self._known[name]
        row, where = self._rows[name] or {}, ("classes", name)
        given = row.get("extends", [])
        parents = [given] if isinstance(given, str) else list(given)
        over: list[Class] = []
        for parent in parents:
            if parent in (*below, name):
                self._error((*where, "extends"), f"{parent} extends itself")
            elif parent not in self._rows:
                self._error((*where, "extends"), f"no class {parent}")
            elif (one := self._class(parent, (*below, name))) is not None:
                over.append(one)
        self._known[name] = found = self._made(name, row, over, where)
        return found

    def _made(self, name: str, row: dict[str, Any], over: list[Class], where: Where) -> Class:
        """Rights add up, denials too; a limit of the class's own is instead of those that are
        inherited, else the smallest of these counts."""
        entries = tuple(row.get("entries") or dict.fromkeys(e for c in over for e in c.entries))
        for n, entry in enumerate(row.get("entries", ())):
            if entry not in self._interface.entries:
                known = ", ".join(self._interface.entries)
                self._error((*where, "entries", n), f"the interface has no entry {entry} "
                                                    f"(it has {known})")
        if not entries:
            self._error(where, "the class has no entries")
        allow = tuple(dict.fromkeys([*(a for c in over for a in c.allow),
                                     *self._capabilities(row, "allow", where)]))
        deny = tuple(dict.fromkeys([*(d for c in over for d in c.deny),
                                    *self._capabilities(row, "deny", where)]))
        limits = {key: row.get(key, _least(c.limits.get(key) for c in over)) for key in _LIMITS}
        own = row.get("maps") or {}
        maps = {key: own.get(key, _least(c.maps.get(key) for c in over)) for key in _MAP_LIMITS}
        return Class(name, entries, allow, deny, self._override(row, over, where),
                     {k: v for k, v in limits.items() if v is not None},
                     {k: v for k, v in maps.items() if v is not None},
                     tuple(c.name for c in over),
                     {key: self._choice(key, row, over, where) for key in CHOICES},
                     self._default(row, over, where))

    def _choice(self, key: str, row: dict[str, Any], over: list[Class], where: Where) -> str:
        """The class's own, else what all that it extends say."""
        given = list(dict.fromkeys(c.choices[key] for c in over))
        if key in row or not given:
            said = row.get(key, CHOICES[key])
            return str(said) if said is not False else "off"  # as YAML reads that
        if len(given) > 1:
            self._error(where, f"classes that it extends differ in {key}: say which")
        return given[0]

    def _default(self, row: dict[str, Any], over: list[Class], where: Where) -> int | None:
        given = list(dict.fromkeys(c.default for c in over if c.default is not None))
        if "default" in row or not given:
            return row.get("default")
        if len(given) > 1:
            self._error(where, "classes that it extends differ in default: say which")
        return given[0]

    def _capabilities(self, row: dict[str, Any], key: str, where: Where) -> list[Capability]:
        found = []
        for n, text in enumerate(row.get(key, ())):
            try:
                found.append(capability.parse(text))
            except ValueError as error:
                self._error((*where, key, n), str(error))
        return found

    def _override(self, row: dict[str, Any], over: list[Class], where: Where) -> Ranges | None:
        if "override" not in row:
            given = [c.override for c in over if c.override is not None]
            if len({*given}) > 1:
                self._error(where, "classes that it extends differ in override: say which")
            return given[0] if given else None
        value = row["override"]
        if isinstance(value, bool):
            return () if value else None
        try:
            return constraint.values(str(value))
        except ValueError as error:
            self._error((*where, "override"), str(error))
            return None

    def _binding(self, row: dict[str, Any], n: int) -> Binding | None:
        where: Where = ("bindings", n)
        if row["class"] not in self._rows:
            self._error((*where, "class"), f"no class {row['class']}")
            return None
        if not any(key in row for key in ("name", "tag", "sha256", "signature", "users")):
            self._error(where, "name, tag, sha256, signature or users: one at least says which "
                               "programs")
        if (key := row.get("signature")) and not ed25519.is_key(bytes.fromhex(key)):
            self._error((*where, "signature"), "it is no public key of Ed25519")
            return None
        name = row.get("name", "")
        if len(_SET.sub("?", name).replace("*", "")) > _LONGEST:
            self._error((*where, "name"), f"{name}: no program has a name of more than {_LONGEST} "
                                          "characters",
                        "" if set(name) & {*"*?["} else f"the kernel calls it {name[:_LONGEST]}")
        users = []
        for m, user in enumerate(row.get("users", ())):
            try:
                users.append(user if isinstance(user, int) else pwd.getpwnam(user).pw_uid)
            except KeyError:
                self._error((*where, "users", m), f"no user {user}")
                return None
        return Binding(row["class"], row.get("name", ""), row.get("tag", ""),
                       row.get("sha256", ""), tuple(users), row.get("signature", ""))


def _least(values: Any) -> int | None:
    return min((v for v in values if v is not None), default=None)
