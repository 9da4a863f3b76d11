"""The way out: links, and all that a session has in processes, are taken out of them again."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from libbpf_shim.attach import quiet
from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.inject import Agents
from libbpf_shim.attach.owed import Owed
from libbpf_shim.attach.talks import AGAIN, PATIENCE, Talks, pauses, refused
from libbpf_shim.attach.target import Target, look, shares_memory, targets
from libbpf_shim.errors import ShimError

if TYPE_CHECKING:
    from libbpf_shim.attach.placing import Placing

_KEEPER = 2  # SHIM_SYNC_KEEPER
_FAREWELL = 5.0  # seconds for all processes to give back what a session mapped


class Removal:
    """inert: processes whose code could not be restored, and why. restless: those in which a run
    goes on that a link's end has waited for."""

    def __init__(self, talks: Talks, agents: Agents, placing: Callable[[], Placing]) -> None:
        self._talks, self._agents, self._placing = talks, agents, placing
        self.inert: dict[int, str] = {}
        self._restless: set[int] = set()
        self._owed = Owed()

    @property
    def due(self) -> float | None:
        """When `tidy` is to be called, time.monotonic(); None: nothing is left to do."""
        return self._owed.due

    def tidy(self) -> None:
        """What could not be taken out is tried again."""
        self._owed.tidy(lambda target, link: self.remove_from(target, link, 0.0), self._relieved)

    def leave(self, target: Target) -> None:
        """Everything of the session out of one process. ShimError: it could not."""
        self.remove_from(target, 0)
        self.farewell(target, _FAREWELL)

    def end(self) -> None:
        """Everything out of everywhere."""
        self.remove(0)
        end = time.monotonic() + _FAREWELL
        for target in targets():
            if target.maps_file(self._talks.session.ctl_ino) and time.monotonic() < end:
                with contextlib.suppress(ShimError):
                    self.farewell(target, end - time.monotonic())
                    self.take_agent(target, end - time.monotonic())

    def remove(self, link_id: int) -> None:
        """A link (0: all) out of every process that maps the session; no run of it is under way
        any more."""
        # the known ones first: to find others takes longer
        known = {pid: t for pid in list(self._talks.processes)
                 if (t := look(pid)) and not shares_memory(pid)}
        rest = (t for t in targets() if t.pid not in known)
        silent: list[Target] = []
        for target in itertools.chain(known.values(), rest):
            if not target.maps_file(self._talks.session.ctl_ino):
                continue
            try:
                self.remove_from(target, link_id)
                self.inert.pop(target.pid, None)
                silent.append(target)
                if not link_id:
                    self._owed.paid(target.pid)
            except ShimError as error:
                self.inert[target.pid] = error.message
                self._owed.add(target.pid, link_id)
        self._talks.serve_late()
        for pid in [p for p in self._talks.processes if not os.path.exists(f"/proc/{p}")]:
            del self._talks.processes[pid]
        self._restless = {target.pid for target in silent if not quiet.wait(
            target.pid, target.root, 0 if target.pid in self._restless else quiet.PATIENCE)}

    def _relieved(self, pid: int) -> None:
        self.inert.pop(pid, None)

    def remove_from(self, target: Target, link_id: int, seconds: float = PATIENCE) -> None:
        """A link (0: all) out of one process. ShimError: it could not, within that time."""
        self._talks.unwritten.pop(target.pid, None)
        process = self._talks.processes.get(target.pid)
        last: ShimError | None = None
        asked = False
        for _ in pauses(seconds):
            try:
                if target.pid in self._talks.no_ptrace:
                    with self._talks.calls.mailbox(target) as talk:
                        self._placing().take_back(talk, self._talks.process(talk), link_id)
                        quiet.ask(talk)
                else:
                    self._talks.keeper().detach(
                        target.pid, target.root, self._talks.session.id, link_id, timeout_ms=0)
                if process:
                    process.unlinked(link_id)
                return
            except ShimError as error:
                last = error
                if refused(error) and target.pid not in self._talks.no_ptrace:
                    self._talks.ask(target, again=asked)
                    asked = True
                elif error.errno not in AGAIN:
                    break
            self._talks.serve_late()  # who waits for an answer has the lock that this waits for
        assert last
        raise last

    def masks(self, target: Target) -> None:
        """No session has sites where masks of signals change (quick.py), in one process."""
        from libbpf_shim._native import lib

        self._talks.keeper().detach(target.pid, target.root, 0, 1 << lib.SHIM_MASKS_SHIFT)
        if process := self._talks.processes.get(target.pid):
            process.unlinked(1 << lib.SHIM_MASKS_SHIFT)

    def farewell(self, target: Target, seconds: float) -> None:
        """The process gives back what the session mapped there; its links are gone already."""

        def leave(talk: Conversation) -> None:
            known = self._talks.processes.get(target.pid)
            if known is None or known.start_time != talk.hello.start_time:  # a fork child
                from libbpf_shim.attach.process import Process

                known = Process(target.pid, talk.hello.root, talk.hello.start_time)
            known.leave(talk, self._talks.session.id, self._talks.session.ctl_ino)

        self._talks.talk_to(target, leave, min(seconds, PATIENCE))

    def take_agent(self, target: Target, seconds: float) -> None:
        """The agent out of a process that was given one. ShimError: as Agents.take has it."""
        last: ShimError | None = None
        for _ in pauses(min(seconds, PATIENCE)):
            try:
                return self._agents.take(target)
            except ShimError as error:
                last = error
                if error.errno not in AGAIN:
                    break
            self._talks.serve_late()  # who waits for an answer is inside of it
        assert last
        raise last

    def clean_up(self, sessions: list[int]) -> None:
        """Out of every process what sessions left that lost backend and keeper at once."""
        for target in targets():
            if not any("memfd:bpf-ctl" in m.path for m in target.maps):
                continue
            for number in sessions:
                with contextlib.suppress(ShimError):
                    self._talks.keeper().detach(target.pid, target.root, number, 0)
            with contextlib.suppress(ShimError):
                self._sweep(target)
                self.take_agent(target, PATIENCE)

    def _sweep(self, target: Target) -> None:
        """The process gives back what sessions of dead backends mapped there."""
        keeper = self._talks.keeper()
        keeper.stop(target.pid)
        try:
            keeper.begin_call(target.pid, target.root, "", _KEEPER)
            keeper.end_call()
        finally:
            with contextlib.suppress(ShimError):
                keeper.release(target.pid)
