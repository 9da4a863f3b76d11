"""The daemon of bpf-shim serve: a door for the loaders of other users.

A socket that all may connect to; the kernel says who does (SO_PEERCRED), and each user's
connections go to a backend of that user's own (backend/guests.py), which is started for the first
of them and ends when it is not needed any more. The door itself reads nothing that a loader sends.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import json
import logging
import os
import selectors
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

from libbpf_shim.attach.pidfd import pidfd_open
from libbpf_shim.backend.audit import Audit
from libbpf_shim.backend.classes import Classes, files
from libbpf_shim.backend.guests import ARRIVAL, COUNT, OVER, YES
from libbpf_shim.backend.served import Limits
from libbpf_shim.backend.server import _peer
from libbpf_shim.errors import ShimError
from libbpf_shim.object.control import SPARE_VCPUS

log = logging.getLogger("libbpf_shim.serve")
USERS: Final = 64  # that are served at a time
_QUEUE = 128
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)
_END = 20.0  # seconds for a backend to leave its processes
_ROOT = Path(__file__).resolve().parent.parent.parent
_CODE = ("import sys; sys.path.insert(0, sys.argv[1]); "
         "from libbpf_shim.backend.guests import main; main()")


def _wrong(path: object, why: str, code: int = errno.EPERM) -> ShimError:
    return ShimError("SV0002", code, f"serve: {path}: {why}")


@dataclass(frozen=True, slots=True)
class Daemon:
    """What is served. policy: a folder of grants; folder: of the socket; audit: the log; key: of
    tokens, None: none are asked for."""

    policy: Path
    folder: Path
    audit: Path
    key: Path | None = None
    limits: Limits = Limits()


def checked(policy: Path) -> Classes:
    """The policy of a folder, as `policy check` has it, and fit for serving others: nobody else
    may write it, and each interface names its binary. ShimError."""
    for path in (policy, *(p for p in sorted(policy.iterdir()))) if policy.is_dir() else ():
        found = path.stat()
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
            raise _wrong(path, "others may write it")
    if not policy.is_dir():
        raise _wrong(policy, "not a folder of grants", errno.ENOTDIR)
    classes = Classes(str(policy))
    for grants in classes.now():
        interface = grants.interface
        if not os.path.isabs(interface.binary):
            raise _wrong(interface.document.path, "it does not name the application's binary",
                         errno.EINVAL)
    return classes


class _User:
    """One user's backend, and our end of its channel. sent: connections."""

    def __init__(self, uid: int, daemon: Daemon) -> None:
        self.uid, self.sent = uid, 0
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        said = {"uid": uid, "folder": str(daemon.folder), "audit": str(daemon.audit),
                "limits": asdict(daemon.limits)}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _CODE, str(_ROOT), str(theirs.fileno()),
                 json.dumps(said)],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env=_environment(daemon), cwd="/", umask=0o077, start_new_session=True)

    def send(self, sock: socket.socket) -> bool:
        """A connection of that user's; it is dropped where as many wait already. False: its
        backend is gone."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))
        try:
            self.channel.sendmsg([ARRIVAL], [rights], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError as error:
            return error.errno not in _GONE
        self.sent += 1
        return True

    def close(self) -> None:
        """Its backend ends by itself; one that does not is killed, and its keeper cleans up."""
        self.channel.close()
        try:
            self.process.wait(_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _environment(daemon: Daemon) -> dict[str, str]:
    env = {name: text for name, text in os.environ.items() if name in (
        "LIBBPF_SHIM_DEBUG", "LIBBPF_SHIM_MAP_MEMORY", "LIBBPF_SHIM_QUICK_READS",
        "LIBBPF_SHIM_TIER", "XDG_RUNTIME_DIR", "CLANG")}
    env |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8",
            "LIBBPF_SHIM_POLICY": str(daemon.policy), "LIBBPF_SHIM_AUDIT": str(daemon.audit)}
    if daemon.key:
        env["LIBBPF_SHIM_TOKEN_KEY"] = str(daemon.key)
    return env


class Door:
    """The daemon's process. ShimError: it cannot serve."""

    def __init__(self, daemon: Daemon) -> None:
        checked(daemon.policy)
        if daemon.key:
            from libbpf_shim.token import keys

            keys.read(daemon.key)
        self._daemon, self._audit = daemon, Audit(daemon.audit)
        self._users: dict[int, _User] = {}
        self._selector = selectors.DefaultSelector()
        self._lock = _public(daemon.folder)
        self._listener = _listen(daemon.folder / "sock")
        self._register(self._listener, lambda _: self._accept())
        woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        self._stopped = False
        self._register(woken, lambda sock: sock.recv(64))
        signal.set_wakeup_fd(self._wakes.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: object) -> None:
        self._stopped = True

    def _register(self, sock: socket.socket, call: Callable[[socket.socket], object]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, call)

    def run(self) -> None:
        """Until it is told to end (SIGTERM, SIGINT); then all programs have left."""
        while not self._stopped:
            for key, _ in self._selector.select():
                if self._selector.get_map().get(key.fd) is key:
                    key.data(key.fileobj)
        with contextlib.suppress(OSError):
            (self._daemon.folder / "sock").unlink()
        self._listener.close()
        users, self._users = list(self._users.values()), {}
        for user in users:
            user.channel.shutdown(socket.SHUT_RDWR)  # all at once, before one is waited for
        for user in users:
            user.close()
        os.close(self._lock)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            log.warning("no connection: %s", error)
            return
        with sock:
            uid, pid = _peer(sock)
            if pid == os.getpid():
                log.warning("refused: this kernel does not say who connects (gVisor)")
                return
            for _ in range(2):  # a backend that has died is begun anew
                user = self._users.get(uid) or self._begin(uid, pid)
                if user is None or user.send(sock):
                    return
                self._ended(user)

    def _begin(self, uid: int, pid: int) -> _User | None:
        if len(self._users) >= USERS:
            with contextlib.suppress(ShimError):
                self._audit.write("refused", uid=uid, pid=pid, op="hello",
                                  missing=f"{USERS} users are served, and no more")
            return None
        try:
            user = self._users[uid] = _User(uid, self._daemon)
        except OSError as error:
            log.warning("no backend for user %d: %s", uid, error)
            return None
        self._register(user.channel, lambda _: self._hear(user))
        return user

    def _hear(self, user: _User) -> None:
        try:
            said = user.channel.recv(COUNT.size)
        except OSError:
            said = b""
        if len(said) < COUNT.size:
            self._ended(user)
            return
        what, seen = COUNT.unpack(said)
        if what == OVER and seen == user.sent:  # else it has somebody to come to yet
            with contextlib.suppress(OSError):
                user.channel.sendall(YES)
            self._ended(user)

    def _ended(self, user: _User) -> None:
        if self._users.get(user.uid) is user:
            del self._users[user.uid]
            self._selector.unregister(user.channel)
        user.channel.close()
        self._selector.register(pidfd_open(user.process.pid), selectors.EVENT_READ,
                                partial(self._reap, user))

    def _reap(self, user: _User, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        user.process.wait()


def _public(folder: Path) -> int:
    """The daemon's folder, which all may enter and nobody else may change; its lock. EPERM, EBUSY:
    another daemon serves there."""
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise _wrong(folder, "not a folder of this user")
        os.chmod(folder, 0o755)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
                       0o600)
    except OSError as error:
        raise _wrong(folder, error.strerror or "", error.errno or errno.EIO) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _wrong(folder, "another daemon serves there", errno.EBUSY) from None
    last = min((os.cpu_count() or 1) + SPARE_VCPUS, 512) - 1
    for name in ("cpu_possible", "cpu_online"):
        path = folder / name
        path.unlink(missing_ok=True)
        path.write_text(f"0-{last}\n")
        path.chmod(0o644)
    return lock


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o666)
    except OSError as error:
        listener.close()
        raise _wrong(path, error.strerror or str(error), error.errno or errno.EIO) from error
    listener.listen(_QUEUE)
    return listener


def policies(folder: Path) -> list[str]:
    """The files of grants of a folder."""
    return files(str(folder))
