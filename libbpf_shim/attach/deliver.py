"""Delivery: a session's programs into processes and out of them again.

Every change of a process is one conversation with the agent in it (attach/agent.py). It begins at
the process's own start or dlopen, by a keeper's transaction, or, where ptrace is refused, by the
mailbox; what is said is the same each time (docs/architecture.md).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from libbpf_shim.attach import inherited, loaded
from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.call import ANSWER, Calls, SessionFiles
from libbpf_shim.attach.clock import Intervals
from libbpf_shim.attach.elements import Elements
from libbpf_shim.attach.ends import Ends, seen
from libbpf_shim.attach.execs import Execs, is_ahead
from libbpf_shim.attach.inject import Agents, refusal
from libbpf_shim.attach.keeper import NOT_BEGUN, Keeper, Window
from libbpf_shim.attach.newcomers import Newcomers, candidates, comes_by_itself, may_have_agent
from libbpf_shim.attach.objects import ProgRef, walks_stacks
from libbpf_shim.attach.owed import Owed
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.process import Process
from libbpf_shim.attach.swaps import Swaps
from libbpf_shim.attach.target import Target, look, look_closely, shares_memory, targets
from libbpf_shim.attach.uprobe import Registered
from libbpf_shim.errors import ShimError

if TYPE_CHECKING:
    from libbpf_shim.attach.placing import Placing
    from libbpf_shim.attach.unwinding import Unwinding

_START, _KEEPER, _DLOPEN, _LOADER, _MAP = 1, 2, 4, 5, 8  # SHIM_SYNC_*
_PATIENCE = 2.0  # seconds of trying again where a thread stands in the way
_RUNS = 256  # programs of test runs that a process keeps
_AT_ONCE = 1024  # places that a process stands still for
_FAREWELL = 5.0  # seconds for all processes to give back what a session mapped
_GONE = (errno.ESRCH, errno.EPROTO, errno.ECONNRESET, errno.EPIPE, errno.ENOENT)
_AGAIN = (errno.EAGAIN, errno.EBUSY)
_TAKEN = (errno.EFAULT, errno.ENOENT)  # another session has taken its agent out meanwhile


def _pauses(seconds: float = _PATIENCE) -> Iterator[None]:
    """Growing pauses between tries, until so many seconds are over."""
    end, pause = time.monotonic() + seconds, 0.0005
    while True:
        yield
        if time.monotonic() >= end:
            return
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


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
        self.session, self._keeper, self._notice = session, keeper, notice
        self._calls = Calls(session, listener, park)
        self.plans = Plans(session.cache)
        self.uprobes = Registered()
        self.attachments: list[Attachment] = []
        self._code: list[Attachment] | None = None  # of code in every process; None: look
        self._alike: dict[Attachment, list[Attachment]] = {}  # those of them
        self._processes: dict[int, Process] = {}
        self._runnables: dict[int, dict[int, ProgRef]] = {}
        self.intervals = Intervals()
        self._runs: dict[int, dict[int, ProgRef]] = {}  # of PROG_TEST_RUN
        self._no_ptrace: set[int] = set()
        self._left: set[int] = set()  # by name: what they tell of is nothing to us
        self._inert: dict[int, str] = {}
        self._owed = Owed()
        self._ending: list[int] | None = None  # links that are to be taken out together
        # by process and site: of visits whose patch has to wait
        self._unwritten: dict[int, dict[int, Window]] = {}
        self._agents = Agents(keeper, session.run_dir)
        self.newcomers = Newcomers()
        self.elements = Elements(
            session, self._processes, self._inert, self._talk_to, self._process, notice)
        self.swaps = Swaps(self._processes, self._inert, self._talk_to, self._process)
        self.ends = Ends(lambda: self.attachments, self._talk_to, self._process, notice)
        self._execs = Execs(
            keeper, self._agents, self._transaction, self._talk_to, self._begins)

    @cached_property
    def _unwinding(self) -> Unwinding:
        from libbpf_shim.attach.unwinding import Unwinding

        return Unwinding(self.plans, self.session.cache)

    @cached_property
    def _placing(self) -> Placing:
        """What is done in a process: a loader that comes first need not wait for it to be read."""
        from libbpf_shim.attach.placing import Placing

        return Placing(self.plans, self._unwinding, self.session.cache)

    def knocking(self, agents: Callable[[], list[tuple[socket.socket, bytes]]]) -> None:
        """Who has agents that were accepted and not listened to yet: sockets, hellos."""
        self._calls.knocking = agents

    # what the session asks for

    def attach(self, *atts: Attachment) -> None:
        """Those of one link, in every process that is there, and in those that come. A process
        that cannot be attached to is a notice, or, if it is the only one asked for, the
        ShimError."""
        held: list[Attachment] = []
        try:
            for att in atts:
                self.plans.hold(att, held[-1] if held else None)
                held.append(att)
            self._attach(held)
        except BaseException:
            if any(a is att for a in self.attachments for att in held):
                self._take_out(held)
            for att in held:
                self.plans.drop(att)
            raise

    def _attach(self, atts: list[Attachment]) -> None:
        pid = atts[0].pid
        if pid and not os.path.exists(f"/proc/{pid}"):
            raise ShimError("AD0001", errno.ESRCH, f"process {pid}: none")
        alike = self.plans.alike(atts)
        found = [self._one(pid)] if pid else list(
            candidates(lambda t: any(self.plans.concerns(t, a) for a in alike)))
        self.attachments += atts
        self._code = None
        for target in found:
            wanted = [a for first, same in alike.items() if self.plans.concerns(target, first)
                      for a in same]
            if not wanted or (pid and comes_by_itself(target)):
                continue
            try:
                self._visit(target, wanted)
            except ShimError as error:
                if pid:
                    self._take_out(atts)
                    raise
                if error.errno not in _GONE or look(target.pid):
                    self._notice(f"process {target.pid}: not attached: {error.message}")

    def _one(self, pid: int) -> Target:
        """The process that was named, with an agent or (root 0) without."""
        if target := look_closely(pid):
            return target
        raise refusal(pid, ShimError("AD0002", errno.EPERM, f"process {pid}: cannot be read"))

    def tidy(self) -> None:
        """From time to time: what has ended goes, who has come is attached to."""
        self.elements.tidy()
        self.swaps.tidy()
        self._placing.quick.tidy(self._processes, lambda target: self._transaction(target, []))
        self._owed.tidy(lambda target, link: self._remove_from(target, link, 0.0), self._relieved)
        wanted = self._everywhere()
        if wanted and time.monotonic() >= self.newcomers.due:
            for target in self.newcomers.look():
                self._come(target, wanted)
        self.plans.keep()
        # last: the main loop looks for it now
        self.newcomers.listen(any(not a.pid for a in self.attachments))

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
        return pid in self._processes or (life is not None and life.parent in self._processes)

    def _everywhere(self) -> list[Attachment]:
        """The same list until another attachment comes or goes: this is asked all the time."""
        if self._code is None:
            self._code = [a for a in self.attachments if isinstance(a.place, Code) and not a.pid]
            self._alike = self.plans.alike(self._code)
        return self._code

    def _mapped(self, target: Target, wanted: list[Attachment]) -> list[Attachment]:
        """Those whose file is mapped there."""
        alike = self._alike if wanted is self._code else self.plans.alike(wanted)
        here = {id(a) for first, same in alike.items() if self.plans.here(target, first)
                for a in same}
        return [a for a in wanted if id(a) in here] if here else []

    @property
    def due(self) -> float | None:
        """When `tidy` is to be called, time.monotonic(); None: nothing is left to do."""
        waits = [d for d in (self.elements.due, self.swaps.due, self._owed.due,
                             self._placing.quick.due) if d is not None]
        if self._everywhere():
            waits.append(self.newcomers.due)
        return min(waits, default=None)

    def _come(self, target: Target, wanted: list[Attachment], followed: bool = False) -> None:
        """Attachments whose file the process has mapped since it was last looked at; all of them
        in one that is followed."""
        process = self._processes.get(target.pid)
        known = process and process.root == target.root
        linked: set[int] | None
        if process and known:
            linked = {i for i, _ in process.linked}
        else:
            linked = inherited.links(target, self.session.id, self.session.ctl_ino)
        if linked is None:
            return
        there = wanted if followed else self._mapped(target, wanted)
        missing = [a for a in there if a.link_id not in linked]
        if not missing or self._agents.refused(target):
            return
        if not target.root and not may_have_agent(target):
            return
        try:
            self._visit(target, missing)
        except ShimError as error:
            first = self._agents.note_refusal(target, error.errno)
            if first and (error.errno not in _GONE or look(target.pid)):
                self._notice(f"process {target.pid}: not attached: {error.message}")

    def leave(self, pid: int) -> None:
        """Everything of the session out of one process, to which it does not come back by itself.
        ShimError: it could not."""
        target = look(pid)
        if target is None or not target.maps_file(self.session.ctl_ino):
            return
        self._left.add(pid)
        self._remove_from(target, 0)
        self._farewell(target, _FAREWELL)
        self._processes.pop(pid, None)
        self._agents.note_refusal(target, errno.EPERM)

    def _take_out(self, atts: Sequence[Attachment]) -> None:
        gone = set(map(id, atts))
        self.attachments = [a for a in self.attachments if id(a) not in gone]
        self._code = None
        if self._ending is None:
            self._remove(atts[0].link_id)
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
                self._remove(link_id)

    def detach(self, *atts: Attachment) -> None:
        """All of one link, out of every process; it is silent already."""
        self._take_out(atts)
        for att in atts:
            self.plans.drop(att)

    def want_runnable(self, pid: int, prog: ProgRef, link: int | None) -> None:
        """The loader `pid` is going to run this program itself."""
        self._runnables.setdefault(pid, {})[prog.id] = prog

    def want_run(self, pid: int, prog: ProgRef) -> None:
        """The process `pid` is going to run this program now. A process keeps some of the last
        ones, so that it need not ask for the same one again."""
        runs = self._runs.setdefault(pid, {})
        runs.pop(prog.id, None)
        runs[prog.id] = prog
        while len(runs) > _RUNS:
            del runs[next(iter(runs))]

    def drop_run(self, pid: int, prog_id: int) -> None:
        """The program is gone."""
        runs = self._runs.get(pid, {})
        runs.pop(prog_id, None)
        if not runs:
            self._runs.pop(pid, None)

    def drop_runnable(self, pid: int, prog_id: int) -> None:
        """It will not any more; its link is silent already."""
        self._runnables.get(pid, {}).pop(prog_id, None)

    def end(self) -> None:
        """Everything out of everywhere. Every link is silent already."""
        self.attachments.clear()
        self._code = None
        self.plans.drop_all()
        self.plans.keep(at_once=True)
        if not self._processes:
            return
        self._remove(0)
        end = time.monotonic() + _FAREWELL
        for target in targets():
            if target.maps_file(self.session.ctl_ino) and time.monotonic() < end:
                with contextlib.suppress(ShimError):
                    self._farewell(target, end - time.monotonic())
                    self._take_agent(target, end - time.monotonic())

    def _take_agent(self, target: Target, seconds: float) -> None:
        last: ShimError | None = None
        for _ in _pauses(min(seconds, _PATIENCE)):
            try:
                return self._agents.take(target)
            except ShimError as error:
                last = error
                if error.errno not in _AGAIN:
                    break
            self._serve_late()  # who waits for an answer is inside of it
        assert last
        raise last

    def clean_up(self, sessions: list[int]) -> None:
        """Out of every process what sessions left that lost backend and keeper at once."""
        for target in targets():
            if not any("memfd:bpf-ctl" in m.path for m in target.maps):
                continue
            for number in sessions:
                with contextlib.suppress(ShimError):
                    self._keeper().detach(target.pid, target.root, number, 0)
            with contextlib.suppress(ShimError):
                self._sweep(target)
                self._take_agent(target, _PATIENCE)

    def _sweep(self, target: Target) -> None:
        """The process gives back what sessions of dead backends mapped there."""
        keeper = self._keeper()
        keeper.stop(target.pid)
        try:
            keeper.begin_call(target.pid, target.root, "", _KEEPER)
            keeper.end_call()
        finally:
            with contextlib.suppress(ShimError):
                keeper.release(target.pid)

    def inert(self) -> list[str]:
        """Processes whose code could not be restored: silent, but still patched."""
        return [f"process {pid}: {why}" for pid, why in self._inert.items()
                if os.path.exists(f"/proc/{pid}")]  # fmt: skip

    def processes(self) -> list[dict[str, object]]:
        """For the session's status."""
        return [{
            "pid": p.pid, "refused": p.refused, "links": len({link for link, _ in p.linked}),
            "sites": [{"addr": s.addr, "where": str(s.where), "tactic": s.tactic}
                      for s in p.sites.values()],
        } for p in self._processes.values() if os.path.exists(f"/proc/{p.pid}")]  # fmt: skip

    def tactics(self) -> dict[int, list[str]]:
        """How its sites divert control, by program id."""
        from libbpf_shim.attach.sites import tactics

        return tactics(self.attachments, [
            p for p in self._processes.values() if os.path.exists(f"/proc/{p.pid}")])  # fmt: skip

    def agent(self, sock: socket.socket, hello: bytes) -> None:
        """An agent that came by itself: everything that concerns its process."""
        later: dict[int, list[Attachment]] = {}  # by link: what of it was there is out again
        if is_ahead(hello):
            self._exec(sock, hello)
            return
        with Conversation(sock, ANSWER, hello) as talk:
            reason, pid = talk.hello.reason, talk.hello.pid
            if reason == _START:
                self.ends.met(pid)
                self._processes.pop(pid, None)
                self._unwritten.pop(pid, None)
                self._no_ptrace.discard(pid)
                self._left.discard(pid)
            elif reason not in (_DLOPEN, _LOADER, _MAP):
                return  # of a transaction that is over
            elif pid in self._left and reason != _LOADER:
                return
            wanted = [a for a in self.attachments if a.meant_for(pid, talk.hello.start_time)]
            if reason == _MAP:  # what is mapped is not ready yet for more
                from libbpf_shim.attach.placing import of_calls

                wanted = of_calls(wanted)
            runs: dict[int, ProgRef] = {}
            if reason == _LOADER:
                runs = {**self._runs.get(pid, {}), **self._runnables.get(pid, {})}
            more = reason == _MAP and any(p.trapped for p in self._processes.values())
            if not runs and (not (wanted or more) or reason == _LOADER):
                return
            process = self._process(talk)
            process.trapped = process.trapped or more
            for gone in process.runnables - runs.keys():
                talk.runnable(prog_id=gone, session=process.session, cookie=0, flags=0, image=0)
                process.runnables.discard(gone)
            for prog in runs.values():
                self._runnable(talk, process, prog)
            if reason == _LOADER:
                return
            if talk.hello.ptrace:
                self._no_ptrace.add(pid)
            for att, error in self._placing.by_itself(talk, process, wanted):
                if error.errno == errno.EBUSY and pid not in self._no_ptrace:
                    later[att.link_id] = [a for a in wanted if a.link_id == att.link_id]
                else:
                    self._refused(process, error)
        for atts in later.values():
            self._afterwards(pid, atts)

    def _exec(self, sock: socket.socket, hello: bytes) -> None:
        """A process that is about to become a program which nothing is preloaded into. One at a
        time: others that come meanwhile wait."""
        if self._execs.busy:
            self._execs.wait(sock, hello)
            return
        self._execs.busy = True
        try:
            self._through_exec(sock, hello)
        finally:
            self._execs.busy = False
        for other, its_hello in self._execs.next_ones():
            self._exec(other, its_hello)

    def _through_exec(self, sock: socket.socket, hello: bytes) -> None:
        followed, pid, wanted = False, 0, list[Attachment]()
        with contextlib.suppress(ShimError), Conversation(sock, ANSWER, hello) as talk:
            pid, start = talk.hello.pid, talk.hello.start_time
            wanted = [a for a in self.attachments if a.meant_for(pid, start)]
            followed = bool(wanted) and self._execs.follow(pid, talk.hello.tid)
        if not followed:
            return
        try:
            self._execs.arrive(pid, wanted)
        except ShimError as error:
            if target := look_closely(pid):
                self._agents.note_refusal(target, error.errno)
            self._notice(f"process {pid}: not attached: {error.message}")

    def _begins(self, pid: int) -> None:
        self._processes.pop(pid, None)
        self._unwritten.pop(pid, None)
        self.ends.met(pid)

    def _afterwards(self, pid: int, atts: list[Attachment]) -> None:
        """What a process with threads could not write by itself, the keeper can."""
        target = look(pid)
        if target is None:
            return
        try:
            self._visit(target, atts)
        except ShimError as error:
            if look(pid):
                self._notice(f"process {pid}: not attached: {error.message}")

    def _refused(self, process: Process, error: ShimError) -> None:
        why = _too_many_threads(process.pid, error).message
        process.refused.append(why)
        self._notice(f"process {process.pid}: not attached: {why}")

    # what is said in a conversation

    def _process(self, talk: Conversation) -> Process:
        hello, files = talk.hello, self.session
        process = self._processes.get(hello.pid)
        if process is None or (process.root, process.start_time) != (hello.root, hello.start_time):
            process = Process(
                hello.pid, hello.root, hello.start_time, outers=self.elements.outers)
            self._processes[hello.pid] = process
        loaded.see(talk, process)
        if process.session < 0:
            try:
                process.session = self._meet(talk)
            except ShimError as error:
                if error.errno != errno.ENOSPC or not process.end_dead_sessions(talk):
                    raise
                process.session = self._meet(talk)
            process.read_root(talk, files.perf_size)
            # a fork child has its parent's, a process that begins those of a visit that came first
            loaded.read_links(talk, process)
            process.read_objects(talk)
        return process

    def _meet(self, talk: Conversation) -> int:
        files = self.session
        return talk.session(
            files.id, files.ctl_fd, files.perf_fd, files.ctl_size, files.perf_size, files.ctl_ino
        )

    def _runnable(self, talk: Conversation, process: Process, prog: ProgRef) -> None:
        if prog.id in process.runnables:
            process.fill(talk)
            return
        talk.runnable(
            prog_id=prog.id,
            session=process.session,
            cookie=0,
            flags=int(prog.image.needs_vcpu),
            image=process.image(talk, prog),
        )
        process.runnables.add(prog.id)

    # how a conversation begins

    def _visit(self, target: Target, wanted: list[Attachment]) -> None:
        """Brings the attachments into a running process. ShimError: why not."""
        last: ShimError | None = None
        stale = False
        if target.root and shares_memory(target.pid):
            return  # its parent is visited
        self._left.discard(target.pid)
        if any(map(walks_stacks, {id(a.prog): a.prog for a in wanted}.values())):
            self._unwinding.prepare(target.modules)
        for _ in _pauses():
            if not wanted:  # the process has put them there by itself
                return
            try:
                if not target.root:
                    target = self._agents.give(target)
                    self._processes.pop(target.pid, None)
                    # events that were attached to before it had one
                    wanted = [a for a in self.attachments if a.pid in (0, target.pid)
                              and self.plans.concerns(target, a)]
                if target.pid in self._no_ptrace:
                    self._mailbox(target, wanted)
                else:
                    for at in range(0, len(wanted), _AT_ONCE):
                        self._transaction(target, wanted[at : at + _AT_ONCE])
                return
            except ShimError as error:
                last = error
                if not target.root:
                    if error.errno in _AGAIN:
                        continue
                    break
                if target.injected and error.errno in _TAKEN:
                    target = self._one(target.pid)
                    continue
                if error.code == NOT_BEGUN:  # it comes by itself then
                    return
                refused = error.errno in (errno.EPERM, errno.EACCES)
                if refused and target.pid not in self._no_ptrace:
                    self._no_ptrace.add(target.pid)
                elif error.errno == errno.ESTALE and not stale:
                    stale = True  # another session may have written the same window first
                elif error.errno not in _AGAIN:
                    break
            finally:
                wanted = self._without_its_own(target.pid, wanted)
        assert last
        if wanted:
            self._forget(target, wanted)
            raise last

    def _without_its_own(self, pid: int, wanted: list[Attachment]) -> list[Attachment]:
        """Serves who has come by himself meanwhile. What that process has put there then is its
        own, and no visit's to finish or to take back."""
        before = self._processes.get(pid)
        had = set(before.linked) if before else set()
        self._serve_late()
        now = self._processes.get(pid)
        if now is None or (now is before and now.linked == had):
            return wanted
        own = {link for link, _ in (now.linked - had if now is before else now.linked)}
        return [a for a in wanted if a.link_id not in own]

    def _forget(self, target: Target, wanted: list[Attachment]) -> None:
        """What a visit that failed left behind."""
        process = self._processes.get(target.pid)
        for att in wanted:
            if process and any(i == att.link_id for i, _ in process.linked):
                with contextlib.suppress(ShimError):
                    self._remove_from(target, att.link_id)

    def _transaction(self, target: Target, wanted: list[Attachment]) -> None:
        """Stop, converse, write, let go. Another try converses again: the process has run since,
        and may have loaded something."""
        keeper = self._keeper()
        keeper.stop(target.pid)
        try:
            self._converse(keeper, target, wanted)
            if windows := self._unwritten.get(target.pid):
                _write(keeper, target.pid, windows)
            self._unwritten.pop(target.pid, None)
        finally:
            with contextlib.suppress(ShimError):
                keeper.release(target.pid)

    def _converse(self, keeper: Keeper, target: Target, wanted: list[Attachment]) -> None:
        """Sites and links; what is to be written is kept in _unwritten, whatever happens next."""

        def links(talk: Conversation) -> None:
            windows = self._unwritten.setdefault(target.pid, {})
            before = [index for index in windows if index >= 0]
            self._placing.links(talk, self._process(talk), wanted, windows)
            for index in talk.patched([index for index in before if index in windows]):
                del windows[index]  # by another session, since

        self._calls.call(keeper, target, links)

    def _serve_late(self) -> None:
        self._calls.look()
        while self._calls.late:
            sock, payload = self._calls.late.pop(0)
            with contextlib.suppress(ShimError):
                self.agent(sock, payload)
            sock.close()

    def _mailbox(self, target: Target, wanted: list[Attachment]) -> None:
        """Where ptrace is refused: the agent's own thread; windows of one instruction."""
        with self._calls.mailbox(target) as talk:
            refused = self._placing.by_itself(talk, self._process(talk), wanted)
        if refused:
            error = _too_many_threads(target.pid, refused[0][1])
            self._processes[target.pid].refused.append(error.message)
            raise error

    # the way out

    def _remove(self, link_id: int) -> None:
        """A link (0: all) out of every process that maps the session."""
        # the known ones first: to find others takes longer
        known = {pid: t for pid in list(self._processes)
                 if (t := look(pid)) and not shares_memory(pid)}
        rest = (t for t in targets() if t.pid not in known)
        for target in itertools.chain(known.values(), rest):
            if not target.maps_file(self.session.ctl_ino):
                continue
            try:
                self._remove_from(target, link_id)
                self._inert.pop(target.pid, None)
                if not link_id:
                    self._owed.paid(target.pid)
            except ShimError as error:
                self._inert[target.pid] = error.message
                self._owed.add(target.pid, link_id)
        self._serve_late()
        for pid in [p for p in self._processes if not os.path.exists(f"/proc/{p}")]:
            del self._processes[pid]

    def _relieved(self, pid: int) -> None:
        self._inert.pop(pid, None)

    def _remove_from(self, target: Target, link_id: int, seconds: float = _PATIENCE) -> None:
        self._unwritten.pop(target.pid, None)
        process = self._processes.get(target.pid)
        last: ShimError | None = None
        for _ in _pauses(seconds):
            try:
                if target.pid in self._no_ptrace:
                    with self._calls.mailbox(target) as talk:
                        self._placing.take_back(talk, self._process(talk), link_id)
                else:
                    self._keeper().detach(
                        target.pid, target.root, self.session.id, link_id, timeout_ms=0)
                if process:
                    process.unlinked(link_id)
                return
            except ShimError as error:
                last = error
                if error.errno in (errno.EPERM, errno.EACCES):
                    self._no_ptrace.add(target.pid)
                elif error.errno not in _AGAIN:
                    break
            self._serve_late()  # who waits for an answer has the lock that this waits for
        assert last
        raise last

    def _farewell(self, target: Target, seconds: float) -> None:
        """The process gives back what the session mapped there; its links are gone already."""

        def leave(talk: Conversation) -> None:
            known = self._processes.get(target.pid)
            if known is None or known.start_time != talk.hello.start_time:  # a fork child
                known = Process(target.pid, talk.hello.root, talk.hello.start_time)
            known.leave(talk, self.session.id, self.session.ctl_ino)

        self._talk_to(target, leave, min(seconds, _PATIENCE))

    def _talk_to(
        self, target: Target, say: Callable[[Conversation], None], seconds: float = _PATIENCE
    ) -> None:
        """A conversation with a running process, begun again while something stands in the way:
        what it says may be said more than once."""
        last: ShimError | None = None
        for _ in _pauses(seconds):
            try:
                if target.pid in self._no_ptrace:
                    with self._calls.mailbox(target) as talk:
                        say(talk)
                    return
                keeper = self._keeper()
                keeper.stop(target.pid)
                try:
                    self._calls.call(keeper, target, say)
                    return
                finally:
                    with contextlib.suppress(ShimError):
                        keeper.release(target.pid)
            except ShimError as error:
                last = error
                refused = error.errno in (errno.EPERM, errno.EACCES)
                if refused and target.pid not in self._no_ptrace:
                    self._no_ptrace.add(target.pid)
                elif error.errno not in _AGAIN:
                    break
            finally:
                self._serve_late()
        assert last
        raise last


def _write(keeper: Keeper, pid: int, windows: dict[int, Window]) -> None:
    """All of them; of those of system calls (below 0) each that can be: where a thread stands in
    the way of one, the others are written, and that call's event is not seen. An int3 needs all
    of those, before it."""
    code = [w for index, w in windows.items() if index >= 0]
    calls = [w for index, w in windows.items() if index < 0]
    if any(w.trap for w in code):
        keeper.patch(pid, calls)
        for index in [i for i in windows if i < 0]:
            del windows[index]
        calls = []
    keeper.patch(pid, [*code, *(w for w in calls if not w.fixups)])
    several = [w for w in calls if w.fixups]
    try:
        keeper.patch(pid, several)
    except ShimError as error:
        if error.errno != errno.EAGAIN:
            raise
        for window in several:
            with contextlib.suppress(ShimError):
                keeper.patch(pid, [window])


def _too_many_threads(pid: int, error: ShimError) -> ShimError:
    """What an agent's EBUSY means to a person; other errors as they are."""
    if error.errno != errno.EBUSY:
        return error
    return ShimError(
        "AD0003",
        errno.EOPNOTSUPP,
        f"process {pid}: several instructions to be replaced, other threads, and ptrace is "
        "refused",
    )
