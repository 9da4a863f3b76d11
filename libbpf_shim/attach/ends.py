"""Ends of processes that did not tell of them themselves: killed by a signal, or ended by a call
that no agent sees.

Programs are run for them by a loader's agent, in their names. What is known of a process that is
gone: the kernel's word by its pidfd (since Linux 6.15), what /proc still shows of one that nobody
has waited for, else what was seen of it last. Source: pidfd_open(2), PIDFD_GET_INFO of
linux/pidfd.h; proc_pid_stat(5).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.attachment import Attachment, Event
from libbpf_shim.attach.process import Process
from libbpf_shim.attach.target import Target, look
from libbpf_shim.errors import ShimError

_GET_INFO, _INFO_SIZE = 0xC040FF0B, 64  # PIDFD_GET_INFO of struct pidfd_info, first version
_INFO_EXIT = 1 << 3
_EXIT_CODE_AT = 60
_SIGCHLD, _PRIO_BASE = 17, 100
# SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGPIPE, SIGXFSZ, SIGSYS: the kernel sends them to who
# makes a mistake
_OWN = (4, 5, 7, 8, 11, 13, 25, 31)


@dataclass(frozen=True, slots=True)
class Life:
    """What is known of a process. start: clock ticks; exit_code: as task->exit_code, None: not
    known."""

    pid: int
    comm: bytes
    parent: int
    start: int
    prio: int
    exit_signal: int
    uid: int
    gid: int
    exit_code: int | None = None
    sent: int = 0  # the last signal that some process told of sending it

    @property
    def own(self) -> int:
        """The signal of the kernel's own by which it ended; 0: it ended otherwise."""
        signal = (self.exit_code or 0) & 0x7F
        return signal if signal in _OWN and signal != self.sent else 0


def seen(pid: int) -> Life | None:
    """What /proc shows now; None: nothing any more."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            name, _, rest = file.read().rpartition(b")")
        owner = os.stat(f"/proc/{pid}")
    except OSError:
        return None
    fields = [b"", b"", b"", *rest.split()]  # from 3 on, as the manual counts
    code = int(fields[52]) if fields[3] == b"Z" else None
    return Life(pid, name.partition(b"(")[2][:15], int(fields[4]), int(fields[22]),
                int(fields[18]) + _PRIO_BASE, int(fields[38]), owner.st_uid, owner.st_gid, code)


def exit_code(pidfd: int) -> int | None:
    """Of a process that has ended; None: this kernel does not tell."""
    room = bytearray(struct.pack("<Q", _INFO_EXIT).ljust(_INFO_SIZE, b"\0"))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, room)
    except OSError:
        return None
    mask, = struct.unpack_from("<Q", room)
    return int(struct.unpack_from("<i", room, _EXIT_CODE_AT)[0]) if mask & _INFO_EXIT else None


def last(before: Life, pidfd: int) -> Life:
    """A process that has just ended; before: what was seen of it."""
    now = seen(before.pid)
    if now is None or now.start != before.start:
        now = before
    code = exit_code(pidfd)
    return replace(now, sent=before.sent, exit_code=now.exit_code if code is None else code)


class Ends:
    """Runs programs for processes that are gone."""

    def __init__(
        self, attachments: Callable[[], list[Attachment]],
        say: Callable[[Target, Callable[[Conversation], None]], None],
        process: Callable[[Conversation], Process], notice: Callable[[str], None],
    ) -> None:
        """say: a conversation with a running process; process: what is known of the one that is
        talked to."""
        from libbpf_shim._native import lib

        self._attachments, self._talk, self._process = attachments, say, process
        self._notice = notice
        self.met: Callable[[int], None] = lambda pid: None  # a process that begins is there
        self._events = (int(lib.SHIM_EVENT_SCHED_EXIT), int(lib.SHIM_EVENT_SIGNAL))

    @property
    def wanted(self) -> bool:
        """Some program wants to know."""
        return any(isinstance(a.place, Event) and a.place.number in self._events
                   for a in self._attachments())

    def tell(self, life: Life, loaders: list[int]) -> None:
        """By one of the loaders. Nothing, if how it ended is not known."""
        if life.exit_code is None or not self.wanted:
            return
        for pid in loaders:
            target = look(pid) if pid != life.pid else None
            if target is None:
                continue
            try:
                self._talk(target, lambda talk: self._say(talk, life))
                return
            except ShimError as error:
                if error.errno != errno.ENOENT:
                    self._notice(
                        f"process {life.pid}: its end was not told: {error.message}")
                    return

    def _say(self, talk: Conversation, life: Life) -> None:
        from libbpf_shim._native import ffi

        process = self._process(talk)
        marks = {1 << 63 | number for number in self._events}
        if not any(place in marks for _, place in process.linked):
            raise ShimError("AN0001", errno.ENOENT, f"process {talk.hello.pid}: has no such link")
        msg = ffi.new("struct shim_agent_ended *")
        msg.session, msg.prio, msg.exit_signal = process.session, life.prio, life.exit_signal
        as_ = getattr(msg, "as")
        as_.thread.tid = as_.thread.tgid = life.pid
        ffi.memmove(as_.comm, life.comm.ljust(16, b"\0"), 16)
        as_.parent, as_.exit_code, as_.start_time = life.parent, life.exit_code, life.start
        as_.uid, as_.gid = life.uid, life.gid
        msg.own = life.own
        talk.ended(msg)
