"""A few instructions with jumps among them: code that stands in the place of a call."""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.jit import encode as x

_ALWAYS: Final = -1
# conditions of jcc
BELOW, ABOVE_EQUAL, EQUAL, NOT_EQUAL, BELOW_EQUAL, ABOVE = 0x2, 0x3, 0x4, 0x5, 0x6, 0x7


@final
class Local:
    """put, address and symbol append; jump leads to a label of the same code. All jumps are short
    where all reach, else all are long."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes | str | tuple[int, str] | tuple[int, str, int]] = []

    def put(self, *code: bytes) -> None:
        self._parts += code

    def label(self, name: str) -> None:
        self._parts.append(name)

    def jump(self, to: str, condition: int = _ALWAYS) -> None:
        self._parts.append((condition, to))

    def address(self, dst: int, symbol: str, addend: int = 0) -> None:
        """dst = address of a symbol."""
        self._parts.append((dst, symbol, addend))

    def done(self) -> tuple[bytes, list[tuple[int, str, int]]]:
        """The code and its relocations: offset, symbol, addend."""
        short = self._render(True)
        return short or self._render(False) or (b"", [])

    def _size(self, part: tuple[int, str], short: bool) -> int:
        return 2 if short else 5 if part[0] == _ALWAYS else 6

    def _places(self, short: bool) -> dict[str, int]:
        places, at = {}, 0
        for part in self._parts:
            if isinstance(part, str):
                places[part] = at
            elif isinstance(part, bytes):
                at += len(part)
            else:
                at += 10 if len(part) == 3 else self._size((part[0], part[1]), short)
        return places

    def _render(self, short: bool) -> tuple[bytes, list[tuple[int, str, int]]] | None:
        places = self._places(short)
        out, relocs = bytearray(), []
        for part in self._parts:
            if isinstance(part, str):
                continue
            if isinstance(part, bytes):
                out += part
            elif len(part) == 3:
                out += x.movabs(part[0], 0)
                relocs.append((len(out) - 8, part[1], part[2]))
            else:
                condition, to = part
                distance = places[to] - len(out) - self._size((condition, to), short)
                if short and not -128 <= distance < 128:
                    return None
                out += _jump(condition, distance, short)
        return bytes(out), relocs


def _jump(condition: int, distance: int, short: bool) -> bytes:
    if short:
        return bytes([0xEB if condition == _ALWAYS else 0x70 | condition, distance & 0xFF])
    opcode = b"\xe9" if condition == _ALWAYS else bytes([0x0F, 0x80 | condition])
    return opcode + x.imm32(distance)
