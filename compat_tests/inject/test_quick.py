"""Reads that may fault (LIBBPF_SHIM_QUICK_READS): what is read is right, nobody dies of it, and
what the process asks for about its signals is as if there were nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, Session
from compat_tests.inject.targets import FLAGS, HERE, LIMIT, Target
from compat_tests.inject.test_live import Reads, nothing_left
from compat_tests.victims import build

pytestmark = pytest.mark.timeout(180)
# asked of a backend as it starts, so not of one that another tool has started
QUICK = ["LIBBPF_SHIM_QUICK_READS=1", "LIBBPF_SHIM_SESSION=private"]
OURS = 1 << signal.SIGSEGV - 1 | 1 << signal.SIGBUS - 1


@pytest.fixture
def program() -> Iterator[Path]:
    folder = build.private_copy({
        "quick": build.make("quick", [HERE / "quick.c", HERE / "masks.c"], [*FLAGS, "-ldl"],
                            headers=[HERE / "masks.h"]),
        "calls.so": build.make("calls.so", [HERE / "calls.c"], ["-shared", "-fPIC"])})
    yield folder / "quick"
    shutil.rmtree(folder)


def caught(target: Target) -> int:
    """Those of the two signals that have a handler."""
    (line,) = (text for text in Path(f"/proc/{target.pid}/status").read_text().splitlines()
               if text.startswith("SigCgt:"))
    return int(line.split()[1], 16) & OURS


def becomes_quick(target: Target) -> int:
    """How many looks that took."""
    looks, end = 0, time.monotonic() + LIMIT
    while caught(target) != OURS:
        assert time.monotonic() < end, "no handler has come"
        looks += target._ask(b"x")
    # it is believed once it has stood for 20 ms
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        looks += target._ask(b"x")
    return looks


def right(loader: Reads, looks: int) -> None:
    hits, refused, read, wrong = loader.counters()
    assert (hits, wrong) == (looks, 0)
    assert refused == looks * 3 // 8 and read == looks * 5 // 8


@pytest.mark.parametrize("library, cycles", [
    (False, 1), pytest.param(True, 1, marks=pytest.mark.long),
    pytest.param(False, 20, marks=pytest.mark.long)])
def test_threads_handlers_and_children_are_read_and_live(
    library: bool, cycles: int, program: Path
) -> None:
    argv = SHIM.target([str(program)]) if library else [str(program)]
    with Target(argv, guarded=not library) as target:
        for _ in range(cycles):
            with Reads(program, "seen", "stacks", variables=QUICK) as loader:
                looks = becomes_quick(target)
                looks += sum(target._ask(what) for what in (b"t", b"b", b"h", b"d", b"c", b"x"))
                right(loader, looks)
                assert caught(target) == OURS
                loader.finish()
            if not library:
                nothing_left(target)
            gone(target)
        target.works()
        target.end()


@pytest.mark.parametrize("library", [False, True])
def test_masks_that_change_in_any_way_are_met(library: bool, program: Path) -> None:
    """What is known of a mask is known no more: a fault would be the end."""
    argv = SHIM.target([str(program)]) if library else [str(program)]
    with Target(argv, guarded=not library) as target, \
            Reads(program, "seen", "stacks", variables=QUICK) as loader:
        looks = becomes_quick(target) + target._ask(b"m") + target._ask(b"m")
        right(loader, looks)
        assert caught(target) == OURS
        loader.finish()


# calls of masks.c while it is asked once: rounds, threads, how often in one
CALLS = {"ppoll": 3 * 4 * 2, "pselect6": 3 * 4 * 2, "epoll_pwait": 3 * 4 * 2,
         "rt_sigsuspend": 3 * 4 * 4, "epoll_pwait2": 3 * 4 * 2}


@pytest.mark.parametrize("session", ["shared", "private"])
def test_calls_that_change_masks_are_all_counted_by_another_tool(
    session: str, program: Path
) -> None:
    """It comes while sites of ours stand there: they give way, or it is told as of another's."""
    variables = QUICK if session == "private" else []
    with Target([str(program)], guarded=True) as target, \
            Reads(program, "seen", "stacks", variables=variables) as loader:
        looks = becomes_quick(target)
        probes = " ".join(f"tracepoint:syscalls:sys_enter_{name} /pid == {target.pid}/ "
                          f"{{ @{name} = count(); }}" for name in CALLS)
        argv = SHIM.tool(["bpftrace", "-e", f"BEGIN {{ printf(\"ready\\n\"); }} {probes}"])
        with Session(argv) as tool:
            tool.until(b"ready\n")
            looks += target._ask(b"m")
            os.kill(tool.child.pid, signal.SIGINT)
            tool.child.wait(LIMIT)
            tool.seen += tool.child.stdout.read() if tool.child.stdout else b""
        counted = {name.decode(): int(n) for name, n in
                   re.findall(rb"@(\w+): (\d+)", tool.seen)}
        looks += target._ask(b"m")
        right(loader, looks)
        loader.finish()
    assert counted == CALLS


