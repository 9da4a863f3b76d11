"""Who comes to a session's socket is looked at without being read or waited for. The sockets have
timeouts, as those of the backend do: waiting for one of them would take an hour."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator

import pytest

from libbpf_shim.attach.door import HEADER, HELLO_AGENT, ready
from libbpf_shim.backend.client import Client

MAGIC = 0x5742  # SHIM_WIRE_MAGIC
STATUS = 7


@pytest.fixture
def pair() -> Iterator[tuple[Client, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(3600)
        yield Client(ours), theirs


def message(op: int, payload: bytes) -> bytes:
    return HEADER.pack(MAGIC, op, 0, len(payload), 0, 0, 0) + payload


@pytest.mark.parametrize("said", [
    pytest.param(b"", id="nothing"),
    pytest.param(message(HELLO_AGENT, b"hello")[:7], id="half a header"),
    pytest.param(message(HELLO_AGENT, b"hello")[:-1], id="half a hello"),
    pytest.param(message(STATUS, b""), id="something else"),
])
def test_who_is_no_agent_yet_is_not_waited_for_and_loses_nothing(
    pair: tuple[Client, socket.socket], said: bytes
) -> None:
    client, theirs = pair
    theirs.sendall(said)
    assert client.agent() is None
    assert not said or client.sock.recv(64) == said


def test_a_hello_is_taken_and_what_follows_stays(pair: tuple[Client, socket.socket]) -> None:
    client, theirs = pair
    hello = message(HELLO_AGENT, b"hello")
    theirs.sendall(hello[:-2])
    assert client.agent() is None
    theirs.sendall(hello[-2:] + b"more")
    assert client.agent() == b"hello"
    assert client.sock.recv(64) == b"more"


def test_who_has_gone_is_no_agent(pair: tuple[Client, socket.socket]) -> None:
    client, theirs = pair
    theirs.close()
    assert client.agent() is None


def test_descriptors_may_have_any_number(pair: tuple[Client, socket.socket]) -> None:
    """select(2) ends at 1023; a backend has one for each map and program, and more."""
    client, theirs = pair
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        high = [client.sock.dup()]
        while high[-1].fileno() < 1100:
            high.append(client.sock.dup())
        assert ready(high, 0) == []
        theirs.sendall(b"x")
        assert ready(high, 0) == high
        for sock in high:
            sock.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
