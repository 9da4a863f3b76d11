"""When the table of sites is full, records of other addresses are used again: not while somebody
may be in a run that began at the former address, and not an event's."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.attach.host import LIMIT, Host, Victim, eventually
from compat_tests.attach.test_quiet import slowly
from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.target import look
from libbpf_shim.errors import ShimError

Start = Callable[..., Victim]
NOWHERE = 0x10000  # addresses of no code
EVENT = (1 << lib.SHIM_EVENT_SHIFT) + lib.SHIM_EVENT_CLOCK


def _add(talk: Conversation, addr: int) -> int:
    """A site that nothing needs."""
    index, state = talk.site(addr=addr, window=0, orig=b"", patch=b"", tramp=0, tramp_len=0,
                             func=0)
    assert state == 0
    return index


def _fill(talk: Conversation) -> None:
    """The last record is an event's."""
    addr = NOWHERE
    while _add(talk, addr) < lib.SHIM_MAX_SITES - 2:
        addr += 1
    assert _add(talk, EVENT) == lib.SHIM_MAX_SITES - 1


def _said(
    host: Host, victim: Victim, say: Callable[[Conversation], None], seconds: float = LIMIT
) -> None:
    target = look(victim.pid)
    assert target
    host.delivery.talks.talk_to(target, say, seconds)


def test_an_event_keeps_its_record(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    host.attach(program, "one", pid=victim.pid)
    _said(host, victim, _fill)

    def more(talk: Conversation) -> None:
        assert [_add(talk, at) for at in (1, 2, 1)] == [lib.SHIM_MAX_SITES - 2] * 3

    _said(host, victim, more)


@pytest.mark.parametrize("no_ptrace", [False, True], ids=["keeper", "mailbox"])
def test_a_run_in_progress_keeps_records(
    host: Host, start: Start, program: Path, no_ptrace: bool
) -> None:
    victim = start(host, no_ptrace=no_ptrace)
    att, counter = slowly(host, program, "one")
    _said(host, victim, _fill)
    victim.say("threads 1")
    codes: list[int] = []

    addrs = count(1)  # a record keeps its address, if it can

    def one_more(talk: Conversation) -> None:
        _add(talk, next(addrs))

    def refused() -> bool:
        """It runs nearly all the time; what waits for its end sees it."""
        try:
            _said(host, victim, one_more, 0)
        except ShimError as error:
            codes.append(error.errno)
            return True
        return False

    if no_ptrace:  # it is waited for, though not for long
        eventually(lambda: not refused())
    else:
        eventually(refused)
        assert codes
    assert set(codes) <= {errno.EAGAIN}
    victim.say("stop")
    assert not refused(), codes
    assert counter.word(0) == counter.word(2)
    host.detach(att)
