"""Elements that are objects: every process that has a map of maps or programs has what is in it.

A value in shared memory is an id; each process has a table of what ids stand for there
(struct shim_objects). An object is brought into every process before its id becomes a value, and
what has ended is taken out again once no run may know it, a moment later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.call import SessionFiles
from libbpf_shim.attach.objects import MapRef, ProgRef, is_prog, object_key
from libbpf_shim.attach.process import Process
from libbpf_shim.attach.target import Target, look, targets
from libbpf_shim.errors import ShimError
from libbpf_shim.object.control import start_time

log = logging.getLogger("libbpf_shim.attach")
_SOON = 0.1  # seconds until what has ended is taken out of processes
_LATER = 5.0  # the same, where a program has been running for long
_PAUSES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1) * 4  # seconds between looks at all processes
_PATIENCE = 1.0  # seconds of looking again where something stood in the way
_PRESENT, _TIDY = 2.0, 0.1  # seconds for one conversation: to bring something, to take it out
_REST = 2.0  # seconds for which a process that could not be reached is left alone


class Elements:
    """processes: what is known of each. outers: as they have it. inert: those that links could not
    leave. converse: one conversation with a running process, in so many seconds. meet: the Process
    of an open one."""

    def __init__(
        self, session: SessionFiles, processes: dict[int, Process], outers: dict[int, int],
        inert: Container[int],
        converse: Callable[[Target, Callable[[Conversation], None], float], None],
        meet: Callable[[Conversation], Process], notice: Callable[[str], None],
    ) -> None:
        self._session, self._processes, self._inert = session, processes, inert
        self._outers = outers
        self._converse = converse
        self._meet, self._notice = meet, notice
        self._everywhere: dict[tuple[int, int], int] = {}  # (map, object key): outers[map] then
        self._ended: dict[int, int] = {}  # object key: inode of its file, 0: it has none there
        self._resting: dict[int, float] = {}  # until when a process is left alone
        self._turns = 0  # of tidying in vain
        self.due: float | None = None  # when `tidy` is to be called, time.monotonic()

    def bring(self, outer: MapRef, ref: MapRef | ProgRef) -> None:
        """Into every process that has `outer`. One that cannot be reached is a notice: programs
        there find nothing in that element."""
        place = outer.id, object_key(ref)
        times = self._outers.get(outer.id, 0)
        if self._everywhere.get(place, 0) == times:
            return  # fork children inherit it, and no process has come to have the map since

        def add(talk: Conversation) -> None:
            process = self._meet(talk)
            if outer.id in process.maps:
                process.add(talk, ref)
            self._take_out(talk, process)

        failed: dict[int, ShimError] = {}
        now = time.monotonic()
        self._resting = {pid: until for pid, until in self._resting.items() if until > now}
        for pause in _PAUSES:
            # a fork child of one that was visited has inherited what its parent had
            lacking = [t for t in targets() if self._lacks(t, outer, ref)]
            if time.monotonic() >= now + _PATIENCE:
                lacking = [t for t in lacking if t.pid not in failed]
            if not lacking:
                if not failed and not self._resting:
                    self._everywhere[place] = self._outers[outer.id]
                break
            if any(t.pid in failed for t in lacking):
                time.sleep(pause)  # one that was just forked cannot be reached yet
            for target in lacking:
                try:
                    self._converse(target, add, _PRESENT)
                    failed.pop(target.pid, None)
                except ShimError as error:
                    failed[target.pid] = error
        for pid, why in failed.items():
            if look(pid):
                self._resting[pid] = time.monotonic() + _REST
                self._notice(f"process {pid}: element not delivered: {why.message}")
        for pid in self._resting:  # the next conversation makes good for it
            if (known := self._processes.get(pid)) and outer.id in known.maps:
                known.unfilled(outer)

    def _known(self, target: Target) -> Process | None:
        process = self._processes.get(target.pid)
        same = process and (process.root, process.start_time) == (
            target.root, start_time(target.pid))
        return process if same else None

    def _lacks(self, target: Target, outer: MapRef, ref: MapRef | ProgRef) -> bool:
        if target.pid in self._resting:
            return False
        if process := self._known(target):
            return outer.id in process.maps and not process.has(ref)
        return target.maps_file(outer.ino) and self._is_met(target)

    def _is_met(self, target: Target) -> bool:
        """The agent there knows the session: a loader maps its maps without. True: cannot tell."""
        from libbpf_shim._native import ffi, lib

        table = ffi.new("struct shim_session[]", int(lib.SHIM_MAX_SESSIONS))
        at = target.root + ffi.offsetof("struct shim_agent", "sessions")
        try:
            with open(f"/proc/{target.pid}/mem", "rb", buffering=0) as memory:
                memory.seek(at)
                ffi.memmove(table, memory.read(ffi.sizeof(table)), ffi.sizeof(table))
        except (OSError, ValueError):
            return True
        return any(s.id and s.ctl_ino == self._session.ctl_ino for s in table)

    def ended(self, ref: MapRef | ProgRef) -> None:
        """Nothing refers to the object any more."""
        if self._outers:
            key = object_key(ref)
            self._ended[key] = 0 if is_prog(ref) else ref.ino
            for place in [place for place in self._everywhere if place[1] == key]:
                del self._everywhere[place]
            self.due = self.due or time.monotonic() + _SOON

    def tidy(self) -> None:
        """What has ended leaves the processes. One that is inside a program is asked again."""
        if self.due is None or time.monotonic() < self.due:
            return
        left = False
        inodes = {ino for ino in self._ended.values() if ino}
        for target in targets():
            known = self._known(target)
            if target.pid in self._inert:  # a link that could not leave may lead to an image
                continue
            if not (any(map(known.knows, self._ended)) if known
                    else any(map(target.maps_file, inodes))):  # fmt: skip
                continue
            try:
                self._converse(
                    target, lambda talk: self._take_out(talk, self._meet(talk)), _TIDY)
            except ShimError as error:
                log.debug("process %d: %s", target.pid, error)
            known = self._known(target)  # perhaps only now
            left = left or (known is not None and any(map(known.knows, self._ended)))
        self._turns = self._turns + 1 if left else 0
        if not left:
            self._ended.clear()
        self.due = time.monotonic() + min(_SOON * 2**self._turns, _LATER) if left else None

    def _take_out(self, talk: Conversation, process: Process) -> None:
        if process.pid not in self._inert:
            process.take_out(talk, self._ended)
