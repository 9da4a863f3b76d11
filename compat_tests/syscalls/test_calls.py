"""Every system call of a watched process does what it does unwatched, and is counted once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.attach.host import Host, Victim, eventually, serving
from libbpf_shim.elf.process import read_maps

Start = Callable[..., Victim]

TESTS = ["sites", "jumps", "entry", "numbers", "cancel", "backtrace", "interrupted", "stopped",
         "clone", "forks", "exec", "threads", "signals", "dlopen", "mapped"]
GETPID = 39


def ran(victim: Victim, test: str, times: int, *hosts: Host) -> None:
    with serving(*hosts):
        assert victim.say(f"{test} {times}") == f"ran {test}"


def text(victim: Victim, name: str) -> bytes:
    """The code of a module as it stands in the process."""
    found = [m for m in read_maps(victim.pid) if name in m.path and "x" in m.perms]
    with open(f"/proc/{victim.pid}/mem", "rb") as memory:
        parts = []
        for m in found:
            memory.seek(m.start)
            parts.append(memory.read(m.end - m.start))
    return b"".join(parts)


@pytest.mark.parametrize("test", TESTS)
def test_a_watched_process_does_what_it_does_unwatched(
    host: Host, start: Start, test: str
) -> None:
    host.watch(lib.SHIM_EVENT_ALL_ENTER)
    host.watch(lib.SHIM_EVENT_ALL_EXIT)
    ran(start(host), test, 3, host)
    assert host.notices == []


def sides(host: Host, nr: int) -> tuple[Callable[[], tuple[int, int]], Callable[[], None]]:
    """Hits of a call's entry and exit so far, and the end of that."""
    enter, entered = host.watch(lib.SHIM_EVENT_SYS_ENTER + nr)
    leave, left = host.watch(lib.SHIM_EVENT_SYS_EXIT + nr)

    def end() -> None:
        host.detach(enter)
        host.detach(leave)

    return lambda: (entered.hits, left.hits), end


def restored(host: Host, what: Callable[[], bool]) -> None:
    """A process that could not be stopped at once is visited again."""

    def look() -> bool:
        host.delivery.tidy()
        return what()

    eventually(look)


# by test: number of a call, how often one round makes it and how often that is left
COUNTS = [
    ("sites", GETPID, 16, 16),  # eight sites, and libc's own before each comparison
    ("jumps", GETPID, 0, 0),  # what follows a call is come to by another way
    ("threads", 110, 800, 800),  # getppid
    ("numbers", 3, 2, 2),  # close
    ("numbers", GETPID, 2, 2),
    ("forks", 56, 10, 20),  # clone: left by both
    ("clone", 56, 3, 6),  # children that share memory count in the same place
    ("clone", 435, 1, 2),  # clone3
    ("clone", 58, 1, 2),  # vfork
    ("clone", 57, 1, 2),  # fork by number
    ("dlopen", GETPID, 10, 10),  # five in the library, five in libc
    ("mapped", GETPID, 6, 6),
    ("exec", 59, 4, 4),  # one fails, three are left in the new image
]


@pytest.mark.parametrize(("test", "nr", "entered", "left"), COUNTS)
@pytest.mark.parametrize("when", ["before", "live"])
def test_each_call_is_counted_once_on_each_side(
    host: Host, start: Start, when: str, test: str, nr: int, entered: int, left: int
) -> None:
    if when == "before":
        hits, _ = sides(host, nr)
        victim = start(host)
    else:
        victim = start(host)
        hits, _ = sides(host, nr)
    ran(victim, test, 3, host)
    assert hits() == (3 * entered, 3 * left)


def test_a_detached_process_has_its_own_bytes(host: Host, start: Start) -> None:
    victim = start(host)
    names = ("libc.so", "ld-linux", "caller", "libbpf_shim")
    before = [text(victim, name) for name in names]
    for _ in range(2):
        ran(victim, "busy", 3)
        hits, end = sides(host, 3)
        ran(victim, "sites", 3, host)
        assert any(text(victim, name) != b for name, b in zip(names, before, strict=True))
        end()
        restored(host, lambda: [text(victim, n) for n in names] == before)
        ran(victim, "busy", 3)  # the threads that there were have ended, and the runs they were in
        entered, left = hits()
        assert entered > 0 and left > 0
        ran(victim, "sites", 3)
        ran(victim, "busy", 0)
        assert hits() == (entered, left)


@pytest.mark.parametrize("order", ["calls first", "function first"])
def test_a_function_that_begins_with_a_call_is_probed_too(
    host: Host, start: Start, program: Path, order: str
) -> None:
    """The one jump takes the place of the other; that call's entry is not seen meanwhile."""
    victim = start(host)
    before = text(victim, "caller")
    if order == "calls first":
        hits, end = sides(host, GETPID)
        att, counter = host.attach(program, "entry_call")
    else:
        att, counter = host.attach(program, "entry_call")
        hits, end = sides(host, GETPID)
    ran(victim, "entry", 3, host)
    assert counter.hits == 15
    assert hits() == (15, 30)
    host.detach(att)
    ran(victim, "entry", 3, host)
    assert counter.hits == 15
    assert hits() == (30, 60)
    end()
    restored(host, lambda: text(victim, "caller") == before)
    ran(victim, "entry", 3)
