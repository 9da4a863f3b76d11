"""The backend's side of the keeper (csrc/keeper, shim_keeper.h): ptrace transactions.

A transaction is talk (or stop, call), finish (or patch, release); the keeper holds one stopped
process at a time.
Whatever dies in between, the target goes on: a dead keeper's tracees are let go by the kernel,
a dead backend's are let go by the keeper, which then restores this session's sites.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from errno import EACCES, EAGAIN, EBUSY, EIO, ENOENT, EPROTO, ESTALE, ETIMEDOUT
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from libbpf_shim.attach.door import ready
from libbpf_shim.attach.pidfd import pidfd_open
from libbpf_shim.compiled import PACKAGE
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.plan import JUMP, SitePatch, SitePlan

_HEADER = struct.Struct("<IiII")  # struct shim_kp_msg
_FIXUPS = 16  # SHIM_KEEPER_MAX_FIXUPS
MOST = 256  # windows of one request, SHIM_KEEPER_MAX_WINDOWS
_LIKE = struct.Struct("<QQIIQIIQIIQQQQIIII")  # struct shim_kp_like, up to its site
LONGEST = 512  # bytes of its trampoline
_WINDOW = "<QII32s32sQQQII"  # struct shim_kp_window, up to its fixups
_REPLY_S = 30.0  # more than the keeper's own longest wait but a call's
_MAX_RESTARTS = 8
TRAP_NOW, PUN_NOW = 1, 2  # SHIM_KP_*: what a window makes of its site
_PAIR = b"@"  # SHIM_PAIR
_NOT_STOPPED = "not stopped"  # SHIM_KP_NOT_STOPPED
NOT_BEGUN = "KP0007"  # the code of that error
REFUSED = "KP0006"  # of others that the keeper answers
# request and errno: what it means (shim_keeper.h)
_WHAT = {
    (2, EBUSY): "another tracer has it, or a thread cannot stop now",
    (3, ENOENT): "its agent has not begun yet",
    (3, EACCES): "a seccomp filter that it has put itself under minds what an agent calls",
    (4, ESTALE): "other bytes stand at a window than in the file",
    (4, EAGAIN): "a thread will come back into a window",
}
# requests that are several in one, and the one whose errors they have
_AS = {12: 3, 13: 4, 14: 4}
BINARY = Path(PACKAGE, "_bin", "keeper")


def _ffi() -> Any:
    from libbpf_shim._native import ffi

    return ffi


def _lib() -> Any:
    from libbpf_shim._native import lib

    return lib


@dataclass(frozen=True, slots=True)
class Session:
    """Whom the keeper cleans up after: struct shim_kp_session. ctl_dev, ctl_ino: of the control
    memfd by fstat; library: as /proc/PID/maps shows it; root_off: of shim_agent_root from the
    library's first mapping, in bytes."""

    session_id: int
    ctl_dev: int
    ctl_ino: int
    uid: int
    library: str
    root_off: int


class Window(NamedTuple):
    """struct shim_kp_window: bytes to write, bytes that must stand there, instruction pointers
    to move, [lo, hi) that no stack may point into, and the site whose flag becomes `patched`.
    bare: the same where no call is met (met.py). becomes: SHIM_KP_*, of a site that is written
    already. Made by the thousand, four times as fast as a dataclass."""

    addr: int
    expect: bytes
    new: bytes
    fixups: tuple[tuple[int, int], ...] = ()
    scan: tuple[int, int] = (0, 0)
    site: int = 0
    patched: bool = True
    bare: Window | None = None
    becomes: int = 0

    @classmethod
    def patch(cls, plan: SitePlan, rendered: SitePatch, bias: int, site: int) -> Window:
        """The window of a plan, original bytes to jump."""
        lo, hi = plan.scan
        scan = (lo + bias, hi + bias) if hi else (0, 0)
        return cls(plan.window + bias, plan.orig, rendered.window, rendered.fixups, scan, site)

    @property
    def trap(self) -> bool:
        """It is an int3."""
        site = self.bare or self
        return site.new[:1] == b"\xcc" != site.expect[:1]

    @property
    def claim(self) -> tuple[int, int]:
        """Addresses that are not anybody else's: of a punned jump those it ends with, too."""
        size = len(self.new)
        return self.addr, self.addr + (max(size, JUMP) if self.new[:1] == b"\xe9" else size)

    def undone(self) -> Window:
        """The way back. Nobody stands inside a window that is one jump."""
        if self.becomes:
            return Window(self.addr, self.new, self.expect, site=self.site,
                          becomes=TRAP_NOW + PUN_NOW - self.becomes)
        return Window(self.addr, self.new, self.expect, site=self.site, patched=False)


