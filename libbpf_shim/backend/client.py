"""One connection to the backend."""

from __future__ import annotations

import contextlib
import socket
from collections import deque

from libbpf_shim.attach.door import agent_hello, ready
from libbpf_shim.backend import wire
from libbpf_shim.backend.verdicts import Later
from libbpf_shim.backend.workers import Job


class Client:
    """One connection. pid: the loader's, once it has said hello; 0 before. looks: it asks for the
    status, which is no reason to stay. job: the verdict that it waits for, before what else it
    asked is answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = wire.Inbox()
        self.pid = 0
        self.looks = False
        self.asked: deque[wire.Message] = deque()
        self.job: tuple[Job, Later] | None = None

    def agent(self) -> bytes | None:
        """The hello of an agent that has said it and nothing was read yet; else None, at once."""
        with contextlib.suppress(OSError):
            if ready([self.sock], 0):
                return agent_hello(self.sock)
        return None
