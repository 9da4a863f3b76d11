"""An agent into a living process and out again, a hundred times, and keepers that die of it."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.inject.targets import COMMANDS, Target
from libbpf_shim.attach.inject import inject
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.target import look
from libbpf_shim.errors import ShimError

PATIENCE = 100.0  # seconds for what is refused with EAGAIN or EBUSY
AGAIN = (errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT)  # the last on a busy machine
UNBEGUN = (errno.EFAULT, errno.EPROTO, errno.ENOENT)
FULL = ("hostile", "go")  # a hundred cycles in the suite, the others in `make test-long`


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper()
    yield made
    made.close()


def into(keeper: Keeper, pid: int, run_dir: Path) -> int:
    """An agent into the process; its root. Tries again where a thread stands in the way."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return inject(keeper, pid, str(run_dir)).root
        except ShimError as error:
            if error.errno not in AGAIN or time.monotonic() > end:
                raise
            assert "no agent: " in error.message
            time.sleep(0.002)  # between two tries, under the deadline above


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", FULL)
def test_a_hundred_agents_come_and_go_and_leave_nothing(
    kind: str, keeper: Keeper, tmp_path: Path
) -> None:
    cycles(kind, 100, keeper, tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [kind for kind in COMMANDS if kind not in FULL])
def test_ten_agents_come_and_go(kind: str, keeper: Keeper, tmp_path: Path) -> None:
    cycles(kind, 10, keeper, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [kind for kind in COMMANDS if kind not in FULL])
def test_a_hundred_agents_come_and_go(kind: str, keeper: Keeper, tmp_path: Path) -> None:
    cycles(kind, 100, keeper, tmp_path)


def cycles(kind: str, number: int, keeper: Keeper, tmp_path: Path) -> None:
    with Target(COMMANDS[kind]()) as target:
        target.works()
        sizes, fds = [], target.fds()
        for _ in range(number):
            root = into(keeper, target.pid, tmp_path)
            assert target.ours()
            out(keeper, target.pid, root)
            assert target.ours() == []
            sizes.append((target.size(), target.executable()))
        target.works()
        if kind not in ("hostile", "go", "python"):  # these have fewer or more of their own
            assert sizes[-1] == sizes[1]
        assert sizes[-1][1] == sizes[1][1]
        if kind not in ("hostile", "go", "locked go"):  # Go makes its poller when a timer wants it
            assert target.fds() == fds
        target.end()


def steps(kind: str, numbers: range, keeper: Keeper, run_dir: Path) -> None:
    """The keeper dies before its Nth step that touches the process, on the way in or out."""
    with Target(COMMANDS[kind]()) as target:
        target.works()
        out(keeper, target.pid, into(keeper, target.pid, run_dir))
        size, fds, died = target.size(), target.fds(), 0
        for number in numbers:
            died += one_death(number, target.pid, run_dir)
            target.works()
            clear(keeper, target.pid)
            out(keeper, target.pid, into(keeper, target.pid, run_dir))
            target.works()
        assert died > len(numbers) // 2, "the keeper's steps are fewer than these numbers"
        if kind not in ("hostile", "go", "python"):
            assert (target.size(), target.fds()) == (size, fds)
        assert target.ours() == []
        target.end()


def one_death(number: int, pid: int, run_dir: Path) -> bool:
    """A keeper that ends itself before its step of that number; False: it got to the end."""
    dying = Keeper(environ={"LIBBPF_SHIM_KEEPER_DIE_AT": str(number)})
    first, end = dying.pid, time.monotonic() + PATIENCE
    try:
        while dying.pid == first and time.monotonic() < end:
            try:
                dying.eject(pid, inject(dying, pid, str(run_dir)).root)
                return False
            except ShimError as error:
                if dying.pid == first and error.errno not in AGAIN:
                    raise
        return dying.pid != first
    finally:
        dying.close()


def clear(keeper: Keeper, pid: int) -> None:
    """What a dead keeper has left: an agent, or the beginning of one, which the thread that was to
    begin it takes out (then it has no memory any more, or nothing in it yet)."""
    end = time.monotonic() + PATIENCE
    while (there := look(pid)) and there.injected:
        try:
            keeper.eject(pid, there.root)
        except ShimError as error:
            if error.errno not in (*AGAIN, *UNBEGUN) or time.monotonic() > end:
                raise
            time.sleep(0.002)  # between two tries, under the deadline above


def out(keeper: Keeper, pid: int, root: int) -> None:
    """Once the thread that a dead keeper has left in the agent has come to its end."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return keeper.eject(pid, root)
        except ShimError as error:
            if error.errno not in AGAIN or time.monotonic() > end:
                raise
            time.sleep(0.002)  # between two tries, under the deadline above


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["static glibc", "hostile"])
def test_a_keeper_that_dies_at_any_step_harms_nobody(
    kind: str, keeper: Keeper, tmp_path: Path
) -> None:
    steps(kind, range(3, 430, 37), keeper, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_keeper_that_dies_at_each_step_harms_nobody(
    kind: str, keeper: Keeper, tmp_path: Path
) -> None:
    steps(kind, range(1, 440, 2), keeper, tmp_path)
