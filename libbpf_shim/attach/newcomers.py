"""Processes that a session has not seen yet, or not with what they have loaded since: found by
looking at /proc from time to time, since nobody tells of them.

A process with the preloaded library comes by itself before its main, and so does its dlopen. This
is for the others: those without an agent, and those whose dynamic linker cannot be watched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from libbpf_shim.attach.target import Target, look_closely, processes
from libbpf_shim.elf.process import folder

TICK = 0.1  # seconds between two looks for new numbers
YOUNG = 1.0  # seconds for which a process is looked at each time: it may be about to exec
AGAIN = 1.0  # seconds after which one that is known is looked at again
_KEEPER = "/_bin/keeper"
_LIBRARY = b"libbpf_shim.so"
_BACKEND = b"libbpf_shim.backend"  # in the command line of backends and their workers


class Newcomers:
    """Of one session."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}  # process: since when
        self._last = 0.0  # when all were looked at
        self.due = 0.0

    def look(self) -> Iterator[Target]:
        """Processes to be looked at now, with or without an agent (root 0)."""
        now = time.monotonic()
        everybody = now - self._last >= AGAIN
        if everybody:
            self._last = now
        there = set(processes())
        self._seen = {pid: since for pid, since in self._seen.items() if pid in there}
        for pid in there:
            since = self._seen.setdefault(pid, now)
            if (everybody or now - since <= YOUNG) and (found := look_closely(pid)):
                yield found
        self.due = time.monotonic() + TICK

_PROGRAM_AND_LINKER = 2


def may_have_agent(target: Target) -> bool:
    """A process without an agent is to be given one: this user's own, no part of ours, and none
    that is about to load the library itself."""
    try:
        if os.stat(f"/proc/{target.pid}").st_uid != os.geteuid():
            return False
        where = Path(folder(target.pid))
        if os.readlink(where / "exe").removesuffix(" (deleted)").endswith(_KEEPER):
            return False
        if _BACKEND in (where / "cmdline").read_bytes():
            return False
        return not (_preloads(where) and _loads_libraries(target))
    except OSError:
        return False


def _preloads(where: Path) -> bool:
    """It was started with the library in LD_PRELOAD."""
    environ = (where / "environ").read_bytes()
    return any(v.startswith(b"LD_PRELOAD=") and _LIBRARY in v for v in environ.split(b"\0"))


def _loads_libraries(target: Target) -> bool:
    """glibc's dynamic linker is there: it does what LD_PRELOAD says."""
    return any(os.path.basename(m.path).startswith("ld-linux") for m in target.maps)


def comes_by_itself(target: Target) -> bool:
    """A process that has just executed a program, which will load the library: nothing but the
    program and the dynamic linker is there, and LD_PRELOAD comes before other libraries."""
    try:
        return (not target.root and len(target.modules) <= _PROGRAM_AND_LINKER
                and _loads_libraries(target) and _preloads(Path(folder(target.pid))))
    except OSError:
        return False


def candidates(concerns: Callable[[Target], bool]) -> Iterator[Target]:
    """Processes that can be attached to, now or with an agent, and are concerned."""
    for pid in processes():
        found = look_closely(pid)
        if found and concerns(found) and (found.root or may_have_agent(found)):
            yield found
