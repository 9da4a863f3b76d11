"""Entry of the backend process, started by the surface (csrc/surface/spawn.c): descriptor 3 is
the first client's socket; the environment is clean; nothing else is open. The arguments: the
project's root, and the folder where other loaders may join (backend/share.py), or nothing."""

from __future__ import annotations

import errno
import gc
import os
import sys

TYPE_CHECKING = False  # typing is loaded where it is needed
if TYPE_CHECKING:
    import socket

    from libbpf_shim.backend.share import Share

_FIRST_FD = 3
_DESCRIPTORS = 4096


def refuse(sock: socket.socket, code: int, line: str = "") -> None:
    """Answers the first request of a client that cannot be served: an errno, a line before it."""
    from libbpf_shim.backend import wire

    inbox = wire.Inbox()
    sock.settimeout(10)
    while data := sock.recv(65536):
        for message in inbox.feed(data):
            if line:
                wire.send(sock, wire.NOTICE, 0, 0, f"libbpf_shim: {line}\n".encode())
            wire.send(sock, message.op, message.seq, -code)
            return


def more_descriptors() -> None:
    """Every object of every loader is a descriptor or two here, whatever the first loader's own
    limit was. The kernel's table has room for many before there is a second thread: making it
    larger takes an RCU grace period after that, 7 ms (expand_fdtable(), fs/file.c). What cannot be
    had is done without."""
    from libbpf_shim._native import lib

    lib.shim_native_descriptors(_DESCRIPTORS)


def main() -> None:
    """Serves a session to its end; the process's whole life."""
    gc.disable()  # what is loaded now stays; of later objects cycles.py looks for cycles
    sys.setswitchinterval(0.1)  # one thread works, the other sleeps in a system call
    from libbpf_shim.backend import startup

    startup.install()
    if os.environ.get("LIBBPF_SHIM_DEBUG"):
        import logging

        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr,
                            format="%(name)s[%(process)d]: %(message)s")
    else:
        startup.quiet()
    from libbpf_shim.backend import share  # with what it loads, which is quicker than by itself

    _serve(share.Share)


def _serve(meeting: type[Share]) -> None:
    import socket
    from pathlib import Path

    from libbpf_shim.errors import ShimError

    more_descriptors()
    first = socket.socket(fileno=_FIRST_FD)
    share = meeting(Path(sys.argv[2])) if len(sys.argv) > 2 and sys.argv[2] else None
    try:
        if share and not share.take():
            refuse(first, errno.EAGAIN)
            return
        from libbpf_shim.backend.server import Server

        server = Server(first, share)
    except ShimError as error:
        refuse(first, error.errno, error.message)
        return
    gc.freeze()
    server.run()
