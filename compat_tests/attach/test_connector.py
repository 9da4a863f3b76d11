"""The kernel's word on execs: a program that is executed is told of, and a tool's session listens
while it wants to know; what pyroute2 reads of the same group is the same."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
import time
from collections.abc import Iterator

import pytest
from pyroute2.netlink.connector.cn_proc import ProcEventSocket

from compat_tests.clients.tool import SHIM, Terminal
from compat_tests.guard import launch
from libbpf_shim.attach import connector
from libbpf_shim.attach.connector import Connector
from libbpf_shim.cli.sessions import ask
from libbpf_shim.elf.module import Module

LIMIT = 20.0  # seconds for what must happen
WHY = connector.reason(LIMIT)
pytestmark = pytest.mark.skipif(bool(WHY), reason=f"process connector: {WHY}")


@pytest.fixture
def ear() -> Iterator[Connector]:
    made = Connector()
    while not made.heard:
        told(made)
    yield made
    made.close()


def told(ear: Connector) -> list[int]:
    assert select.select([ear], [], [], LIMIT)[0], f"nothing is told within {LIMIT} s"
    return ear.execs()


def test_an_exec_is_told_once_and_by_the_process_number(ear: Connector) -> None:
    child = subprocess.Popen(["/bin/sh", "-c", "exec /bin/true"])
    child.wait()
    seen: list[int] = []
    with subprocess.Popen(["/bin/true"]) as last:
        while last.pid not in seen:
            seen += told(ear)
    assert seen.count(child.pid) in (1, 2)  # two execs; in one look they are one process
    assert os.getpid() not in seen


def test_pyroute2_reads_the_same(ear: Connector) -> None:
    with ProcEventSocket() as theirs:
        theirs.bind()
        theirs.control(True)
        while True:
            ear.execs()
            child = subprocess.Popen(["/bin/true"])
            child.wait()
            if execs := read(theirs, child.pid):
                break
        seen: list[int] = []
        while child.pid not in seen:
            seen += told(ear)
    assert execs.count(child.pid) == 1


def read(theirs: ProcEventSocket, pid: int) -> list[int]:
    """Execs up to that process's; nothing where the socket, which hears of all forks and ends too,
    has lost some."""
    execs: list[int] = []
    while pid not in execs:
        try:
            events = list(theirs.get(msg_seq=-1))
        except OSError as error:
            assert error.errno == errno.ENOBUFS
            return []
        execs += [e["process_tgid"] for e in events if e["event"] == "PROC_EVENT_EXEC"]
    return execs


def test_a_session_listens_as_long_as_somebody_asks_for_newcomers() -> None:
    program = 'uprobe:/bin/true:0x{:x} {{ @ = count(); }} BEGIN {{ printf("READY\\n"); }}'
    with Terminal(SHIM.tool(["bpftrace", "--unsafe", "-e", program.format(entry())])) as tool:
        tool.until(b"READY")
        end = time.monotonic() + LIMIT
        while "told" not in (ways := listening()):
            assert time.monotonic() < end, ways
            time.sleep(0.02)  # between two looks, under the deadline above
        tool.interrupt()


def entry() -> int:
    """Where /bin/true begins."""
    return int(Module("/bin/true").entry)


def listening() -> list[object]:
    """How the user's sessions find newcomers."""
    found: list[object] = []
    for sock in (launch.RUN_DIR / "sessions").glob("*/sock"):
        with contextlib.suppress(OSError, ValueError):
            found.append(ask(sock).get("newcomers"))
    return found
