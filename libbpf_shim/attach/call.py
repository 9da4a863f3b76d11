"""How a conversation with a running process begins: by the keeper's call, or by the mailbox."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libbpf_shim.attach import names
from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.door import HELLO, agent_hello, hello_in, ready
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.pidfd import pidfd_open
from libbpf_shim.attach.target import Target, same_mounts, stopped
from libbpf_shim.errors import ShimError

ANSWER = 12.0  # seconds for an agent to come, and for each of its answers
_PERMIT = 2.0  # seconds for it to say whom it lets trace it
_GLANCE = 0.02  # seconds, between looks at who was let in before
_IDENTITY = struct.Struct("<III")  # version, pid, reason: how struct shim_hello_agent begins
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
    """Begins conversations of one session. park: gets connections that come meanwhile and are no
    agent's, or have not said yet what they are; agents that come by themselves wait in `late`."""

    def __init__(
        self, session: SessionFiles, listener: socket.socket,
        park: Callable[[socket.socket], None],
    ) -> None:
        self.session, self._listener, self._park = session, listener, park
        self.late: list[tuple[socket.socket, bytes]] = []
        # agents that somebody else has accepted and not listened to yet
        self.knocking: Callable[[], list[tuple[socket.socket, bytes]]] = list
        self._count = 0
        self._by_path: set[int] = set()  # processes whose agents cannot make sockets for us

    def call(
        self, keeper: Keeper, target: Target, say: Callable[[Conversation], None]
    ) -> None:
        """Stops the process and holds a conversation with it. It stands still behind that, also if
        an error is raised: Keeper.finish or release is left to do."""
        here = same_mounts(target.pid)
        if here and target.pid in self._by_path:
            self._by_socket(keeper, target, say)
            return
        try:
            sock = keeper.talk(target.pid, target.root, _KEEPER, careful=here)
        except ShimError as error:
            if error.errno != errno.ENOTCONN or not here:
                raise
            self._by_path.add(target.pid)
            self._by_socket(keeper, target, say)
            return
        if not (talk := _spoken(sock)):
            keeper.finish(target.pid, ())  # why not
            raise ShimError("AD0004", errno.EAGAIN, f"process {target.pid}: no answer")
        with talk:
            say(talk)
            talk.settle()

    def _by_socket(
        self, keeper: Keeper, target: Target, say: Callable[[Conversation], None]
    ) -> None:
        """The same where the agent's pair of sockets cannot be had: it connects to one of ours.
        Each call has a socket of its own: an agent that an earlier, broken call has sent on its
        way finds that one closed, and is not taken for this one's while its process stands
        still."""
        error: ShimError | None = None
        talk: Conversation | None = None
        begun, result = False, 0
        keeper.stop(target.pid)
        try:
            with self._door(keeper, target) as wait:
                begun = True
                talk = wait()
                if talk:
                    with talk:
                        say(talk)
                        talk.settle()
        except ShimError as raised:
            error = raised
        finally:
            if begun:  # one answer a request, whatever has happened
                result = keeper.end_call()
        if error:
            raise error
        if not talk or result < 0:
            raise ShimError("AD0004", errno.EAGAIN, f"process {target.pid}: no answer")

    @contextlib.contextmanager
    def _door(
        self, keeper: Keeper, target: Target
    ) -> Iterator[Callable[[], Conversation | None]]:
        self._count += 1
        path = f"{os.path.dirname(self.session.socket)}/call-{self._count}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            try:
                listener.listen(1)
                keeper.begin_call(target.pid, target.root, path, _KEEPER)
                yield lambda: self._await(target.pid, _KEEPER, listener, keeper)
            finally:
                os.unlink(path)

    def _await(
        self, pid: int, reason: int, listener: socket.socket, instead: Keeper | int
    ) -> Conversation | None:
        """The conversation of that process for that reason; others are kept meanwhile. None: it
        did not come, or will not: the keeper has something to say, the process, a pidfd, has
        ended, or it came by itself while its mailbox was to."""
        end = time.monotonic() + ANSWER
        doors = list(dict.fromkeys((listener, self._listener)))
        silent: list[socket.socket] = []  # who has come in and said nothing yet
        try:
            while (left := end - time.monotonic()) > 0:
                if reason == _MAILBOX:
                    if self._came(pid):
                        return None
                    if stopped(pid):
                        raise ShimError(
                            "AD0007", errno.ETIMEDOUT, f"process {pid}: stopped, where ptrace is "
                            "refused: its agent cannot answer", f"kill -CONT {pid}")
                    left = min(left, _GLANCE)
                found = ready([*doors, *silent, instead], left)
                for sock in [s for s in silent if s in found]:
                    silent.remove(sock)
                    if talk := self._meet(sock, pid, reason):
                        return talk
                for door in [d for d in doors if d in found]:
                    silent += self._accept(door)
                if found == [instead]:
                    return None
        finally:
            for sock in silent:
                self._park(sock)
        return None

    def _came(self, pid: int) -> bool:
        """It holds the lock that its mailbox's thread waits for, until it has been heard. It may
        have been let in before."""
        self.late += self.knocking()
        return any(names.seen(sock, _IDENTITY.unpack_from(payload)[1]) == pid
                   for sock, payload in self.late if len(payload) >= _IDENTITY.size)

    def look(self) -> None:
        """Who knocks meanwhile: an agent that waits for its answer holds the lock that a visit of
        its process waits for."""
        self.late += self.knocking()
        while ready([self._listener], 0):
            with contextlib.suppress(ShimError):
                for sock in self._accept(self._listener):
                    if ready([sock], 0):
                        self._meet(sock, -1, 0)  # no process has that number
                    else:
                        self._park(sock)
                continue
            return

    def _accept(self, door: socket.socket) -> list[socket.socket]:
        """Whoever comes in there, if it may. ShimError EMFILE: no descriptor is left for it."""
        try:
            sock, _ = door.accept()
        except OSError as err:
            raise ShimError("AD0006", err.errno or errno.EMFILE,
                            f"no descriptor for who comes: {err.strerror}") from err
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid in (os.geteuid(), 0):
            return [sock]
        sock.close()
        return []

    def _meet(self, sock: socket.socket, pid: int, reason: int) -> Conversation | None:
        """What it says; a conversation if it is that process for that reason."""
        sock.settimeout(ANSWER)
        try:
            payload = agent_hello(sock)
        except OSError:
            sock.close()
            return None
        if payload is None or len(payload) < _IDENTITY.size:
            self._park(sock)
            return None
        _, said, why = _IDENTITY.unpack_from(payload)
        if why == reason and names.seen(sock, said) == pid:
            return Conversation(sock, ANSWER, payload)
        # it waits for us anyway; this one may be stopped at the moment
        self.late.append((sock, payload))
        return None

    @contextlib.contextmanager
    def mailbox(self, target: Target) -> Iterator[Conversation]:
        """A conversation by the mailbox of the process. EOPNOTSUPP: it has none. ESRCH: it has
        ended."""
        with self._box(target, path=self.session.socket) as (_, ended):
            talk = self._await(target.pid, _MAILBOX, self._listener, ended)
            if talk is None:
                gone = bool(ready([ended], 0))
                raise ShimError("AD0004", errno.ESRCH if gone else errno.EAGAIN,
                                f"process {target.pid}: no answer")
            with talk:
                yield talk

    def permit(self, target: Target, keeper: Keeper) -> bool:
        """Has the process's agent allow that keeper to trace it, where Yama lets children alone
        be traced. False: it cannot."""
        from libbpf_shim._native import ffi, lib

        if names.is_foreign(target.pid):  # the keeper has another number there
            return False
        end = time.monotonic() + _PERMIT
        try:
            with self._box(target, tracer=keeper.pid) as (box, ended):
                asked, done = int(box.seq), ffi.addressof(box, "done")
                while (left := end - time.monotonic()) > 0 and not ready([ended], 0):
                    if (seen := int(box.done)) == asked:
                        return not box.result
                    lib.shim_native_futex_wait(done, seen, int(min(left, _GLANCE) * 1e9))
        except ShimError:
            pass
        return False

    @contextlib.contextmanager
    def _box(
        self, target: Target, path: str = "", tracer: int = 0
    ) -> Iterator[tuple[Any, int]]:
        """Its mailbox, in which something is, and a pidfd of the process."""
        from libbpf_shim._native import ffi, lib

        file = Path(self.session.run_dir, "agents", str(target.pid))
        try:
            fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
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
            ended = pidfd_open(target.pid)
        except OSError as err:
            page.close()
            raise ShimError("AD0004", errno.ESRCH, f"process {target.pid}: none") from err
        view = ffi.from_buffer(page)
        box = ffi.cast("struct shim_mailbox *", view)
        try:
            if box.magic != lib.SHIM_AGENT_MAGIC or box.pid != target.pid:
                raise ShimError("AD0005", errno.EOPNOTSUPP, f"{file}: not its mailbox")
            if path:
                ffi.buffer(box.path)[:] = os.fsencode(path).ljust(108, b"\0")
            if tracer:
                box.tracer = tracer
            box.seq += 1
            lib.shim_native_futex_wake(ffi.addressof(box, "seq"), 1 << 30)
            yield box, ended
        finally:
            os.close(ended)
            ffi.release(view)
            page.close()


def _spoken(sock: socket.socket) -> Conversation | None:
    """Who has been called, by its hello. None: it has ended."""
    try:
        sock.settimeout(ANSWER)
        payload = hello_in(sock.recv(HELLO))  # it comes in one piece
    except OSError:
        payload = None
    if payload is None or len(payload) < _IDENTITY.size:
        sock.close()
        return None
    return Conversation(sock, ANSWER, payload)
