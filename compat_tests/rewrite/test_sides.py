"""Functions of one byte beside each other (sides.c): each takes a probe, whoever came first,
counts exactly, and leaves the file's bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import Host, Victim
from compat_tests.rewrite.everywhere import Everywhere, shuffled
from compat_tests.victims import build
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import loaded_modules, read_maps

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=gnu11", "-O1", "-Wall", "-rdynamic"]
SIDES = 8


@pytest.fixture(params=["pie", "no-pie"])
def program(request: pytest.FixtureRequest) -> Iterator[Path]:
    flags = [] if request.param == "pie" else ["-no-pie", "-fno-pie"]
    made = build.make("sides", [HERE / "sides.c"], [*FLAGS, *flags])
    folder = build.private_copy({"sides": made})
    yield folder / "sides"
    shutil.rmtree(folder)


def _sides(program: Path) -> list[int]:
    module = Module(str(program))
    return [found.vaddr for n in range(SIDES) if (found := module.find(f"side{n}"))]


def _text(victim: Victim, program: Path) -> bytes:
    """The functions as they stand in the process."""
    module = Module(str(program))
    maps = read_maps(victim.pid)
    loaded = next(m for m in loaded_modules(maps) if m.path == str(program))
    with open(f"/proc/{victim.pid}/mem", "rb") as memory:
        memory.seek(loaded.bias(module) + _sides(program)[0])
        return memory.read(32)


def _counts(probes: Everywhere, sides: list[int]) -> list[int]:
    return [probes.count(v) for v in sides]


@pytest.fixture
def second(runtime_dir: Path) -> Iterator[Host]:
    made = Host(runtime_dir, 2)
    yield made
    made.end()
    made.close()


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_each_takes_a_probe_in_any_order(
    host: Host, runtime_dir: Path, program: Path, order: str
) -> None:
    sides = _sides(program)
    ordered = {"forward": sides, "backward": sides[::-1], "shuffled": shuffled(sides, 9)}[order]
    victim = Victim(program, runtime_dir, host)
    try:
        before, want = _text(victim, program), [0] * SIDES
        probes = Everywhere(host, program)
        for vaddr in ordered:
            assert probes.attach(vaddr, victim.pid), probes.refused
            # those that are there already count on, whatever they had to become
            assert victim.say("3") == "called"
            want = [n + 3 * (k + 1) * (v in probes.atts)
                    for k, (n, v) in enumerate(zip(want, sides, strict=True))]
            assert _counts(probes, [v for v in sides if v in probes.atts]) == [
                n for n, v in zip(want, sides, strict=True) if v in probes.atts]
        for vaddr in shuffled(sides, 2):
            probes.detach(vaddr)
            assert victim.say("2") == "called"
            want = [n + 2 * (k + 1) * (v in probes.atts)
                    for k, (n, v) in enumerate(zip(want, sides, strict=True))]
            assert _counts(probes, sides) == want
        assert _text(victim, program) == before
        victim.end()
    finally:
        victim.kill()


def test_they_are_there_from_the_start(host: Host, runtime_dir: Path, program: Path) -> None:
    sides, probes = _sides(program), Everywhere(host, program)
    for vaddr in shuffled(sides, 5):
        assert probes.attach(vaddr), probes.refused
    victim = Victim(program, runtime_dir, host)
    try:
        assert host.notices == []
        assert victim.say("4") == "called"
        assert _counts(probes, sides) == [4 * (k + 1) for k in range(SIDES)]
        for vaddr in sides:
            probes.detach(vaddr)
        assert _text(victim, program)[: SIDES + 1] == b"\xc3" * 4 + b"\x90" + b"\xc3" * 4
        victim.end()
    finally:
        victim.kill()


def test_two_sessions_take_turns(
    host: Host, second: Host, runtime_dir: Path, program: Path
) -> None:
    """What one has put there stays, and the other finds its place or is told why not."""
    sides = _sides(program)
    victim = Victim(program, runtime_dir, host, second)
    try:
        before = _text(victim, program)
        one, other = Everywhere(host, program), Everywhere(second, program)
        there = [(mine, v) for n, v in enumerate(shuffled(sides, 1))
                 if (mine := (one, other)[n % 2]).attach(v, victim.pid)]
        assert victim.say("5") == "called"
        assert [mine.count(v) for mine, v in there] == [5 * (sides.index(v) + 1) for _, v in there]
        for mine, vaddr in there:
            mine.detach(vaddr)
        assert _text(victim, program) == before
        assert all("in the way" in why for mine in (one, other) for why in mine.refused.values())
        victim.end()
    finally:
        victim.kill()
