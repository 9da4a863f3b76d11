"""Programs that run in this process: test runs and interval timers.

Python has no agent in it, the preloaded library has: it is loaded here as any other library, its
names hidden from the rest of the process, and asked as a loader asks it, through its `syscall`. It
joins the session of the user; one that is private cannot be joined.
Source: csrc/surface/entry.S, csrc/surface/act.c.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import TYPE_CHECKING, Final

from libbpf_shim.client import meeting
from libbpf_shim.client.handle import bpffs
from libbpf_shim.client.link import Link
from libbpf_shim.client.session import Command, Session, failed
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd

if TYPE_CHECKING:
    from libbpf_shim.client.program import Program

SYS_BPF: Final = 321
SYS_PERF_EVENT_OPEN: Final = 298


@functools.cache
def library() -> ctypes.CDLL:
    """libbpf_shim.so in this process. ENOSYS: it is not built."""
    try:
        return ctypes.CDLL(str(meeting.LIBRARY), use_errno=True)
    except OSError as error:
        raise ShimError("CI0001", errno.ENOSYS, f"{meeting.LIBRARY}: {error}",
                        "make build") from error


def joined(session: Session) -> None:
    """ShimError EOPNOTSUPP: nobody else can join the session."""
    if bpffs(session, "/sys/fs/bpf") == os.path.join(session.folder, "bpffs"):
        raise ShimError("CI0002", errno.EOPNOTSUPP, "a program cannot run in this process: the "
                        "session is private", "use Session.default()")


def syscall(number: int, *arguments: int) -> int:
    """A system call as a loader makes it: >= 0, or a negative errno."""
    call = library().syscall
    call.restype = ctypes.c_long
    ret = int(call(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments)))
    return ret if ret >= 0 else -ctypes.get_errno()


def timer(program: Program, attr: bytes) -> Link:
    """A software clock whose ticks run the program on a thread of the library's."""
    held = ctypes.create_string_buffer(attr, len(attr))
    event = syscall(SYS_PERF_EVENT_OPEN, ctypes.addressof(held), -1, 0, -1, 8)
    if event < 0:
        raise failed("timer: no event", event)
    command = Command(bpf_cmd.BPF_LINK_CREATE, "link_create", prog_fd=program.need_fd(),
                      target_fd=event, attach_type=bpf_attach_type.BPF_PERF_EVENT)
    ask = ctypes.create_string_buffer(bytes(command.attr), len(command.attr))
    fd = syscall(SYS_BPF, command.number, ctypes.addressof(ask), 64)
    if fd < 0:
        os.close(event)
        raise failed(f"{program.name}: not attached to a timer", fd)
    return Link(program.session, fd, program.name, event)
