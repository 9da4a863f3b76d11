"""Probes come and go at random instructions while threads run through them: no result is wrong,
and the text is what it was. Two sessions take part, which share windows."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import Host, Victim
from compat_tests.rewrite.everywhere import Everywhere, corpus, instructions
from compat_tests.victims import build

SECONDS = 2.0  # ten times as long in a long run


@pytest.fixture(
    params=["gcc-Os-packed", pytest.param("clang-O2", marks=pytest.mark.long)])
def program(request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = build.private_copy({"corpus": corpus(request.param)})
    yield folder / "corpus"
    shutil.rmtree(folder)


@pytest.fixture
def other(runtime_dir: Path) -> Iterator[Host]:
    made = Host(runtime_dir, 2)
    yield made
    made.end()
    made.close()


def test_threads_run_through_probes_that_come_and_go(
    host: Host, other: Host, runtime_dir: Path, program: Path, request: pytest.FixtureRequest
) -> None:
    victim = Victim(program, runtime_dir, host, other)
    pick = random.Random(11)
    try:
        before = victim.say("bytes")
        sessions = [Everywhere(host, program), Everywhere(other, program)]
        vaddrs = instructions(program)
        assert victim.say("threads 4") == "threads 4"
        end = time.monotonic() + SECONDS * (10 if request.config.getoption("--long") else 1)
        changes = 0
        while time.monotonic() < end or changes < 30:
            probes = pick.choice(sessions)
            vaddr = pick.choice(vaddrs)
            if pick.random() < 0.5 and probes.atts:
                probes.detach(pick.choice(list(probes.atts)))
            elif vaddr not in probes.atts:
                probes.attach(vaddr, victim.pid)
            changes += 1
        executed = sum(p.count(v) > 0 for p in sessions for v in p.cookies)
        assert executed
        for probes in sessions:
            for vaddr in list(probes.atts):
                probes.detach(vaddr)
        assert victim.say("stop") == "stopped 0"
        assert victim.say("bytes") == before
        assert host.delivery.inert() == other.delivery.inert() == []
        victim.end()
    finally:
        victim.kill()
