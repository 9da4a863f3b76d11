"""Uprobes as they are asked for: a file, an offset, perhaps a process and a reference counter.

A reference counter is a word of the file's data (a USDT semaphore): one more in every process
where the probe is (docs/architecture.md, Counters of probes). Source: kernel/events/uprobes.c
(uprobe_register, alloc_uprobe), kernel/trace/trace_uprobe.c, linux/perf_event.h.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from libbpf_shim.elf.module import PF_W, PT_LOAD, Module
from libbpf_shim.errors import ShimError

Key = tuple[int, int]  # device and inode of a file


def pmu_type(name: str, library: Path) -> int:
    """The number of a PMU: the machine's, else that of our own tree; -1: there is none."""
    for folder in (Path("/sys/bus/event_source/devices"), library.parent / "sysfs"):
        try:
            return int((folder / name / "type").read_text(encoding="ascii"))
        except OSError:
            continue
    return -1


@dataclass(frozen=True, slots=True)
class File:
    """path: without symbolic links; size in bytes."""

    path: str
    key: Key
    size: int


def _refused(code: int, what: str) -> ShimError:
    return ShimError("AU0001", code, f"uprobe: {what}")


def find(client: int, name: bytes, irregular: int) -> File:
    """A path as the process `client` means it. ENOENT and others of stat(2); `irregular`: not a
    regular file."""
    path = os.fsdecode(name).replace("/proc/self/", f"/proc/{client}/", 1)
    path = os.path.join(f"/proc/{client}/cwd", path)
    try:
        found = os.stat(path)
    except OSError as err:
        raise _refused(err.errno or errno.ENOENT, f"{path}: {err.strerror}") from err
    if not stat.S_ISREG(found.st_mode):
        raise _refused(irregular, f"{path}: not a file")
    key = found.st_dev, found.st_ino
    return File(_named(path, key), key, found.st_size)


def _named(path: str, key: Key) -> str:
    """The file's name without symbolic links; the path itself where those lead through another
    process's root (/proc/PID/root), of which a link tells nothing."""
    real = os.path.realpath(path)
    try:
        there = os.stat(real)
    except OSError:
        return path
    return real if (there.st_dev, there.st_ino) == key else path


def place(file: File, offset: int, ref: int) -> int:
    """Checks an offset and a reference counter's, both in bytes of the file. The counter, or 0 if
    no process could have it: libbcc passes what lay on its stack. EINVAL,
    EIO."""
    return places(file, ((offset, ref),))[0]


def places(file: File, wanted: Iterable[tuple[int, int]]) -> list[int]:
    """The same for many; their counters."""
    if file.key[0] == os.stat("/proc").st_dev:
        raise _refused(errno.EIO, f"{file.path}: no code is mapped from there")
    found = []
    for offset, ref in wanted:
        if offset > file.size:
            raise _refused(errno.EINVAL, f"{file.path}: offset {offset} of {file.size}")
        if ref & 1:
            raise _refused(errno.EINVAL, f"{file.path}: reference counter at odd offset {ref:#x}")
        found.append(ref if ref and _is_data(file.path, ref) else 0)
    return found


def _is_data(path: str, offset: int) -> bool:
    """The file's bytes at offset are mapped to be written."""
    try:
        segments = Module(path).segments
    except ShimError:
        return False
    return any(s.type == PT_LOAD and s.flags & PF_W and s.offset <= offset < s.offset + s.filesz
               for s in segments)


def group_of(pid: int) -> int:
    """The process of a thread, which may be its first one. ESRCH."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("Tgid:"):
                    return int(line.split()[1])
    except OSError:
        pass
    raise _refused(errno.ESRCH, f"process {pid}: none")


def start_of(pid: int) -> int:
    """When a process started, in clock ticks: with its number it names it for ever. ESRCH."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError as err:
        raise _refused(errno.ESRCH, f"process {pid}: none") from err


class Registered:
    """The places that events and links have, each with the reference counter it has to have."""

    def __init__(self) -> None:
        self._places: dict[tuple[Key, int], tuple[int, int]] = {}  # counter, how often taken

    def take(self, key: Key, offset: int, ref: int) -> None:
        """EINVAL: it is there with another counter."""
        known, count = self._places.get((key, offset), (ref, 0))
        if known != ref:
            raise _refused(errno.EINVAL, f"offset {offset:#x}: reference counter {ref:#x}, and "
                                         f"{known:#x} for those that are there")
        self._places[key, offset] = (ref, count + 1)

    def put(self, key: Key, offset: int) -> None:
        """One `take` less."""
        ref, count = self._places.pop((key, offset))
        if count > 1:
            self._places[key, offset] = (ref, count - 1)
