"""Verification in workers: who waits for it, who does not, what a death leaves."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libbpf_shim.client.session import Command, Session
from libbpf_shim.uapi.bpf import bpf_cmd

SMALL = "b700000000000000" "9500000000000000"
# r1 counts: a million instructions are met before the loop ends
ENDLESS = "b701000000000000" "0701000001000000" "a501feff00000070" + SMALL


@pytest.fixture
def sessions() -> Iterator[tuple[Session, Session]]:
    """Two loaders of one session."""
    with tempfile.TemporaryDirectory(prefix="workers-", dir="/tmp") as folder, \
            pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        one = Session(private=True)
        two = Session.of(Path(one.folder))
        yield one, two
        pid = backend(two)
        one.close()
        two.close()
        eventually(lambda: not alive(pid))


def backend(session: Session) -> int:
    """The pid of the session's backend."""
    sock: socket.socket = session._sock
    cred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", cred)[0])


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def workers(session: Session) -> list[int]:
    """Those of the session's backend."""
    found, parent = [], backend(session)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            line = stat.with_name("cmdline").read_bytes()
            if int(fields[1]) == parent and fields[0] != "Z" and b"backend.workers" in line:
                found.append(int(stat.parent.name))
    return found


def eventually(what: Callable[[], object], limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def load(session: Session, code: str, map_fd: int = -1) -> int:
    """PROG_LOAD: a descriptor, or a negative errno."""
    insns = bytes.fromhex(code)
    command = Command(bpf_cmd.BPF_PROG_LOAD, "prog_load", prog_type=1, insn_cnt=len(insns) // 8)
    if map_fd >= 0:
        ld_map = bytes([0x18, 0x12, 0, 0]) + map_fd.to_bytes(4, "little") + bytes(8)
        insns = ld_map + insns
        command.put("insn_cnt", len(insns) // 8)
        command.refs.append(map_fd)
    command.give("insns", insns)
    command.give("license", b"GPL\0")
    reply = session.bpf(command)
    return reply.fd if reply.ret >= 0 else reply.ret


def new_map(session: Session) -> int:
    command = Command(bpf_cmd.BPF_MAP_CREATE, "map_create", map_type=2, key_size=4, value_size=8,
                      max_entries=1)
    return session.must(command, "map").fd


def maps(session: Session) -> int:
    """How many there are."""
    count = number = 0
    while True:
        command = Command(bpf_cmd.BPF_MAP_GET_NEXT_ID, "by_id", start_id=number)
        if session.bpf(command).ret < 0:
            return count
        number, count = command.field("next_id"), count + 1


class Loading(threading.Thread):
    """A PROG_LOAD under way."""

    def __init__(self, session: Session, map_fd: int = -1) -> None:
        super().__init__(daemon=True)
        self.session, self.map_fd = session, map_fd
        self.result: int | None = None
        self.start()

    def run(self) -> None:
        with contextlib.suppress(Exception):  # a connection that is closed meanwhile
            self.result = load(self.session, ENDLESS, self.map_fd)


def test_others_are_answered_while_a_program_is_judged(sessions: tuple[Session, Session]) -> None:
    slow, quick = sessions
    loading = Loading(slow)
    eventually(lambda: workers(quick))
    (worker,) = workers(quick)
    os.kill(worker, signal.SIGSTOP)  # however quick it is
    for _ in range(20):
        os.close(load(quick, SMALL))
    assert loading.result is None
    os.kill(worker, signal.SIGCONT)
    loading.join(120)
    assert loading.result == -errno.E2BIG


def test_a_worker_that_dies_is_an_errno_for_its_load(sessions: tuple[Session, Session]) -> None:
    slow, quick = sessions
    loading = Loading(slow)
    eventually(lambda: workers(quick))
    os.kill(workers(quick)[0], signal.SIGKILL)
    loading.join(60)
    assert loading.result == -errno.ENOMEM
    os.close(load(slow, SMALL))


def test_a_loader_that_goes_takes_its_worker_and_its_maps_along(
    sessions: tuple[Session, Session],
) -> None:
    slow, quick = sessions
    fd = new_map(slow)
    Loading(slow, fd)
    eventually(lambda: workers(quick))
    os.close(fd)
    assert maps(quick) == 1  # the program that is not one yet has it
    slow._sock.shutdown(socket.SHUT_RDWR)
    eventually(lambda: not workers(quick))
    eventually(lambda: not maps(quick))


def test_a_backend_that_is_killed_leaves_no_worker(sessions: tuple[Session, Session]) -> None:
    slow, quick = sessions
    Loading(slow)
    eventually(lambda: workers(quick))
    (worker,) = workers(quick)
    os.kill(backend(quick), signal.SIGKILL)
    eventually(lambda: not alive(worker))
