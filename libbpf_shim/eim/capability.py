"""Capabilities as grants write them: `read(r.headers_in.user_agent)`, `helper(map_lookup_elem)`.

    read(PATH) write(PATH)   bytes of the host's; read(regs): all registers; read(*), write(*): any
                             memory
    call(FUNCTION)           a function of the host's that the interface declares
    helper(NAME) kfunc(NAME) of bpf; helper(*): all
    map(TYPE)                maps of that type; map(*): all

PATH: NAME, then .FIELD and [INDEX]. NAME is an argument of the entries, `rtn` (what the entry's
function returned), a variable of `state`, or FUNCTION() for what a function returns. The name
of an argument that is a pointer stands for the object that it points to; `*PATH` for the object
that a pointer in memory points to. A path goes on through pointers as through fields.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PATHS = ("read", "write")
ANY = "*"
REGS = "regs"
RESULT = "rtn"
_FORM = re.compile(r"(read|write|call|helper|kfunc|map)\((.+)\)")
_PATH = re.compile(r"(\*?)([A-Za-z_]\w*)(\(\))?((?:\.[A-Za-z_]\w*|\[\d{1,9}\])*)")
_PART = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]")
_NAME = re.compile(r"\*|[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Path:
    """deref: the object that it points to. result: root is a function. parts: fields, indices."""

    root: str
    parts: tuple[str | int, ...] = ()
    deref: bool = False
    result: bool = False


@dataclass(frozen=True, slots=True)
class Capability:
    """kind: read, write, call, helper, kfunc or map. what: between the parentheses. path: of a
    read or write that names bytes."""

    kind: str
    what: str
    path: Path | None = None

    def __str__(self) -> str:
        return f"{self.kind}({self.what})"


def parse(text: str) -> Capability:
    """ValueError: what is wrong with it."""
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise ValueError("it is to be read(..), write(..), call(..), helper(..), kfunc(..) or "
                         "map(..)")
    kind, what = form[1], form[2].strip()
    if kind not in PATHS:
        if not _NAME.fullmatch(what):
            raise ValueError(f"{what!r} is no name")
        if kind == "helper":
            what = what.removeprefix("bpf_")
        if kind == "call" and what == ANY:
            raise ValueError("functions of the host's are granted one by one")
        return Capability(kind, what.lower() if kind == "map" else what)
    if what == ANY or (what == REGS and kind == "read"):
        return Capability(kind, what)
    return Capability(kind, what, path(what))


def path(text: str) -> Path:
    """ValueError."""
    found = _PATH.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no path: NAME, then .FIELD or [INDEX]")
    parts: list[str | int] = []
    for part in _PART.finditer(found[4]):
        parts.append(part[1] if part[1] else int(part[2]))
    return Path(found[2], tuple(parts), bool(found[1]), bool(found[3]))
