"""Probes at every instruction of code of many shapes: each counts what a single step counts, the
results are those without, and the code is what it was afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import Host, Victim
from compat_tests.rewrite.everywhere import (
    BUILDS,
    Everywhere,
    corpus,
    instructions,
    repeats,
    shuffled,
    truth,
)
from compat_tests.victims import build

IN_THE_SUITE = ("gcc-O2", "gcc-Os-packed", "gcc-cet-patchable")
ALL = [pytest.param(n, marks=[] if n in IN_THE_SUITE else pytest.mark.long) for n in BUILDS]
ROUNDS = 3
SAMPLE = 110  # instructions; four times as many in a long run


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A private copy: probes are by inode."""
    folder = build.private_copy({"corpus": corpus(request.param)})
    yield folder / "corpus"
    shutil.rmtree(folder)


def _wrong(
    probes: Everywhere, vaddrs: list[int], before: dict[int, int], rounds: int
) -> list[str]:
    """What was not counted exactly."""
    right = truth(probes.path, ROUNDS).counts
    found = []
    for vaddr in vaddrs:
        got, want = probes.count(vaddr) - before.get(vaddr, 0), right.get(vaddr, 0) * rounds
        if got != want and not (repeats(probes.module, vaddr) and 0 < got <= want):
            found.append(f"{vaddr:#x}: {got} hits, executed {want} times")
    return found


@pytest.mark.parametrize("program", ALL, indirect=True)
def test_probes_at_every_instruction_count_exactly(
    host: Host, runtime_dir: Path, program: Path, request: pytest.FixtureRequest
) -> None:
    want = truth(program, ROUNDS)
    victim = Victim(program, runtime_dir, host)
    try:
        before = victim.say("bytes")
        probes = Everywhere(host, program)
        vaddrs = shuffled(instructions(program), 5)
        vaddrs = vaddrs[: SAMPLE * (4 if request.config.getoption("--long") else 1)]
        attached = [v for v in vaddrs if probes.attach(v, victim.pid)]
        assert probes.refused == {}
        assert victim.say(f"sum {ROUNDS}") == want.sum
        assert _wrong(probes, attached, {}, 1) == []
        # half of them go, in another order
        gone = shuffled(attached, 6)[: len(attached) // 2]
        counts = {v: probes.count(v) for v in attached}
        for vaddr in gone:
            probes.detach(vaddr)
        assert victim.say(f"sum {ROUNDS}") == want.sum
        assert _wrong(probes, [v for v in attached if v in probes.atts], counts, 1) == []
        assert _wrong(probes, gone, counts, 0) == []
        # and come back, before the others go
        back = [v for v in shuffled(gone, 7) if probes.attach(v, victim.pid)]
        assert len(back) >= len(gone) * 15 // 16
        for vaddr in set(attached) - set(gone):
            probes.detach(vaddr)
        counts = {v: probes.count(v) for v in attached}
        assert victim.say(f"sum {ROUNDS}") == want.sum
        assert _wrong(probes, back, counts, 1) == []
        for vaddr in back:
            probes.detach(vaddr)
        assert victim.say("bytes") == before
        victim.end()
    finally:
        victim.kill()
