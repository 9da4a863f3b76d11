"""A diagnostic as data, and as text for people.

What it says of an error: the code, where it stands in the source, the fact that was needed and the
one that was proven, how the register came to that, the kernel's own line, what to do.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, decode
from libbpf_shim.verifier.diagnose import cause, codes, words
from libbpf_shim.verifier.diagnose.errors import Error, errors
from libbpf_shim.verifier.diagnose.replay import Replay, replay
from libbpf_shim.verifier.diagnose.source import Place, Source
from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.log.trace import text
from libbpf_shim.verifier.memory.fields import SPIN_LOCK_HELPER
from libbpf_shim.verifier.program import Program
from libbpf_shim.verifier.state import NOT_INIT

_LAST = 10  # register


@dataclass(frozen=True, slots=True)
class Step:
    """One event of the path: slot, instruction, source, what it did."""

    at: int
    insn: str
    place: Place | None
    what: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """at: slot, -1 where the program as a whole is meant. kernel: the kernel's lines, verbatim."""

    code: str
    title: str
    errno: int
    at: int
    insn: str
    function: str
    place: Place | None
    needed: str
    proven: str
    path: tuple[Step, ...]
    kernel: str
    hint: str
    input: str = ""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Teller:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.insns = decode(program.insns)
        self.source = Source(program)

    def insn(self, env: Env, at: int) -> str:
        return text(env, at) if 0 <= at < len(self.insns) else ""

    def tell(self, error: Error) -> Diagnostic:
        row, groups = codes.find(error.message)
        found = replay(self.program, error.path)
        complete = bool(found.moments) and found.moments[-1].at == error.at
        reg = _register(row, groups)
        events = self._events(found, reg, row, groups) if complete else []
        path = tuple(Step(e.at, self.insn(found.env, e.at), self.source.place(e.at), e.what)
                     for e in events)
        needed = row.needed if groups.get("r") else row.needed.replace("R{r}", "the register")
        needed = re.sub(r"\{(\w+)\}", lambda m: groups.get(m[1], "") or "it", needed)
        return Diagnostic(
            row.code, row.title, error.errno, error.at, self.insn(found.env, error.at),
            self.source.function(error.at), self.source.place(error.at), needed,
            _proven(found, reg, row, groups) if complete else "", path, error.message, row.hint,
        )  # fmt: skip


    def _events(
        self, found: Replay, reg: int, row: codes.Row, groups: dict[str, str]
    ) -> list[cause.Event]:
        acquired = int(groups["from"]) if groups.get("from") else -1
        if row.code == "BV0603":
            acquired = max((m.at for m in found.moments if _locks(self.insns[m.at])), default=-1)
        if acquired >= 0:
            return cause.of_slot(found, acquired)
        if not 0 <= reg <= _LAST:
            return []
        if found.moments[-1].regs[reg].type == NOT_INIT:
            return cause.of_register(found, reg) or cause.branches(found)
        return cause.of_register(found, reg)


def _locks(i: Insn) -> bool:
    return i.code == op.JMP | op.CALL and not i.src and i.imm == SPIN_LOCK_HELPER


def _register(row: codes.Row, groups: dict[str, str]) -> int:
    """The register that the message is about, or -1."""
    if (named := groups.get("r", "")).isdigit():
        return int(named)
    return 0 if row.code in ("BV0801", "BV0802") else -1


def _proven(found: Replay, reg: int, row: codes.Row, groups: dict[str, str]) -> str:
    if not 0 <= reg <= _LAST:
        return ""
    value = found.moments[-1].regs[reg]
    if value.type == NOT_INIT:
        return f"R{reg} holds nothing on this path"
    text = f"R{reg} is {words.register(found.env, value)}"
    if groups.get("off") and groups.get("size"):
        text += f"; the access ends at {int(groups['off']) + int(groups['size'])}"
    return text


def with_input(found: Diagnostic, text: str) -> Diagnostic:
    """The same, with an input that makes the program do what was refused."""
    return replace(found, input=text)


def diagnose(program: Program, most: int = 5) -> list[Diagnostic]:
    """At most so many errors; none if the program is accepted."""
    teller, told, found = _Teller(program), set(), []
    for error in errors(program, most):
        one = teller.tell(error)
        where = (one.place.file, one.place.line) if one.place else ("", one.at)
        if (one.code, *where) not in told:  # a line is often several instructions
            told.add((one.code, *where))
            found.append(one)
    return found


def render(name: str, found: Diagnostic) -> str:
    """For a terminal, without colour."""
    lines = [f"error[{found.code}]: {found.title}"]
    if found.place:
        lines += _shown(found.place, f"{name}: ")
    else:
        lines.append(f"  --> {name}")
    where = f"insn {found.at}: {found.insn}" if found.at >= 0 else "the program as a whole"
    function = f" in {found.function}()" if found.function and found.at >= 0 else ""
    lines.append(f"   = {where}{function}")
    lines.append(f"   = needed: {found.needed}")
    if found.proven:
        lines.append(f"   = proven: {found.proven}")
    if found.path:
        lines.append("   = how it came to that:")
        last: Place | None = None
        for step in found.path:
            if step.place and step.place != last:
                lines.append(f"       {step.place.line:5} | {step.place.text.strip()}")
            last = step.place or last
            lines.append(f"             {step.at}: {step.insn}")
            lines.append(f"                 {step.what}")
    if found.input:
        lines.append(f"   = fails with: {found.input}")
    kernel = found.kernel.split("\n")
    lines.append(f"   = kernel: {kernel[0]}")
    lines += [f"             {line}" for line in kernel[1:]]
    lines.append(f"hint: {found.hint} (bpf-shim explain {found.code})")
    return "\n".join(lines)


def _shown(place: Place, prefix: str) -> list[str]:
    """The line with a caret under its column."""
    text = place.text.expandtabs(1)
    cut = len(text) - len(text.lstrip())
    column = f":{place.column}" if place.column else ""
    lines = [f"  --> {prefix}{place.file}:{place.line}{column}", f"{place.line:5} | {text[cut:]}"]
    if place.column > cut:
        lines.append(f"      | {' ' * (place.column - 1 - cut)}^")
    return lines
