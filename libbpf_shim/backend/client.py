"""One connection to the backend."""

from __future__ import annotations

import contextlib
import socket
from collections import deque

from libbpf_shim.backend import wire
from libbpf_shim.backend.verdicts import Later
from libbpf_shim.backend.workers import Job
from libbpf_shim.errors import ShimError

HELLO_AGENT = 32


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
        """The hello of an agent that has said it and nothing was read yet; else None."""
        with contextlib.suppress(OSError, ShimError):
            head = self.sock.recv(wire.HEADER.size, socket.MSG_DONTWAIT | socket.MSG_PEEK)
            if len(head) == wire.HEADER.size and wire.HEADER.unpack(head)[1] == HELLO_AGENT:
                messages = self.inbox.feed(self.sock.recv(1 << 16))
                return messages[0].payload if messages else b""
        return None
