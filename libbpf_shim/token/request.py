"""What a loader asks for, as tokens judge it: a value, and the structure that programs are given.

struct shim_token_request is of one size, little endian, zeroed where nothing is to be said. Fields
are added at its end alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from libbpf_shim.token.claims import Attach

# C type, name, members of an array, what it is
_FIELDS: Final = (
    ("__u32", "op", 0, "SHIM_TOKEN_*"),
    ("__u32", "uid", 0, "of the loader"),
    ("__u32", "pid", 0, "of the loader"),
    ("__u32", "prog_type", 0, "enum bpf_prog_type"),
    ("__u32", "expected_attach_type", 0, "enum bpf_attach_type"),
    ("__u32", "insn_cnt", 0, "LOAD: 8-byte slots"),
    ("__u32", "map_type", 0, "MAP: enum bpf_map_type"),
    ("__u32", "attach", 0, "ATTACH, RUN: one of SHIM_TOKEN_UPROBE..."),
    ("__u64", "map_bytes", 0, "MAP: of the map to be made"),
    ("__u64", "map_used", 0, "of the token's maps that live"),
    ("__u64", "now", 0, "seconds since 1970"),
    ("__u64", "offset", 0, "ATTACH: file offset of a uprobe; of several, the first"),
    ("__s32", "target_pid", 0, "ATTACH: a process, or 0: every one"),
    ("__u32", "build_id_len", 0, "bytes of build_id"),
    ("__u8", "build_id", 32, "ATTACH: of the file"),
    ("char", "name", 64, "program, map, tracepoint or function; NUL-terminated"),
)
_CODES: Final = {"__u32": "I", "__u64": "Q", "__s32": "i"}
_FORMAT: Final = struct.Struct("<" + "".join(
    f"{count}s" if count else _CODES[kind] for kind, _, count, _ in _FIELDS))
SIZE: Final = _FORMAT.size


class Op(IntEnum):
    """What is asked for; all else that a loader may ask needs a token and nothing of it."""

    LOAD = 1
    MAP = 2
    ATTACH = 3
    RUN = 4


@dataclass(frozen=True, slots=True)
class Request:
    """Fields as in the structure. class_: of the program, "": it has none; None: it has none, and
    may run nowhere."""

    op: Op
    uid: int
    pid: int = 0
    prog_type: int = 0
    expected_attach_type: int = 0
    insn_cnt: int = 0
    map_type: int = 0
    attach: Attach = Attach(0)
    map_bytes: int = 0
    now: int = 0
    offset: int = 0
    target_pid: int = 0
    build_id: bytes = b""
    name: str = ""
    class_: str | None = ""

    def packed(self, map_used: int) -> bytearray:
        """struct shim_token_request."""
        name = self.name.encode(errors="replace")[:63]
        return bytearray(_FORMAT.pack(
            self.op, self.uid, self.pid, self.prog_type, self.expected_attach_type,
            self.insn_cnt, self.map_type, self.attach, self.map_bytes, map_used, self.now,
            self.offset, self.target_pid, min(len(self.build_id), 32), self.build_id[:32], name))


def header() -> str:
    """The structure and its constants as C, for programs to include."""
    lines = ["/* what a token's program is given; `bpf-shim token header` prints this */",
             "#pragma once", "#include <linux/types.h>", ""]
    for names in (Op, Attach):
        values = (f"\tSHIM_TOKEN_{one.name} = {one.value}," for one in names)
        lines += ["enum {", *values, "};", ""]
    rows = (f"\t{kind} {name}{f'[{count}]' if count else ''}; /* {what} */"
            for kind, name, count, what in _FIELDS)
    return "\n".join([*lines, "struct shim_token_request {", *rows, "};", ""])


def place(field: str) -> tuple[int, int]:
    """Where a field stands: offset and size in bytes."""
    at = 0
    for kind, name, count, _ in _FIELDS:
        size = count or struct.calcsize("<" + _CODES[kind])
        if name == field:
            return at, size
        at += size
    raise KeyError(field)
