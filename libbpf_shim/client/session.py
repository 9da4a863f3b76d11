"""A connection to a session: requests, and the shared memory that maps and rings need.

One a process, made at the first need; requests of several threads wait for each other. After a
fork the child has none, and its map operations are those of another process.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import socket
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from libbpf_shim.client import meeting
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.structs import ATTR

log = logging.getLogger("libbpf_shim.client")
_MEETINGS = 16  # sessions tried that end, or are not the shared one
_REFUSALS = 2  # of a session that is there: it is not well
_HELLO_SECONDS, _REPLY_SECONDS = 30.0, 300.0
_MAX_REPLY = 1 << 28  # bytes
_MAX_TOKEN = 24576  # SHIM_TOKEN_MAX
_POINTER = 0x1000  # what a pointer of the attr holds that leads to a segment
_ATTR_SIZE = 168
_O_ACCMODE = 3


def packed(kind: str, **fields: Any) -> bytes:
    """A structure of the shared headers as bytes."""
    from libbpf_shim._native import ffi

    return bytes(ffi.buffer(ffi.new(f"struct {kind} *", fields)))


def unpacked(kind: str, data: bytes) -> Any:
    """A structure of the shared headers, from the bytes of one."""
    from libbpf_shim._native import ffi

    out = ffi.new(f"struct {kind} *")
    if len(data) < ffi.sizeof(f"struct {kind}"):
        raise ShimError("CS0002", errno.EPROTO, f"backend: {len(data)} bytes for a {kind}")
    ffi.buffer(out)[:] = data[: ffi.sizeof(f"struct {kind}")]
    return out


def identity(fd: int) -> dict[str, int]:
    """struct shim_fd_ref of a descriptor of ours, as fields."""
    import fcntl

    try:
        found = os.fstat(fd)
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & _O_ACCMODE
    except OSError:
        return {"fd": fd}
    return {"fd": fd, "mode": mode, "dev": found.st_dev, "ino": found.st_ino}


class Command:
    """One bpf(2) command in the making. part: of union bpf_attr (uapi/structs.py)."""

    def __init__(self, number: int, part: str, **fields: int | bytes) -> None:
        self.number, self._fields = number, ATTR[part]
        self.attr = bytearray(_ATTR_SIZE)
        self.segments: list[dict[str, int]] = []
        self.data = b""
        self.refs: list[int] = []
        for name, value in fields.items():
            self.put(name, value)

    def put(self, name: str, value: int | bytes) -> None:
        at, size = self._fields[name]
        if isinstance(value, int):
            value = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.attr[at : at + size] = value[:size].ljust(size, b"\0")

    def fd(self, name: str, fd: int) -> None:
        """A field that names a descriptor."""
        self.put(name, fd)
        self.refs.append(fd)

    def give(self, name: str, data: bytes) -> None:
        """What a pointer leads to."""
        self._segment(name, 1, len(data))
        self.data += data

    def take(self, name: str, size: int) -> None:
        """Room that a pointer leads to."""
        self._segment(name, 2, size)

    def _segment(self, name: str, way: int, size: int) -> None:
        self.put(name, _POINTER)
        self.segments.append({"attr_off": self._fields[name][0], "dir": way, "addr": _POINTER,
                              "len": size})

    def info(self, data: bytes, nested: Sequence[tuple[int, int]] = ()) -> None:
        """`info` of OBJ_GET_INFO_BY_FD: in and out; nested: offset of a pointer in it, bytes."""
        self._segment("info", 3, len(data))
        self.put("info_len", len(data))
        self.data += data
        for at, size in nested:
            self.segments.append({"attr_off": at | 0x10000, "dir": 2, "addr": _POINTER,
                                  "len": size})

    def payload(self) -> bytes:
        """SHIM_OP_BPF's."""
        head = packed("shim_bpf_req", cmd=self.number, attr_size=len(self.attr),
                      nsegs=len(self.segments), nrefs=len(self.refs))
        return b"".join([
            head, self.attr, *(packed("shim_seg", **s) for s in self.segments),
            *(packed("shim_fd_ref", **identity(fd)) for fd in self.refs), self.data])

    def field(self, name: str) -> int:
        """A field of the attr, after the reply."""
        at, size = self._fields[name]
        return int.from_bytes(self.attr[at : at + size], "little")


