"""Messages of shim_wire.h as Python values: framing, SHIM_OP_BPF requests and replies."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from dataclasses import dataclass, field

from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import SIZE

MAGIC, VERSION = 0x5742, 3
HEADER = struct.Struct("<HHIIiII")  # struct shim_msg
MAX_PAYLOAD = 1 << 28
_BPF_REQ = struct.Struct("<IIII")
_SEG = struct.Struct("<IIQQii")
_FD_REF = struct.Struct("<iIQQ")
_REPLY = struct.Struct("<IIII")
_SEG_OUT = struct.Struct("<IIQQ")
SEG_IN, SEG_OUT, SEG_NESTED = 1, 2, 0x10000
NOTICE = 9  # SHIM_OP_NOTICE


@dataclass(frozen=True, slots=True)
class Message:
    """One message as received."""

    op: int
    seq: int
    payload: bytes


class Inbox:
    """Bytes of one stream, cut into messages. most: bytes of one's payload."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.most = MAX_PAYLOAD

    @property
    def room(self) -> int:
        """Bytes to be received at a time: most messages are small, and their buffers too."""
        if len(self._data) < HEADER.size:
            return 1 << 16
        left = HEADER.size + int.from_bytes(self._data[8:12], "little") - len(self._data)
        return 1 << 20 if left > 1 << 16 else 1 << 16

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole now. ShimError EPROTO: not this protocol."""
        self._data += data
        found = []
        while len(self._data) >= HEADER.size:
            magic, op, seq, length, _, _, _ = HEADER.unpack_from(self._data)
            if magic != MAGIC or length > self.most:
                raise ShimError("BW0001", errno.EPROTO, "client: not a message of this protocol")
            end = HEADER.size + length
            if len(self._data) < end:
                break
            found.append(Message(op, seq, bytes(self._data[HEADER.size : end])))
            del self._data[:end]
        return found


def send(
    sock: socket.socket, op: int, seq: int, ret: int, payload: bytes = b"", action: int = 0,
    fds: list[int] | None = None,
) -> None:
    """One message, descriptors with its header. OSError if the client is gone."""
    header = HEADER.pack(MAGIC, op, seq, len(payload), ret, action, len(fds or []))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([header, payload], rights, socket.MSG_NOSIGNAL) - len(header)
    if sent < len(payload):
        sock.sendall((header + payload)[len(header) + sent :], socket.MSG_NOSIGNAL)


@dataclass(frozen=True, slots=True)
class Segment:
    """Memory that a pointer of the attr leads to. at: offset of the pointer. size: bytes there.
    error: 0 or EFAULT, E2BIG, when it could not be read."""

    index: int
    at: int
    out: bool
    size: int
    data: bytes
    error: int


class BpfRequest:
    """SHIM_OP_BPF taken apart."""

    def __init__(self, payload: bytes) -> None:
        self.cmd, self.size, nsegs, nrefs = _BPF_REQ.unpack_from(payload)
        at = _BPF_REQ.size
        sent = min(self.size, SIZE)
        self.attr = payload[at : at + sent]
        at += sent
        rows = [_SEG.unpack_from(payload, at + i * _SEG.size) for i in range(nsegs)]
        at += nsegs * _SEG.size
        refs = [_FD_REF.unpack_from(payload, at + i * _FD_REF.size) for i in range(nrefs)]
        at += nrefs * _FD_REF.size
        self.refs = {fd: (dev, ino) for fd, _, dev, ino in refs}
        self.modes: dict[int, int] = {fd: mode for fd, mode, _, _ in refs}
        self.segments: dict[int, Segment] = {}
        for index, (where, way, _, size, err, _) in enumerate(rows):
            taken = size if way & SEG_IN else 0
            data = payload[at : at + taken]
            self.segments[where] = Segment(index, where, bool(way & SEG_OUT), size, data, -err)
            at += taken

    def key(self, fd: int) -> tuple[int, int]:
        """(dev, ino) behind a descriptor of the client; (0, 0): not open."""
        return self.refs.get(fd, (0, 0))

    def mode(self, fd: int) -> int:
        """O_RDONLY, O_WRONLY or O_RDWR: what that descriptor may do."""
        return self.modes.get(fd, os.O_RDWR)

    def bytes_at(self, offset: int, missing: int = errno.EFAULT) -> bytes:
        """What the pointer at that attr offset leads to. NULL: `missing`; EFAULT, E2BIG."""
        seg = self.segments.get(offset)
        if seg is None:
            raise ShimError("BW0002", missing, "attr: a pointer is NULL")
        if seg.error:
            raise ShimError("BW0002", seg.error, "attr: a pointer leads nowhere")
        return seg.data

    def fault(self, offset: int) -> bool:
        """The pointer at that attr offset leads to memory that cannot be read, or is NULL."""
        seg = self.segments.get(offset)
        return seg is None or bool(seg.error)

    def room(self, offset: int) -> int:
        """Bytes that may be written through a pointer; 0: none."""
        seg = self.segments.get(offset)
        return seg.size if seg and seg.out else 0


@dataclass(slots=True)
class BpfReply:
    """What SHIM_OP_BPF answers. attr: (offset, bytes) to copy back. out: (attr offset of the
    pointer, offset behind it, bytes). fd: handed out, closed once it is sent. action: SHIM_ACT_*
    with its payload."""

    ret: int = 0
    attr: tuple[int, bytes] = (0, b"")
    out: list[tuple[int, int, bytes]] = field(default_factory=list)
    fd: int = -1
    action: int = 0
    payload: bytes = b""

    def put(self, request: BpfRequest, offset: int, data: bytes) -> None:
        """Writes back one more field: a reply has one range, which grows."""
        at, old = self.attr
        start, end = (min(at, offset), max(at + len(old), offset + len(data))) if old else (
            offset, offset + len(data))
        whole = bytearray(request.attr.ljust(SIZE, b"\0")[start:end])
        for where, content in ((at, old), (offset, data)):
            if content:
                whole[where - start : where - start + len(content)] = content
        self.attr = (start, bytes(whole))

    def pack(self, request: BpfRequest) -> bytes:
        offset, data = self.attr
        rows, tail = b"", b""
        for where, at, content in self.out:
            rows += _SEG_OUT.pack(request.segments[where].index, 0, at, len(content))
            tail += content
        head = _REPLY.pack(offset, len(data), len(self.out), 0)
        return head + data + rows + tail + self.payload
