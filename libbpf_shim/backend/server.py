"""The main loop: clients of the socket, and what ends without one (closes.py, deaths.py).

One thread; a request is answered before the next is read. The backend ends a second after its
last client and its last object.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import selectors
import signal
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from libbpf_shim.attach.door import HELLO_AGENT, ready
from libbpf_shim.backend import cycles, wire
from libbpf_shim.backend.answers import Answers
from libbpf_shim.backend.better import Better
from libbpf_shim.backend.client import Client
from libbpf_shim.backend.closes import Closes
from libbpf_shim.backend.command import RefusedError
from libbpf_shim.backend.commands import Commands
from libbpf_shim.backend.contained import Contained
from libbpf_shim.backend.deaths import Deaths
from libbpf_shim.backend.events import Answer, Events
from libbpf_shim.backend.hearing import Hearing
from libbpf_shim.backend.session import Session
from libbpf_shim.backend.share import Share
from libbpf_shim.backend.verdicts import Later, or_raise
from libbpf_shim.backend.workers import Workers
from libbpf_shim.errors import ShimError
from libbpf_shim.jit.build import Built
from libbpf_shim.object.control import start_time
from libbpf_shim.object.store import Object

if TYPE_CHECKING:
    from libbpf_shim.backend.served import Served

log = logging.getLogger("libbpf_shim.backend")
_QUIET, _BEGIN = 0.003, 0.1  # seconds without a request, from the start: when threads begin
LINGER = 1.0  # seconds without client and object
_HELD_LOOK = 30.0  # seconds between looks at objects nobody is connected for: closes are told of
_ASKED = 64  # requests of a client that wait for one before; it sends one at a time
_CLIENT_SECONDS = 10.0  # for a client that does not read its reply
_HELLO = struct.Struct("<IIII")
_WELCOME = struct.Struct("<IIIIQQ108s4x")
# What runs out for everybody: an errno for who asks.
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)
HELLO_LOADER, BPF, PERF_OPEN, PERF_IOCTL, PERF_MMAP = range(1, 6)
FLUSH, FD_INFO, STATUS = range(6, 9)
LEAVE, LOOK = 12, 13
FDINFO, ROOM = 10, 11
FIND = 14
_GATED = (BPF, PERF_OPEN, PERF_IOCTL, PERF_MMAP)  # a token is looked at again
_FDINFO_NAME = 24  # SHIM_FDINFO_NAME


class Server:
    """Serves one session until it is not needed any more. share: where others may join it.
    served: the user whose it is, if not ours."""

    def __init__(self, first: socket.socket | None, share: Share | None = None,
                 served: Served | None = None) -> None:
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, Client] = {}
        self._current: Client | None = None
        self._fdinfos: dict[Object, str] = {}  # files that were asked for
        self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._stopped = False
        self._end_at = time.monotonic() + LINGER  # when it is asked whether anybody needs us
        if first:
            self._add(first)
        self.session = Session(self._add, self._notice, share, served)
        self._better = Better(self.session, Workers(self._selector))
        self.session.knocking = self._knocking
        self.session.loaders = lambda: {c.pid for c in self._clients.values() if c.pid}
        store = self.session.store
        self._closes = Closes(self.session, self._selector)
        store.added, store.removed = self._added, self._removed
        for obj in store:
            self._added(obj)
        self._commands, self._events = Commands(self.session), Events(self.session)
        self._deaths = Deaths(self.session.control, self._selector,
                              lambda: self.session.wants_ends, self.session.process_ended)
        self.session.met = self._deaths.watch
        self._deaths.told = Contained(self.session).look
        self._answers = Answers(self.session.control)
        self._begin_at: float | None = time.monotonic() + _BEGIN
        self.session.before_visits = self._begin
        self._workers = Workers(self._selector)
        self._hearing = Hearing(self._selector, self.session)
        self._register(self.session.listener, self._accept)
        woken, wakes = socket.socketpair()
        wakes.setblocking(False)
        self._register(woken, lambda sock: sock.recv(64))
        self._wakes = wakes
        signal.set_wakeup_fd(wakes.fileno())
        signal.signal(signal.SIGTERM, self._stop)

    def _register(self, fileobj: Any, call: Callable[[Any], None]) -> None:
        self._selector.register(fileobj, selectors.EVENT_READ, call)

    def _stop(self, number: int, frame: object) -> None:
        self._stopped = True

    def run(self) -> None:
        """Until nobody needs it."""
        while not self._stopped:
            events = self._selector.select(self._patience())
            if self._begin_at and (not events or time.monotonic() >= self._begin_at):
                self._begin()
            for key, _ in events:
                # what one of them does may end another; descriptor numbers are used again
                if self._selector.get_map().get(key.fd) is key:
                    key.data(key.fileobj)
            with self.session.together():
                self._closes.look()
            self._better.look()
            self.session.tidy()
            self._hearing.look()
            cycles.look(not events)
            if self._unneeded():
                break
        self._workers.close()
        self._better.close()
        self._deaths.close()
        self._answers.close()
        self.session.close()

    def _begin(self) -> None:
        """What processes tell and ask beside their conversations is heard from now on. A loader
        that comes first does not share the interpreter with the beginnings of threads."""
        if self._begin_at:
            self._begin_at = None
            self._deaths.begin()
            self._answers.begin()

    def _unneeded(self) -> bool:
        now = time.monotonic()
        if any(client.pid for client in self._clients.values()):
            self._end_at = now + LINGER
        elif now >= self._end_at and all(client.looks for client in self._clients.values()):
            self.session.check_files()
            busy = self.session.busy()
            if not busy and self.session.withdraw():
                return True
            self._end_at = now + (_HELD_LOOK if busy else LINGER)
        return False

    def _patience(self) -> float | None:
        """How long nothing need be looked at. seconds; None: until something happens."""
        dues = (self._closes.due, self.session.due, self._better.due)
        waits = [due - time.monotonic() for due in dues if due]
        if self._begin_at:
            waits.append(_QUIET)
        if quiet := cycles.patience():
            waits.append(quiet)
        if all(client.looks for client in self._clients.values()):
            waits.append(self._end_at - time.monotonic())
        return max(min(waits), 0) if waits else None

    # clients

    def _add(self, sock: socket.socket) -> None:
        sock.settimeout(_CLIENT_SECONDS)
        client = Client(sock)
        self._clients[sock.fileno()] = client
        self._register(sock, lambda _: self._readable(client))

    def _accept(self, listener: socket.socket) -> None:
        if not select.select([listener], [], [], 0)[0]:
            return  # a visit has looked who knocks
        try:
            sock, _ = listener.accept()
        except OSError as error:  # out of descriptors: the one in reserve is for saying no
            log.warning("no descriptor for a client: %s", error)
            os.close(self._reserve)
            with contextlib.suppress(OSError):
                listener.accept()[0].close()
            self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            return
        uid, _ = _peer(sock)
        if uid not in (os.geteuid(), 0):
            sock.close()
            return
        self._add(sock)

    def _drop(self, client: Client) -> None:
        if self._clients.pop(client.sock.fileno(), None):
            self._selector.unregister(client.sock)
        client.sock.close()
        if client.job:
            (job, later), client.job = client.job, None
            self._workers.forget(job)
            self._release(later)

    def _readable(self, client: Client) -> None:
        if not ready([client.sock], 0):
            return  # a visit has listened to it
        try:
            data = client.sock.recv(client.inbox.room)
            messages = client.inbox.feed(data)
        except (OSError, ShimError) as error:
            log.debug("client %d: %s", client.pid, error)
            data, messages = b"", []
        if not data:
            self._drop(client)
            return
        client.asked += messages
        if len(client.asked) > _ASKED:
            self._drop(client)
            return
        self._serve(client)

    def _serve(self, client: Client) -> None:
        """What it asked, up to what takes time."""
        while client.asked and not client.job:
            message = client.asked.popleft()
            if message.op == HELLO_AGENT and not client.guest:
                self._hand_over(client, message.payload)
                return
            try:
                self._answer(client, message)
            except OSError as error:
                log.debug("client %d: %s", client.pid, error)
                self._drop(client)
                return

    def _knocking(self) -> list[tuple[socket.socket, bytes]]:
        """Agents that were not listened to yet: a visit of their process waits for that."""
        found = []
        for client in [c for c in self._clients.values() if not c.pid and not c.asked]:
            if (hello := client.agent()) is not None:
                self._let_go(client)
                found.append((client.sock, hello))
        return found

    def _let_go(self, client: Client) -> None:
        self._clients.pop(client.sock.fileno())
        self._selector.unregister(client.sock)

    def _hand_over(self, client: Client, hello: bytes) -> None:
        """An agent: its conversation is the delivery's from here on."""
        self._let_go(client)
        self._agent(client.sock, hello)

    def _agent(self, sock: socket.socket, hello: bytes) -> None:
        self._begin()
        try:
            self.session.delivery.arrivals.agent(sock, hello)
        except ShimError as error:
            log.warning("%s", error)
        except Exception:  # whatever one process says must not end the session
            log.exception("agent")
        finally:
            sock.close()

    def _notice(self, line: str) -> None:
        """To the loader whose request is being answered; else only to the log."""
        log.info("%s", line)
        if self._current:
            text = f"libbpf_shim: {line}\n".encode()
            wire.send(self._current.sock, wire.NOTICE, 0, 0, text)

    # requests

    def _answer(self, client: Client, message: wire.Message) -> None:
        try:
            self._reply(client, message, lambda: self._dispatch(client, message))
        except Later as later:
            done = partial(self._judged, client, message, later)
            client.job = (self._workers.submit(later.program, done), later)

    def _judged(
        self, client: Client, message: wire.Message, later: Later, result: Built | ShimError
    ) -> None:
        """The verdict that a client waits for is there."""
        def finish() -> Answer:
            built = or_raise(result)
            self.session.verdicts.keep(later.program, built)
            return _bpf_answer(wire.BpfRequest(message.payload), later.finish(built))

        client.job = None
        try:
            self._reply(client, message, finish)
        except OSError as error:
            log.debug("client %d: %s", client.pid, error)
            self._drop(client)
            return
        finally:
            self._release(later)
        self._serve(client)

    def _release(self, later: Later) -> None:
        for obj in list(later.held.holds):
            later.held.let_go(obj)
            self.session.store.collect(obj)

    def _reply(
        self, client: Client, message: wire.Message, work: Callable[[], Answer]
    ) -> None:
        """Sends what work() answers, an errno where it fails. Raises Later, and OSError where the
        client is gone."""
        self._current = client
        answer = Answer()
        try:
            answer = work()
        except Later:
            raise
        except RefusedError as refused:
            request = wire.BpfRequest(message.payload)
            answer = Answer(-refused.error.errno, refused.reply.pack(request))
            self._explain(refused.error)
        except ShimError as error:
            answer = Answer(-error.errno)
            self._explain(error)
        except OSError as error:
            if error.errno not in _SCARCE:
                raise  # the client is gone
            log.warning("request %d: %s", message.op, error)
            answer = Answer(-error.errno)
        except Exception:
            log.exception("request %d", message.op)
            self._notice("internal error of the backend: set LIBBPF_SHIM_DEBUG=1 to see it")
            answer = Answer(-errno.EIO)
        finally:
            self._current = None
        fds = [*answer.shared, answer.fd] if answer.fd >= 0 else [*answer.shared]
        try:
            wire.send(client.sock, message.op, message.seq, answer.ret, answer.payload,
                      answer.action, fds)
        finally:
            if answer.fd >= 0:
                os.close(answer.fd)

    def _explain(self, error: ShimError) -> None:
        """What is not there is said; what the kernel too refuses is only an errno."""
        log.debug("%s %s", error.code, error)
        if self._current and self._current.hears(error):
            self._notice(error.message)

    def _dispatch(self, client: Client, message: wire.Message) -> Answer:
        op, payload = message.op, message.payload
        if op == HELLO_LOADER:
            return self._hello(client, payload)
        if op == STATUS:
            from libbpf_shim.backend.status import code, status

            client.looks = not client.pid
            if payload:
                return Answer(payload=code(self.session, int.from_bytes(payload[:4], "little")))
            return Answer(payload=status(self.session))
        if op == LEAVE:
            if self.session.gate:
                self.session.gate.leave(int.from_bytes(payload[:4], "little"),
                                        *_peer(client.sock))
            client.looks = not client.pid
            self.session.leave(int.from_bytes(payload[:4], "little"))
            return Answer()
        if op == LOOK:
            client.looks = not client.pid
            self.session.look(int.from_bytes(payload[:4], "little"))
            return Answer()
        if not client.pid:
            raise ShimError("BS0001", errno.EPERM, "client: no hello")
        if self.session.gate and op in _GATED:
            self.session.gate.enter(client.permit)
        if op == BPF:
            request = wire.BpfRequest(payload)
            return _bpf_answer(request, self._commands.run(request, client.pid))
        if op == PERF_OPEN:
            return self._events.open(payload, client.pid)
        if op == PERF_IOCTL:
            return self._events.ioctl(payload, client.pid)
        if op == PERF_MMAP:
            return self._events.mmap(payload)
        if op == FLUSH:
            self._closes.flush()
            return Answer()
        if op == FD_INFO:
            dev, ino = struct.unpack_from("<QQ", payload, 8)
            obj = self.session.store.by_file.get((dev, ino))
            kind, number = (obj.kind, obj.id) if obj else (0, 0)
            return Answer(payload=struct.pack("<II", kind, number))
        if op == ROOM:
            self.session.control.memory.count()
            return Answer()
        if op == FDINFO:
            return Answer(payload=self._fdinfo(payload))
        if op == FIND:
            from libbpf_shim.backend.finds import Finds

            return Finds(self.session).find(payload)
        raise ShimError("BS0002", errno.EINVAL, f"client: request {op}")

    def _fdinfo(self, payload: bytes) -> bytes:
        from libbpf_shim.backend import fdinfo

        dev, ino = struct.unpack_from("<QQ", payload, 8)
        obj = self.session.store.at((dev, ino), Object)
        name = self._fdinfos[obj] = f"fdinfo-{obj.kind}-{obj.id}"
        (self.session.dir.path / name).write_text(fdinfo.text(obj))
        return name.encode().ljust(_FDINFO_NAME, b"\0")

    def _hello(self, client: Client, payload: bytes) -> Answer:
        version, pid, _, _ = _HELLO.unpack_from(payload)
        if version != wire.VERSION:
            raise ShimError(
                "BS0003", errno.EPROTO, f"client: version {version}, expected {wire.VERSION}"
            )
        session, control = self.session, self.session.control
        if session.gate:
            client.permit = session.gate.admit(payload[_HELLO.size :], *_peer(client.sock))
        owner = control.claim_slot(pid, start_time(pid))
        client.pid = pid
        welcome = _WELCOME.pack(
            wire.VERSION,
            session.id,
            owner,
            control.nr_vcpus,
            control.size,
            control.perf_size,
            str(session.shown).encode(),
        )
        return Answer(payload=welcome, shared=(control.fd, control.perf_fd))

    def _added(self, obj: Object) -> None:
        self._better.added(obj)
        self._closes.added(obj)

    def _removed(self, obj: Object) -> None:
        self._better.removed(obj)
        self.session.ended(obj)
        self._end_at = min(self._end_at, time.monotonic() + LINGER)
        self._closes.removed(obj)
        if (name := self._fdinfos.pop(obj, "")):
            (self.session.dir.path / name).unlink(missing_ok=True)


def _peer(sock: socket.socket) -> tuple[int, int]:
    """User and process at the other end, as the kernel says."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid, pid


def _bpf_answer(request: wire.BpfRequest, reply: wire.BpfReply) -> Answer:
    return Answer(reply.ret, reply.pack(request), reply.action, reply.fd)
