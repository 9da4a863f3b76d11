"""The backend of one user of the daemon's: the loaders of that user are guests here, the agents of
the protected application are at home.

A process of the daemon's user, started by the door (backend/serving.py), which sends it the
connections of that user over a socket pair. Guests say what they want, and nothing of what they
say about themselves is believed: who they are is what the kernel says of their connection.
"""

from __future__ import annotations

import array
import errno
import gc
import json
import logging
import os
import re
import resource
import select
import socket
import struct
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from libbpf_shim.attach.event import Tracepoint, Uprobe
from libbpf_shim.attach.link import EventObject
from libbpf_shim.backend import wire
from libbpf_shim.backend.client import Client
from libbpf_shim.backend.command import RefusedError
from libbpf_shim.backend.events import _IOCTL, _SET_BPF, Answer
from libbpf_shim.backend.main import more_descriptors, refuse
from libbpf_shim.backend.served import Limits, Served, refused
from libbpf_shim.backend.server import (
    BPF,
    FDINFO,
    FIND,
    HELLO_LOADER,
    LEAVE,
    LOOK,
    PERF_IOCTL,
    PERF_OPEN,
    STATUS,
    Server,
    _peer,
)
from libbpf_shim.backend.share import Share
from libbpf_shim.backend.verdicts import Later
from libbpf_shim.errors import ShimError
from libbpf_shim.object import prog as progs
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd

log = logging.getLogger("libbpf_shim.backend")
ARRIVAL, OVER, YES = b"a", b"o", b"y"  # between the door and this process
COUNT: Final = struct.Struct("<cQ")  # OVER: so many arrivals were seen
_PATIENCE = 5.0  # seconds for the door to answer
_MEMORY = 4 << 30  # bytes of this process's addresses, beside those of maps
_OWN = (LEAVE, LOOK, FDINFO, FIND)  # of this user's own loaders
_MESSAGE = 32 << 20  # bytes of a request: the largest BTF and the longest program fit
_DENIED = (errno.EPERM, errno.EACCES)
_MISSING = re.compile(r"missing capability (.*)")
_CLOSING = ("processed ", "stack depth ", "verification time ")  # of a log
_MULTI = (bpf_attach_type.BPF_TRACE_UPROBE_MULTI, bpf_attach_type.BPF_TRACE_UPROBE_SESSION)
_LOAD, _MAP, _LINK = bpf_cmd.BPF_PROG_LOAD, bpf_cmd.BPF_MAP_CREATE, bpf_cmd.BPF_LINK_CREATE


