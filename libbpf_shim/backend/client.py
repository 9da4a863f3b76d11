"""One connection to the backend."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from typing import TYPE_CHECKING

from libbpf_shim.attach.door import agent_hello, ready
from libbpf_shim.attach.function import KERNEL_ONLY, KERNEL_TYPE
from libbpf_shim.backend import wire
from libbpf_shim.backend.verdicts import Later
from libbpf_shim.errors import ShimError

if TYPE_CHECKING:
    from libbpf_shim.backend.gate import Permit
    from libbpf_shim.backend.workers import Job

_PROCESSES = ("AI", "AD", "KP")  # codes of attach/inject.py, deliver.py and visits.py, keeper.py
# Errors that feature probes provoke; no line for them.
_PROBES = frozenset(("BC0012", "BC0013", "BC0004", "BC0018", "OB0014"))
_ONCE = frozenset((KERNEL_ONLY, KERNEL_TYPE))  # tools that list functions would provoke them often
# codes of what a token, the daemon, a class does not grant; of pins under another build
_ONCE_EACH = ("TK", "SV", "EP", "BH0002")


class Client:
    """One connection. pid: the loader's, once it has said hello; 0 before. looks: it asks for the
    status, which is no reason to stay. job: the verdict that it waits for, before what else it
    asked is answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = wire.Inbox()
        self.pid = 0
        self.looks = False
        self.guest = False  # another user's: its process has no agent of ours
        self.crowd = False  # one guest too many
        self.permit: Permit | None = None  # what its token grants, in a session with a gate
        self.asked: deque[wire.Message] = deque()
        self.job: tuple[Job, Later] | None = None
        self._told: set[str] = set()

    def hears(self, error: ShimError) -> bool:
        """A line says why a request of it failed: of what is not there here, and of processes that
        are there and cannot be had."""
        if error.code in _ONCE:
            first = error.code not in self._told
            self._told.add(error.code)
            return first
        if error.code.startswith(_ONCE_EACH):
            first = error.message not in self._told
            self._told.add(error.message)
            return first
        if error.code.startswith(_PROCESSES):
            return error.errno != errno.ESRCH
        return error.errno == errno.EOPNOTSUPP and error.code not in _PROBES

    def agent(self) -> bytes | None:
        """The hello of an agent that has said it and nothing was read yet; else None, at once."""
        with contextlib.suppress(OSError):
            if not self.guest and ready([self.sock], 0):
                return agent_hello(self.sock)
        return None
