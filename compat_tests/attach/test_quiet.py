"""Once a link is closed its program runs nowhere: runs in progress are waited for, as the kernel
waits for them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from compat_tests.attach.host import Counter, Host, Prog, Victim, by_hand
from libbpf_shim.attach import quiet
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.elf.module import Module

Start = Callable[..., Victim]

# value[0]++, then for some 0.1 to 0.5 ms nothing, then value[2]++
SLOW = by_hand(
    "48b9", "mapval:0",  # movabs, %rcx
    "f048ff01",  # lock incq (%rcx)
    "b8 80841e00",  # mov $2000000, %eax
    "ffc8 75fc",  # dec %eax; jnz back
    "f048ff4110",  # lock incq 16(%rcx)
    "31c0 c3",  # xor %eax, %eax; ret
    context=False)


def slowly(host: Host, path: Path, symbol: str) -> tuple[Attachment, Counter]:
    """Attaches a program that is in the middle of a run nearly all the time."""
    module = Module(str(path))
    found = module.find(symbol)
    assert found
    counter = host.prog().maps[0]
    att = Attachment(
        link_id=host.number(), link=host.control.take_link(0),
        prog=Prog(host.number(), SLOW, (counter,)),
        place=Code(str(path), module.vaddr_to_offset(found.vaddr)), cookie=0, pid=0)
    host.delivery.attach(att)
    host.control.enable(att.link, True)
    return att, counter


def stop(victim: Victim) -> None:
    """All its threads have stopped."""
    victim.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, victim.pid, os.WSTOPPED)


@pytest.mark.parametrize("no_ptrace", [False, True], ids=["keeper", "mailbox"])
def test_no_run_is_under_way_once_a_link_is_closed(
    host: Host, start: Start, program: Path, no_ptrace: bool
) -> None:
    victim = start(host, no_ptrace=no_ptrace)
    assert victim.say("threads 3") == "threads 3"
    for _ in range(5):
        att, counter = slowly(host, program, "one")
        while counter.word(2) < 3:
            pass
        host.detach(att)
        begun, over = counter.word(0), counter.word(2)
        assert begun == over, f"{begun - over} runs go on"
    assert victim.say("stop").startswith("stopped")


def test_a_process_that_stands_still_in_a_run_is_not_waited_for_for_ever(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host)
    assert victim.say("threads 1") == "threads 1"
    att, counter = slowly(host, program, "one")
    other, _ = slowly(host, program, "several")
    while counter.word(2) < 3:
        pass
    stop(victim)
    root = host.delivery.talks.processes[victim.pid].root
    while counter.word(0) == counter.word(2):  # between two runs: once more
        victim.process.send_signal(signal.SIGCONT)
        stop(victim)
    host.detach(att)
    host.detach(other)
    assert not quiet.wait(victim.pid, root, 0)
    assert counter.word(0) > counter.word(2)
    victim.process.send_signal(signal.SIGCONT)
    assert quiet.wait(victim.pid, root, 10)
    assert counter.word(0) == counter.word(2)
    assert victim.say("stop").startswith("stopped")


def test_a_process_that_ends_meanwhile_is_not_waited_for(
    host: Host, start: Start, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory reads as nothing from then on."""
    victim = start(host)
    slowly(host, program, "one")
    root = host.delivery.talks.processes[victim.pid].root
    real = os.open

    def opened(path: str, flags: int) -> int:
        fd = real(path, flags)
        victim.process.kill()
        victim.process.wait()
        return fd

    with monkeypatch.context() as patched:
        patched.setattr(quiet.os, "open", opened)  # type: ignore[attr-defined]
        assert quiet.wait(victim.pid, root)


@pytest.mark.parametrize("no_ptrace", [False, True], ids=["keeper", "mailbox"])
def test_nobody_waits_for_a_run_whose_thread_has_died(
    host: Host, start: Start, program: Path, no_ptrace: bool
) -> None:
    victim = start(host, no_ptrace=no_ptrace)
    _, counter = slowly(host, program, "one")
    while counter.word(0) == counter.word(2):  # not between two runs
        assert victim.say("threads 1") == "threads 1"
        while counter.word(2) < 3:
            pass
        assert victim.say("die") == "died"
    host.delivery.leave(victim.pid)
    victim.run(3)
