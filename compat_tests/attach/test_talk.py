"""Conversations that the keeper has a stopped process hold while it does not watch each of its
calls (csrc/keeper/talk.c): how they begin, end, and are broken off."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from libbpf_shim._native import ffi

from compat_tests.attach.host import LIMIT, Host, Victim, eventually
from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.call import Calls
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.talks import AGAIN
from libbpf_shim.attach.target import Target, look
from libbpf_shim.errors import ShimError

KEEPER = 2  # SHIM_SYNC_KEEPER
Start = Callable[..., Victim]
Say = Callable[[Conversation], None]


def target(victim: Victim) -> Target:
    found = look(victim.pid)
    assert found
    return found


def fds(victim: Victim) -> list[str]:
    return sorted(os.listdir(f"/proc/{victim.pid}/fd"))


def state(victim: Victim) -> str:
    return Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[0]


def says(talk: Conversation) -> None:
    assert talk.read(talk.hello.root, 4) == b"SAGT"  # SHIM_AGENT_MAGIC


def once(calls: Calls, keeper: Keeper, whom: Target, say: Say = says) -> None:
    """Up to its end."""
    with keeper.letting_go(whom.pid):
        calls.call(keeper, whom, say)
        keeper.finish(whom.pid, ())


def patiently(calls: Calls, keeper: Keeper, whom: Target) -> None:
    """Once a thread that a dead keeper has left in the agent has come to its end."""
    end = time.monotonic() + LIMIT
    while True:
        try:
            return once(calls, keeper, whom)
        except ShimError as error:
            if error.errno not in AGAIN or time.monotonic() > end:
                raise
            time.sleep(0.002)  # between two tries, under the deadline above


def test_a_keeper_that_dies_at_any_step_leaves_the_process_as_it_was(
    host: Host, start: Start, program: Path
) -> None:
    victim, calls = start(host), host.delivery.talks.calls
    whom, before = target(victim), fds(victim)
    deaths = step = 0
    while deaths == step:
        step += 1
        broken = Keeper(environ={"LIBBPF_SHIM_KEEPER_DIE_AT": str(step)})
        try:
            once(calls, broken, whom)
        except ShimError as error:
            assert error.errno == errno.EAGAIN, error
            deaths += 1
        broken.close()
        victim.run(1)
        patiently(calls, host.keeper(), whom)
        assert fds(victim) == before, f"the keeper died at step {step}"
        victim.run(1)
    assert deaths > 15, "the steps of a conversation"


@pytest.mark.parametrize("spoken", [True, False])
def test_who_is_left_in_the_middle_of_it_goes_home(
    spoken: bool, host: Host, start: Start, program: Path
) -> None:
    """The backend is gone, and somebody else has a copy of its end of the stream."""
    victim = start(host)
    before, whom, made = fds(victim), target(victim), Keeper()
    with made.talk(whom.pid, whom.root, KEEPER) as sock:
        if spoken:
            says(Conversation(sock.dup()))
        made.close()
        victim.run(1)
        assert fds(victim) == before
        once(host.delivery.talks.calls, host.keeper(), whom)


def test_what_goes_wrong_in_it_lets_the_process_go(host: Host, start: Start) -> None:
    victim, calls = start(host), host.delivery.talks.calls
    before, whom = fds(victim), target(victim)

    def wrong(talk: Conversation) -> None:
        talk.read(8, 8)

    for say in (wrong, says):
        with pytest.raises(ShimError) if say is wrong else contextlib.nullcontext():
            once(calls, host.keeper(), whom, say)
        victim.run(1)
        assert fds(victim) == before


def test_a_process_that_is_stopped_meanwhile_stays_so_until_it_is_continued(
    host: Host, start: Start
) -> None:
    victim, calls = start(host), host.delivery.talks.calls
    whom = target(victim)

    def stopping(talk: Conversation) -> None:
        says(talk)
        os.kill(victim.pid, signal.SIGSTOP)
        for _ in range(100):
            says(talk)

    once(calls, host.keeper(), whom, stopping)
    eventually(lambda: state(victim) == "T")
    once(calls, host.keeper(), whom)
    # the kernel wakes who is let go, to have it stop again
    eventually(lambda: state(victim) == "T")
    os.kill(victim.pid, signal.SIGCONT)
    victim.run(1)


def test_a_process_that_is_killed_in_it_is_an_error(host: Host, start: Start) -> None:
    victim, calls = start(host), host.delivery.talks.calls

    def killing(talk: Conversation) -> None:
        victim.kill()
        says(talk)

    with pytest.raises(ShimError):
        once(calls, host.keeper(), target(victim), killing)
    other = start(host)
    once(calls, host.keeper(), target(other))


def test_whose_socket_cannot_be_taken_connects_to_ours(
    host: Host, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, calls, keeper = start(host), host.delivery.talks.calls, host.keeper()
    before, whom, asked = fds(victim), target(victim), []

    def refused(*_: object, **__: object) -> None:
        asked.append(1)
        raise ShimError("TT0001", errno.ENOTCONN, "keeper: its socket cannot be had")

    monkeypatch.setattr(keeper, "talk", refused)
    for _ in range(2):
        once(calls, keeper, whom)
        victim.run(1)
    assert asked == [1]
    assert fds(victim) == before


def test_a_socket_that_is_not_made_is_said(host: Host, start: Start) -> None:
    """No descriptor is left for it in the process; then neither is one for a path."""
    victim = start(host)
    whom, most = target(victim), len(fds(victim))
    soft, hard = resource.prlimit(victim.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (most, hard))
    with pytest.raises(ShimError) as error:
        once(host.delivery.talks.calls, host.keeper(), whom)
    assert error.value.errno == errno.EMFILE
    resource.prlimit(victim.pid, resource.RLIMIT_NOFILE, (soft, hard))
    victim.run(1)
    once(host.delivery.talks.calls, host.keeper(), whom)


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_thread_that_has_waited_for_its_longest_time_is_home(host: Host, start: Start) -> None:
    victim = start(host)
    before, whom, keeper = fds(victim), target(victim), host.keeper()
    with keeper.talk(whom.pid, whom.root, KEEPER):
        eventually(lambda: state(victim) == "S")
        end = time.monotonic() + 60
        while fds(victim) != before and time.monotonic() < end:
            time.sleep(0.1)  # of what takes 20 s, under the deadline above
        assert fds(victim) == before
    with pytest.raises(ShimError) as error:
        keeper.finish(whom.pid, ())
    assert error.value.errno == errno.ETIMEDOUT
    victim.run(1)


def test_a_fork_child_that_puts_itself_right_is_come_to_again(
    host: Host, start: Start, program: Path
) -> None:
    """By the thread that was interrupted by the visit, maybe, which is not to wait for itself."""
    victim = start(host)
    host.attach(program, "one")
    whom, talks = target(victim), host.delivery.talks
    with open(f"/proc/{victim.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(whom.root + ffi.offsetof("struct shim_agent", "threads"))
        (threads,) = struct.unpack("<Q", memory.read(8))
        memory.seek(threads + ffi.offsetof("struct shim_thread", "tid"))
        memory.write(struct.pack("<I", 0))  # as in the midst of it
        with host.keeper().talk(victim.pid, whom.root, KEEPER):
            pass
        with pytest.raises(ShimError) as refused:
            host.keeper().finish(victim.pid, ())
        assert refused.value.errno == errno.EBUSY  # not ETIMEDOUT
        memory.seek(threads + ffi.offsetof("struct shim_thread", "tid"))
        memory.write(struct.pack("<I", victim.pid))
    talks.talk_to(whom, says, 0)
    victim.run(3)
