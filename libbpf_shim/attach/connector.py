"""The kernel's word on execs: the process connector, a netlink group.

A kernel since 6.6 tells everybody, an older one who has CAP_NET_ADMIN, in the initial namespaces
of users and processes. Only execs are let through to the socket (a classic filter on it), as one
datagram each: struct nlmsghdr, cn_msg, proc_event. The socket is the standard library's: to import
pyroute2 takes 0.2 s of the backend's one thread, at every tool's start; a test compares the two.
Source: linux/cn_proc.h, linux/connector.h, drivers/connector/cn_proc.c.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time

_NETLINK_CONNECTOR, _CN_IDX_PROC, _CN_VAL_PROC = 11, 1, 1
_NLMSG_DONE = 3
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_CN_MSG = struct.Struct("=IIIIHH")  # struct cn_msg, its data behind it
_EVENT = struct.Struct("=IIQII")  # struct proc_event: what, cpu, ns; two words of its data
_LISTEN, _IGNORE = 1, 2
_ACK, _EXEC = 0, 2  # proc_event.what; an ack's first word is an errno
_ROOM = 1 << 20  # bytes that wait for us
_SO_ATTACH_FILTER = 26
_FPROG = struct.Struct("@HP")  # struct sock_fprog
_WHAT_AT = _HEADER.size + _CN_MSG.size


def _only(*kinds: int) -> tuple[bytes, int]:
    """Instructions that let through what is of these kinds, and their number."""
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    rows = [(load, 0, 0, _WHAT_AT)]
    # words of the packet are big endian to a filter
    rows += [(equal, len(kinds) - i, 0, socket.htonl(kind)) for i, kind in enumerate(kinds)]
    rows += [(answer, 0, 0, 0), (answer, 0, 0, 0xFFFFFFFF)]
    return b"".join(struct.pack("=HBBI", *row) for row in rows), len(rows)


class Connector:
    """A subscription, from its making to `close()`. OSError: there is none here."""

    def __init__(self) -> None:
        from libbpf_shim._native import ffi

        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_NETLINK, kind, _NETLINK_CONNECTOR)
        self.heard = False  # the kernel has said that it tells us
        # our word's number; its ack has the next one
        self._number = int.from_bytes(os.urandom(3), "little") + 1
        self.lost = False  # some of what it told found no room
        try:
            code, count = _only(_ACK, _EXEC)
            buffer = ffi.new("uint8_t[]", code)
            program = _FPROG.pack(count, int(ffi.cast("uintptr_t", buffer)))
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
            self._sock.bind((0, _CN_IDX_PROC))
            self._say(_LISTEN)
        except BaseException:
            self._sock.close()
            raise

    def _say(self, what: int) -> None:
        body = struct.pack("=I", what)
        body = _CN_MSG.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, self._number, len(body), 0) + body
        header = _HEADER.pack(_HEADER.size + len(body), _NLMSG_DONE, 0, 0, os.getpid())
        self._sock.send(header + body)

    def fileno(self) -> int:
        """Readable when something was told."""
        return self._sock.fileno()

    def execs(self) -> list[int]:
        """Processes that have executed a program since the last call, oldest first; each once.
        OSError: the kernel refuses."""
        found: dict[int, None] = {}
        while True:
            try:
                data, (port, _) = self._sock.recvfrom(4096)
            except BlockingIOError:
                return list(found)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost = True
                continue
            if port or len(data) < _WHAT_AT + _EVENT.size:
                continue  # not the kernel's
            what, _, _, first, second = _EVENT.unpack_from(data, _WHAT_AT)
            if what == _EXEC:
                found[second] = None
            elif _CN_MSG.unpack_from(data, _HEADER.size)[3] == self._number + 1:
                if first:
                    raise OSError(first, os.strerror(first))
                self.heard = True

    def close(self) -> None:
        """The end of the subscription."""
        try:
            self._say(_IGNORE)
        except OSError:
            pass
        self._sock.close()


def reason(seconds: float = 0.5) -> str:
    """Why the kernel does not tell us; "": it does."""
    try:
        connector = Connector()
    except OSError as error:
        return os.strerror(error.errno or errno.EIO)
    try:
        end = time.monotonic() + seconds
        while not connector.heard and (left := end - time.monotonic()) > 0:
            if select.select([connector], [], [], left)[0]:
                connector.execs()
        return "" if connector.heard else "the kernel does not answer"
    except OSError as error:
        return os.strerror(error.errno or errno.EIO)
    finally:
        connector.close()
