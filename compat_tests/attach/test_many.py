"""Many places in one go (attach/many.py): each counts as if it had come alone, in the order asked
for, beside what is left to be put one by one; plans and trampolines are used again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compat_tests.attach.host import Counter, Host, Victim
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite import site

Start = Callable[..., Victim]


def link(host: Host, program: Path, *names: str, ret: bool = False) -> list[Attachment]:
    """Attachments of one link, as a program at many places has them. NAME+N: an instruction behind
    its first."""
    first, _ = host.attachment(program, "one")
    module, found = Module(str(program)), []
    for cookie, name in enumerate(names):
        symbol, _, more = name.partition("+")
        where = module.find(symbol)
        assert where
        place = Code(str(program), module.vaddr_to_offset(where.vaddr) + int(more or 0), ret)
        found.append(Attachment(first.link_id, first.link, first.prog, place, cookie, 0))
    return found


def counter_of(atts: list[Attachment]) -> Counter:
    counter = atts[0].prog.maps[0]
    assert isinstance(counter, Counter)
    return counter


def put(host: Host, atts: list[Attachment]) -> Counter:
    host.delivery.attach(*atts)
    host.control.enable(atts[0].link, True)
    return counter_of(atts)


def take(host: Host, atts: list[Attachment]) -> None:
    host.control.enable(atts[0].link, False)
    host.delivery.detach(*atts)


@pytest.mark.parametrize("ret", [False, True])
def test_each_place_is_there_and_goes_again(
    host: Host, start: Start, program: Path, ret: bool
) -> None:
    victim = start(host)
    before = [victim.say(f"bytes {name}") for name in ("one", "several")]
    atts = link(host, program, "one", "several", ret=ret)
    for rounds in (1, 2, 3):
        counter = put(host, atts)
        victim.run(50)
        assert counter.hits == rounds * 100
        take(host, atts)
        assert [victim.say(f"bytes {name}") for name in ("one", "several")] == before
    assert host.notices == []


def test_their_trampolines_are_used_again(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    atts = link(host, program, "one", "several")
    seen = []
    for _ in range(3):
        put(host, atts)
        process = host.delivery.talks.processes[victim.pid]
        seen.append({addr: tramp.at for addr, tramp in process.tramps.items()})
        take(host, atts)
    assert seen[0] == seen[1] == seen[2]
    _, counter = host.attach(program, "one")
    victim.run(5)
    assert counter.hits == 5


def test_an_instruction_in_another_ones_window_is_a_guest(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host)  # several: push of one byte, mov of three
    counter = put(host, link(host, program, "one", "several+1", "several", "several+4"))
    victim.run(20)
    assert (counter.hits, host.notices) == (80, [])


def test_a_place_that_is_named_again_counts_again(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host)
    one, several = link(host, program, "one", "several")
    counter = put(host, [replace(one, more=(8, 9)), several])
    victim.run(20)
    assert counter.hits == 80


def test_of_programs_at_one_place_the_last_asked_for_runs_first(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host)
    first = link(host, program, "several", "one")
    other, counter = host.attachment(program, "several")
    shared = [replace(other, prog=first[0].prog, cookie=7)]  # of another link, in one visit
    host.control.enable(other.link, True)
    put(host, [*first, *shared])
    victim.run(1)
    assert (counter_of(first).hits, counter_of(first).cookie, counter.hits) == (3, 0, 0)


def test_a_process_that_starts_has_all_of_them(host: Host, start: Start, program: Path) -> None:
    counter = put(host, link(host, program, "one", "several"))
    victim = start(host)
    victim.run(20)
    assert (counter.hits, host.notices) == (40, [])


def test_two_links_at_the_same_places(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    first, second = link(host, program, "one", "several"), link(host, program, "several", "one")
    counters = [put(host, first), put(host, second)]
    victim.run(10)
    take(host, first)
    victim.run(10)
    assert [c.hits for c in counters] == [20, 40]
    take(host, second)


def test_plans_are_made_once_for_all_sessions(
    host: Host, runtime_dir: Path, start: Start, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atts = link(host, program, "one", "several")
    put(host, atts)
    host.delivery.plans.keep(at_once=True)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("planned again")

    monkeypatch.setattr(site, "plan_site", never)
    other = Host(runtime_dir, 2)
    try:
        counter = put(other, link(other, program, "one", "several"))
        victim = start(host, other)
        victim.run(10)
        assert (counter.hits, counter_of(atts).hits) == (20, 20)
    finally:
        other.end()
        other.close()
