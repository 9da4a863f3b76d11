"""Seccomp user notification: the filter, its listener, and what is said there.

Source: seccomp(2), seccomp_unotify(2), linux/seccomp.h, linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

SYS_BPF, SYS_PERF_EVENT_OPEN, SYS_IOCTL, SYS_MMAP = 321, 298, 16, 9
SYS_EPOLL_CTL: Final = 233
SYS_GETRLIMIT, SYS_SETRLIMIT, SYS_PRLIMIT64 = 97, 160, 302
# Where an outer filter answers bpf(2) and perf_event_open(2) before this one is asked, csrc/rename
# gives them other numbers, which no table of the kernel's reaches.
RENAMED: Final = 0x10000000
_SYS_SECCOMP, _SET_MODE_FILTER = 317, 1
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_PR_SET_NO_NEW_PRIVS: Final = 38
_ARCH_X86_64: Final = 0xC000003E
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECV, _SEND, _VALID, _ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_CONTINUE, _ADDFD_SET, _ADDFD_SEND = 1, 1, 2
_LD, _JEQ, _AND, _RET = 0x20, 0x15, 0x54, 0x06
_AT_NR, _AT_ARCH, _AT_ARGS = 0, 4, 16
_NOTIF: Final = struct.Struct("<QIIiIQ6Q")
_MAP_SHARED_ANON: Final = (0x23, 1)  # flags & (SHARED | PRIVATE | ANONYMOUS) == SHARED
_MEMLOCK: Final = (0xFFFFFFFF, 8)  # RLIMIT_MEMLOCK
_IOC_TYPE: Final = (0xFF00, ord("$") << 8)  # PERF_EVENT_IOC_*


def _words(also: Iterable[int]) -> list[tuple[int, int, int, int]]:
    """code, jt, jf, k of each instruction. What is asked: bpf and perf_event_open, ioctls of perf
    events, epoll_ctl, shared mappings of files, the limit of locked memory, and the calls of
    these numbers."""
    always = (SYS_BPF, SYS_PERF_EVENT_OPEN, SYS_BPF + RENAMED, SYS_PERF_EVENT_OPEN + RENAMED,
              SYS_EPOLL_CTL, *also)  # fmt: skip
    some = ((SYS_IOCTL, 1, _IOC_TYPE), (SYS_MMAP, 3, _MAP_SHARED_ANON),
            (SYS_GETRLIMIT, 0, _MEMLOCK), (SYS_SETRLIMIT, 0, _MEMLOCK),
            (SYS_PRLIMIT64, 1, _MEMLOCK))  # fmt: skip
    out = [(_LD, 0, 0, _AT_ARCH), (_JEQ, 1, 0, _ARCH_X86_64), (_RET, 0, 0, _ALLOW),
           (_LD, 0, 0, _AT_NR)]
    for number in always:
        out += [(_JEQ, 0, 1, number), (_RET, 0, 0, _NOTIFY)]
    for number, arg, (mask, value) in some:
        out += [(_JEQ, 0, 5, number), (_LD, 0, 0, _AT_ARGS + 8 * arg), (_AND, 0, 0, mask),
                (_JEQ, 0, 1, value), (_RET, 0, 0, _NOTIFY), (_RET, 0, 0, _ALLOW)]
    return [*out, (_RET, 0, 0, _ALLOW)]


def install(also: Iterable[int]) -> tuple[int, bool]:
    """Puts this process, single-threaded, and all that it starts under the filter. also: numbers
    of calls that are asked about. The listener, and whether nothing but death interrupts who waits
    for its answer. OSError EBUSY: somebody listens already."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(struct.pack("<HBBI", *word) for word in _words(also))
    held = ctypes.create_string_buffer(code, len(code))
    prog = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(held))
    prog_held = ctypes.create_string_buffer(prog, len(prog))

    def seccomp(flags: int) -> int:
        return int(libc.syscall(
            ctypes.c_long(_SYS_SECCOMP), ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(flags),
            ctypes.c_void_p(ctypes.addressof(prog_held))))

    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):  # the latter: before Linux 5.19
        fd = seccomp(flags)
        if fd < 0 and ctypes.get_errno() == errno.EACCES:
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            fd = seccomp(flags)
        if fd >= 0 or ctypes.get_errno() != errno.EINVAL:
            break
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd, bool(flags & _WAIT_KILLABLE)


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that waits. tid: its thread; nr: its own number, however it came."""

    id: int
    tid: int
    nr: int
    args: Sequence[int]

    def s32(self, index: int) -> int:
        """An argument that is an int."""
        value = self.args[index] & 0xFFFFFFFF
        return value - (1 << 32) if value >> 31 else value


def _ioctl(fd: int, request: int, data: bytes) -> int:
    """Also where a tracer stops this process: who looks for agents does."""
    while True:
        try:
            return int(fcntl.ioctl(fd, request, bytearray(data)))
        except InterruptedError:
            continue


class Listener:
    """The other end of a filter. Errors of calls that are gone meanwhile are nobody's: ENOENT is
    passed over."""

    def __init__(self, fd: int, killable: bool) -> None:
        self.fd, self._killable = fd, killable

    def fileno(self) -> int:
        return self.fd

    def receive(self) -> Call | None:
        """The next one; None: it went away."""
        room = bytearray(_NOTIF.size)
        try:
            fcntl.ioctl(self.fd, _RECV, room)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        ident, tid, _, nr, _, _, *args = _NOTIF.unpack(room)
        return Call(ident, tid, nr - RENAMED if nr >= RENAMED else nr, args)

    def valid(self, call: Call) -> bool:
        """Its thread still waits: what was read of it was its own."""
        try:
            _ioctl(self.fd, _VALID, struct.pack("<Q", call.id))
        except OSError:
            return False
        return True

    def answer(self, call: Call, ret: int) -> None:
        """ret: the result, or a negative errno."""
        value, error = (0, ret) if ret < 0 else (ret, 0)
        self._send(struct.pack("<QqiI", call.id, value, error, 0))

    def go_on(self, call: Call) -> None:
        """The kernel carries it out."""
        self._send(struct.pack("<QqiI", call.id, 0, 0, _CONTINUE))

    def _send(self, data: bytes) -> None:
        try:
            _ioctl(self.fd, _SEND, data)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def give(self, call: Call, fd: int, cloexec: bool) -> None:
        """Answers with a descriptor of ours, which stays ours too. In one step the caller gets 0
        where a tracer stops us in the middle of it, in two a descriptor too many where a signal
        comes between them."""
        try:
            if self._killable:
                self.answer(call, self._put(call, 0, fd, cloexec))
            else:
                self._put(call, _ADDFD_SEND, fd, cloexec)
        except OSError as error:
            if error.errno == errno.EINVAL:  # before Linux 5.14
                self.answer(call, self._put(call, 0, fd, cloexec))
            elif error.errno != errno.ENOENT:
                self.answer(call, -(error.errno or errno.EIO))

    def add(self, call: Call, fd: int, number: int = -1) -> int:
        """A descriptor there of ours, closed on exec: its number, which may be given and is taken
        from what has it. The call goes on. OSError."""
        how = _ADDFD_SET if number >= 0 else 0
        return self._put(call, how, fd, True, max(number, 0))

    def _put(self, call: Call, how: int, fd: int, cloexec: bool, number: int = 0) -> int:
        flags = os.O_CLOEXEC if cloexec else 0
        return _ioctl(self.fd, _ADDFD, struct.pack("<QIIII", call.id, how, fd, number, flags))
