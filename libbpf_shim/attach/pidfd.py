"""A descriptor that can be read once a process has ended: pidfd_open(2).

Where the kernel has none (gVisor, Linux before 5.3) it is the end of a pipe, whose other end a
thread closes that looks at /proc: what is told then is told up to _LOOK_S late.
"""

from __future__ import annotations

import _thread
import errno
import os
import select
import time

_LOOK_S = 0.05  # between two looks
_GONE = (b"Z", b"X")  # states of what nobody has waited for yet
_theirs: dict[int, tuple[int, bytes]] = {}  # our end of each pipe; whose it is, and since when
_looking = _thread.allocate_lock()  # by the thread, while there is one


def pidfd_open(pid: int) -> int:
    """A descriptor of that process, which the caller closes. ProcessLookupError: there is none;
    EMFILE, ENFILE."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    started = _alive(pid)
    if not started:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    ours, theirs = os.pipe()
    _theirs[theirs] = pid, started
    if _looking.acquire(blocking=False):
        _thread.start_new_thread(_look, ())
    return ours


def _alive(pid: int) -> bytes:
    """When it began, in clock ticks; empty: it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb", 0) as file:
            fields = file.read(4096).rpartition(b")")[2].split()
    except OSError:
        return b""
    return b"" if fields[0] in _GONE else fields[19]


def _look() -> None:
    """Until the process ends: a thread that may end while somebody asks would be missed."""
    while True:
        closed = select.poll()
        for fd in list(_theirs):
            closed.register(fd, 0)
        unwanted = {fd for fd, _ in closed.poll(0)}
        for fd, (pid, started) in list(_theirs.items()):
            if fd in unwanted or _alive(pid) != started:
                del _theirs[fd]
                os.close(fd)
        time.sleep(_LOOK_S)  # nothing tells of it
