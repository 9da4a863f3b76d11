"""Probes where system calls are met, for events or for int3, and calls that come to be met where
probes are: each probe attaches and counts exactly, the calls do what they do, and the code is what
it was afterwards. Refused is what would keep a call that int3 needs from being seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.attach.host import Host, Victim
from compat_tests.rewrite.everywhere import (
    Everywhere,
    corpus,
    instructions,
    repeats,
    shuffled,
    truth,
)
from compat_tests.victims import build
from libbpf_shim.attach.sites import Sites
from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite.plan import SitePlan

HERE = Path(__file__).resolve().parent
ROUNDS = 3
NEAR = 160  # bytes around the calls: more than a short jump spans
GETTID = 186


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = build.private_copy({"corpus": corpus(request.param)})
    yield folder / "corpus"
    shutil.rmtree(folder)


@pytest.fixture
def traps() -> Iterator[Path]:
    made = build.make("traps", [HERE / "traps.c"],
                      ["-std=gnu11", "-O2", "-Wall", "-no-pie", "-fno-pie", "-rdynamic",
                       "-pthread"])  # fmt: skip
    folder = build.private_copy({"traps": made})
    yield folder / "traps"
    shutil.rmtree(folder)


def _places(program: Path) -> list[int]:
    """Instructions around the calls."""
    module = Module(str(program))
    calls = module.find("c_asm_sys")
    assert calls
    return [v for v in instructions(program)
            if calls.vaddr - NEAR < v < calls.vaddr + calls.size + NEAR]


@pytest.mark.parametrize("first", ["the call", "int3", "probes"])
@pytest.mark.parametrize("program", ["gcc-O0", "gcc-Os-packed"], indirect=True)
def test_probes_around_calls(
    host: Host, runtime_dir: Path, program: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def int3(there: Sites, plan: SitePlan) -> list[SitePlan]:
        return order(there, plan)[-1 if plan.vaddr == trap else 0 :]

    order, trap = Sites._order, instructions(program)[0]
    monkeypatch.setattr(Sites, "_order", int3)
    want = truth(program, ROUNDS)
    victim = Victim(program, runtime_dir, host)
    try:
        before = victim.say("bytes")
        probes = Everywhere(host, program)
        places = shuffled(_places(program), 3)
        assert trap not in places
        events = []
        if first == "the call":
            events.append(host.watch(lib.SHIM_EVENT_SYS_ENTER + GETTID, victim.pid))
        if first == "int3":
            assert probes.attach(trap, victim.pid), probes.refused
        for vaddr in places:
            assert probes.attach(vaddr, victim.pid), probes.refused
        if first == "probes":
            assert probes.attach(trap, victim.pid), probes.refused
            events.append(host.watch(lib.SHIM_EVENT_SYS_EXIT + GETTID, victim.pid))
        if trap in probes.atts:
            assert probes.tactics([trap]) == {"int3": 1}
        assert victim.say(f"sum {ROUNDS}") == want.sum
        plain = [v for v in probes.atts if not repeats(probes.module, v)]
        assert ({hex(v): probes.count(v) for v in plain}
                == {hex(v): want.counts.get(v, 0) for v in plain})  # fmt: skip
        for vaddr in shuffled(list(probes.atts), 4):
            probes.detach(vaddr)
        assert victim.say(f"sum {ROUNDS}") == want.sum
        for att, _ in events:
            host.detach(att)
        assert victim.say("bytes") == before
        victim.end()
    finally:
        victim.kill()


def test_a_call_that_int3_needs_is_met_whatever_comes_beside_it(
    host: Host, runtime_dir: Path, traps: Path
) -> None:
    victim, module = Victim(traps, runtime_dir, host), Module(str(traps))
    tiny, raw = module.find("tiny"), module.find("raw_mask")
    assert tiny and raw
    entry, number, behind = raw.vaddr, raw.vaddr + 3, raw.vaddr + 10
    try:
        probes = Everywhere(host, traps)
        # what has no part in it is beside it
        assert probes.attach(behind, victim.pid), probes.refused
        assert probes.attach(tiny.vaddr, victim.pid), probes.refused
        # the instruction that its window takes is its own, the one before that has another rung
        assert not probes.attach(number, victim.pid)
        assert "a call is met there, which probes by int3 need" in probes.refused[number]
        assert probes.attach(entry, victim.pid), probes.refused
        assert probes.tactics([entry]) == {"int3": 1}
        for turn in (1, 2):
            assert victim.say("raw").endswith("ok")
            assert [probes.count(v) for v in (tiny.vaddr, entry, behind)] == [2 * turn] * 3
        for vaddr in (tiny.vaddr, entry):
            probes.detach(vaddr)
        # and where a probe takes the window first, int3 is refused as long as it is there
        assert probes.attach(number, victim.pid), probes.refused
        assert not probes.attach(tiny.vaddr, victim.pid)
        assert "has another probe in its way" in probes.refused[tiny.vaddr]
        assert victim.say("raw").endswith("ok")
        assert probes.count(number) == 2
        probes.detach(number)
        assert probes.attach(tiny.vaddr, victim.pid), probes.refused
        assert victim.say("raw").endswith("ok")
        assert probes.count(tiny.vaddr) == 6
        victim.end()
    finally:
        victim.kill()


def test_a_process_that_begins_without_such_a_call_gets_no_int3(
    host: Host, runtime_dir: Path, traps: Path
) -> None:
    module = Module(str(traps))
    tiny, raw = module.find("tiny"), module.find("raw_mask")
    assert tiny and raw
    probes, number = Everywhere(host, traps), raw.vaddr + 3
    assert probes.attach(number) and probes.attach(tiny.vaddr)
    victim = Victim(traps, runtime_dir, host)
    try:
        assert ["has another probe in its way" in why for why in host.notices] == [True]
        assert victim.say("raw").endswith("ok")
        assert (probes.count(number), probes.count(tiny.vaddr)) == (2, 0)
        for vaddr in (number, tiny.vaddr):
            probes.detach(vaddr)
        victim.end()
    finally:
        victim.kill()
