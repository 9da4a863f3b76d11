"""When the table of sites is full, records of other addresses are used again: not while somebody
may be in a run that began at the former address, and not an event's."""

from __future__ import annotations

import errno
from collections.abc import Callable
from itertools import count
from pathlib import Path

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


def _again(talk: Conversation, addr: int) -> None:
    assert _add(talk, addr) == lib.SHIM_MAX_SITES - 2


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


def test_a_mailbox_waits_for_runs(host: Host, start: Start, program: Path) -> None:
    victim = start(host, no_ptrace=True)
    att, _ = slowly(host, program, "one")
    _said(host, victim, _fill)
    victim.say("threads 4")
    addrs = count(1)
    for _ in range(20):
        _said(host, victim, lambda talk: _again(talk, next(addrs)), 0)
    victim.say("stop")
    host.detach(att)


def test_a_run_in_progress_keeps_records(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    att, counter = slowly(host, program, "one")
    _said(host, victim, _fill)
    victim.say("threads 1")
    addrs = count(1)  # a record keeps its address, if it can

    def refused() -> bool:
        """The process is stopped in a run, nearly each time."""
        try:
            _said(host, victim, lambda talk: _again(talk, next(addrs)), 0)
        except ShimError as error:
            return error.errno == errno.EAGAIN
        return False

    eventually(refused)
    victim.say("stop")
    _said(host, victim, lambda talk: _again(talk, next(addrs)))
    assert counter.word(0) == counter.word(2)
    host.detach(att)
