"""Elements that are objects: every process that has a map of maps or programs has what is in it.

A value in shared memory is an id; each process has a table of what ids stand for there
(struct shim_objects). An object is brought into every process before its id becomes a value, and
what has ended is taken out again once no run may know it, a moment later.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Callable

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.call import SessionFiles
from libbpf_shim.attach.process import MapRef, Process, ProgRef, object_key
from libbpf_shim.attach.target import Target, look, targets
from libbpf_shim.errors import ShimError
from libbpf_shim.object.control import start_time

_SOON = 0.1  # seconds until what has ended is taken out of processes
_LATER = 2.0  # seconds until that is tried again
_TRIES = 6  # at one process
_PAUSES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1) * 4  # seconds between looks at all processes


class Elements:
    """processes: what is known of each. converse: one conversation with a running process.
    meet: the Process of an open conversation."""

    def __init__(
        self, session: SessionFiles, processes: dict[int, Process],
        converse: Callable[[Target, Callable[[Conversation], None]], None],
        meet: Callable[[Conversation], Process], notice: Callable[[str], None],
    ) -> None:
        self._session, self._processes, self._converse = session, processes, converse
        self._meet, self._notice = meet, notice
        self.outers: set[int] = set()  # maps of objects that some process has
        self._ended: dict[int, int] = {}  # object key: inode of its file, 0: it has none there
        self.due: float | None = None  # when `tidy` is to be called, time.monotonic()

    def bring(self, outer: MapRef, ref: MapRef | ProgRef) -> None:
        """Into every process that has `outer`. One that cannot be reached is a notice: programs
        there find nothing in that element."""
        if outer.id not in self.outers:
            return

        def add(talk: Conversation) -> None:
            process = self._meet(talk)
            if outer.id in process.maps:
                process.add(talk, ref)
            self._take_out(talk, process)

        tries: Counter[int] = Counter()
        last: dict[int, ShimError] = {}
        for pause in _PAUSES:
            # a fork child of one that was visited has inherited what its parent had
            lacking = [t for t in targets() if self._lacks(t, outer, ref)]
            again = [t for t in lacking if tries[t.pid] < _TRIES]
            if not again:
                break
            if any(tries[t.pid] for t in again):
                time.sleep(pause)  # one that was just forked cannot be reached yet
            for target in again:
                try:
                    self._converse(target, add)
                except ShimError as error:
                    tries[target.pid] += 1
                    last[target.pid] = error
        for target in lacking:
            if known := self._known(target):
                known.unfilled(outer)
            if target.pid in last and look(target.pid):
                why = last[target.pid].message
                self._notice(f"process {target.pid}: element not delivered: {why}")

    def _known(self, target: Target) -> Process | None:
        process = self._processes.get(target.pid)
        same = process and (process.root, process.start_time) == (
            target.root, start_time(target.pid))
        return process if same else None

    def _lacks(self, target: Target, outer: MapRef, ref: MapRef | ProgRef) -> bool:
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
        if self.outers:
            self._ended[object_key(ref)] = 0 if isinstance(ref, ProgRef) else ref.ino
            self.due = self.due or time.monotonic() + _SOON

    def tidy(self) -> None:
        """What has ended leaves the processes. One that is inside a program is tried again."""
        if self.due is None or time.monotonic() < self.due:
            return
        left = False
        for target in targets():
            known = self._known(target)
            if known and not any(known.knows(key) for key in self._ended):
                continue
            inodes = [ino for ino in self._ended.values() if ino]
            if not known and not any(target.maps_file(ino) for ino in inodes):
                continue
            try:
                self._converse(target, lambda talk: self._take_out(talk, self._meet(talk), True))
            except ShimError as error:
                left = left or error.errno in (errno.EBUSY, errno.EAGAIN)
        if not left:
            self._ended.clear()
        self.due = time.monotonic() + _LATER if left else None

    def _take_out(self, talk: Conversation, process: Process, insist: bool = False) -> None:
        for key in [key for key in self._ended if process.knows(key)]:
            try:
                process.forget(talk, key)
            except ShimError as error:
                if insist or error.errno != errno.EBUSY:
                    raise