def mapped(fd: int, size: int) -> Any:
    """A file's memory as char *, without a descriptor of it; unmapped with the last reference to
    this very pointer. ShimError ENOMEM."""
    from libbpf_shim._native import ffi, lib

    if not (at := int(lib.shim_native_map(fd, size))):
        raise ShimError("CS0005", errno.ENOMEM, f"{size} bytes: not mapped")
    return ffi.gc(ffi.cast("char *", at), lambda _: lib.shim_native_unmap(at, size), size)


@dataclass(slots=True)
class Reply:
    """ret: negative errno where the command failed. out: what was written through pointers, by the
    offset of the pointer. fd: the caller's, or -1."""

    ret: int
    action: int = 0
    payload: bytes = b""
    fds: list[int] = field(default_factory=list)
    out: dict[int, bytes] = field(default_factory=dict)

    @property
    def fd(self) -> int:
        return self.fds[0] if self.fds else -1


def _token() -> bytes:
    """The token that this process brings (csrc/surface/token.c); b"": none can be had."""
    path = os.environ.get("LIBBPF_BPF_TOKEN_PATH", "")
    if not path:
        return b""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            return file.read(_MAX_TOKEN)
    except OSError:
        return b""


class Session:
    """A loader's side of a session.

    private: a backend of its own, which nobody else joins. Raises ShimError: ENOSYS if no backend
    can be had, the backend's own errno if it says one.
    """

    _default: ClassVar[Session | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, private: bool = False, folder: Path | None = None) -> None:
        from libbpf_shim._native import ffi, lib

        self.ffi, self.lib = ffi, lib
        self._requests = threading.Lock()
        self._sequence = 0
        self._thread = threading.local()
        self._thread_mask = (1 << lib.SHIM_OWNER_THREAD_BITS) - 1
        self._runs: list[Any] = []
        self._mine = True  # made by this process, not by the one that it was forked from
        self._sock = self._join(folder) if folder else self._start(private)
        _sessions.add(self)

    @classmethod
    def default(cls) -> Session:
        """The session of this process, shared with the user's other loaders. It starts at the
        first call, and again after a fork or a close."""
        with cls._lock:
            if cls._default is None or not cls._default.alive:
                cls._default = cls()
            return cls._default

    @classmethod
    def of(cls, folder: Path) -> Session:
        """The session whose folder that is, if it runs. ShimError ENOENT."""
        return cls(folder=folder)

    def _join(self, folder: Path) -> socket.socket:
        sock = meeting.connect(folder / "sock")
        if not sock or not self._hello(sock):
            raise ShimError("CS0001", errno.ENOENT, f"{folder}: no session runs there",
                            "bpf-shim doctor")
        return sock

    @property
    def alive(self) -> bool:
        """Requests can be made."""
        return self._mine and self._sock.fileno() >= 0

    # the connection

    def _start(self, private: bool) -> socket.socket:
        if (server := os.environ.get("LIBBPF_SHIM_SERVER")) and not private:
            return self._serve(server)
        place = None if private else meeting.share(self.lib.SHIM_WIRE_VERSION)
        refused = 0
        for _ in range(_MEETINGS):
            sock = meeting.connect(place / "session" / "sock") if place else None
            joined = sock is not None
            sock = sock or meeting.spawn(place)
            try:
                if self._hello(sock):
                    return sock
            except ShimError as error:
                sock.close()
                if not joined or error.code == "CS0006":
                    raise
            sock.close()
            refused += joined
            if refused == _REFUSALS:
                place = None
        raise ShimError("CS0001", errno.ENOSYS, "no backend: none of the sessions can be joined")

    def _serve(self, server: str) -> socket.socket:
        """The daemon that this loader is told to use. ENOENT, EPERM."""
        sock = meeting.connect(Path(server) / "sock")
        if sock is None or not self._hello(sock):
            raise ShimError("CS0007", errno.ENOENT, f"server {server}: nobody serves there",
                            "bpf-shim serve")
        return sock

    def _hello(self, sock: socket.socket) -> bool:
        """Greets; False: this backend sends us to the one that is shared."""
        self._sock = sock
        sock.settimeout(_HELLO_SECONDS)
        hello = packed("shim_hello", version=self.lib.SHIM_WIRE_VERSION, pid=os.getpid(),
                       tid=threading.get_native_id(), uid=os.getresuid()[1]) + _token()
        reply = self.request(self.lib.SHIM_OP_HELLO_LOADER, hello)
        try:
            if reply.ret == -errno.EAGAIN:
                return False
            if reply.ret == -errno.EKEYREJECTED:
                raise ShimError("CS0006", errno.EPERM, "session: it refuses this loader",
                                "its log says why, and standard error of preloaded loaders")
            if reply.ret < 0 or len(reply.fds) < 2:
                raise ShimError("CS0001", -reply.ret or errno.EPROTO,
                                "no backend: it refuses this loader",
                                "LIBBPF_SHIM_DEBUG=1 shows its log")
            self._welcome(unpacked("shim_welcome", reply.payload), reply.fds)
        finally:
            for fd in reply.fds:
                os.close(fd)
        sock.settimeout(_REPLY_SECONDS)
        return True

    def _welcome(self, welcome: Any, fds: list[int]) -> None:
        self.id, self.nr_cpus = int(welcome.session_id), int(welcome.nr_vcpus)
        self.folder = self.ffi.string(welcome.dir).decode()
        self.owner = int(welcome.owner)
        self._ctl = mapped(fds[0], welcome.ctl_size)
        self.ctl: Any = self.ffi.cast("struct shim_ctl *", self._ctl)
        self.perf: Any = mapped(fds[1], welcome.perf_size)
        self.perf_size = int(welcome.perf_size)

    def close(self) -> None:
        """Ends the connection. Objects whose descriptors are open go on."""
        self._sock.close()

    def forked(self) -> None:
        """In a fork child: the parent's connection is not ours, nor is its owner word."""
        with contextlib.suppress(OSError):
            self._sock.close()
        self._mine, self.owner, self._requests = False, 0, threading.Lock()
        for run in self._runs:
            run.owner = self._claim() | run.owner & self._thread_mask

    # requests

    def request(self, op: int, payload: bytes) -> Reply:
        """One request and its reply. ShimError EIO: the backend is gone."""
        with self._requests:
            if not self._mine:
                raise ShimError("CS0003", errno.EIO, "session: of the process before the fork")
            self._sequence += 1
            header = packed("shim_msg", magic=self.lib.SHIM_WIRE_MAGIC, op=op,
                            seq=self._sequence, len=len(payload))
            try:
                self._sock.sendall(header + payload)
                return self._reply(op)
            except (OSError, EOFError) as error:
                self._sock.close()
                raise ShimError("CS0003", errno.EIO, f"session: the backend is gone: {error}",
                                "LIBBPF_SHIM_DEBUG=1 shows its log") from error
            except BaseException:  # interrupted: the rest of a reply may still come
                self._sock.close()
                raise

    def _reply(self, op: int) -> Reply:
        while True:
            fds: list[int] = []
            header = unpacked("shim_msg", self._receive(self.ffi.sizeof("struct shim_msg"), fds))
            answer = header.op == op and header.seq == self._sequence
            if header.magic != self.lib.SHIM_WIRE_MAGIC or header.len > _MAX_REPLY or not (
                    answer or header.op == self.lib.SHIM_OP_NOTICE):
                raise OSError(errno.EPROTO, "not a reply of this protocol")
            payload = self._receive(header.len, fds)
            if answer:
                return Reply(int(header.ret), int(header.action), payload, fds)
            log.warning("%s", payload.decode(errors="replace").rstrip())

    def _receive(self, size: int, fds: list[int]) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece, ancillary, _, _ = self._sock.recvmsg(
                size - len(data), socket.CMSG_SPACE(4 * self.lib.SHIM_MAX_FDS),
                socket.MSG_CMSG_CLOEXEC)
            for level, kind, rights in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds += array.array("i", rights[: len(rights) // 4 * 4])
            if not piece:
                raise EOFError("end of the connection")
            data += piece
        return bytes(data)

    def bpf(self, command: Command) -> Reply:
        """bpf(2): the reply, with ret >= 0 or a negative errno."""
        reply = self.request(self.lib.SHIM_OP_BPF, command.payload())
        if len(reply.payload) >= self.ffi.sizeof("struct shim_bpf_reply"):
            self._scatter(command, reply)
        return reply

    def _scatter(self, command: Command, reply: Reply) -> None:
        head = unpacked("shim_bpf_reply", reply.payload)
        at = self.ffi.sizeof("struct shim_bpf_reply")
        command.attr[head.attr_off : head.attr_off + head.attr_len] = (
            reply.payload[at : at + head.attr_len])
        at += head.attr_len
        row = self.ffi.sizeof("struct shim_seg_out")
        data = at + head.nsegs * row
        for index in range(head.nsegs):
            seg = unpacked("shim_seg_out", reply.payload[at + index * row :])
            place = command.segments[seg.seg]["attr_off"]
            old = reply.out.get(place, b"").ljust(seg.off, b"\0")
            piece = reply.payload[data : data + seg.len]
            reply.out[place] = old[: seg.off] + piece + old[seg.off + seg.len :]
            data += seg.len
        reply.payload = reply.payload[data:]

    def must(self, command: Command, what: str) -> Reply:
        """The same; a failure raises ShimError with its errno."""
        reply = self.bpf(command)
        if reply.ret < 0:
            raise failed(what, reply.ret)
        return reply

    # shared memory

    def run(self) -> Any:
        """struct shim_run * of this thread, for operations on maps."""
        try:
            return self._thread.run
        except AttributeError:
            return self._new_run()

    def _new_run(self) -> Any:
        run = self.ffi.new("struct shim_run *")
        run.ctl = int(self.ffi.cast("uintptr_t", self.ctl))
        run.perf = int(self.ffi.cast("uintptr_t", self.perf))
        run.perf_size = self.perf_size
        run.owner = self._claim() | (threading.get_native_id() & self._thread_mask or 1)
        run.vcpu = self.lib.SHIM_NO_VCPU
        self._thread.run = run
        self._runs.append(run)
        return run

    def _claim(self) -> int:
        """This process's owner word; a slot of its own after a fork."""
        if not self.owner:
            self.owner = int(self.lib.shim_slot_claim(self.ctl, os.getpid(), 0))
            if not self.owner:
                raise ShimError("CS0004", errno.EBUSY, "session: no process slot is free")
        return self.owner

    def wait(self, ready: Any, timeout: float | None) -> bool:
        """Until `ready()` says so or `timeout` seconds are over; what it said last. The loader's
        order of csrc/surface/ready.c: be counted, look, sleep."""
        import time

        end = None if timeout is None else time.monotonic() + timeout
        while True:
            seen = self.ctl.wake_seq
            if ready():
                return True
            left = -1 if end is None else int((end - time.monotonic()) * 1e9)
            if end is not None and left <= 0:
                return False
            self.lib.shim_native_sleep(self.ctl, seen, left)


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _after_fork() -> None:
    for session in list(_sessions):
        session.forked()
    Session._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def failed(what: str, ret: int, hint: str = "") -> ShimError:
    """The error of a command that answered a negative errno."""
    return ShimError("CB0001", -ret, what, hint)


@contextlib.contextmanager
def closing_fds(fds: Sequence[int]) -> Iterator[None]:
    """Closes descriptors on the way out."""
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)
