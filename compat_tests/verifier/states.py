"""Abstract states that a level 2 log prints, instruction by instruction: the kernel's beside ours.

`trace(log)` reads either log; `differences(theirs, ours)` says where registers or stack slots
do not agree. Ids are left out, since their numbers mean nothing; marks of precision too.
Source: observed logs of Linux 6.18, kernel/bpf/log.c (print_verifier_state, print_scalar_ranges).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

U64 = (1 << 64) - 1
# name, value that is not printed, signed
RANGES = (
    ("smin", -(1 << 63), True), ("smax", (1 << 63) - 1, True), ("umin", 0, False),
    ("umax", U64, False), ("smin32", -(1 << 31), True), ("smax32", (1 << 31) - 1, True),
    ("umin32", 0, False), ("umax32", (1 << 32) - 1, False),
)  # fmt: skip
OTHER = "another path:"  # the states are compared as far as both run the same
NAMES = {name for name, _, _ in RANGES}
SIGNED = {name for name, _, signed in RANGES if signed}
_STEP = re.compile(r"^(\d+): \([0-9a-f]{2}\) (.*?)(?:\s+; (R\d.*|frame\d.*|fp-.*))?$")
_STATE = re.compile(r"^(\d+): ((?:frame\d+: )?(?:R\d+=|fp-).*)$")
_PLACE = re.compile(r"(?:^| )(R\d+|fp-\d+|frame\d+:|refs|cb|async_cb)(=|$|(?= ))")
_BYTES = re.compile(r"[?m0rdif]+$")
_SPILLED = re.compile(r"P?(-?\d+|0x[0-9a-f]+|[a-z_]+\(.*\)|fp-?\w+)")
_ID = re.compile(r"^(id|ref_obj_id|map|alloc|map_uid)=|^P$")


@dataclass(slots=True)
class Executed:
    """One instruction as it was run: text, and what stood in the registers after it."""

    insn: int
    text: str
    after: dict[str, str] = field(default_factory=dict)


def number(text: str, name: str) -> int:
    value = int(text, 0)
    bits = 32 if name.endswith("32") else 64
    return value - (1 << bits) if name in SIGNED and value >> (bits - 1) == 1 else value


def places(text: str) -> dict[str, str]:
    """`frame1: R0=1 fp-8=scalar()` by place; places of frame 1 have `1:` before them."""
    found: dict[str, str] = {}
    frame = ""
    marks = list(_PLACE.finditer(text))
    for at, m in enumerate(marks):
        end = marks[at + 1].start() if at + 1 < len(marks) else len(text)
        if m[1].startswith("frame"):
            frame = m[1][5:]
        elif m[2] == "=" and m[1][0] in "Rf":
            found[frame + m[1]] = text[m.end() : end].strip()
    return found


def meaning(text: str) -> dict[str, object]:
    """A register's text without ids, every bound filled in."""
    head = ""
    for size in (8, 7, 6, 4):  # bytes that are no part of a spilled register
        if _BYTES.match(text[:size]) and _SPILLED.fullmatch(text[size:]) or (
            size == 8 and len(text) == 8 and _BYTES.match(text)
        ):
            head = text[:size]
            break
    text = text[len(head) :].removeprefix("P")
    m = re.fullmatch(r"-?\d+|0x[0-9a-f]+", text)
    if m:
        return {"head": head, "const": int(text, 0) & U64}
    m = re.fullmatch(r"([a-z_0-9&]+)\((.*)\)", text)
    if not m:
        m = re.fullmatch(r"fp(-?\d+|0x[0-9a-f]+)", text)
        return {"head": head, "text": f"fp{number(m[1], 'smin')}" if m else text}
    out: dict[str, object] = {"head": head, "type": m[1]}
    bounds: dict[str, int] = {}
    inner = re.sub(r"\((0x[0-9a-f]+); (0x[0-9a-f]+)\)", r"\1;\2", m[2])
    for part in inner.split(","):
        if not part or _ID.match(part):
            continue
        *names, value = part.split("=")
        for name in names:
            if name in NAMES:
                bounds[name] = number(value, name)
            else:
                out[name] = str(number(value, "smin")) if name == "off" else value
    if m[1] == "scalar" or bounds or "var_off" in out:
        for name, dull, _ in RANGES:
            out[name] = bounds.get(name, dull)
        out.setdefault("var_off", f"0x0;{U64:#x}")
    return out


def trace(log: str) -> list[Executed]:
    """The instructions of a level 2 log in the order they were run."""
    steps: list[Executed] = []
    fresh = False  # a line of state alone tells what the last instruction left
    for line in log.splitlines():
        if m := _STEP.match(line):
            steps.append(Executed(int(m[1]), m[2].strip(), places(m[3] or "")))
            fresh = False
        elif line.startswith("from "):
            fresh = True
        elif (m := _STATE.match(line)) and steps and not fresh:
            for place, text in places(m[2]).items():
                steps[-1].after.setdefault(place, text)
    return steps


def differences(theirs: list[Executed], ours: list[Executed]) -> list[str]:
    """What is not the same, in order; empty if all that both print agrees."""
    found: list[str] = []
    for at, (a, b) in enumerate(zip(theirs, ours, strict=False)):
        if a.insn != b.insn:
            return [*found, f"{OTHER} instruction {a.insn} at step {at}, ours {b.insn}"]
        for place, text in a.after.items():
            mine = b.after.get(place)
            if mine is not None and meaning(text) != meaning(mine):
                found.append(f"{a.insn}: {a.text}\n    {place}={text}\n    ours {mine}")
    if len(theirs) != len(ours):
        found.append(f"{OTHER} {len(theirs)} instructions run, ours {len(ours)}")
    return found
