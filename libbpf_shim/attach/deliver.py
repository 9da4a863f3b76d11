"""Delivery: a session's programs into processes and out of them again.

Every change of a process is one conversation with the agent in it (attach/agent.py). It begins at
the process's own start or dlopen, by a keeper's transaction, or, where ptrace is refused, by the
mailbox; what is said is the same each time (docs/architecture.md).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from libbpf_shim.attach import inherited
from libbpf_shim.attach.arrivals import Arrivals
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.call import SessionFiles
from libbpf_shim.attach.clock import Intervals
from libbpf_shim.attach.elements import Elements
from libbpf_shim.attach.ends import Ends, seen
from libbpf_shim.attach.inject import Agents
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.newcomers import (
    AGAIN,
    Newcomers,
    candidates,
    comes_by_itself,
    may_have_agent,
)
from libbpf_shim.attach.plans import Plans, may_come
from libbpf_shim.attach.removal import Removal
from libbpf_shim.attach.swaps import Swaps
from libbpf_shim.attach.talks import Talks
from libbpf_shim.attach.target import Target, ended, look, others_out_of_reach
from libbpf_shim.attach.uprobe import Registered
from libbpf_shim.errors import ShimError

if TYPE_CHECKING:
    from libbpf_shim.attach.placing import Placing
    from libbpf_shim.attach.process import Process
    from libbpf_shim.attach.quick import Quick
    from libbpf_shim.attach.unwinding import Unwinding
    from libbpf_shim.attach.visits import Visits

_GONE = (errno.ESRCH, errno.EPROTO, errno.ECONNRESET, errno.EPIPE, errno.ENOENT)

_QUIET = 0.003  # seconds after an attachment: a loader that attaches more has asked by then


def _everywhere(atts: list[Attachment]) -> list[Attachment]:
    """Those of code, in every process."""
    return [a for a in atts if isinstance(a.place, Code) and not a.pid]


def _by_process(atts: list[Attachment]) -> dict[int, list[Attachment]]:
    """Those of libraries in a process that was named."""
    found: dict[int, list[Attachment]] = {}
    for att in atts:
        if att.pid and isinstance(att.place, Code) and may_come(att.place):
            found.setdefault(att.pid, []).append(att)
    return found


class Delivery:
    """All processes of a session. Single-threaded; may wait for seconds."""

    def __init__(
        self,
        session: SessionFiles,
        listener: socket.socket,
        keeper: Callable[[], Keeper],
        notice: Callable[[str], None],
        park: Callable[[socket.socket], None],
    ) -> None:
        self.session, self._notice = session, notice
        self.plans = Plans(session.cache)
        self.uprobes = Registered()
        self.attachments: list[Attachment] = []
        self._code: list[Attachment] | None = None  # of code in every process; None: look
        # those of them, once a process has come
        self._alike: dict[Attachment, list[Attachment]] | None = None
        self.intervals = Intervals()
        self._named: dict[int, list[Attachment]] = {}  # of libraries, in processes by number
        self._asked_of_others = False  # whether their processes can be looked at
        self._named_due = 0.0  # when these are looked at again
        self._ending: list[int] | None = None  # links that are to be taken out together
        self.before_visits: Callable[[], None] = lambda: None  # whom processes ask is there
        self._ahead: float | None = None  # when what is done in processes is loaded, if not before
        self._agents = Agents(keeper, session.run_dir)
        self.newcomers = Newcomers()
        talks = self.talks = Talks(session, listener, keeper, park)
        self.removal = Removal(talks, self._agents, lambda: self._placing)
        self.elements = Elements(session, talks.processes, talks.outers, self.removal.inert,
                                 talks.talk_to, talks.process, notice)
        self.swaps = Swaps(talks.processes, self.removal.inert, talks.talk_to, talks.process)
        self.ends = Ends(lambda: self.attachments, talks.talk_to, talks.process, notice)
        self.arrivals = Arrivals(
            talks, self._agents, lambda: self.visits, self.ends, lambda: self.attachments,
            lambda: self._placing, notice)
        talks.hear = self.arrivals.agent

    @cached_property
    def visits(self) -> Visits:
        """A loader that comes first need not wait for what is done in processes to be read."""
        from libbpf_shim.attach.visits import Visits

        self.before_visits()
        return Visits(
            self.talks, self._agents, self.removal, self.plans, lambda: self.attachments,
            lambda: self._placing, lambda: self._unwinding, self._notice)

    @cached_property
    def _unwinding(self) -> Unwinding:
        from libbpf_shim.attach.unwinding import Unwinding

        return Unwinding(self.plans, self.session.cache)

    @cached_property
    def _placing(self) -> Placing:
        """What is done in a process, as `visits`."""
        from libbpf_shim.attach.placing import Placing

        return Placing(self.plans, self._unwinding, self.session.cache)

    def ready(self) -> tuple[Visits, Placing]:
        """What is done in a process is loaded before one is held."""
        return self.visits, self._placing

    @property
    def _quick(self) -> Quick | None:
        """Of what was done in processes, once that has begun."""
        return self._placing.quick if "_placing" in vars(self) else None

    def knocking(self, agents: Callable[[], list[tuple[socket.socket, bytes]]]) -> None:
        """Who has agents that were accepted and not listened to yet: sockets, hellos."""
        self.talks.calls.knocking = agents

    def attach(self, *atts: Attachment) -> None:
        """Those of one link, in every process that is there, and in those that come. A process
        that cannot be attached to is a notice, or, if it is the only one asked for, the
        ShimError."""
        self.plans.hold(atts)
        try:
            self._attach(list(atts))
        except BaseException:
            here = set(map(id, atts))
            if any(id(a) in here for a in self.attachments):
                self._take_out(atts)
            for att in atts:
                self.plans.drop(att)
            raise

    def _attach(self, atts: list[Attachment]) -> None:
        pid = atts[0].pid
        if pid and not os.path.exists(f"/proc/{pid}"):
            raise ShimError("AD0001", errno.ESRCH, f"process {pid}: none")
        alike = self.plans.alike(atts)
        found = [self._target(pid)] if pid else list(
            candidates(lambda t: any(self.plans.concerns(t, a) for a in alike)))
        if not self.attachments:
            self.newcomers.begin()
        if not pid and not self._asked_of_others:
            self._asked_of_others = True
            if others_out_of_reach():
                self._notice("other users' processes: not attached: that takes CAP_SYS_PTRACE")
        self.attachments += atts
        if self._code is not None:
            self._code, self._alike = self._code + _everywhere(atts), None
            for number, named in _by_process(atts).items():
                self._named.setdefault(number, []).extend(named)
        if "_placing" not in vars(self):
            self._ahead = time.monotonic() + _QUIET
        for target in found:
            wanted = [a for first, same in alike.items() if self.plans.concerns(target, first)
                      for a in same]
            if not wanted or (pid and comes_by_itself(target)):
                continue
            try:
                self.visits.visit(target, wanted)
            except ShimError as error:
                if pid:
                    self._take_out(atts)
                    raise
                if self._there(target, error):
                    self._notice(f"process {target.pid}: not attached: {error.message}")
        self.newcomers.attached()

    @staticmethod
    def _there(target: Target, error: ShimError) -> bool:
        """Who has ended meanwhile lacks nothing."""
        return not ended(target.pid) and (error.errno not in _GONE or bool(look(target.pid)))

    @staticmethod
    def _target(pid: int) -> Target:
        from libbpf_shim.attach.visits import named

        return named(pid)

    def tidy(self) -> None:
        """From time to time: what has ended goes, who has come is attached to."""
        if self._ahead is not None and time.monotonic() >= self._ahead:
            self._ahead = None
            self.ready()
        self.elements.tidy()
        self.swaps.tidy()
        if quick := self._quick:
            quick.tidy(self.talks.processes, lambda target: self.visits.transaction(target, []))
        self.removal.tidy()
        wanted = self._everywhere()
        if wanted and time.monotonic() >= self.newcomers.due:
            for target in self.newcomers.look():
                self._come(target, wanted)
        self._come_named()
        self.plans.keep()
        # last: the main loop looks for it now
        self.newcomers.listen(any(not a.pid for a in self.attachments))

    def _come_named(self) -> None:
        """The same for processes that were named, if a library may come there."""
        if not self._named or time.monotonic() < self._named_due:
            return
        self._named_due = time.monotonic() + AGAIN
        for pid, atts in self._named.items():
            if target := look(pid):
                self._come(target, atts)

    def told(self) -> None:
        """The kernel has told of execs."""
        for target in self.newcomers.told():
            followed = not target.root and self._descends(target.pid)
            self._come(target, [a for a in self.attachments if not a.pid] if followed
                       else self._everywhere(), followed)

    def _descends(self, pid: int) -> bool:
        """A process with an agent has become this program, or has started it, by a call that is
        not met (Go)."""
        life = seen(pid)
        known = self.talks.processes
        return pid in known or (life is not None and life.parent in known)

    def _everywhere(self) -> list[Attachment]:
        """The same list until another attachment comes or goes: this is asked all the time."""
        if self._code is None:
            self._code = _everywhere(self.attachments)
            self._alike = None
            self._named = _by_process(self.attachments)
        return self._code

    def _missing(
        self, target: Target, wanted: list[Attachment], linked: set[tuple[int, int]]
    ) -> list[Attachment]:
        """Those whose file is mapped there, and not everywhere met. linked: links, and addresses
        of their sites."""
        if wanted is not self._code:
            alike = self.plans.alike(wanted)
        else:
            alike = self._alike = self._alike or self.plans.alike(wanted)
        missing: set[int] = set()
        for first, same in alike.items():
            for module in self.plans.loaded(first, target.modules):
                there = {link for link, addr in linked if module.holds(addr)}
                missing.update(id(a) for a in same if a.link_id not in there
                               and module in self.plans.mapped(a, target.modules))
        return [a for a in wanted if id(a) in missing] if missing else []

    @property
    def due(self) -> float | None:
        """When `tidy` is to be called, time.monotonic(); None: nothing is left to do."""
        quick = self._quick
        waits = [d for d in (self.elements.due, self.swaps.due, self.removal.due,
                             quick.due if quick else None, self._ahead) if d is not None]
        if self._everywhere():
            waits.append(self.newcomers.due)
        if self._named:
            waits.append(self._named_due)
        return min(waits, default=None)

    def _come(self, target: Target, wanted: list[Attachment], followed: bool = False) -> None:
        """Attachments whose file the process has mapped since it was last looked at; all of them
        in one that is followed."""
        linked = self._linked(target)
        if linked is None:
            return
        if followed:
            known = {link for link, _ in linked}
            missing = [a for a in wanted if a.link_id not in known]
        else:
            missing = self._missing(target, wanted, linked)
        if not missing or self._agents.refused(target):
            return
        if not target.root and not may_have_agent(target):
            return
        try:
            self.visits.visit(target, missing)
        except ShimError as error:
            first = self._agents.note_refusal(target, error.errno)
            if first and self._there(target, error):
                self._notice(f"process {target.pid}: not attached: {error.message}")

    def _linked(self, target: Target) -> set[tuple[int, int]] | None:
        """Links that the process has, and addresses of their sites. None: it is not known now."""
        process = self.talks.processes.get(target.pid)
        if not process or process.root != target.root:
            return inherited.links(target, self.session.id, self.session.ctl_ino)
        sites = ((s.addr, s.index) for s in process.sites.values())
        again = inherited.reloaded(target, sites)
        if not again:
            return process.linked
        process.reloaded |= again
        return {(link, addr) for link, addr in process.linked
                if not any(m.holds(addr) for m in target.modules if m.base in again)}

    def leave(self, pid: int) -> None:
        """Everything of the session out of one process, to which it does not come back by itself.
        ShimError: it could not."""
        target = look(pid)
        if target is None or not target.maps_file(self.session.ctl_ino):
            return
        self.talks.left.add(pid)
        self.removal.leave(target)
        self.talks.processes.pop(pid, None)
        self._agents.note_refusal(target, errno.EPERM)

    def look(self, pid: int) -> None:
        """What a process with an agent lacks, events too. ShimError: it cannot be had."""
        target = look(pid)
        wanted = [a for a in self.attachments if a.pid in (0, pid)] if target else []
        if target and wanted:
            self.visits.visit(target, [a for a in wanted if self.plans.concerns(target, a)])

    def _take_out(self, atts: Sequence[Attachment]) -> None:
        gone = set(map(id, atts))
        self.attachments = [a for a in self.attachments if id(a) not in gone]
        self._code = None
        if self._ending is None:
            self.removal.remove(atts[0].link_id)
        else:
            self._ending.append(atts[0].link_id)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Links that end meanwhile are taken out of processes afterwards: in one go, if no other
        is left, as when a loader ends."""
        self._ending = []
        try:
            yield
        finally:
            ended, self._ending = self._ending, None
            for link_id in ended if self.attachments else ended and [0]:
                self.removal.remove(link_id)

    def detach(self, *atts: Attachment) -> None:
        """All of one link, out of every process; it is silent already."""
        self._take_out(atts)
        for att in atts:
            self.plans.drop(att)

    def end(self) -> None:
        """Everything out of everywhere. Every link is silent already."""
        self.attachments.clear()
        self._code = None
        self.plans.drop_all()
        self.plans.keep(at_once=True)
        if self.talks.processes:
            self.removal.end()

    def inert(self) -> list[str]:
        """Processes whose code could not be restored: silent, but still patched."""
        return [f"process {pid}: {why}" for pid, why in self.removal.inert.items()
                if os.path.exists(f"/proc/{pid}")]  # fmt: skip

    def processes(self) -> list[dict[str, object]]:
        """For the session's status."""
        return [{
            "pid": p.pid, "refused": p.refused, "links": len({link for link, _ in p.linked}),
            "sites": [{"addr": s.addr, "where": str(s.where), "tactic": s.tactic}
                      for s in p.sites.values()],
        } for p in self._living()]  # fmt: skip

    def tactics(self) -> dict[int, list[str]]:
        """How its sites divert control, by program id."""
        from libbpf_shim.attach.sites import tactics

        return tactics(self.attachments, self._living())

    def _living(self) -> list[Process]:
        return [p for p in self.talks.processes.values() if os.path.exists(f"/proc/{p.pid}")]
