"""What a token says, for a person and as JSON."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

from libbpf_shim.token.chain import Token
from libbpf_shim.token.claims import Attach, Claims


def _date(seconds: int) -> str:
    try:
        date = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"second {seconds}"
    return date.strftime("%Y-%m-%dT%H:%M:%SZ")


def _kinds(attach: Attach) -> list[str]:
    return [kind.name.lower() for kind in Attach if kind & attach and kind.name]


def plain(claims: Claims) -> dict[str, Any]:
    """The claims that are there, as JSON has them."""
    rows: dict[str, Any] = {}
    if claims.expires is not None:
        rows["expires"] = _date(claims.expires)
    if claims.uids is not None:
        rows["uids"] = list(claims.uids)
    if claims.build_ids is not None:
        rows["build_ids"] = [one.hex() for one in claims.build_ids]
    if claims.classes is not None:
        rows["classes"] = list(claims.classes)
    if claims.attach is not None:
        rows["attach"] = _kinds(claims.attach)
    if claims.map_bytes is not None:
        rows["map_bytes"] = claims.map_bytes
    if claims.program is not None:
        rows["program"] = claims.program.hex()
    return rows


def _lines(claims: Claims) -> list[str]:
    rows = plain(claims)
    rows.pop("program", None)
    out = [f"{name}: {', '.join(map(str, said)) or 'none' if isinstance(said, list) else said}"
           for name, said in rows.items()]
    if claims.program is not None:
        out.append(f"program: {len(claims.program) // 8} instructions must answer other than 0")
        out += [f"    {line}" for line in _listing(claims.program)]
    return out


def _listing(program: bytes) -> list[str]:
    """The instructions, whatever they are: nobody has looked at them."""
    from libbpf_shim.isa import insn as op
    from libbpf_shim.isa.disasm import disassemble

    insns, lines, at = op.decode(program), [], 0
    while at < len(insns):
        try:
            text = disassemble(insns, at, lambda number: "helper")
        except (KeyError, IndexError, ValueError):
            text = insns[at : at + 1][0].code.to_bytes(1, "little").hex()
        lines.append(f"{at}: {text}")
        at += 2 if insns[at].code == op.LD_IMM64 else 1
    return lines


@dataclass(frozen=True, slots=True)
class Told:
    """checked: with a key; verdict: why the token is not accepted."""

    token: Token
    checked: bool
    verdict: str

    @property
    def _accepted(self) -> str:
        if not self.checked:
            return "not checked: a key says whether it is genuine (--key)"
        return f"no: {self.verdict}" if self.verdict else "yes"

    def plain(self) -> dict[str, Any]:
        steps = [{"name": name.hex(), "claims": plain(claims)}
                 for name, claims in zip(self.token.ids, self.token.claims, strict=True)]
        return {"name": self.token.ids[-1].hex(), "checked": self.checked,
                "accepted": (not self.verdict) if self.checked else None,
                "why_not": self.verdict, "steps": steps, "together": plain(self._together)}

    @property
    def _together(self) -> Claims:
        """What is left after all steps; programs are asked step by step."""
        found = Claims()
        for claims in self.token.claims:
            found = claims.after(found)
        return replace(found, program=None)

    def text(self) -> str:
        lines = [f"token {self.token.ids[-1].hex()}"]
        for number, (name, claims) in enumerate(
                zip(self.token.ids, self.token.claims, strict=True), 1):
            lines.append(f"step {number}  {name.hex()}")
            lines += [f"  {line}" for line in _lines(claims)]
        if len(self.token.steps) > 1:
            lines += ["together", *(f"  {line}" for line in _lines(self._together))]
        return "\n".join([*lines, f"accepted: {self._accepted}"])
