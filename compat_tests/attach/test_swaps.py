"""Better code in the place of what runs: no hit is lost, none is counted twice, each is of one
image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compat_tests.attach.host import Counter, Host, Prog, Victim, eventually
from libbpf_shim.attach.attachment import Attachment
from libbpf_shim.jit.image import Image, Reloc, RelocKind

Start = Callable[..., Victim]
SEVERAL = "several"
TURNS = 30


def counting(word: int) -> Image:
    """value[word]++."""
    text = bytes.fromhex("48b9") + bytes(8)  # movabs, %rcx
    text += bytes.fromhex("f048ff41") + bytes([8 * word])  # lock incq 8 * word(%rcx)
    text += bytes.fromhex("31c0c3")  # xor %eax, %eax; ret
    return Image(text, (Reloc(2, RelocKind.ABS64, "mapval:0"),), False, 0, "", (), context=False)


def replace(host: Host, prog: Prog, word: int) -> None:
    """Another image, and the visit for it."""
    prog.image = counting(word)
    host.delivery.swaps.replace(prog)
    eventually(lambda: not tidied(host))


def tidied(host: Host) -> bool:
    host.delivery.tidy()
    return host.delivery.swaps.due is not None


def begin(host: Host, program: Path) -> tuple[Attachment, Prog, Counter]:
    att, counter = host.attachment(program, SEVERAL)
    prog = att.prog
    assert isinstance(prog, Prog)
    prog.image = counting(3)
    host.delivery.attach(att)
    host.control.enable(att.link, True)
    return att, prog, counter


@pytest.mark.parametrize("no_ptrace", [False, True])
def test_runs_that_begin_after_it_are_of_the_new_code(
    host: Host, start: Start, program: Path, no_ptrace: bool
) -> None:
    att, prog, counter = begin(host, program)
    victim = start(host, no_ptrace=no_ptrace)
    victim.run(100)
    replace(host, prog, 4)
    victim.run(10)
    assert (counter.word(3), counter.word(4), host.notices) == (100, 10, [])
    host.detach(att)
    victim.run(10)
    assert (counter.word(3), counter.word(4)) == (100, 10)


def test_no_hit_of_running_threads_is_lost(host: Host, start: Start, program: Path) -> None:
    _, prog, counter = begin(host, program)
    victim = start(host)
    victim.say("threads 4")
    for turn in range(TURNS):
        word = 4 if turn % 2 == 0 else 3
        before = counter.word(word)
        replace(host, prog, word)
        eventually(lambda at=word, than=before: counter.word(at) > than)  # type: ignore[misc]
    calls = int(victim.say("stop").split()[1])
    assert counter.word(3) + counter.word(4) == calls
    assert host.notices == []


def test_fork_children_of_before_and_after_go_on(host: Host, start: Start, program: Path) -> None:
    _, prog, counter = begin(host, program)
    victim = start(host)
    victim.say("fork")
    victim.run(5, "@ ")
    replace(host, prog, 4)
    victim.run(7, "@ ")
    assert counter.word(3) + counter.word(4) == 12
    victim.run(10)
    assert counter.word(4) >= 10
    assert host.notices == []


def test_a_process_that_comes_afterwards_has_the_new_code(
    host: Host, start: Start, program: Path
) -> None:
    _, prog, counter = begin(host, program)
    start(host).run(5)
    replace(host, prog, 4)
    start(host).run(9)
    assert (counter.word(3), counter.word(4)) == (5, 9)


def test_one_that_is_gone_or_a_program_that_ended_is_left_out(
    host: Host, start: Start, program: Path
) -> None:
    _, prog, counter = begin(host, program)
    victim, gone = start(host), start(host)
    gone.run(3)
    gone.end()
    replace(host, prog, 4)
    prog.image = counting(3)
    host.delivery.swaps.replace(prog)
    host.delivery.swaps.forget(prog.id)
    eventually(lambda: not tidied(host))
    victim.run(6)
    assert (counter.word(3), counter.word(4), host.notices) == (3, 6, [])
