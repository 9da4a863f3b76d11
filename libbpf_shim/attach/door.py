"""Who comes to a socket of a session: looked at without being read, and never waited for.

Whoever says nothing may be stopped at the moment, or wait for what is being done just now.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import Protocol, TypeVar

HEADER = struct.Struct("<HHIIiII")  # struct shim_msg
HELLO_AGENT = 32
HELLO = 1 << 16  # bytes, more than a hello of an agent has


class HasFileno(Protocol):
    def fileno(self) -> int: ...


W = TypeVar("W", bound="HasFileno | int")


def ready(watched: Sequence[W], seconds: float) -> list[W]:
    """Those of them that can be read, or whose other side is gone, within that time. poll(2), so
    that their numbers may be any; and MSG_DONTWAIT would not do: Python waits for a socket that
    has a timeout before it asks."""
    poll = select.poll()
    by_number = {w if isinstance(w, int) else w.fileno(): w for w in watched}
    for number in by_number:
        poll.register(number, select.POLLIN)
    found = {number for number, _ in poll.poll(max(seconds, 0) * 1000)}
    return [w for number, w in by_number.items() if number in found]


def agent_hello(sock: socket.socket) -> bytes | None:
    """Of a socket that is ready: the payload of an agent's hello, taken; None: something else is
    there, or not all of it, and nothing was taken. OSError: the other side is gone."""
    head = sock.recv(HELLO, socket.MSG_PEEK)
    if not head:
        raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    found = hello_in(head)
    return None if found is None else sock.recv(HEADER.size + len(found))[HEADER.size :]


def hello_in(data: bytes) -> bytes | None:
    """The same, of what has come."""
    if len(data) < HEADER.size:
        return None
    _, op, _, length, _, _, _ = HEADER.unpack_from(data)
    end = HEADER.size + length
    return None if op != HELLO_AGENT or len(data) < end else data[HEADER.size : end]
