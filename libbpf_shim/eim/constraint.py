"""Conditions as interfaces write them: `rc in {403, 404}`, `len <= 4096`, `r == entry.r`,
`rtn != NULL`, `n in [0, 10]`, `len <= cap`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NUMBER = r"-?(?:0[xX][0-9a-fA-F]+|\d+)"
_NAME = r"[A-Za-z_]\w*"
_COMPARE = re.compile(rf"({_NAME})\s*(==|!=|<=|>=|<|>)\s*({_NUMBER}|NULL|entry\.{_NAME}|{_NAME})")
_SET = re.compile(rf"({_NAME}\s+)?in\s*(\{{[^{{}}]*\}}|\[[^\[\]]*\])")
_ONE = re.compile(_NUMBER)

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Condition:
    """left: a name. op: a comparison, or in. One of: number; name (of a parameter), entry (of an
    argument of the entry); ranges."""

    text: str
    left: str
    op: str
    number: int | None = None
    name: str = ""
    entry: str = ""
    ranges: Ranges = ()


def parse(text: str) -> Condition:
    """ValueError."""
    plain = text.strip()
    if found := _COMPARE.fullmatch(plain):
        left, op, right = found[1], found[2], found[3]
        if right == "NULL":
            if op not in ("==", "!="):
                raise ValueError("NULL is compared with == or !=")
            return Condition(plain, left, op, number=0)
        if _ONE.fullmatch(right):
            return Condition(plain, left, op, number=int(right, 0))
        if right.startswith("entry."):
            if op != "==":
                raise ValueError("an argument of the entry is compared with ==")
            return Condition(plain, left, op, entry=right.removeprefix("entry."))
        return Condition(plain, left, op, name=right)
    if (found := _SET.fullmatch(plain)) and found[1]:
        return Condition(plain, found[1].strip(), "in", ranges=_ranges(found[2]))
    raise ValueError(f"{text!r}: it is to be like `rc in {{403, 404}}`, `len <= 4096`, "
                     "`r == entry.r`, `rtn != NULL`")


def values(text: str) -> Ranges:
    """`in {403, 404}`, `in [0, 10]`, `403`. ValueError."""
    plain = text.strip()
    if _ONE.fullmatch(plain):
        return ((int(plain, 0), int(plain, 0)),)
    if (found := _SET.fullmatch(plain)) and not found[1]:
        return _ranges(found[2])
    raise ValueError(f"{text!r}: it is to be like `in {{403, 404}}`, `in [0, 10]` or `403`")


def _ranges(text: str) -> Ranges:
    words = [word.strip() for word in text[1:-1].split(",")]
    if not all(_ONE.fullmatch(word) for word in words):
        raise ValueError(f"{text}: whole numbers are expected")
    numbers = [int(word, 0) for word in words]
    if text[0] == "{":
        return tuple((n, n) for n in sorted(set(numbers)))
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise ValueError(f"{text}: the least and the most are expected")
    return ((numbers[0], numbers[1]),)
