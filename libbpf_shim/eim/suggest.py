"""The smallest class that admits a program: `policy suggest`.

The program is verified under a class that grants nothing, and whatever is missing is granted,
until nothing is: so every line is there because an instruction of the program asked for it.
Reading and writing any memory, and what the interface does not offer, is never granted but named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from libbpf_shim.eim import capability, constraint, document, policy, usdt
from libbpf_shim.eim.grants import CHOICES, Class, Grants
from libbpf_shim.eim.interface import Interface
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

_MOST = 400  # capabilities of a class
_MISSING = re.compile(r"^class [\w-]+: missing capability (.+)$", re.M)
_OVERRIDE = re.compile(r"override: (.+)")
_ANY = ((-(1 << 63), (1 << 63) - 1),)
_NEVER = ("read(*)", "write(*)")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """why: what stands in the way, "": the class admits the program."""

    found: Class
    why: str = ""

    def text(self) -> str:
        """YAML, as it stands below `classes:`."""
        row = self.found
        lines = [f"  {row.name}:", f"    entries: [{', '.join(row.entries)}]"]
        if row.allow:
            lines += ["    allow:", *(f"    - {_quoted(str(one))}" for one in row.allow)]
        if row.override is not None:
            lines.append(f"    override: {_values(row.override)}")
        return "\n".join(lines)


def _quoted(text: str) -> str:
    return f'"{text}"' if re.search(r"[\[\]*]", text) else text


def _values(ranges: constraint.Ranges) -> str:
    if not ranges:
        return "true"
    if len(ranges) == 1:
        low, high = ranges[0]
        return str(low) if low == high else f'"in [{low}, {high}]"'
    return f'"in {{{", ".join(str(low) for low, _ in ranges)}}}"'


def suggest(declared: Interface, entries: Sequence[str], program: Program) -> Suggestion:
    """For one program, at those entries."""
    row = Class(program.name or "extension", tuple(entries), (), (), None, {}, {}, (),
                dict(CHOICES))
    for _ in range(_MOST):
        for lenient in (True, False):
            why, missing = _verdict(declared, row, program, lenient)
            if why:
                break
        if not why:
            return Suggestion(_smaller(declared, row, program))
        more = _with(row, missing) if missing else None
        if more is None or more == row:
            return Suggestion(row, why)
        row = more
    return Suggestion(row, f"more than {_MOST} capabilities")


def _verdict(
    declared: Interface, row: Class, program: Program, lenient: bool
) -> tuple[str, str]:
    """Why the class does not admit the program, "": it does; the capability that is missing.
    lenient: pointers that are arguments may be loaded, so that what they lead to is asked for
    first."""
    source = document.Document(declared.document.path, {}, {})
    compiled = policy.compiled(Grants(source, "suggested", declared, {row.name: row}), row.name)
    held = compiled.policy
    if held is None:
        return compiled.wrong[0].what, ""
    if row.override == () and held.override != _ANY:
        held = replace(held, override=())  # so that values are asked for one by one
    if lenient:
        held = replace(held, args=tuple(replace(a, granted=a.granted or a.node >= 0)
                                        for a in held.args))
    verdict = verify(usdt.applied(replace(program, policy=held, log_level=1)))
    if not verdict.errno:
        return "", ""
    found = _MISSING.findall(verdict.log)
    return (f"it needs {found[-1]}", found[-1]) if found else (_last_line(verdict.log), "")


def _smaller(declared: Interface, row: Class, program: Program) -> Class:
    """Without what later capabilities make needless."""
    for one in row.allow:
        less = replace(row, allow=tuple(a for a in row.allow if a != one))
        if not _verdict(declared, less, program, False)[0]:
            row = less
    return row


def _last_line(log: str) -> str:
    """The verifier's, without its closing figures."""
    rows = [line for line in log.splitlines() if line and not line.startswith("processed ")]
    return rows[-1] if rows else "refused"


def _with(row: Class, missing: str) -> Class | None:
    """The class with that too; None: it is not to be granted without a thought."""
    if missing in _NEVER:
        return None
    if given := _OVERRIDE.fullmatch(missing):
        return _overriding(row, given[1])
    try:
        return replace(row, allow=(*row.allow, capability.parse(missing)))
    except ValueError:
        return None


def _overriding(row: Class, text: str) -> Class | None:
    """At first no value in particular, which the verifier then names one by one."""
    if text == "true":
        return replace(row, override=())
    try:
        more = constraint.values(text)
    except ValueError:
        return None
    return replace(row, override=tuple(sorted({*(row.override or ()), *more})))