class Channel:
    """This process's end of the pair: connections come in, the end of the session is agreed on."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self._seen = sock, 0
        self.closed = False

    def next(self) -> socket.socket | bytes | None:
        """A connection, or what the door has said; None: it is gone."""
        data, ancillary, _, _ = self.sock.recvmsg(16, socket.CMSG_SPACE(4))
        fds = array.array("i")
        for level, kind, rights in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(rights[: len(rights) // 4 * 4])
        if not data:
            self.closed = True
            return None
        self._seen += data == ARRIVAL
        return socket.socket(fileno=fds[0]) if fds else data

    def over(self, arrived: Callable[[socket.socket], None]) -> bool:
        """Nobody else comes. False: somebody has just come."""
        if self.closed:
            return True
        try:
            self.sock.sendall(COUNT.pack(OVER, self._seen))
            while select.select([self.sock], [], [], _PATIENCE)[0]:
                said = self.next()
                if isinstance(said, socket.socket):
                    arrived(said)
                    return False
                if said in (YES, None):
                    return True
        except OSError:
            return True  # the door is gone
        return False


class Lobby(Share):
    """Where guests come in, in the place of where loaders of one user meet."""

    def __init__(self, channel: Channel, bpffs: Path) -> None:
        super().__init__(bpffs.parent)
        self._channel, self.bpffs = channel, bpffs
        self.arrived: Callable[[socket.socket], None] = lambda sock: None

    def publish(self, folder: Path) -> None:
        self.bpffs = folder / "bpffs"  # no guest has pins

    def withdraw(self, folder: Path, listener: socket.socket) -> bool:
        return self._channel.over(self.arrived)

    def abandon(self, folder: Path, before: Callable[[], None]) -> None:
        before()


class Guests(Server):
    """Serves the guests of one user."""

    def __init__(self, channel: Channel, served: Served) -> None:
        lobby = Lobby(channel, Path("/nonexistent/bpffs"))
        super().__init__(None, lobby, served)
        lobby.arrived = self._arrived
        self._served, self._channel = served, channel
        self._notes: dict[Client, dict[str, Any]] = {}
        self._apart = weakref.WeakSet[Client]()  # in other namespaces of processes
        served.loads = lambda: sum(client.job is not None for client in self._clients.values())
        served.binaries = self._binaries
        self._register(channel.sock, lambda _: self._heard())

    def _binaries(self) -> Iterator[str]:
        classes = self.session.classes
        return (one.interface.binary for one in (classes.now() if classes else ()))

    def _heard(self) -> None:
        said = self._channel.next()
        if isinstance(said, socket.socket):
            self._arrived(said)
        elif said is None:
            self._stopped = True

    def _arrived(self, sock: socket.socket) -> None:
        guests = sum(client.guest for client in self._clients.values())
        if guests >= 2 * self._served.limits.loaders:  # those above the limit are told why
            sock.close()
            return
        self._add(sock)
        client = self._clients[sock.fileno()]
        client.guest, client.crowd = True, guests >= self._served.limits.loaders
        client.inbox.most = _MESSAGE

    # requests

    def _dispatch(self, client: Client, message: wire.Message) -> Answer:
        if client.guest:
            _, pid = _peer(client.sock)
            if client.crowd:
                raise refused(f"{self._served.limits.loaders} loaders, and no more",
                              errno.EKEYREJECTED)
            if message.op in _OWN or (message.op == STATUS and not client.pid):
                raise refused(f"request {message.op}: not for other users")
            if message.op == HELLO_LOADER:
                return self._greet(client, message, pid)
            if client in self._apart and (number := _named_process(message)) > 0:
                raise refused(f"process {number}: numbers of another namespace of processes mean "
                              "nothing here")
        return super()._dispatch(client, message)

    def _greet(self, client: Client, message: wire.Message, pid: int) -> Answer:
        said = struct.unpack_from("<I", message.payload, 4)[0]
        if client.pid or said not in (pid, _number_inside(pid)):
            raise refused(f"a hello of process {said} from process {pid}", errno.EKEYREJECTED)
        if said != pid:
            self._apart.add(client)
        head = message.payload[:4] + struct.pack("<I", pid)
        return super()._hello(client, head + message.payload[8:])

    def _reply(
        self, client: Client, message: wire.Message, work: Callable[[], Answer]
    ) -> None:
        if not client.guest:
            super()._reply(client, message, work)
            return
        _, pid = _peer(client.sock)
        note = self._notes.pop(client, None)  # it has waited for its verdict

        def noted() -> Answer:
            self._served.note = note if note is not None else {}
            op, said = _about(self.session.store.by_file, message)
            try:
                if op:
                    self._served.ready()
                answer = work()
            except Later:
                self._notes[client] = self._served.note
                raise
            except RefusedError as error:
                self._refused(pid, op, said, error.error)
                raise
            except ShimError as error:
                self._refused(pid, op, said, error)
                raise
            if op:
                self._admitted(answer, pid, op, said)
            return answer

        super()._reply(client, message, noted)

    def _refused(self, pid: int, op: str, said: dict[str, Any], error: ShimError) -> None:
        ours = error.code.startswith("SV")
        if not ours and (not op or error.errno not in _DENIED or error.code.startswith("TK")):
            return  # what loaders are refused everywhere, or what the gate has written down
        self._said("refused", pid, op or "request",
                   said | {"missing": _lacks(self._served.note, error)})

    def _admitted(self, answer: Answer, pid: int, op: str, said: dict[str, Any]) -> None:
        try:
            self._said("admitted", pid, op, said)
        except ShimError:  # what cannot be written down is not granted
            if answer.fd >= 0:
                os.close(answer.fd)
            raise

    def _said(self, verdict: str, pid: int, op: str, said: dict[str, Any]) -> None:
        known = {name: text for name, text in self._served.note.items() if name != "log"}
        self._served.line(verdict, pid, op, **said | known)

    def _drop(self, client: Client) -> None:
        self._notes.pop(client, None)
        super()._drop(client)


def _lacks(note: dict[str, Any], error: ShimError) -> str:
    """The capability that was missing; else what else was wrong."""
    if not (text := note.get("log")):
        return error.message
    if found := _MISSING.search(text):
        return str(found[1])
    if not note.get("class"):
        return f"a class: {error.message}"
    lines = [line for line in text.splitlines() if not line.startswith(_CLOSING)]
    return lines[-1] if lines else error.message


def _about(by_file: Any, message: wire.Message) -> tuple[str, dict[str, Any]]:
    """What a request would have: an operation that is written down, "": it is not; and of what.
    Told before it is answered, from what is asked, whatever comes of it."""
    try:
        if message.op == HELLO_LOADER:
            return "hello", {}
        if message.op == BPF:
            return _about_bpf(by_file, wire.BpfRequest(message.payload))
        if message.op == PERF_IOCTL:
            _, _, dev, ino, _, _, prog_dev, prog_ino, request, _ = _IOCTL.unpack_from(
                message.payload)
            if request == _SET_BPF:
                return "attach", _place(by_file.get((dev, ino)), by_file.get((prog_dev, prog_ino)))
        if message.op == PERF_OPEN:
            at = 24 + struct.unpack_from("<12xI", message.payload)[0]
            return "", {"what": _text(message.payload[at:])}
    except (struct.error, ShimError, IndexError):
        pass
    return "", {}


def _about_bpf(by_file: Any, request: wire.BpfRequest) -> tuple[str, dict[str, Any]]:
    if request.cmd == _LOAD:
        attr = Attr("prog_load", request.attr)
        insns = request.bytes_at(attr.offset("insns"))
        return "load", {"what": _text(attr.raw("prog_name")), "tag": progs.tag(insns).hex()}
    if request.cmd == _MAP:
        return "map", {"what": _text(Attr("map_create", request.attr).raw("map_name"))}
    if request.cmd == _LINK:
        attr = Attr("link_create", request.attr)
        return "attach", _place(by_file.get(request.key(attr.signed("target_fd"))),
                                by_file.get(request.key(attr.signed("prog_fd"))))
    known = request.cmd in bpf_cmd.__members__.values()
    return "", {"what": bpf_cmd(request.cmd).name if known else str(request.cmd)}


def _number_inside(pid: int) -> int:
    """The number that a process has for itself: another one where it lives in a namespace of
    processes of its own; 0: it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return 0
    found = re.search(r"^NSpid:\t.*?(\d+)$", text, re.M)
    return int(found[1]) if found else pid


