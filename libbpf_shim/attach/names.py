"""Numbers of processes and threads: ours, and those that a process in a namespace of process
numbers of its own has for itself (csrc/include/shim_names.h).

A socket says by SO_PEERCRED who is at its other end, in our numbers; the last number of a status
file's NSpid is what a process or thread is to itself. Source: pid_namespaces(7), proc(5).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from functools import cache

from libbpf_shim.errors import ShimError

_UNTOLD = 1  # no namespace's inode
_CRED = struct.Struct("3i")  # struct ucred


@cache
def view() -> int:
    """The namespace of process numbers that we see: its inode; where namespaces are not told apart
    (gVisor has other files in each process, and no file system of them), the same for all."""
    found = os.stat("/proc/self/ns/pid")
    return _UNTOLD if found.st_dev == os.stat("/proc").st_dev else found.st_ino


def is_foreign(pid: int) -> bool:
    """The process lives in another namespace of process numbers than we do."""
    if view() == _UNTOLD:
        return False
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino != view()
    except OSError:  # not ours to look at: what everybody may read
        return len(_numbers(f"/proc/{pid}")) > 1


def _numbers(folder: str) -> list[int]:
    """Of a process or thread: in our namespace first, in its own last. Empty: it has ended."""
    try:
        with open(f"{folder}/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    return next(([int(n) for n in line.split()[1:]] for line in lines
                 if line.startswith(b"NSpid:")), [])  # fmt: skip


def peer(sock: socket.socket, said: int) -> int:
    """Our number for the process that has connected, or made the pair, and says that it is `said`,
    if it is foreign; else 0, also where the kernel does not say. ShimError EPERM: it lives where
    we see nobody."""
    if sock.family != socket.AF_UNIX:
        return 0
    cred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CRED.size)
    pid = int(_CRED.unpack(cred)[0])
    if not pid:
        raise ShimError("AM0001", errno.EPERM, "a process of another namespace of process "
                        "numbers, which is not below ours")
    if pid == os.getpid():  # gVisor names who asks
        return 0
    return pid if pid != said or is_foreign(pid) else 0


def thread(pid: int, own: int) -> int:
    """Our number for the thread of the process that has that number itself; 0: it has ended."""
    try:
        entries = sorted(map(int, os.listdir(f"/proc/{pid}/task")), reverse=True)
    except OSError:
        return 0
    return next((tid for tid in entries if _numbers(f"/proc/{pid}/task/{tid}")[-1:] == [own]), 0)


def seen(sock: socket.socket, said: int) -> int:
    """Our number for the process at the other end, which says that it is `said`; 0: none."""
    try:
        return peer(sock, said) or said
    except (ShimError, OSError):
        return 0
