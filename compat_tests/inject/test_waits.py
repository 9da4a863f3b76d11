"""System calls that wait go on over a visit, and a signal that comes meanwhile still ends them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.inject.targets import HERE, LIMIT, Target
from compat_tests.victims import build
from libbpf_shim.attach.inject import inject
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.errors import ShimError

SOURCE = HERE / "waits.c"
KINDS = re.findall(r'^\t\{ "([=a-z_0-9]+)", (?:SYS_|441)', SOURCE.read_text(), re.M)
VISITS = 5
RESTART = "219"  # how the kernel goes on with poll and futex
IGNORED = (signal.SIGCHLD, signal.SIGWINCH)  # without a handler
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper()
    yield made
    made.close()


def has_io_uring() -> bool:
    """The machine lets a process have one."""
    switch = Path("/proc/sys/kernel/io_uring_disabled")
    return not switch.exists() or switch.read_text().strip() == "0"


class Waits(Target):
    """waits.c: its threads by kind, each in its call."""

    def __init__(self, *kinds: str) -> None:
        if not has_io_uring():
            kinds = tuple(kind for kind in kinds if kind != "io_uring_enter")
        program = build.make("waits", [SOURCE], [*build.WARN, "-O1", "-pthread"])
        super().__init__([str(program), *kinds])
        words = (word.split(":") for word in self.words)
        self.calls = {kind: (int(tid), number) for kind, tid, number in words}
        self.wait()

    def __enter__(self) -> Waits:
        return self

    def wait(self) -> None:
        """Until each thread is in its call."""
        end = time.monotonic() + LIMIT
        for kind, (tid, number) in self.calls.items():
            task = Path(f"/proc/{self.pid}/task/{tid}")
            while (task / "syscall").read_text().split()[0] not in (number, RESTART):
                assert time.monotonic() < end, f"{kind} does not wait"

    def signal(self, number: int) -> None:
        """To each thread."""
        for tid, _ in self.calls.values():
            assert _libc.tgkill(self.pid, tid, number) == 0, os.strerror(ctypes.get_errno())

    def results(self) -> dict[str, tuple[int, int]]:
        """What the calls gave, once all that they wait for has come, and how many signals were
        handled."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        lines = [line.decode().split() for line in self.process.stdout]
        assert self.process.wait(LIMIT) == 0
        return {kind: (int(result), int(handled)) for kind, result, handled in lines}


def test_calls_go_on_over_visits(keeper: Keeper) -> None:
    with Waits(*KINDS) as target:
        for visit in range(VISITS):
            keeper.stop(target.pid)
            if visit % 2:
                for number in IGNORED:
                    target.signal(number)
            keeper.release(target.pid)
            target.wait()
        assert target.results() == dict.fromkeys(target.calls, (0, 0))


def test_a_signal_that_comes_while_all_stand_still_ends_them(keeper: Keeper) -> None:
    with Waits(*KINDS) as target:
        keeper.stop(target.pid)
        target.signal(signal.SIGUSR1)
        keeper.release(target.pid)
        assert target.results() == dict.fromkeys(target.calls, (-errno.EINTR, 1))


@pytest.mark.parametrize(
    "kind", ["epoll_wait", "epoll_pwait", "semop", "recvfrom", "poll", "=select"])
def test_the_thread_that_the_agent_runs_in_goes_on(
    kind: str, keeper: Keeper, tmp_path: Path
) -> None:
    """And gets a signal's EINTR, though the signal came while it was at the agent's work."""
    for signalled in (False, True):
        with Waits(kind) as target:
            agent = inject(keeper, target.pid, str(tmp_path))
            target.wait()
            with keeper.talk(target.pid, agent.root, 1):
                if signalled:
                    target.signal(signal.SIGUSR1)
            with contextlib.suppress(ShimError):  # nobody spoke with it
                keeper.finish(target.pid, ())
            if not signalled:
                target.wait()
                keeper.eject(target.pid, agent.root)
                target.wait()
            assert target.results() == {kind: (-errno.EINTR, 1) if signalled else (0, 0)}


@pytest.mark.parametrize("kind", ["epoll_wait", "semop"])
def test_a_keeper_that_dies_leaves_them_waiting(kind: str) -> None:
    with Waits(kind) as target:
        made = Keeper()
        made.stop(target.pid)
        os.kill(made.pid, signal.SIGKILL)
        made.close()
        target.wait()
        assert target.results() == {kind: (0, 0)}
