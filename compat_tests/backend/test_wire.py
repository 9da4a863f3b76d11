"""Messages cut from a stream, requests taken apart, replies put together."""

from __future__ import annotations

import os
import socket
import struct
import threading

import pytest

from libbpf_shim.backend import wire
from libbpf_shim.backend.wire import HEADER, MAGIC, SEG_IN, SEG_OUT, BpfReply, BpfRequest, Inbox
from libbpf_shim.errors import ShimError


def message(op: int, payload: bytes, magic: int = MAGIC) -> bytes:
    return HEADER.pack(magic, op, 7, len(payload), 0, 0, 0) + payload


def test_messages_arrive_in_any_pieces() -> None:
    inbox, stream, found = Inbox(), message(2, b"one") + message(3, b""), []
    for byte in stream:
        found += inbox.feed(bytes([byte]))
    assert [(m.op, m.seq, m.payload) for m in found] == [(2, 7, b"one"), (3, 7, b"")]


@pytest.mark.parametrize("data", [message(2, b"", magic=1),
                                  HEADER.pack(MAGIC, 2, 0, 1 << 30, 0, 0, 0)])
def test_another_protocol_is_refused(data: bytes) -> None:
    with pytest.raises(ShimError):
        Inbox().feed(data)


def request(*segs: tuple[int, int, int, int, bytes]) -> BpfRequest:
    attr = bytes(32)
    rows = b"".join(struct.pack("<IIQQii", at, way, 0x1000, size, err, 0)
                    for at, way, size, err, _ in segs)
    ref = struct.pack("<iIQQ", 5, 0, 11, 12)
    return BpfRequest(struct.pack("<IIII", 5, 32, len(segs), 1) + attr + rows + ref
                      + b"".join(s[4] for s in segs))


def test_a_segment_is_found_by_its_pointer() -> None:
    asked = request((8, SEG_IN, 3, 0, b"abc"), (16, SEG_OUT, 64, 0, b""))
    assert asked.bytes_at(8) == b"abc"
    assert (asked.room(16), asked.room(8), asked.room(99)) == (64, 0, 0)
    assert (asked.key(5), asked.key(6)) == ((11, 12), (0, 0))


def test_memory_that_could_not_be_read_is_its_errno() -> None:
    with pytest.raises(ShimError) as caught:
        request((8, SEG_IN, 0, -14, b"")).bytes_at(8)
    assert caught.value.errno == 14


def test_a_reply_names_segments_by_index() -> None:
    asked = request((8, SEG_IN, 3, 0, b"abc"), (16, SEG_OUT, 64, 0, b""))
    data = BpfReply(attr=(4, b"\1\2"), out=[(16, 2, b"log")], payload=b"act").pack(asked)
    assert struct.unpack_from("<IIII", data) == (4, 2, 1, 0)
    assert struct.unpack_from("<IIQQ", data, 18) == (1, 0, 2, 3)
    assert data[-6:] == b"logact"


def test_a_reply_that_is_larger_than_a_socket_arrives_whole() -> None:
    ours, theirs = socket.socketpair()
    payload, got = os.urandom(3 << 20), bytearray()

    def read() -> None:
        while data := theirs.recv(1 << 16):
            got.extend(data)

    with theirs:
        thread = threading.Thread(target=read)
        thread.start()
        with ours:
            ours.settimeout(60)
            wire.send(ours, wire.NOTICE, 7, 0, payload)
        thread.join(60)
    assert wire.HEADER.unpack_from(got)[:4] == (wire.MAGIC, wire.NOTICE, 7, len(payload))
    assert got[wire.HEADER.size :] == payload
