"""Where an instruction stands in the source: line_info and func_info with the program's BTF.

Source: linux/bpf.h, struct bpf_line_info and bpf_func_info.
"""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass

from libbpf_shim.btf.lazy import parsed
from libbpf_shim.verifier.program import Program


@dataclass(frozen=True, slots=True)
class Place:
    """line and column count from 1; column 0: it is not known. text: the line."""

    file: str
    line: int
    column: int
    text: str


class Source:
    """Of one program; a program without BTF has no places."""

    def __init__(self, program: Program) -> None:
        self._at: list[int] = []
        self._places: list[Place] = []
        self._functions: list[tuple[int, str]] = []
        if program.btf is None:
            return
        btf = parsed(program.btf)
        size = program.line_info_rec_size
        for where in range(0, len(program.line_info) - 15, size or 16):
            at, file, text, position = struct.unpack_from("<IIII", program.line_info, where)
            self._at.append(at)
            self._places.append(Place(btf.string(file), position >> 10, position & 0x3FF,
                                      btf.string(text)))
        size = program.func_info_rec_size
        for where in range(0, len(program.func_info) - 7, size or 8):
            at, type_id = struct.unpack_from("<II", program.func_info, where)
            self._functions.append((at, btf.type(type_id).name))

    def place(self, slot: int) -> Place | None:
        index = bisect.bisect_right(self._at, slot) - 1
        while index >= 0 and not self._places[index].line:  # what no line of the source made
            index -= 1
        return self._places[index] if index >= 0 and slot >= 0 else None

    def function(self, slot: int) -> str:
        """"" if its name is not known."""
        found = [name for at, name in self._functions if at <= slot]
        return found[-1] if found else ""
