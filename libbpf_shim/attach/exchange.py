"""Requests to the agent in a target and its answers, in order, on one stream (struct shim_msg of
shim_wire.h). Many may be on their way at once."""

from __future__ import annotations

import array
import contextlib
import socket
import struct
from collections import deque
from dataclasses import dataclass
from errno import ENOSPC, EPROTO, ETIMEDOUT
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from libbpf_shim.attach import names
from libbpf_shim.attach.door import HEADER
from libbpf_shim.errors import ShimError
from libbpf_shim.object.control import start_time

if TYPE_CHECKING:
    from typing_extensions import Self

_KEEPER = 2  # SHIM_SYNC_KEEPER
_AHEAD = 64  # requests on their way whose answers nobody has waited for
_FULL = "there is no room for more probed places in it"


@cache
def native() -> tuple[Any, Any]:
    """ffi and the constants; imported late, since the extension is built after this is read."""
    from libbpf_shim._native import ffi, lib

    return ffi, lib


@cache
def _op(name: str) -> int:
    return int(getattr(native()[1], f"SHIM_OP_AGENT_{name}"))


@dataclass(frozen=True, slots=True)
class Hello:
    """What an agent says of its process. reason: SHIM_SYNC_*. tid: the thread that speaks.
    nthreads: threads of the process, 0 if it could not tell. ptrace: 0, or the errno that ptrace
    answers there. root: address of struct shim_agent. syms: addresses in SHIM_SYM_* order, 0 where
    there is none. pid, tid, start_time: as we see them; foreign: the process itself sees others
    (attach/names.py)."""

    pid: int
    reason: int
    nthreads: int
    ptrace: int
    start_time: int
    root: int
    syms: tuple[int, ...]
    tid: int = 0
    foreign: bool = False


class Pending:
    """A request on its way. asked: somebody comes for the answer."""

    __slots__ = ("asked", "name", "reply")

    def __init__(self, name: str, asked: bool) -> None:
        self.name, self.asked = name, asked
        self.reply: tuple[int, bytes] | None = None


