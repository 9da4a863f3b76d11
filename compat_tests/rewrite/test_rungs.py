"""The rare rungs of the ladder by themselves: probes that get no other count exactly, change no
result, and leave the text as it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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
from libbpf_shim.rewrite.plan import SitePlan
from libbpf_shim.rewrite.site import plan_site

ROUNDS = 2
MOST = 40


@pytest.fixture
def program() -> Iterator[Path]:
    folder = build.private_copy({"corpus": corpus("gcc-Os-packed")})
    yield folder / "corpus"
    shutil.rmtree(folder)


@pytest.mark.parametrize("rung", ["padding", "short", "pun", "evict", "int3"])
def test_a_rung_by_itself(
    host: Host, runtime_dir: Path, program: Path, rung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only(self: Sites, plan: SitePlan) -> list[SitePlan]:
        return [p for p in (plan, *plan.others) if p.tactic == rung]

    monkeypatch.setattr(Sites, "_order", only)
    victim = Victim(program, runtime_dir, host)
    try:
        before = victim.say("bytes")
        probes = Everywhere(host, program)
        plans = {v: plan_site(probes.module, v) for v in instructions(program)}
        able = [v for v, plan in plans.items()
                if any(p.tactic == rung for p in (plan, *plan.others))]  # fmt: skip
        chosen = shuffled(able, 4)[:MOST]
        there = [v for v in chosen if probes.attach(v, victim.pid)]
        assert len(there) >= min(len(chosen) // 2, 3), probes.refused
        # a punned jump gives way to what is to stand on the bytes that it ends with
        assert set(probes.tactics(there)) == ({rung} if rung != "pun" else {"pun", "int3"})
        want = truth(program, ROUNDS)
        assert victim.say(f"sum {ROUNDS}") == want.sum
        wrong = [(hex(v), probes.count(v), want.counts.get(v, 0)) for v in there
                 if probes.count(v) != want.counts.get(v, 0) and not repeats(probes.module, v)]
        assert wrong == []
        assert any(probes.count(v) for v in there)
        for vaddr in shuffled(there, 8):
            probes.detach(vaddr)
        assert victim.say(f"sum {ROUNDS}") == want.sum
        assert victim.say("bytes") == before
        victim.end()
    finally:
        victim.kill()
