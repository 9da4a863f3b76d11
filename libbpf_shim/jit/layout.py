"""Pieces of code in a row: which jumps are short, where loops begin, what jumps lead through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from libbpf_shim.jit import encode as x
from libbpf_shim.jit.control import ALWAYS, CALL
from libbpf_shim.jit.emit import Piece

_LOOP: Final = 16
_NOPS: Final = (
    b"", b"\x90", b"\x66\x90", b"\x0f\x1f\x00", b"\x0f\x1f\x40\x00", b"\x0f\x1f\x44\x00\x00",
    b"\x66\x0f\x1f\x44\x00\x00", b"\x0f\x1f\x80\x00\x00\x00\x00",
    b"\x0f\x1f\x84\x00\x00\x00\x00\x00", b"\x66\x0f\x1f\x84\x00\x00\x00\x00\x00",
)  # fmt: skip


def nops(size: int) -> bytes:
    """So many bytes that do nothing, in few instructions (Intel SDM 2B, NOP)."""
    return _NOPS[9] * (size // 9) + _NOPS[size % 9]


def _through(pieces: list[Piece], to: int) -> int:
    """Where a jump to a slot leads in the end."""
    seen = set()
    while to not in seen:
        seen.add(to)
        jump = pieces[to].jump
        if pieces[to].code or pieces[to].entry or not jump or jump[0] != ALWAYS:
            break
        to = jump[1]
    return to


def thread(pieces: list[Piece]) -> None:
    """Jumps to jumps lead where those lead, and those to the next code are none."""
    for n, piece in enumerate(pieces):
        if not piece.jump or piece.jump[0] == CALL:
            continue
        to = _through(pieces, piece.jump[1])
        piece.jump = (piece.jump[0], to)
        over = pieces[n + 1 : to + 1]
        if to > n and not any(p.entry for p in over) and \
                not any(p.code or p.jump for p in over[:-1]):
            piece.jump = None


def jump_size(condition: int, near: bool) -> int:
    if condition == CALL:
        return 5
    return 2 if near else 5 if condition == ALWAYS else 6


def jump_code(condition: int, near: bool, distance: int) -> bytes:
    if condition == CALL:
        return b"\xe8" + x.imm32(distance)
    if near:
        return bytes([0xEB if condition == ALWAYS else 0x70 | condition, distance & 0xFF])
    opcode = b"\xe9" if condition == ALWAYS else bytes([0x0F, 0x80 | condition])
    return opcode + x.imm32(distance)


@dataclass(slots=True)
class Layout:
    """By piece: bytes that do nothing before it, where its own code begins, where it ends, and
    whether its jump is one of two bytes."""

    pads: list[int]
    offsets: list[int]
    ends: list[int]
    near: list[bool]


def _place(pieces: list[Piece], loops: set[int], near: list[bool]) -> Layout:
    out, at = Layout([], [], [], near), 0
    for n, piece in enumerate(pieces):
        pad = -at % _LOOP if n in loops and not piece.entry else 0
        at += pad + len(piece.entry)
        out.pads.append(pad)
        out.offsets.append(at)
        at += len(piece.code) + (jump_size(piece.jump[0], near[n]) if piece.jump else 0)
        out.ends.append(at)
    return out


def arrange(pieces: list[Piece]) -> Layout:
    """Where everything lies. Loops begin at multiples of 16, as images do; a jump once long stays
    long."""
    near = [True] * len(pieces)
    loops = {p.jump[1] for n, p in enumerate(pieces)
             if p.jump and p.jump[0] != CALL and p.jump[1] <= n}
    while True:
        out, grown = _place(pieces, loops, near), False
        for n, piece in enumerate(pieces):
            if piece.jump and near[n] and \
                    not -128 <= out.offsets[piece.jump[1]] - out.ends[n] < 128:
                near[n] = False
                grown = True
        if not grown:
            return out