class Exchange:
    """One agent's connection, from its hello to `done()`; use it as a context manager.

    Takes the connected stream socket over and closes it. With ``received`` the caller has read
    the hello's header and payload already (a server that tells loaders from agents).
    """

    def __init__(
        self, sock: socket.socket, timeout: float = 10.0, received: bytes | None = None
    ) -> None:
        self._sock = sock
        self._seq = 0
        self._inbox, self._outbox = bytearray(), bytearray()
        self._ahead: deque[Pending] = deque()  # requests that were not waited for
        self._refused: ShimError | None = None  # the first of them that was refused
        self.visit_follows = False  # the keeper comes, or again: who loads something waits
        sock.settimeout(timeout)
        if received is None:
            _, lib = native()
            op, _, received = self._receive()
            if op != lib.SHIM_OP_HELLO_AGENT:
                raise self._broken(f"message {op} instead of a hello")
        self.hello = self._hello(received)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.visit_follows = self.visit_follows or self.hello.reason == _KEEPER
            if kind is None:
                self.settle()
                self.visit_follows = self.visit_follows and self.hello.reason != _KEEPER
        finally:
            self.done()

    def done(self) -> None:
        """Ends the conversation; never raises."""
        _, lib = native()
        try:
            with contextlib.suppress(ShimError):
                self._catch_up()
            if self._sock.fileno() >= 0:
                self._send(lib.SHIM_OP_AGENT_DONE, b"", [], int(self.visit_follows))
                self._flush()
        except OSError:
            pass
        self._sock.close()

    def settle(self) -> None:
        """Until everything is answered that was asked; raises the first refusal since the last
        time."""
        self._catch_up()
        refused, self._refused = self._refused, None
        if refused:
            raise refused

    def _catch_up(self) -> None:
        while self._ahead:
            self._next_answer()

    def _next_answer(self) -> None:
        """Of the request that is on its way for the longest time."""
        if not self._ahead:
            raise self._broken("it is over")
        pending = self._ahead.popleft()
        try:
            op, ret, data = self._receive()
        except OSError as error:
            raise self._lost(pending.name, error) from None
        if op != _op(pending.name):
            raise self._broken(f"{pending.name} answered by message {op}")
        pending.reply = ret, data
        if ret < 0 and not pending.asked:
            self._refused = self._refused or self._refusal(pending.name, ret)

    def _ask(
        self, name: str, payload: bytes, fds: list[int] | None = None, asked: bool = False
    ) -> Pending:  # fmt: skip
        """A request whose answer is not waited for; no more of them than fit into the socket."""
        if len(self._ahead) >= _AHEAD:
            self._catch_up()
        try:
            self._send(_op(name), payload, fds or [])
        except OSError as error:
            raise self._lost(name, error) from None
        pending = Pending(name, asked)
        self._ahead.append(pending)
        return pending

    def _answer(self, pending: Pending) -> tuple[int, bytes]:
        """What is returned for it, and the payload. ShimError: the agent's errno."""
        while pending.reply is None:
            self._next_answer()
        if pending.reply[0] < 0:
            raise self._refusal(pending.name, pending.reply[0])
        return pending.reply

    def _call(self, name: str, payload: bytes, fds: list[int] | None = None) -> bytes:
        return self._answer(self._ask(name, payload, fds, asked=True))[1]

    def _refusal(self, name: str, ret: int) -> ShimError:
        why = _FULL if name == "SITE" and ret == -ENOSPC else f"{name} refused"
        return ShimError("BA0003", -ret, f"agent of process {self.hello.pid}: {why}")

    def _send(self, op: int, payload: bytes, fds: list[int], ret: int = 0) -> None:
        """Goes out with what is said next, when an answer is waited for."""
        _, lib = native()
        self._seq += 1
        header = HEADER.pack(lib.SHIM_WIRE_MAGIC, op, self._seq, len(payload), ret, 0, len(fds))
        if fds:  # they go with the first byte of their message
            self._flush()
        self._outbox += header + payload
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            del self._outbox[: self._sock.sendmsg([self._outbox], rights, socket.MSG_NOSIGNAL)]

    def send(self) -> None:
        """What was said goes out now: there is more to come, and the agent may begin. ShimError:
        the conversation is over."""
        try:
            self._flush()
        except OSError as error:
            raise self._lost("messages", error) from None

    def _flush(self) -> None:
        if self._outbox:
            part = bytes(self._outbox)
            self._outbox.clear()
            self._sock.sendall(part, socket.MSG_NOSIGNAL)

    def _receive(self) -> tuple[int, int, bytes]:
        """op, ret, payload of the next message. OSError, or ShimError EPROTO."""
        _, lib = native()
        magic, op, _, length, ret, _, _ = HEADER.unpack(self._exactly(HEADER.size))
        if magic != lib.SHIM_WIRE_MAGIC or length > 1 << 20:
            raise self._broken("not a message of this protocol")
        return op, ret, self._exactly(length)

    def _exactly(self, length: int) -> bytes:
        self._flush()
        while len(self._inbox) < length:
            part = self._sock.recv(1 << 16)
            if not part:
                raise self._broken("the process closed the connection")
            self._inbox += part
        out = bytes(self._inbox[:length])
        del self._inbox[:length]
        return out

    def _lost(self, name: str, error: OSError) -> ShimError:
        if not isinstance(error, TimeoutError):
            return self._broken(f"{name}: {error}")
        self._broken(name)
        what = f"agent of process {self.hello.pid}: no answer to {name}"
        return ShimError("BA0001", ETIMEDOUT, what)

    def _broken(self, why: str) -> ShimError:
        self._sock.close()
        self._ahead.clear()
        self._outbox.clear()
        return ShimError("BA0002", EPROTO, f"agent: conversation broken: {why}")

    def _hello(self, data: bytes) -> Hello:
        ffi, lib = native()
        if len(data) != ffi.sizeof("struct shim_hello_agent"):
            raise self._broken(f"hello of {len(data)} bytes")
        raw = ffi.new("struct shim_hello_agent *")
        ffi.memmove(raw, data, len(data))
        if raw.version != lib.SHIM_WIRE_VERSION:
            raise self._broken(f"agent version {raw.version}, expected {lib.SHIM_WIRE_VERSION}")
        pid, tid, start, foreign = raw.pid, raw.tid, raw.start_time, False
        try:
            if peer := names.peer(self._sock, raw.pid):
                pid, foreign = peer, True
                tid, start = names.thread(peer, raw.tid), start_time(peer)
        except ShimError as error:
            raise self._broken(error.message) from error
        return Hello(pid, raw.reason, raw.nthreads, raw.ptrace, start, raw.root,
                     tuple(raw.syms), tid, foreign)

    @staticmethod
    def _struct(name: str, **fields: object) -> bytes:
        ffi, _ = native()
        value = ffi.new(f"{name} *", fields)
        return bytes(ffi.buffer(value))

    @staticmethod
    def _index(payload: bytes) -> int:
        (index,) = struct.unpack("<I", payload)
        return int(index)
