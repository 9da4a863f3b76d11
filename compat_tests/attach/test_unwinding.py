"""What unwinds through probed functions sees and does the same as without probes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import HERE, Counter, Host, Victim
from compat_tests.victims import build
from libbpf_shim.elf.process import read_maps

FLAGS = ["-std=gnu++17", "-O2", "-g", "-Wall", "-Wextra", "-Wno-infinite-recursion", "-rdynamic",
         "-pthread"]
LIBUNWIND = ["-DWITH_LIBUNWIND", "-Wl,--no-as-needed"]
OWN = ("frames", "thrower", "again", "nested", "last", "middle", "first", "carried", "ending",
       "never")
OTHERS = {
    "libstdc++": ("__cxa_throw", "__cxa_rethrow", "__cxa_begin_catch", "__cxa_end_catch",
                  "__cxa_allocate_exception", "__gxx_personality_v0"),
    "libgcc_s": ("_Unwind_RaiseException", "_Unwind_Resume", "_Unwind_Backtrace",
                 "_Unwind_ForcedUnwind", "_Unwind_Resume_or_Rethrow", "_Unwind_DeleteException"),
    "libc.so": ("backtrace", "dl_iterate_phdr", "pthread_exit", "pthread_cancel", "fork", "malloc",
                "free"),
}
Start = Callable[..., Victim]


def built(*flags: str) -> Path:
    """The program, with more flags if any."""
    return build.make("unwinding", [HERE / "unwinding.cpp"], [*FLAGS, *flags], compiler="g++",
                      tail=["-lunwind"] if flags else [])


@pytest.fixture
def begin(host: Host, runtime_dir: Path) -> Iterator[Callable[..., Victim]]:
    """Starts the program, built with more flags if any."""
    started: list[tuple[Victim, Path]] = []

    def make(*flags: str) -> Victim:
        folder = build.private_copy({"unwinding": built(*flags)})
        started.append((Victim(folder / "unwinding", runtime_dir, host), folder))
        return started[-1][0]

    yield make
    try:
        for victim, _ in started:
            victim.end()
    finally:
        for victim, folder in started:
            victim.kill()
            shutil.rmtree(folder)


class Plain(Victim):
    """The program as it runs without the shim."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.pid = self.process.pid
        assert self.answer() == "ready"


def round_of(victim: Victim) -> list[str]:
    """What it prints, to the line that ends a round."""
    victim.tell("go")
    lines: list[str] = []
    assert victim.process.stdout
    while not lines or lines[-1] not in ("end", ""):
        lines.append(victim.process.stdout.readline().strip())
    return lines


def lives(program: Path) -> bool:
    """It goes through a round without the shim; libunwind 1.8's ends at a pthread_exit()."""
    alone = Plain(program)
    try:
        return round_of(alone)[-1] == "end"
    finally:
        alone.kill()


def library(victim: Victim, name: str) -> Path:
    return next(Path(m.path) for m in read_maps(victim.pid) if name in m.path)


def attach_all(
    host: Host, victim: Victim, ret: bool, others: bool = True
) -> dict[str, Counter]:
    program = library(victim, "unwinding")
    counters = {name: host.attach(program, name, ret=ret, pid=victim.pid)[1] for name in OWN}
    for part, names in OTHERS.items() if others else ():
        for name in names:
            host.attach(library(victim, part), name, ret=ret, pid=victim.pid)
    return counters


def detach_all(host: Host) -> None:
    for att in list(host.delivery.attachments):
        host.detach(att)


def test_exceptions_backtraces_and_ends_of_threads_are_the_same(
    host: Host, begin: Start
) -> None:
    victim = begin()
    first = round_of(victim)
    assert "main" in first[1] and "caught outer of thrown" in first and "terminate" in first
    entered = attach_all(host, victim, ret=False)
    left = attach_all(host, victim, ret=True)
    assert round_of(victim) == first
    hits = {name: (entered[name].hits, left[name].hits) for name in OWN}
    # no return is seen of what is left by an exception; tail calls return together
    assert hits == {
        "frames": (7, 7), "thrower": (4 + 3, 0), "again": (1, 0), "nested": (1, 0),
        "carried": (1, 1), "ending": (8, 0), "never": (0, 0),
        "first": (2, 1), "middle": (2, 1), "last": (2, 1),
    }
    assert round_of(victim) == first
    detach_all(host)
    assert round_of(victim) == first
    assert host.notices == []


def test_where_libunwind_is_the_unwinder_return_addresses_stay(host: Host, begin: Start) -> None:
    if not list(Path("/usr/include").glob("**/libunwind.h")):
        pytest.skip("libunwind-dev is not installed")
    if not lives(built(*LIBUNWIND)):
        pytest.skip("with this libunwind the program does not live without the shim either")
    victim = begin(*LIBUNWIND)
    first = round_of(victim)
    assert "main after 7 of stepped" in first and "caught outer of thrown" in first
    left = attach_all(host, victim, ret=True, others=False)
    stepped = host.attach(library(victim, "unwinding"), "stepped", ret=True, pid=victim.pid)[1]
    assert round_of(victim) == first
    assert (left["frames"].hits, stepped.hits) == (7, 7)
    assert [left[name].hits for name in ("first", "middle", "last")] == [1, 1, 1]
    detach_all(host)
    assert round_of(victim) == first


def test_an_agent_that_came_later_leaves_return_addresses_alone(
    host: Host, runtime_dir: Path
) -> None:
    folder = build.private_copy({"unwinding": built()})
    victim = Plain(folder / "unwinding")
    try:
        first = round_of(victim)
        left = attach_all(host, victim, ret=True, others=False)
        assert round_of(victim) == first
        assert (left["frames"].hits, left["carried"].hits) == (7, 1)
        assert [left[name].hits for name in ("first", "middle", "last")] == [1, 1, 1]
        detach_all(host)
        assert round_of(victim) == first
        victim.end()
    finally:
        victim.kill()
        shutil.rmtree(folder)


def test_a_debugger_sees_through_slots(host: Host, begin: Start) -> None:
    if not shutil.which("gdb"):
        pytest.skip("gdb is not installed")
    victim = begin()
    _, left = host.attach(library(victim, "unwinding"), "held", ret=True, pid=victim.pid)
    assert victim.say("hold") == "holding"
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-p", str(victim.pid), "-ex", "bt"], capture_output=True,
        text=True, timeout=60)
    frames = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert sum(" held (" in frame for frame in frames) == 7, done.stdout
    assert " main (" in frames[-1], done.stdout
    assert victim.say("go on") == "held 7"
    assert left.hits == 7