def _named_process(message: wire.Message) -> int:
    """The process that an event or a link is to be of; 0, -1: its own, all."""
    try:
        if message.op == PERF_OPEN:
            return int(struct.unpack_from("<i", message.payload)[0])
        request = wire.BpfRequest(message.payload) if message.op == BPF else None
        if request and request.cmd == _LINK:
            attr = Attr("link_create", request.attr)
            return attr.signed("uprobe_multi.pid") if attr["attach_type"] in _MULTI else 0
    except (struct.error, ShimError, IndexError):
        pass  # what is wrong with it is said when it is answered
    return 0


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode(errors="replace")


def _place(event: object, prog: object) -> dict[str, Any]:
    found = {}
    if isinstance(event, EventObject):
        spec = event.spec
        if isinstance(spec, Uprobe):
            found["what"] = f"{spec.path}+{spec.offset:#x}"
        else:
            found["what"] = spec.name if isinstance(spec, Tracepoint) else type(spec).__name__
    if isinstance(prog, ProgObject):
        found["tag"] = prog.tag.hex()
        found["class"] = prog.entries.class_ if prog.entries else ""
    return found


def main() -> None:
    """One user's session to its end; the process's whole life. Arguments, behind the project's
    root: the channel's descriptor, and what the door says of the session, as JSON. A policy or a
    key that cannot be held: EPERM for each who comes, with the reason."""
    from libbpf_shim.backend.audit import Audit

    gc.disable()
    sys.setswitchinterval(0.1)
    debug = os.environ.get("LIBBPF_SHIM_DEBUG")
    logging.basicConfig(level=logging.DEBUG if debug else logging.CRITICAL, stream=sys.stderr,
                        format="%(name)s[%(process)d]: %(message)s")
    more_descriptors()
    channel, said = Channel(socket.socket(fileno=int(sys.argv[2]))), json.loads(sys.argv[3])
    limits = Limits.of(said["limits"])
    most = _MEMORY + limits.map_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        server = Guests(channel, Served(said["uid"], Path(said["folder"]), limits,
                                        Audit(Path(said["audit"]))))
    except ShimError as error:
        _turn_away(channel, error)
        return
    gc.freeze()
    server.run()


def _turn_away(channel: Channel, error: ShimError) -> None:
    def away(sock: socket.socket) -> None:
        with sock:
            refuse(sock, errno.EKEYREJECTED, error.message)

    while select.select([channel.sock], [], [], 0.2)[0] or not channel.over(away):
        said = channel.next()
        if isinstance(said, socket.socket):
            away(said)
        elif said is None:
            return
