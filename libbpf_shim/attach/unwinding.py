"""Unwind tables of a session: made of files, shared with processes where stacks are walked.

All tables lie in one memfd, which such a process maps once, and read-only; what it is told beside
that is where its modules are and which table is theirs. A table is made before a process is
stopped, and kept beside the jump targets of the file (rewrite/targets.py).
"""

from __future__ import annotations

import array
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.process import Process
from libbpf_shim.elf import cfi
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError
from libbpf_shim.object.file import PAGE, sealed_memfd

_SIZE = 256 << 20  # bytes, sparse
_LARGEST = 3 << 20  # bytes of .eh_frame: beyond it a table would take too long to make
_KEPT = struct.Struct("<8sII")  # magic, rows, frame pointers
_MAGIC = b"SHIMUW01"


@dataclass(frozen=True, slots=True)
class Placed:
    """A table in the memfd: offset in bytes, number of rows; none: 0."""

    offset: int
    rows: int


class Row(NamedTuple):
    """A module of a process: [start, end) of its code, what its table's addresses count from; the
    table; what to add to an address for its offset in the file."""

    start: int
    end: int
    base: int
    offset: int
    rows: int
    file: int
    build_id: bytes


class Unwinding:
    """Single-threaded, as Delivery."""

    def __init__(self, plans: Plans, cache: Path) -> None:
        self._plans, self._cache = plans, cache
        self._fd = self._shown = -1
        self._used = 0
        self._placed: dict[str, Placed] = {}  # by Module.key

    def prepare(self, modules: Iterable[LoadedModule]) -> None:
        """Makes the tables that these will need."""
        for loaded in modules:
            self._of(loaded)

    def into(self, talk: Conversation, process: Process) -> None:
        """Tells the process, if it walks stacks, of the modules that it has now."""
        from libbpf_shim._native import ffi

        if not process.walks_stacks or process.told is process.modules:
            return
        rows = []
        for loaded in process.modules:
            if (found := self._of(loaded)) and (row := self._row(loaded, *found)):
                rows.append(row)
        process.told = process.modules
        if rows == process.unwound:
            return
        some = any(row.rows for row in rows)
        table = process.tables(talk, self._shown, _SIZE) if some else 0
        msg = ffi.new("struct shim_agent_unwind *")
        room = len(msg.modules)
        for at in range(0, max(len(rows), 1), room):
            part = rows[at : at + room]
            msg.session, msg.more, msg.nr = process.session, int(at > 0), len(part)
            for index, row in enumerate(part):
                msg.modules[index] = {
                    "start": row.start, "end": row.end, "base": row.base, "rows": row.rows,
                    "table": table + row.offset, "file": row.file & (2**64 - 1),
                    "build_id": row.build_id[:20].ljust(20, b"\0"),
                    "has_id": int(bool(row.build_id))}
            talk.unwind(bytes(ffi.buffer(msg)))
        process.unwound = rows

    @staticmethod
    def _row(loaded: LoadedModule, file: Module, placed: Placed) -> Row | None:
        try:
            bias = loaded.bias(file)
        except ShimError:
            return None
        first, last = file.text[0], file.text[-1]
        return Row(first.vaddr + bias, last.vaddr + last.memsz + bias, file.load_base + bias,
                   placed.offset, placed.rows, first.offset - first.vaddr - bias, file.build_id)

    def _of(self, loaded: LoadedModule) -> tuple[Module, Placed] | None:
        """The file and its table; None: there is neither that nor a build-id, or the file cannot
        be read (any more)."""
        try:
            file = self._plans.module(loaded.path)
        except (ShimError, OSError):
            return None
        if file.ino != loaded.ino:
            return None
        placed = self._placed.get(file.key)
        if placed is None:
            placed = self._placed[file.key] = self._place(self._table(file))
        return (file, placed) if placed.rows or file.build_id else None

    def _table(self, file: Module) -> cfi.Table:
        kept = self._cache / f"{file.key}.unwind"
        if found := _load(kept):
            return found
        if cfi.size(file) > _LARGEST:
            return cfi.Table(array.array("I"), b"", False)
        made = cfi.table(file)
        _store(kept, made)
        return made

    def _place(self, table: cfi.Table) -> Placed:
        data = table.packed()
        if not table or self._used + len(data) > _SIZE:
            return Placed(0, 0)
        if self._fd < 0:
            self._fd = sealed_memfd("bpf-unwind", _SIZE, front=0)
            # what processes are given cannot be written through
            self._shown = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        at = self._used
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], at + done)
        self._used += -(-len(data) // PAGE) * PAGE
        return Placed(at, len(table))

    def close(self) -> None:
        for fd in (self._fd, self._shown):
            if fd >= 0:
                os.close(fd)
        self._fd = self._shown = -1


def _load(path: Path) -> cfi.Table | None:
    try:
        if path.stat().st_uid not in (0, os.geteuid()):
            return None
        data = path.read_bytes()
        magic, rows, framed = _KEPT.unpack_from(data)
    except (OSError, struct.error):
        return None
    if magic != _MAGIC or len(data) != _KEPT.size + rows * 12:
        return None
    addresses = array.array("I")
    addresses.frombytes(data[_KEPT.size : _KEPT.size + rows * 4])
    return cfi.Table(addresses, data[_KEPT.size + rows * 4 :], bool(framed))


def _store(path: Path, table: cfi.Table) -> None:
    """Best effort: a cache that cannot be written costs time only."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        aside.write_bytes(_KEPT.pack(_MAGIC, len(table), table.frame_pointers)
                          + table.addresses.tobytes() + table.rules)
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
