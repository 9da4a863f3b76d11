"""Agents that come by themselves: at the start of their process, at a dlopen or an exec, or of a
loader that is going to run programs itself."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.attachment import Attachment
from libbpf_shim.attach.call import ANSWER
from libbpf_shim.attach.ends import Ends
from libbpf_shim.attach.execs import Execs, is_ahead
from libbpf_shim.attach.inject import Agents
from libbpf_shim.attach.objects import ProgRef
from libbpf_shim.attach.talks import AGAIN, Talks
from libbpf_shim.attach.target import look, look_closely
from libbpf_shim.errors import ShimError

if TYPE_CHECKING:
    from libbpf_shim.attach.placing import Placing
    from libbpf_shim.attach.process import Process
    from libbpf_shim.attach.visits import Visits

_START, _DLOPEN, _LOADER, _MAP = 1, 4, 5, 8  # SHIM_SYNC_*
_RUNS = 256  # programs of test runs that a process keeps


class Arrivals:
    """attachments: all of the session."""

    def __init__(
        self, talks: Talks, agents: Agents, visits: Callable[[], Visits], ends: Ends,
        attachments: Callable[[], list[Attachment]], placing: Callable[[], Placing],
        notice: Callable[[str], None],
    ) -> None:
        self._talks, self._agents, self._visits, self._ends = talks, agents, visits, ends
        self._attachments, self._placing, self._notice = attachments, placing, notice
        self._runnables: dict[int, dict[int, ProgRef]] = {}
        self._runs: dict[int, dict[int, ProgRef]] = {}  # of PROG_TEST_RUN
        self._execs = Execs(
            talks.keeper, agents, lambda target, atts: visits().transaction(target, atts),
            talks.talk_to, self.begins)

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

    def agent(self, sock: socket.socket, hello: bytes) -> None:
        """An agent that came by itself: everything that concerns its process."""
        later: dict[int, list[Attachment]] = {}  # by link: what of it was there is out again
        if is_ahead(hello):
            self._exec(sock, hello)
            return
        with Conversation(sock, ANSWER, hello) as talk:
            reason, pid = talk.hello.reason, talk.hello.pid
            if reason == _START:
                self._ends.met(pid)
                self._talks.processes.pop(pid, None)
                self._talks.unwritten.pop(pid, None)
                self._talks.no_ptrace.discard(pid)
                self._talks.left.discard(pid)
            elif reason not in (_DLOPEN, _LOADER, _MAP):
                return  # of a transaction that is over
            elif pid in self._talks.left and reason != _LOADER:
                return
            wanted = [a for a in self._attachments() if a.meant_for(pid, talk.hello.start_time)]
            if reason == _MAP:  # what is mapped is not ready yet for more
                from libbpf_shim.attach.placing import of_calls

                wanted = of_calls(wanted)
            runs: dict[int, ProgRef] = {}
            if reason == _LOADER:
                runs = {**self._runs.get(pid, {}), **self._runnables.get(pid, {})}
            more = reason == _MAP and any(p.trapped for p in self._talks.processes.values())
            if not runs and (not (wanted or more) or reason == _LOADER):
                return
            process = self._talks.process(talk)
            process.trapped = process.trapped or more
            for gone in process.runnables - runs.keys():
                talk.runnable(prog_id=gone, session=process.session, cookie=0, flags=0, image=0)
                process.runnables.discard(gone)
            for prog in runs.values():
                self._runnable(talk, process, prog)
            if reason == _LOADER:
                return
            if talk.hello.ptrace:
                self._talks.no_ptrace.add(pid)
            for att, error in self._placing().by_itself(talk, process, wanted):
                if error.errno in AGAIN and pid not in self._talks.no_ptrace:
                    later[att.link_id] = [a for a in wanted if a.link_id == att.link_id]
                else:
                    self._refused(process, error)
            talk.visit_follows = bool(later)
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
            wanted = [a for a in self._attachments() if a.meant_for(pid, start)]
            followed = bool(wanted) and self._execs.follow(pid, talk.hello.tid)
        if not followed:
            return
        try:
            self._execs.arrive(pid, wanted)
        except ShimError as error:
            if target := look_closely(pid):
                self._agents.note_refusal(target, error.errno)
            self._notice(f"process {pid}: not attached: {error.message}")

    def begins(self, pid: int) -> None:
        """It is at the beginning of a new image."""
        self._talks.processes.pop(pid, None)
        self._talks.unwritten.pop(pid, None)
        self._ends.met(pid)

    def _afterwards(self, pid: int, atts: list[Attachment]) -> None:
        """What a process with threads could not write by itself, the keeper can."""
        target = look(pid)
        if target is None:
            return
        try:
            self._visits().visit(target, atts)
        except ShimError as error:
            if look(pid):
                self._notice(f"process {pid}: not attached: {error.message}")

    def _refused(self, process: Process, error: ShimError) -> None:
        from libbpf_shim.attach.visits import too_many_threads

        why = too_many_threads(process.pid, error).message
        process.refused.append(why)
        self._notice(f"process {process.pid}: not attached: {why}")

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