class Like(NamedTuple):
    """struct shim_kp_like: table of sites, number of the new one; whose link it is like, and the
    number of that one's site; of what program and kind; what is its own; which file is mapped
    where the window is."""

    table: int
    number: int
    like_id: int
    like: int
    prog_id: int
    image: int
    kind: int
    link: int
    cookie: int
    link_id: int
    dev: int
    ino: int
    off: int


class Keeper:
    """One keeper process. Every method raises ShimError with the keeper's errno; EAGAIN also
    when the keeper died: a new one has taken its place and nothing is stopped any more."""

    def __init__(
        self, binary: Path = BINARY, environ: dict[str, str] | None = None
    ) -> None:
        self._binary = binary
        self._environ = environ or {}
        self._session: Session | None = None
        self._restarts = 0
        self._pid = 0
        self._call_s = _REPLY_S
        self._sock = self._start()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
        actions.append((os.POSIX_SPAWN_DUP2, theirs.fileno(), 3))
        try:
            self._pid = os.posix_spawn(
                self._binary, [str(self._binary)], self._environ, file_actions=actions,
                setsid=True, setsigmask=(), setsigdef=(signal.SIGCHLD,),
            )
        except OSError as err:
            ours.close()
            raise ShimError(
                "KP0001", err.errno or ENOENT, f"{self._binary}: not started: {err.strerror}",
                "make build",
            ) from err
        finally:
            os.close(null)
            theirs.close()
        ours.settimeout(_REPLY_S)
        return ours

    @property
    def pid(self) -> int:
        """Of the keeper process."""
        return self._pid

    def fileno(self) -> int:
        """Readable when a reply is there (of begin_call), or the keeper is gone."""
        return self._sock.fileno()

    def close(self) -> None:
        """Ends the keeper: it restores what this session left behind, then exits."""
        self._sock.close()
        self._reap(5.0)

    def _reap(self, seconds: float) -> None:
        """Waits for the process, kills it after `seconds`."""
        if not self._pid:
            return
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            fd = pidfd_open(self._pid)
            try:
                if not ready([fd], seconds):
                    os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            finally:
                os.close(fd)
        self._pid = 0

    def _restart(self, why: str) -> ShimError:
        """A new keeper for one that is gone; the error to raise for the request that was lost."""
        self._sock.close()
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._reap(5.0)
        self._restarts += 1
        if self._restarts > _MAX_RESTARTS:
            return ShimError("KP0002", EIO, f"keeper: {why}: {self._restarts} times")
        self._sock = self._start()
        if self._session is not None:
            self.session(self._session)
        return ShimError("KP0003", EAGAIN, f"keeper: {why}: started again")

    def _send(self, op: int, pid: int, payload: bytes) -> None:
        try:
            self._sock.send(_HEADER.pack(op, 0, pid, len(payload)) + payload)
        except OSError as err:
            raise self._restart(f"request {op} not taken ({err.strerror})") from err

    def _receive(
        self, op: int, timeout: float = _REPLY_S, fds: list[int] | None = None
    ) -> int:  # fmt: skip
        """The answer; the descriptor that comes with it is added to fds."""
        self._sock.settimeout(timeout)
        try:
            if fds is None:
                data = self._sock.recv(4096)
            else:
                data, got, _, _ = socket.recv_fds(self._sock, 4096, 1, socket.MSG_CMSG_CLOEXEC)
                fds += got
        except TimeoutError as err:
            self._restart(f"no answer to request {op}")
            raise ShimError("KP0004", ETIMEDOUT, f"keeper: no answer to request {op}") from err
        except OSError as err:
            raise self._restart(f"request {op} not answered ({err.strerror})") from err
        if not data:
            raise self._restart(f"died in request {op}")
        if len(data) < _HEADER.size:
            raise ShimError("KP0005", EPROTO, f"keeper: answer of {len(data)} bytes")
        said, ret, pid, _ = _HEADER.unpack_from(data)
        why = data[_HEADER.size :].decode(errors="replace")
        if ret < 0:
            part = _lib().SHIM_KP_STOP if why == _NOT_STOPPED else _AS.get(op, op)
            what = _WHAT.get((part, -ret), f"request {op} refused: {os.strerror(-ret)}")
            number = NOT_BEGUN if (part, -ret) == (_lib().SHIM_KP_CALL, ENOENT) else REFUSED
            raise ShimError(number, -ret, f"keeper: process {pid}: {what}",
                            "" if why == _NOT_STOPPED else why)
        return int(ret) if said == op else 0

    def _request(self, op: int, pid: int, payload: bytes = b"") -> int:
        self._send(op, pid, payload)
        return self._receive(op)

    def session(self, session: Session) -> None:
        """Tells whom to clean up after when the backend dies."""
        raw = _ffi().new("struct shim_kp_session *")
        raw.ctl_ino, raw.ctl_dev = session.ctl_ino, session.ctl_dev
        raw.session_id, raw.uid = session.session_id, session.uid
        raw.library, raw.root_off = os.fsencode(session.library)[:255], session.root_off
        self._session = session
        self._request(_lib().SHIM_KP_SESSION, 0, bytes(_ffi().buffer(raw)))

    def stop(self, pid: int) -> int:
        """Stops all threads; how many. ESRCH, EPERM, EBUSY (traced by somebody else, or a thread
        that cannot stop now, as a vfork parent: try again)."""
        return self._request(_lib().SHIM_KP_STOP, pid)

    def begin_call(
        self, pid: int, root: int, path: str, reason: int, timeout_ms: int = 10000
    ) -> None:
        """Points a thread of the stopped process at its agent, which connects to the socket
        `path`: serve it, then `end_call`."""
        raw = _ffi().new("struct shim_kp_call *")
        raw.root, raw.reason, raw.timeout_ms = root, reason, timeout_ms
        raw.path = os.fsencode(path)
        self._call_s = timeout_ms / 1000 + _REPLY_S
        self._send(_lib().SHIM_KP_CALL, pid, bytes(_ffi().buffer(raw)))

    def talk(
        self, pid: int, root: int, reason: int, careful: bool = False, timeout_ms: int = 10000
    ) -> socket.socket:
        """Stops the process and points a thread of it at its agent, which makes a pair of sockets:
        the other end of its own. Serve and close it, then `finish`. Errors of `stop` and
        `end_call`, after which nothing is stopped; ENOTCONN: `begin_call` may do, since the socket
        cannot be had, or (careful) what a filter says of socketpair(2) cannot be known."""
        raw = _ffi().new("struct shim_kp_call *")
        raw.root, raw.reason, raw.timeout_ms = root, reason, timeout_ms
        raw.path, raw.careful = _PAIR, careful
        self._send(_lib().SHIM_KP_TALK, pid, bytes(_ffi().buffer(raw)))
        fds: list[int] = []
        self._receive(_lib().SHIM_KP_TALK, timeout_ms / 1000 + _REPLY_S, fds)
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fds[0])

    def finish(self, pid: int, windows: Sequence[Window], stay: bool = False) -> int:
        """The conversation is over: `patch` of at most MOST windows, then `release`, unless it is
        to stay (after a refusal it is let go all the same). Errors of `end_call`, too."""
        head = _ffi().new("struct shim_kp_patch *", {"nwindows": len(windows), "stay": stay})
        return self._request(_lib().SHIM_KP_FINISH, pid,
                             bytes(_ffi().buffer(head)) + b"".join(map(_window, windows)))

    def like(
        self, pid: int, root: int, session_id: int, like: Like, site: bytes, window: Window,
        tramp: bytes,
    ) -> None:  # fmt: skip
        """A whole transaction: one more site and link like another. site: struct shim_site.
        EOPNOTSUPP: only a conversation can do it, nothing was done. Else errors of `stop` and
        `patch`, after which nothing is left."""
        head = _LIKE.pack(
            root, like.table, like.number, session_id, like.like_id, like.like, like.prog_id,
            like.image, like.kind, like.link, like.cookie, like.link_id, like.ino, like.off,
            os.major(like.dev), os.minor(like.dev), len(tramp), 0)
        self._request(_lib().SHIM_KP_LIKE, pid,
                      head + site + _window(window) + tramp.ljust(LONGEST, b"\0"))

    def end_call(self) -> int:
        """agent_sync's result. EBUSY (the agent is in use), EAGAIN (a signal came first), ESRCH,
        ETIMEDOUT, ENOENT (no agent there), EPROTO (another version's). After any of them only
        `release` is left to do."""
        return self._receive(_lib().SHIM_KP_CALL, self._call_s)

    def patch(self, pid: int, windows: Sequence[Window]) -> int:
        """Writes all windows of the stopped process or none. ESTALE: other bytes stand there;
        EAGAIN: a thread will come back into a window: release, and try again."""
        ffi, lib = _ffi(), _lib()
        done = 0
        for at in range(0, len(windows), lib.SHIM_KEEPER_MAX_WINDOWS):
            part = windows[at : at + lib.SHIM_KEEPER_MAX_WINDOWS]
            head = ffi.new("struct shim_kp_patch *", {"nwindows": len(part)})
            payload = bytes(ffi.buffer(head)) + b"".join(_window(w) for w in part)
            try:
                done += self._request(lib.SHIM_KP_PATCH, pid, payload)
            except ShimError:
                if at:
                    self.patch(pid, [w.undone() for w in windows[:at]])
                raise
        return done

    def release(self, pid: int) -> None:
        """Lets the stopped process go."""
        self._request(_lib().SHIM_KP_RELEASE, pid)

    @contextlib.contextmanager
    def letting_go(self, pid: int) -> Iterator[None]:
        """What is done with a process up to its end; if that fails, it is let go."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(ShimError):
                self.release(pid)
            raise

    def follow(self, pid: int, tid: int) -> None:
        """A process one thread of which is about to exec, and waits for an answer of ours. EPERM,
        EBUSY."""
        self._request(_lib().SHIM_KP_FOLLOW, pid, struct.pack("i", tid))

    def await_exec(self, pid: int) -> None:
        """It has its answer; stopped at the beginning of its new image, until `let_go`. ESRCH,
        ETIMEDOUT (half a second that it sleeps or computes, ten in all): it is not, and goes
        on."""
        self._request(_lib().SHIM_KP_AWAIT, pid)

    def let_go(self, pid: int) -> None:
        """Lets the followed process go."""
        self._request(_lib().SHIM_KP_LET_GO, pid)

    def detach(
        self, pid: int, root: int, session_id: int, link_id: int = 0, timeout_ms: int = 1000
    ) -> int:
        """A whole transaction: takes the session's links (0: all) out of the process's sites and
        restores those with none left; how many. EBUSY after timeout_ms."""
        raw = _ffi().new("struct shim_kp_detach *")
        raw.link_id, raw.session_id = link_id, session_id
        raw.timeout_ms, raw.root = timeout_ms, root
        return self._request(_lib().SHIM_KP_DETACH, pid, bytes(_ffi().buffer(raw)))

    def inject(self, pid: int, image: str, name: str, run_dir: str) -> None:
        """A whole transaction: the agent's image, the file `image`, into a process without one,
        as memfd:`name`. EEXIST: there is one. EAGAIN, EBUSY: try again. EACCES, EOPNOTSUPP: a
        refusal, with the reason in `hint`. After any of them the process is as it was."""
        raw = _ffi().new("struct shim_kp_inject *")
        raw.image, raw.name = os.fsencode(image)[:255], name.encode()[:63]
        raw.run_dir = os.fsencode(run_dir)[:95]
        self._request(_lib().SHIM_KP_INJECT, pid, bytes(_ffi().buffer(raw)))

    def eject(self, pid: int, root: int, kept: bool = False, timeout_ms: int = 2000) -> None:
        """A whole transaction: the agent and all that it has mapped out of a process. EBUSY: a
        session is left in it, or a run that does not end; EAGAIN: a thread that does not leave
        (both after timeout_ms of trying);
        EEXIST: it was asked to stay, and `kept` is False."""
        raw = _ffi().new("struct shim_kp_eject *", {
            "root": root, "timeout_ms": timeout_ms, "kept": kept})
        self._request(_lib().SHIM_KP_EJECT, pid, bytes(_ffi().buffer(raw)))


@cache
def _packer(fixups: int) -> struct.Struct:
    """struct shim_kp_window with so many of them."""
    return struct.Struct(f"{_WINDOW}{2 * fixups}Q{16 * (_FIXUPS - fixups)}x")


def _window(window: Window) -> bytes:
    """struct shim_kp_window."""
    addr, expect, new, fixups, scan, site, patched, _, becomes = window
    count = len(fixups)
    return _packer(count).pack(addr, len(new), count, expect, new, *scan, site, patched, becomes,
                               *chain.from_iterable(fixups))
