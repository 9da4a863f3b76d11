"""Format strings of bpf_snprintf(): which ones a program may name.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c (check_bpf_snprintf_call),
kernel/bpf/helpers.c (bpf_bprintf_prepare).
"""

from __future__ import annotations

from typing import Final

_SPACE: Final = b" \t\n\v\f\r"
_PUNCT: Final = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_ENDS: Final = frozenset(_SPACE + _PUNCT + b"\0")  # what may follow %s and %p
_FLAGS: Final = b"0+- "
_DIGITS: Final = b"0123456789"
_NUMBERS: Final = b"iduxX"


def arguments(text: bytes) -> int:
    """How many arguments the format takes; -1: the kernel does not know it."""
    for byte in text:
        if not 32 <= byte < 127 and byte not in _SPACE:
            return -1
    found, at, text = 0, 0, text + b"\0\0\0"
    while text[at]:
        if text[at] != 0x25:
            at += 1
        elif text[at + 1] == 0x25:
            at += 2
        else:
            at = _conversion(text, at + 1)
            if at < 0:
                return -1
            found += 1
    return found


def _conversion(text: bytes, at: int) -> int:
    """Behind the conversion whose "%" is before at; -1: unknown."""
    while text[at] in _FLAGS:
        at += 1
    if text[at] in _DIGITS:
        while text[at] in _DIGITS:
            at += 1
    letter = text[at : at + 1]
    if letter == b"p":
        return _pointer(text, at + 1)
    if letter == b"s":
        return at + 1 if text[at + 1] in _ENDS else -1
    if letter == b"c":
        return at + 1
    for _ in range(2):
        if text[at : at + 1] == b"l":
            at += 1
    return at + 1 if text[at] in _NUMBERS else -1


def _pointer(text: bytes, at: int) -> int:
    if text[at] in _ENDS:
        return at
    if text[at : at + 2] in (b"ks", b"us"):
        return at + 2 if text[at + 2] in _ENDS else -1
    if text[at : at + 1] in (b"K", b"x", b"s", b"S", b"B"):
        return at + 1
    return at + 2 if text[at : at + 2] in (b"i4", b"i6", b"I4", b"I6") else -1


def reads_memory(text: bytes) -> bool:
    """Whether the format prints what an argument points to, or may (it is not known)."""
    found = reading(text)
    return found is None or True in found


def reading(text: bytes) -> list[bool] | None:
    """Of each argument that the format takes, whether it prints what that points to; None: the
    kernel does not know the format."""
    if arguments(text) < 0:
        return None
    found: list[bool] = []
    at = 0
    while at < len(text):
        if text[at : at + 1] != b"%":
            at += 1
            continue
        at += 1
        if text[at : at + 1] == b"%":
            at += 1
            continue
        while at < len(text) and text[at] in _FLAGS + _DIGITS:
            at += 1
        kind = text[at + 1 : at + 2]
        found.append(text[at : at + 1] == b"s" or (
            text[at : at + 1] == b"p" and kind in (b"k", b"u", b"i", b"I")))
        at += 1
    return found
