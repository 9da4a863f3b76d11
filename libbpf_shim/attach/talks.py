"""Conversations with running processes, and what a session knows of each process by them.

How one is begun: by the keeper, which stops the process, or, where ptrace is refused, by the
mailbox (docs/architecture.md). While one is waited for, agents that come by themselves are served:
they may stand in its way.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.call import Calls, SessionFiles
from libbpf_shim.attach.keeper import Keeper, Window
from libbpf_shim.attach.target import Target
from libbpf_shim.errors import ShimError

if TYPE_CHECKING:  # a loader that comes first need not wait for it to be read
    from libbpf_shim.attach.process import Process

PATIENCE = 2.0  # seconds of trying again where a thread stands in the way
AGAIN = (errno.EAGAIN, errno.EBUSY)


def pauses(seconds: float = PATIENCE) -> Iterator[None]:
    """Growing pauses between tries, until so many seconds are over."""
    end, pause = time.monotonic() + seconds, 0.0005
    while True:
        yield
        if time.monotonic() >= end:
            return
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def refused(error: ShimError) -> bool:
    """ptrace is, there."""
    return error.errno in (errno.EPERM, errno.EACCES)


class Talks:
    """processes: what is known of each, by number. no_ptrace: those that the keeper cannot stop.
    unwritten: by process and site, windows of visits whose patch has to wait. left: what these
    tell of is nothing to the session. outers: as Process has it. hear: an agent that has come by
    itself, with its hello."""

    def __init__(
        self, session: SessionFiles, listener: socket.socket, keeper: Callable[[], Keeper],
        park: Callable[[socket.socket], None],
    ) -> None:
        self.session, self.keeper = session, keeper
        self.calls = Calls(session, listener, park)
        self.processes: dict[int, Process] = {}
        self.outers: dict[int, int] = {}
        self.no_ptrace: set[int] = set()
        self.unwritten: dict[int, dict[int, Window]] = {}
        self.left: set[int] = set()
        self.hear: Callable[[socket.socket, bytes], None] = lambda sock, hello: None

    def process(self, talk: Conversation) -> Process:
        """The one that is talked to, as it is now; it has met the session then."""
        from libbpf_shim.attach import loaded
        from libbpf_shim.attach.process import Process

        hello, files = talk.hello, self.session
        process = self.processes.get(hello.pid)
        if process is None or (process.root, process.start_time) != (hello.root, hello.start_time):
            process = Process(hello.pid, hello.root, hello.start_time, outers=self.outers)
            self.processes[hello.pid] = process
        loaded.see(talk, process)
        while process.unsure:
            link_id = process.unsure.pop()
            talk.unlink(link_id, process.session)
            process.unlinked(link_id)
        if process.session < 0:
            try:
                process.session = self._meet(talk)
            except ShimError as error:
                if error.errno != errno.ENOSPC or not process.end_dead_sessions(talk):
                    raise
                process.session = self._meet(talk)
            root = process.read_root(talk, files.perf_size)
            # a fork child has its parent's, a process that begins those of a visit that came first
            loaded.read_links(talk, process, root)
            process.read_objects(talk, root.objects)
        return process

    def _meet(self, talk: Conversation) -> int:
        files = self.session
        return talk.session(
            files.id, files.ctl_fd, files.perf_fd, files.ctl_size, files.perf_size, files.ctl_ino
        )

    def talk_to(
        self, target: Target, say: Callable[[Conversation], None], seconds: float = PATIENCE
    ) -> None:
        """A conversation with a running process, begun again while something stands in the way:
        what it says may be said more than once."""
        last: ShimError | None = None
        asked = False
        for _ in pauses(seconds):
            try:
                if target.pid in self.no_ptrace:
                    with self.calls.mailbox(target) as talk:
                        say(talk)
                    return
                keeper = self.keeper()
                with keeper.letting_go(target.pid):
                    self.calls.call(keeper, target, say)
                    keeper.finish(target.pid, ())
                return
            except ShimError as error:
                last = error
                if refused(error) and target.pid not in self.no_ptrace:
                    self.ask(target, again=asked)
                    asked = True
                elif error.errno not in AGAIN:
                    break
            finally:
                self.serve_late()
        assert last
        raise last

    def ask(self, target: Target, again: bool) -> None:
        """The keeper may not trace it: its agent may allow that, once; else there is no ptrace."""
        with contextlib.suppress(ShimError):  # there is no keeper
            if not again and self.calls.permit(target, self.keeper()):
                return
        self.no_ptrace.add(target.pid)

    def serve_late(self) -> None:
        """Agents that have come by themselves meanwhile."""
        self.calls.look()
        while self.calls.late:
            sock, payload = self.calls.late.pop(0)
            with contextlib.suppress(ShimError):
                self.hear(sock, payload)
            sock.close()
