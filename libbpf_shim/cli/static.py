"""run, for programs that are statically linked: nothing can be preloaded into them.

One that is no loader is a target as any other that a process with an agent starts: this process
takes the library, and execs it by that. A loader's system calls are served by another process
(client/proxy), a child of nobody here: the program gets no SIGCHLD, and no child that it did not
make. It ends with the last process under the filter. No agent comes into what is under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from libbpf_shim.errors import ShimError

RENAME: Final = Path(__file__).resolve().parents[1] / "_bin" / "rename"
_PT_INTERP, _ROW = 3, 56  # bytes of an Elf64_Phdr
_PR_SET_PTRACER: Final = 0x59616D61
_READY, _KILLABLE, _RENAME, _DONE, _FAILED = b"R", b"K", b"N", b"D", b"F"


def find(command: str, path: str) -> str:
    """The file that execvp(3) would take, "" if there is none."""
    if "/" in command:
        return command
    for folder in path.split(":"):
        place = os.path.join(folder or ".", command)
        if os.access(place, os.X_OK) and not os.path.isdir(place):
            return place
    return ""


def program(path: str) -> str:
    """The x86-64 program that starts, of a script its interpreter; "": it names an interpreter, as
    what is linked dynamically does, or is something else."""
    found, alone = image(path)
    return found if alone else ""


def image(path: str, depth: int = 4) -> tuple[str, bool]:
    """The x86-64 program that starts, and whether it names no interpreter; "": something else."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            if head[:2] == b"#!" and depth:
                file.seek(2)
                words = file.readline(256).split()
                return image(os.fsdecode(words[0]), depth - 1) if words else ("", False)
            if head[:5] != b"\x7fELF\x02" or struct.unpack_from("<H", head, 18)[0] != 62:
                return "", False
            at, = struct.unpack_from("<Q", head, 32)
            size, count = struct.unpack_from("<HH", head, 54)
            if size < _ROW:
                return "", False
            file.seek(at)
            rows = file.read(size * count)
    except (OSError, struct.error):
        return "", False
    alone = all(struct.unpack_from("<I", rows, n)[0] != _PT_INTERP
                for n in range(0, len(rows) - size + 1, size))
    return path, alone


def enter() -> None:
    """Puts this process under the filter, with somebody who serves it. ShimError: EBUSY where
    another supervisor listens, EPERM where bpf(2) is refused before it could be asked."""
    from libbpf_shim.client.proxy import paths, seccomp
    from libbpf_shim.client.proxy.serve import PROBE, SERVED

    libc = ctypes.CDLL(None, use_errno=True)

    def served() -> bool:
        return bool(libc.syscall(*(ctypes.c_long(n) for n in (
            seccomp.SYS_BPF, PROBE, 0, 0))) == SERVED)

    if served():  # started by a program that is itself served
        return
    ours, server = _start()
    libc.prctl(_PR_SET_PTRACER, ctypes.c_ulong(server), 0, 0, 0)
    try:
        listener, killable = seccomp.install(paths.CALLS)
    except OSError as error:
        busy = "another supervisor listens to this process tree" * (error.errno == errno.EBUSY)
        raise ShimError("CL0010", error.errno or errno.EPERM,
                        f"seccomp user notification: {busy or error.strerror}") from error
    socket.send_fds(ours, [_KILLABLE if killable else _READY], [listener])
    os.close(listener)
    if not served():
        ours.sendall(_RENAME)
        if ours.recv(1) != _DONE or not served():
            raise ShimError("CL0011", errno.EPERM,
                            "bpf(2) is refused by a filter further out, and ptrace(2) too")
    ours.close()


def _start() -> tuple[socket.socket, int]:
    """The serving process: our end of a socket pair, and its number."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.setsid()
            if not os.fork():
                ours.close()
                theirs.sendall(struct.pack("<i", os.getpid()))
                _serve(theirs)
        os._exit(0)
    theirs.close()
    os.waitpid(child, 0)
    number, = struct.unpack("<i", ours.recv(4))
    return ours, number


def _serve(sock: socket.socket) -> None:
    """Not to return before all of them have ended."""
    from libbpf_shim.client.proxy.serve import Server

    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # of the terminal, for the program
    os.chdir("/")
    said, fds, _, _ = socket.recv_fds(sock, 1, 1)
    if fds:
        Server(fds[0], said == _KILLABLE).run(sock.fileno(), _asked(sock))


def _asked(sock: socket.socket) -> Callable[[], bool]:
    """What the process under the filter wants before it becomes the program."""
    def asked() -> bool:
        if sock.recv(1) != _RENAME:
            return False
        pid, _, _ = struct.unpack("3i", sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        sock.sendall(_DONE if _rename(pid) else _FAILED)
        return True
    return asked


def _rename(pid: int) -> bool:
    """A tracer that gives the refused calls other numbers."""
    ready, told = os.pipe()
    try:
        subprocess.Popen([str(RENAME), str(pid), str(told)], pass_fds=(told,), cwd="/",
                         env={}, start_new_session=True)
    except OSError:
        os.close(told)
        os.close(ready)
        return False
    os.close(told)
    done = os.read(ready, 1)
    os.close(ready)
    return bool(done)


def restore_signals() -> None:
    """What Python ignores for itself, before another program begins in its place."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


def run(path: str, command: list[str], environment: dict[str, str], library: Path) -> int:
    """Replaces this process by the program, a target. OSError: it cannot be executed."""
    os.environ["LIBBPF_SHIM_FOLLOW"] = "1"  # else the library's exec(3) tells nobody
    execve = ctypes.CDLL(str(library), use_errno=True).execve
    restore_signals()
    execve(os.fsencode(path), _strings(command),
           _strings([f"{name}={value}" for name, value in environment.items()]))
    error = ctypes.get_errno()
    raise OSError(error, os.strerror(error))


def _strings(texts: list[str]) -> ctypes.Array[ctypes.c_char_p]:
    """char *const[], with NULL at its end."""
    return (ctypes.c_char_p * (len(texts) + 1))(*map(os.fsencode, texts), None)


def serve(path: str, command: list[str], environment: dict[str, str], optional: bool) -> int:
    """Replaces this process by the program, a loader. In one that is linked to libc the library
    sleeps; it wakes in the programs that are started there. OPTIONAL: where it cannot be served,
    it begins as others do."""
    _without_library()
    try:
        if not optional or _tried():
            enter()
        else:
            return leave(path, command, environment)
    except ShimError as error:
        if optional:
            return leave(path, command, environment)
        print(f"bpf-shim run: {command[0]}: {error.message}", file=sys.stderr)
        return 126
    restore_signals()
    return os.execve(path, command, {**environment, "LIBBPF_SHIM_SERVED": str(os.getpid())})


def _without_library() -> None:
    """Begins this process once more where the library is preloaded here: that would answer bpf(2)
    before any filter is asked."""
    names = os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
    others = [name for name in names if os.path.basename(name) != "libbpf_shim.so"]
    if others != names:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]],
                  {**os.environ, "LD_PRELOAD": ":".join(others)})


def _tried() -> bool:
    """That it works is seen in a child, where a filter is there already: under one of its own that
    nobody listens to a process cannot go on."""
    with open("/proc/self/status") as file:
        if "\nSeccomp:\t0\n" in file.read():
            return True
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            enter()
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def leave(path: str, command: list[str], environment: dict[str, str]) -> int:
    """Replaces this process by the program, of which the library shall not ask once more whether
    it is to be served."""
    restore_signals()
    return os.execve(path, command, {**environment, "LIBBPF_SHIM_SERVED": str(-os.getpid())})
