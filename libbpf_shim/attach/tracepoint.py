"""Tracepoints: which there are, by the ids that loaders read from tracefs, and which of them the
agent in a process can tell of.

A loader is shown the machine's tracefs where it can read that, and the product's own (of a
6.18 kernel) where it cannot; ids are looked up in the same order here. Numbers of events are
those of csrc/include/shim_agent.h. Source: kernel/trace/trace_syscalls.c, trace_events.c
(trace_event_get_offsets).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from libbpf_shim.compiled import PACKAGE
from libbpf_shim.uapi.syscalls import NUMBERS

PACKAGED = Path(PACKAGE, "_lib", "tracefs")
_MACHINE = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
# What an agent can tell of: the tracepoint, or the raw one, to the name of its SHIM_EVENT_*.
_EVENTS: dict[str, str] = {
    "sched:sched_process_exec": "SHIM_EVENT_SCHED_EXEC",
    "sched:sched_process_exit": "SHIM_EVENT_SCHED_EXIT",
    "sched:sched_process_fork": "SHIM_EVENT_SCHED_FORK",
    "signal:signal_generate": "SHIM_EVENT_SIGNAL",
    "raw_syscalls:sys_enter": "SHIM_EVENT_ALL_ENTER",
    "raw_syscalls:sys_exit": "SHIM_EVENT_ALL_EXIT",
}
_RAW_EVENTS: dict[str, str] = {
    "sys_enter": "SHIM_EVENT_RAW_ENTER",
    "sys_exit": "SHIM_EVENT_RAW_EXIT",
}
_FIELD = re.compile(r"offset:(\d+);\s*size:(\d+);")
# Categories in which every loader's tracepoints are; the others are read only when these lack it.
_FIRST = ("syscalls", "raw_syscalls", "sched", "signal", "task", "sock", "exceptions")


@dataclass(frozen=True, slots=True)
class Known:
    """One tracepoint. number: its id in tracefs; size: bytes of the record that programs may
    read, from offset 0."""

    number: int
    category: str
    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.category}:{self.name}"


def _read(folder: Path, number: int) -> Known:
    text = (folder / "format").read_text(encoding="ascii", errors="replace")
    size = max((int(at) + int(n) for at, n in _FIELD.findall(text)), default=0)
    return Known(number, folder.parent.name, folder.name, size)


def _ids(category: Path) -> dict[int, Path]:
    found = {}
    for entry in os.scandir(category) if category.is_dir() else ():
        try:
            found[int(Path(entry.path, "id").read_text(encoding="ascii"))] = Path(entry.path)
        except (OSError, ValueError):
            continue
    return found


@cache
def _table(root: Path, whole: bool) -> dict[int, Path]:
    """Id to folder: of the categories that matter, or of all."""
    events = root / "events"
    names = sorted(p.name for p in events.iterdir() if p.is_dir()) if whole else _FIRST
    return {n: p for name in names for n, p in _ids(events / name).items()}


def tracefs() -> Path:
    """What loaders of this user are shown: the machine's, if it can be read."""
    return next((root for root in _MACHINE if os.access(root / "events" / "syscalls", os.R_OK)),
                PACKAGED)


@cache
def by_id(number: int, root: Path) -> Known | None:
    """The tracepoint of that id in a tracefs; None: there is none."""
    for whole in (False, True):
        if folder := _table(root, whole).get(number):
            return _read(folder, number)
    return None


@cache
def number_of(category: str, name: str, root: Path) -> int:
    """The id of a tracepoint there; 0: it is not there."""
    try:
        return int((root / "events" / category / name / "id").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def event(category: str, name: str) -> int | None:
    """SHIM_EVENT_* of a tracepoint; None: only a kernel knows when that happens."""
    from libbpf_shim._native import lib

    if category == "syscalls":
        side, _, call = name.removeprefix("sys_").partition("_")
        first = {"enter": lib.SHIM_EVENT_SYS_ENTER, "exit": lib.SHIM_EVENT_SYS_EXIT}[side]
        return int(first) + NUMBERS[call] if call in NUMBERS else None
    return getattr(lib, _EVENTS.get(f"{category}:{name}", ""), None)


def raw_event(name: str) -> int | None:
    """The same, of a raw tracepoint."""
    from libbpf_shim._native import lib

    return getattr(lib, _RAW_EVENTS.get(name, ""), None)
