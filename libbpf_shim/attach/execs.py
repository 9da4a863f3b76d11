"""Through an exec into a program that will not load the library: static, of another libc, or with
an environment that does not name it.

The agent of the old image says so and waits; the keeper seizes the process, lets it go on, and has
it again at the beginning of the new image, where it gets an agent and all that concerns it before
its first instruction. Programs that gain rights by their file are not asked for: being traced they
would gain none.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.attachment import Attachment
from libbpf_shim.attach.inject import Agents
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.newcomers import may_have_agent
from libbpf_shim.attach.target import Target, look_closely
from libbpf_shim.errors import ShimError

_HELLO = struct.Struct("<III")  # version, pid, reason
_EXEC = 9  # SHIM_SYNC_EXEC
_PATIENCE = 2.0  # seconds that a process waits while others are on their way
_NOT_THERE = (errno.ESRCH, errno.ETIMEDOUT)  # it has ended, or its exec failed


def is_ahead(hello: bytes) -> bool:
    """An agent says that its process is about to exec a program that will not load the library."""
    return len(hello) >= _HELLO.size and _HELLO.unpack_from(hello)[2] == _EXEC


@dataclass(slots=True)
class Execs:
    """transaction: attachments into a process that can be stopped; talk: a conversation with it;
    begins: a new process is there."""

    keeper: Callable[[], Keeper]
    agents: Agents
    transaction: Callable[[Target, list[Attachment]], None]
    talk: Callable[[Target, Callable[[Conversation], None]], None]
    begins: Callable[[int], None]
    busy: bool = False  # one is on its way
    _waiting: list[tuple[float, socket.socket, bytes]] = field(default_factory=list)

    def wait(self, sock: socket.socket, hello: bytes) -> None:
        """Another one comes meanwhile."""
        self._waiting.append((time.monotonic() + _PATIENCE, sock.dup(), hello))

    def next_ones(self) -> Iterator[tuple[socket.socket, bytes]]:
        """Those that have come. Who has waited for too long goes on without us."""
        while self._waiting and not self.busy:
            until, sock, hello = self._waiting.pop(0)
            with sock:
                if time.monotonic() < until:
                    yield sock, hello

    def follow(self, pid: int, tid: int) -> bool:
        """The process, which waits for an answer, is in the keeper's hands."""
        try:
            self.keeper().follow(pid, tid)
        except ShimError:
            return False  # traced by somebody, or ptrace is refused: found later, if at all
        return True

    def arrive(self, pid: int, wanted: list[Attachment]) -> None:
        """After its answer. ShimError: why it runs without an agent, or without some of them."""
        keeper = self.keeper()
        try:
            keeper.await_exec(pid)
        except ShimError as error:
            if error.errno in _NOT_THERE:
                return
            raise
        try:
            self._begin(pid, wanted)
        finally:
            with contextlib.suppress(ShimError):
                keeper.let_go(pid)

    def _begin(self, pid: int, wanted: list[Attachment]) -> None:
        target = look_closely(pid)
        if target is None or not may_have_agent(target):
            return  # a backend of ours, or it loads the library after all
        self.begins(pid)
        if not target.root:
            target = self.agents.give(target)
        self.transaction(target, wanted)
        self.talk(target, lambda talk: talk.begun())
