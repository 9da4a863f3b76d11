"""A process that begins comes by itself; visits that meet it then neither hurt it nor undo what it
has put there, and what a visit has left half done is made again."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.attach.host import LIBRARY, LIMIT, Host, Victim, serve
from compat_tests.victims import build
from libbpf_shim.attach import visits
from libbpf_shim.errors import ShimError

Start = Callable[..., Victim]

ONE, SEVERAL = "one", "several"  # windows of one instruction, and of three


@contextlib.contextmanager
def _held(
    start: Start, folder: Path
) -> Iterator[tuple[int, Callable[[], None], concurrent.futures.Future[Victim]]]:
    """A process that stands in a constructor before its agent's, until it is let go: its number,
    what lets it go, and the victim, which is at its main at the end."""
    fifo, told = folder / "fifo", folder / "pid"
    os.mkfifo(fifo)
    source = folder / "stands.c"
    source.write_text(
        "#include <fcntl.h>\n#include <stdio.h>\n#include <unistd.h>\n"
        "__attribute__((constructor)) static void stands(void)\n{\n"
        f'\tchar c;\n\tint fd = open("{told}", O_CREAT | O_WRONLY, 0600);\n'
        '\tdprintf(fd, "%d", getpid());\n\tclose(fd);\n'
        f'\tfd = open("{fifo}", O_RDONLY);\n\twhile (read(fd, &c, 1) < 0)\n\t\t;\n'
        "\tclose(fd);\n}\n")
    stands = build.make("libstands.so", [source], [*build.VICTIM_FLAGS, "-shared", "-fPIC"])
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        begun = beside.submit(start, preload=f"{LIBRARY}:{stands}")
        hold = os.open(fifo, os.O_WRONLY)  # it has come to read
        open_ends = [hold]
        try:
            yield int(told.read_text()), lambda: os.close(open_ends.pop()), begun
        finally:
            for fd in open_ends:
                os.close(fd)
        begun.result(LIMIT)


def test_a_process_whose_agent_has_not_begun_is_left_to_it(
    host: Host, start: Start, program: Path, tmp_path: Path
) -> None:
    with _held(start, tmp_path) as (pid, let_go, victim):
        _, counter = host.attach(program, SEVERAL)
        assert (host.notices, host.delivery.processes()) == ([], [])
        let_go()
        serve(host, reason=lib.SHIM_SYNC_START)
        (row,) = host.delivery.processes()
        assert (row["pid"], row["refused"]) == (pid, [])
    victim.result().run(50)
    assert (counter.hits, host.notices) == (50, [])


def test_what_a_process_has_put_there_is_not_taken_back_by_a_visit_that_fails(
    host: Host, start: Start, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _held(start, tmp_path) as (pid, let_go, victim):
        held = [let_go]

        def overtaken(*_: object) -> None:
            while held:
                held.pop()()
            raise ShimError("TT0001", errno.EAGAIN, "keeper: something stands in the way")

        monkeypatch.setattr(host.delivery.visits, "transaction", overtaken)
        _, counter = host.attach(program, ONE, pid=pid)
    victim.result().run(50)
    assert (counter.hits, host.notices) == (50, [])


def test_a_link_of_a_place_that_nobody_has_patched_is_made_again(
    host: Host, start: Start, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ShimError("TT0001", errno.EPROTO, "keeper: it has died, and a backend with it")

    victim = start(host)
    with monkeypatch.context() as broken:
        broken.setattr(visits, "_finish", fails)
        broken.setattr(visits.Visits, "_forget", lambda *_: None)
        _, counter = host.attach(program, SEVERAL)
    assert len(host.notices) == 1
    victim.run(10)
    assert counter.hits == 0
    host.delivery.talks.processes.clear()
    host.delivery.newcomers.due = 0.0
    host.delivery.tidy()
    victim.run(10)
    assert (counter.hits, len(host.notices)) == (10, 1)