def gone(target: Target) -> None:
    end = time.monotonic() + LIMIT
    while caught(target):
        assert time.monotonic() < end, "the handler has stayed"
        time.sleep(0.02)  # between two looks, under the deadline above


def test_who_asks_for_the_signal_has_it_as_if_there_were_nothing(program: Path) -> None:
    """It repairs faults, leaves them by jumps, ignores them; in the middle of it all."""
    with Target([str(program)], guarded=True) as target:
        with Reads(program, "seen", "stacks", variables=QUICK) as loader:
            looks = becomes_quick(target) + target._ask(b"o")
            assert not caught(target)
            looks += sum(target._ask(what) for what in (b"t", b"b", b"h", b"c"))
            right(loader, looks)
            assert not caught(target)
            loader.finish()
        nothing_left(target)
        target.end()


@pytest.mark.parametrize("times", [2, pytest.param(60, marks=pytest.mark.long)])
def test_the_signal_is_asked_for_while_others_read(times: int, program: Path) -> None:
    """In processes that come after the tool."""
    with Reads(program, "seen", "stacks", variables=QUICK) as loader:
        for _ in range(times):
            with Target([str(program)], guarded=True) as target:
                becomes_quick(target)
                before = loader.counters()
                looks = target._ask(b"r")
                assert not caught(target)
                looks += target._ask(b"x")
                target.end()
            hits, refused, read, wrong = (
                now - then for now, then in zip(loader.counters(), before, strict=True))
            assert (hits, wrong) == (looks, 0)
            assert refused == looks * 3 // 8 and read == looks * 5 // 8
        loader.finish()


@pytest.mark.parametrize("what, why", [
    (b"f", signal.SIGSEGV), pytest.param(b"k", signal.SIGBUS, marks=pytest.mark.long),
    (b"a", signal.SIGBUS), pytest.param(b"p", signal.SIGSEGV, marks=pytest.mark.long)])
def test_its_own_fault_ends_it(what: bytes, why: int, program: Path) -> None:
    """k: sent; a: of a page that it does not read (BUS_MCEERR_AO); p: made up by itself."""
    with Target([str(program)], guarded=True) as target, \
            Reads(program, "seen", "stacks", variables=QUICK) as loader:
        becomes_quick(target)
        with pytest.raises(AssertionError, match=f"ended with -{why}"):
            target._ask(what)
        loader.finish()


def test_a_module_that_makes_calls_of_its_own_ends_it(program: Path) -> None:
    """Nobody would see it ask for a signal."""
    with Target([str(program), str(program.with_name("calls.so"))], guarded=True) as target, \
            Reads(program, "seen", "stacks", variables=QUICK) as loader:
        looks = becomes_quick(target) + target._ask(b"l")
        assert not caught(target)
        looks += target._ask(b"t")
        right(loader, looks)
        loader.finish()
