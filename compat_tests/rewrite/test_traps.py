"""Sites where nothing but int3 fits (traps.c): counts are exact and nobody is hurt, whatever a
program does with signals, threads and children; the text is put back; where SIGTRAP would kill
they are refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import Host, Victim, serving, victim_program, victims
from compat_tests.rewrite.everywhere import Everywhere
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment
from libbpf_shim.attach.partly import Partly
from libbpf_shim.attach.target import Target
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.site import plan_site

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=gnu11", "-O2", "-Wall", "-no-pie", "-fno-pie", "-rdynamic", "-pthread"]
INSNS = 8  # of one byte, at which nothing else fits


@pytest.fixture
def program() -> Iterator[Path]:
    made = build.make("traps", [HERE / "traps.c"], FLAGS)
    folder = build.private_copy({"traps": made})
    yield folder / "traps"
    shutil.rmtree(folder)


def _at(program: Path) -> int:
    found = Module(str(program)).find("tiny")
    assert found
    return found.vaddr


def _text(pid: int, vaddr: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb") as memory:
        memory.seek(vaddr)
        return memory.read(32)


def _calls(said: str, command: str) -> int:
    word, calls, verdict = said.split(" ", 2)
    assert (word, verdict) == (command, "ok"), said
    return int(calls)


def test_int3_is_the_last_rung(program: Path) -> None:
    module, vaddr = Module(str(program)), _at(program)
    for k in range(INSNS):
        plan = plan_site(module, vaddr + k)
        assert (plan.tactic, len(plan.orig), plan.others) == ("int3", 1, ()), k
    assert plan_site(module, vaddr + 12).others[-1].tactic == "int3"


@pytest.mark.parametrize(
    "command", ["once", "masks", "suspended", "own", "children", "pester"])
def test_every_hit_counts_and_nothing_else_changes(
    host: Host, runtime_dir: Path, program: Path, command: str
) -> None:
    victim, vaddr = Victim(program, runtime_dir, host), _at(program)
    try:
        before = _text(victim.pid, vaddr)
        probes = Everywhere(host, program)
        places = [vaddr + k for k in range(INSNS)]
        for place in places:
            assert probes.attach(place, victim.pid if command != "children" else 0), probes.refused
        assert probes.tactics(places) == {"int3": INSNS}
        assert _text(victim.pid, vaddr)[:INSNS] == b"\xcc" * INSNS
        for _ in range(2):
            with serving(host):  # /bin/true too
                calls = _calls(victim.say(command), command)
            assert [probes.count(place) for place in places] == [calls] * INSNS
        for place in places:
            probes.detach(place)
        assert _text(victim.pid, vaddr) == before
        assert _calls(victim.say("once"), "once") == calls + 1
        victim.end()
    finally:
        victim.kill()


def test_its_return_is_seen(host: Host, runtime_dir: Path, program: Path) -> None:
    victim, vaddr = Victim(program, runtime_dir, host), _at(program)
    try:
        probes = Everywhere(host, program)
        assert probes.attach(vaddr, victim.pid, ret=True), probes.refused
        calls = _calls(victim.say("pester"), "pester")
        assert probes.count(vaddr) == calls
        probes.detach(vaddr)
        victim.end()
    finally:
        victim.kill()


def test_they_come_and_go_under_threads(host: Host, runtime_dir: Path, program: Path) -> None:
    victim, vaddr = Victim(program, runtime_dir, host), _at(program)
    try:
        before = _text(victim.pid, vaddr)
        probes = Everywhere(host, program)
        _calls(victim.say("start"), "start")
        for turn in range(16):
            place = vaddr + turn % INSNS
            assert probes.attach(place, victim.pid), probes.refused
            seen = probes.count(place)
            while probes.count(place) == seen:
                pass
            probes.detach(place)
        _calls(victim.say("join"), "join")
        assert _text(victim.pid, vaddr) == before
        victim.end()
    finally:
        victim.kill()


def test_they_are_there_from_the_start(host: Host, runtime_dir: Path, program: Path) -> None:
    probes, vaddr = Everywhere(host, program), _at(program)
    assert probes.attach(vaddr)
    victim = Victim(program, runtime_dir, host)
    try:
        assert host.notices == []
        for command in ("masks", "pester", "suspended"):
            calls = _calls(victim.say(command), command)
            assert probes.count(vaddr) == calls
        probes.detach(vaddr)
        victim.end()
    finally:
        victim.kill()


def test_a_thread_that_blocks_the_signal_is_a_reason(
    host: Host, runtime_dir: Path, program: Path
) -> None:
    victim, vaddr = Victim(program, runtime_dir, host, arguments=["blocked"]), _at(program)
    try:
        before = _text(victim.pid, vaddr)
        att, _ = host.attachment(program, "tiny", pid=victim.pid)
        with pytest.raises(ShimError, match="a thread blocks SIGTRAP"):
            host.delivery.attach(att)
        assert _text(victim.pid, vaddr) == before
        _calls(victim.say("join"), "join")
        victim.end()
    finally:
        victim.kill()


@pytest.mark.parametrize("threads", [0, 2])
def test_none_is_missed_in_a_library_that_is_loaded(
    host: Host, runtime_dir: Path, threads: int
) -> None:
    """The process may not put it there by itself: it waits for the keeper."""
    made = build.make("libplug.so", [HERE / "traplib.c"], [*FLAGS[:3], "-shared", "-fPIC"])
    folder = build.private_copy({"obeys": victim_program(), "libplug.so": made})
    library = folder / "libplug.so"
    with victims(folder / "obeys", runtime_dir) as start:
        victim = start(host)
        _, counter = host.attach(library, "plug_work", pid=victim.pid)
        if threads:
            victim.say(f"threads {threads}")
        with serving(host):
            for turn in (1, 2, 3):
                assert victim.say(f"open {library}") == "opened"
                victim.run(20)
                said = [n for n in host.notices if f"process {victim.pid}:" in n]
                assert (counter.hits, said) == (20 * turn, [])
                sites = host.delivery.processes()[0]["sites"]
                assert "int3" in [s["tactic"] for s in sites]  # type: ignore[attr-defined]
                assert victim.say("close") == "closed"
        if threads:
            victim.say("stop")


@pytest.mark.parametrize("before", [True, False], ids=["start", "keeper"])
def test_there_may_be_many(host: Host, runtime_dir: Path, before: bool) -> None:
    made = build.make("manytraps", [HERE / "manytraps.c"], FLAGS)
    program = build.private_copy({"manytraps": made}) / "manytraps"
    first = Module(str(program)).find("tiny0")
    assert first
    places = [first.vaddr + 32 * k for k in range(300)]
    probes = Everywhere(host, program)
    if before:
        probes.attach_together(places, 0)
    victim = Victim(program, runtime_dir, host)
    try:
        if not before:
            probes.attach_together(places, victim.pid)
        for turn in (1, 2):
            assert victim.say("go") == "called"
            assert [probes.count(place) for place in places] == [turn] * len(places)
        assert probes.tactics(places) == {"int3": len(places)}
        probes.detach_all()
        assert victim.say("go") == "called"
        victim.end()
    finally:
        victim.kill()
        shutil.rmtree(program.parent)


def test_a_visit_that_comes_again_brings_all_places(
    host: Host, runtime_dir: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one gets as far as the int3, which a thread that blocks SIGTRAP forbids."""
    vaddr, visits = _at(program), host.delivery.visits
    victim = Victim(program, runtime_dir, host, arguments=["block"])
    real, tries = visits.transaction, 0

    def transaction(target: Target, wanted: list[Attachment], partly: Partly) -> None:
        nonlocal tries
        tries += 1
        try:
            real(target, wanted, partly)
        except ShimError:
            if tries == 1:
                _calls(victim.say("join"), "join")
            raise

    monkeypatch.setattr(visits, "transaction", transaction)
    try:
        probes = Everywhere(host, program)
        places = [vaddr + 12, vaddr]
        probes.attach_together(places, victim.pid)
        assert tries > 1 and not probes.refused
        assert _calls(victim.say("once"), "once")
        assert [probes.count(place) for place in places] == [1, 1]
        probes.detach_all()
        victim.end()
    finally:
        victim.kill()
