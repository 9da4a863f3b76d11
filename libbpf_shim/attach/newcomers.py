"""Processes that a session has not seen yet, or not with what they have loaded since.

The kernel tells of execs where it does (attach/connector.py); else, and for what is loaded later,
/proc is looked at from time to time. A process with the preloaded library comes by itself before
its main, and so does its dlopen. This is for the others: those without an agent, and those whose
dynamic linker cannot be watched.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from libbpf_shim.attach.connector import Connector
from libbpf_shim.attach.target import Target, look_closely, may_look, processes
from libbpf_shim.elf.process import folder

log = logging.getLogger("libbpf_shim.backend")
TICK = 0.1  # seconds between two looks for new numbers, where nobody tells of them
YOUNG = 1.0  # seconds for which a process is looked at each time: it may be about to exec
AGAIN = 1.0  # seconds after which one that is known is looked at again
_LATER = 0.005  # seconds after a session's attachment until it first looks at all
_LATEST = 0.03  # seconds after its first one until it does in any case
_LOADS = 0.001  # seconds behind its exec when one that was told of is looked at, then doubled
_KEEPER = "/_bin/keeper"
_LIBRARY = b"libbpf_shim.so"
_BACKEND = b"libbpf_shim.backend"  # in the command line of backends and their workers


class Newcomers:
    """Of one session. connector: what the kernel tells, None: nothing."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}  # process: since when
        self._last = 0.0  # when all were looked at
        self._loading: dict[int, tuple[float, float]] = {}  # when to look again, and then after
        self._refused = False
        self.connector: Connector | None = None
        self._until = 0.0  # a look at all is put off no longer
        self.due = 0.0

    def listen(self, wanted: bool) -> None:
        """To the kernel, while somebody wants to know of newcomers."""
        wanted = wanted and not self._refused
        if wanted and not self.connector:
            try:
                self.connector = Connector()
                self._last = 0.0  # who has come until now
                self.later()
            except OSError as error:
                self._deaf(error)
        elif not wanted and self.connector:
            self.connector.close()
            self.connector = None

    def begin(self) -> None:
        """Somebody begins to attach."""
        self._until = time.monotonic() + _LATEST
        self.later()

    def later(self) -> None:
        """He attaches; what more he attaches need not wait for the look at all."""
        now = time.monotonic()
        self.due = min([max(min(now + _LATER, self._until), now),
                        *(at for at, _ in self._loading.values())])

    def attached(self) -> None:
        """One more is there, and took some time."""
        if not self._last:
            self.later()

    def _deaf(self, error: OSError) -> None:
        log.info("newcomers are looked for: %s", error)
        self._refused = True

    @property
    def told_of(self) -> bool:
        """The kernel tells of execs."""
        return self.connector is not None and self.connector.heard and not self._refused

    def told(self) -> Iterator[Target]:
        """Processes that have executed a program just now, with or without an agent (root 0)."""
        if not self.connector:
            return
        try:
            execs = self.connector.execs()
        except OSError as error:
            self._deaf(error)
            return
        if self.connector.lost:
            self.connector.lost = False
            self._last = self.due = 0.0
        for pid in execs:
            if not may_look(pid) or not (found := look_closely(pid)):
                continue
            yield found
            if not found.root and not comes_by_itself(found):
                self._again(pid, _LOADS)

    def _again(self, pid: int, pause: float) -> None:
        """It loads its libraries now."""
        at = time.monotonic() + pause
        self._loading[pid] = at, pause * 2
        self.due = min(self.due, at)

    def look(self) -> Iterator[Target]:
        """Processes to be looked at now, with or without an agent (root 0)."""
        now = time.monotonic()
        for pid, (at, pause) in list(self._loading.items()):
            if at <= now:
                del self._loading[pid]
                if found := look_closely(pid):
                    yield found
                    if not found.root and pause < YOUNG:
                        self._again(pid, pause)
        everybody = now - self._last >= AGAIN
        if everybody or not self.told_of:
            yield from self._all(now, everybody)
        now = time.monotonic()
        self.due = min([self._last + AGAIN if self.told_of else now + TICK,
                        *(at for at, _ in self._loading.values())])

    def _all(self, now: float, everybody: bool) -> Iterator[Target]:
        if everybody:
            self._last = now
        there = set(processes())
        self._seen = {pid: since for pid, since in self._seen.items() if pid in there}
        for pid in there:
            since = self._seen.setdefault(pid, now)
            if (everybody or now - since <= YOUNG) and (found := look_closely(pid)):
                yield found


_PROGRAM_AND_LINKER = 2


def may_have_agent(target: Target) -> bool:
    """A process without an agent is to be given one: this user's own, or anybody's to root, no
    part of ours, and none that is about to load the library itself."""
    try:
        if not may_look(target.pid):
            return False
        where = Path(folder(target.pid))
        if os.readlink(where / "exe").removesuffix(" (deleted)").endswith(_KEEPER):
            return False
        said = (where / "cmdline").read_bytes()
        if not said or _BACKEND in said:  # what is not told yet: a program that is being executed
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
