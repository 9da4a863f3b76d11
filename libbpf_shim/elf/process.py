"""The modules of a running process, from /proc/PID/maps (proc_pid_maps(5))."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass

from libbpf_shim.elf.module import PT_LOAD, Module
from libbpf_shim.errors import ShimError


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of maps: [start, end), perms as rwxp, file offset, device and inode as stat(2)
    gives them, path or bracketed name."""

    start: int
    end: int
    perms: str
    offset: int
    dev: int
    ino: int
    path: str


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A file mapped executable. base: lowest mapping; path as the kernel shows it."""

    path: str
    dev: int
    ino: int
    base: int
    mappings: tuple[Mapping, ...]

    def bias(self, module: Module) -> int:
        """What to add to the module's virtual addresses. ShimError ENOEXEC: no executable
        segment of the file is mapped here, nor a part of one (V8 maps its builtins once more)."""
        for seg in module.segments:
            if seg.type != PT_LOAD or not seg.executable:
                continue
            for m in self.mappings:
                size = m.end - m.start
                if "x" in m.perms and seg.offset - size < m.offset < seg.offset + seg.filesz:
                    return m.start - m.offset + seg.offset - seg.vaddr
        raise ShimError(
            "EL0005", errno.ENOEXEC, f"{self.path}: no executable segment is mapped"
        )

    def address(self, module: Module, offset: int) -> int | None:
        """Where the file's byte at offset is executable in this process, or None."""
        for m in self.mappings:
            if "x" in m.perms and m.offset <= offset < m.offset + (m.end - m.start):
                return m.start + offset - m.offset
        return None

    def holds(self, addr: int) -> bool:
        """Among its mappings."""
        return self.base <= addr < self.mappings[-1].end

    def writable(self, offset: int) -> int:
        """Where the file's byte at offset is this process's own to be written; 0: nowhere."""
        for m in self.mappings:
            private = "w" in m.perms and "p" in m.perms
            if private and m.offset <= offset < m.offset + (m.end - m.start):
                return m.start + offset - m.offset
        return 0


def parse_maps(text: str) -> list[Mapping]:
    """The lines of a maps file."""
    found = []
    for line in text.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 5:
            continue
        start, _, end = fields[0].partition("-")
        major, _, minor = fields[3].partition(":")
        path = fields[5] if len(fields) > 5 else ""
        found.append(
            Mapping(
                int(start, 16), int(end, 16), fields[1], int(fields[2], 16),
                os.makedev(int(major, 16), int(minor, 16)), int(fields[4]), path,
            )
        )
    return found


def folder(pid: int) -> str:
    """Its folder in /proc; of a process whose leader ended before the others, one of theirs, in
    which there is more to be read."""
    return f"/proc/{pid}" if _any(f"/proc/{pid}/maps") else _another(pid)


def _another(pid: int) -> str:
    """The folder of a thread with mappings, if the leader has none."""
    for tid in os.listdir(f"/proc/{pid}/task"):
        if tid != str(pid) and _any(f"/proc/{pid}/task/{tid}/maps"):
            return f"/proc/{pid}/task/{tid}"
    return f"/proc/{pid}"


def maps_text(pid: int) -> str:
    """Its maps file. OSError."""
    if (text := _text(f"/proc/{pid}/maps")):
        return text
    other = _another(pid)  # kernel threads have none at all
    return "" if other == f"/proc/{pid}" else _text(f"{other}/maps")


def _text(path: str) -> str:
    """All of it. At every attach, of every process: without Python's files."""
    fd, parts = os.open(path, os.O_RDONLY | os.O_CLOEXEC), []
    try:
        while part := os.read(fd, 1 << 16):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def _any(path: str) -> bool:
    """Something is in it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return bool(os.read(fd, 1))
    finally:
        os.close(fd)


def read_maps(pid: int) -> list[Mapping]:
    """Mappings of a process. ShimError ESRCH, EACCES."""
    return parse_maps(read_text(pid))


def read_text(pid: int) -> str:
    """Its maps file. ShimError ESRCH, EACCES."""
    try:
        return maps_text(pid)
    except OSError as err:
        code = errno.ESRCH if err.errno == errno.ENOENT else err.errno or errno.EIO
        raise ShimError("EL0006", code, f"process {pid}: no maps: {err.strerror}") from err


def loaded_modules(maps: Iterable[Mapping]) -> list[LoadedModule]:
    """Files with an executable mapping, in address order. The same file mapped twice at
    unrelated addresses counts twice (a new group begins where the file offset goes back)."""
    groups: list[list[Mapping]] = []
    last: dict[tuple[int, int], list[Mapping]] = {}
    for m in maps:
        if not m.ino:
            continue
        group = last.get((m.dev, m.ino))
        if group is None or m.offset < group[-1].offset:
            group = last[m.dev, m.ino] = []
            groups.append(group)
        group.append(m)
    return [
        LoadedModule(_path(g[0]), g[0].dev, g[0].ino, g[0].start, tuple(g))
        for g in groups
        if any("x" in m.perms for m in g)
    ]


def _path(mapping: Mapping) -> str:
    return mapping.path.removesuffix(" (deleted)")
