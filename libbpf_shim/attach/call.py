"""How a conversation with a running process begins: by the keeper's call, or by the mailbox."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.target import Target
from libbpf_shim.errors import ShimError

ANSWER = 12.0  # seconds for an agent to come, and for each of its answers
_HEADER = struct.Struct("<HHIIiII")  # struct shim_msg
_HELLO_AGENT = 32
_KEEPER, _MAILBOX = 2, 3  # SHIM_SYNC_*


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """What agents need of a session, and where its files lie."""

    id: int
    socket: str
    ctl_fd: int
    ctl_size: int
    ctl_ino: int
    ctl_dev: int
    perf_fd: int
    perf_size: int
    run_dir: str
    library: str
    cache: Path


class Calls:
    """Begins conversations of one session. park: gets connections of loaders that come meanwhile,
    with their first message; agents that come by themselves wait in `late`."""

    def __init__(
        self, session: SessionFiles, listener: socket.socket,
        park: Callable[[socket.socket, int, bytes], None],
    ) -> None:
        self.session, self._listener, self._park = session, listener, park
        self.late: list[tuple[socket.socket, bytes]] = []
        # agents that somebody else has accepted and not listened to yet
        self.knocking: Callable[[], list[tuple[socket.socket, bytes]]] = list
        self._count = 0

    def call(
        self, keeper: Keeper, target: Target, say: Callable[[Conversation], None]
    ) -> None:
        """A call of a stopped process and the conversation it leads to. Each has a socket of its
        own: an agent that an earlier, broken call has sent on its way finds that one closed, and
        is not taken for this one's while its process stands still."""
        error: ShimError | None = None
        self._count += 1
        path = f"{os.path.dirname(self.session.socket)}/call-{self._count}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            try:
                listener.listen(1)
                keeper.begin_call(target.pid, target.root, path, _KEEPER)
                talk = self._await(target.pid, _KEEPER, listener, keeper)
            finally:
                os.unlink(path)
            if talk:
                with talk:
                    try:
                        say(talk)
                        talk.settle()
                    except ShimError as raised:
                        error = raised
        result = keeper.end_call()
        if error:
            raise error
        if not talk or result < 0:
            raise ShimError("AD0004", errno.EAGAIN, f"process {target.pid}: no answer")

    def _await(
        self, pid: int, reason: int, listener: socket.socket, instead: Keeper | int
    ) -> Conversation | None:
        """The conversation of that process for that reason; others are kept meanwhile. None: it
        did not come, or will not: the keeper has something to say, or the process, a pidfd, has
        ended."""
        end = time.monotonic() + ANSWER
        listeners = {listener, self._listener}
        watched: list[socket.socket | Keeper | int] = [*listeners, instead]
        while (left := end - time.monotonic()) > 0:
            ready = select.select(watched, [], [], left)[0]
            for sock in listeners.intersection(ready):
                if talk := self._accept(sock, pid, reason):
                    return talk
            if instead in ready and not listeners.intersection(ready):
                return None
        return None

    def look(self) -> None:
        """Who knocks meanwhile: an agent that waits for its answer holds the lock that a visit of
        its process waits for."""
        self.late += self.knocking()
        while select.select([self._listener], [], [], 0)[0]:
            self._accept(self._listener, -1, 0)  # no process has that number

    def _accept(self, listener: socket.socket, pid: int, reason: int) -> Conversation | None:
        sock, _ = listener.accept()
        try:
            sock.settimeout(ANSWER)
            _, uid, _ = struct.unpack(
                "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            )
            if uid not in (os.geteuid(), 0):
                raise OSError(errno.EPERM, "another user")
            op, payload = _first_message(sock)
        except OSError:
            sock.close()
            return None
        if op != _HELLO_AGENT or len(payload) < 12:
            self._park(sock, op, payload)
            return None
        _, its_pid, its_reason = struct.unpack_from("<III", payload)
        if its_pid == pid and its_reason == reason:
            return Conversation(sock, ANSWER, payload)
        # it waits for us anyway; this one may be stopped at the moment
        self.late.append((sock, payload))
        return None

    @contextlib.contextmanager
    def mailbox(self, target: Target) -> Iterator[Conversation]:
        """A conversation by the mailbox of the process. EOPNOTSUPP: it has none. ESRCH: it has
        ended."""
        from libbpf_shim._native import ffi, lib

        path = Path(self.session.run_dir, "agents", str(target.pid))
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as err:
            raise ShimError(
                "AD0005",
                errno.EOPNOTSUPP,
                f"process {target.pid}: ptrace is refused, and its agent has no mailbox",
            ) from err
        try:
            page = mmap.mmap(fd, mmap.PAGESIZE)
        finally:
            os.close(fd)
        try:
            ended = os.pidfd_open(target.pid)
        except OSError as err:
            page.close()
            raise ShimError("AD0004", errno.ESRCH, f"process {target.pid}: none") from err
        view = ffi.from_buffer(page)
        box = ffi.cast("struct shim_mailbox *", view)
        try:
            if box.magic != lib.SHIM_AGENT_MAGIC or box.pid != target.pid:
                raise ShimError("AD0005", errno.EOPNOTSUPP, f"{path}: not its mailbox")
            ffi.buffer(box.path)[:] = os.fsencode(self.session.socket).ljust(108, b"\0")
            box.seq += 1
            lib.shim_native_futex_wake(ffi.addressof(box, "seq"), 1 << 30)
            talk = self._await(target.pid, _MAILBOX, self._listener, ended)
            if talk is None:
                gone = bool(select.select([ended], [], [], 0)[0])
                raise ShimError("AD0004", errno.ESRCH if gone else errno.EAGAIN,
                                f"process {target.pid}: no answer")
            with talk:
                yield talk
        finally:
            os.close(ended)
            ffi.release(view)
            page.close()


def _first_message(sock: socket.socket) -> tuple[int, bytes]:
    """op and payload; OSError if the client breaks off."""
    data = _exactly(sock, _HEADER.size)
    _, op, _, length, _, _, _ = _HEADER.unpack(data)
    return op, _exactly(sock, min(length, 1 << 20))


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise OSError(errno.ECONNRESET, "client gone")
        data += part
    return data
