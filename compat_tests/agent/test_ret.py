"""Return probes: what is counted, and what is told of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.agent.backend import Attacher, Backend, finish, start
from libbpf_shim.attach.agent import Conversation

# mode and arguments of the victim: its answer, entries and returns by function
CASES: dict[str, tuple[tuple[object, ...], str, dict[str, tuple[int, int]]]] = {
    "recursion": (("deep", 40), "deep 40", {"deep": (41, 41)}),
    "exceptions": (("throw", 20, 500), "caught 500", {"thrower": (10500, 0), "work": (500, 500)}),
    "longjmp": (("jump", 20, 500), "jumped 500", {"jumper": (10500, 0)}),
    "both in eight threads": (("mixed", 100), "ok 1600",
                              {"thrower": (16800, 0), "deep": (24800, 24800)}),
    "fibres": (("fibres",), "sum 10350", {"swap": (100, 100), "deep": (400, 400)}),
    "a wide result": (("wide",), "3 -5", {"wide": (1, 1)}),
    # the two slots are one frame for unwinders; the surface, which is not here, leaves it out
    "a tail call": (("tail",), "30 frames 6", {"tail": (1, 1), "tail_end": (1, 1)}),
    "fork inside": (("forker",), "child 3", {"forker": (1, 2)}),
}


@pytest.mark.parametrize("way", ["whole", "lean", "bare"])
@pytest.mark.parametrize("name", CASES)
def test_entries_and_returns_are_counted_exactly(
    name: str, way: str, library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    arguments, answer, counts = CASES[name]
    attacher.lean, attacher.bare = way != "whole", way == "bare"

    def attach(talk: Conversation) -> None:
        attacher.begin(talk)
        for n, function in enumerate(counts):
            attacher.count(talk, function, 2 * n)
            attacher.link(talk, function, attacher.adder(talk, 2 * n + 1), 2 * n + 1, ret=True)

    backend.serve(1, attach)
    assert finish(start(library, victim, backend, *arguments)) == answer
    assert backend.errors == []
    assert {f: (backend.counter(2 * n), backend.counter(2 * n + 1))
            for n, f in enumerate(counts)} == counts
    assert all(backend.missed(n) == 0 for n in range(2 * len(counts)))


def test_calls_beyond_the_64th_are_missed_and_said_to_be(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def attach(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.count(talk, "deep", 0)
        attacher.link(talk, "deep", attacher.adder(talk, 1), 1, ret=True)

    backend.serve(1, attach)
    assert finish(start(library, victim, backend, "deep", 99)) == "deep 99"
    assert backend.errors == []
    assert (backend.counter(0), backend.counter(1)) == (100, 64)
    assert (backend.missed(0), backend.missed(1)) == (0, 36)


def test_calls_beside_64_fibres_that_wait_cost_little(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    """Which a call finds to go on, by system calls where the program handles SIGSEGV."""
    def attach(talk: Conversation) -> None:
        attacher.begin(talk)
        for n, function in enumerate(("park", "deep")):
            attacher.count(talk, function, 2 * n)
            attacher.link(talk, function, attacher.adder(talk, 2 * n + 1), 2 * n + 1, ret=True)

    backend.serve(1, attach)
    assert finish(start(library, victim, backend, "parking")) == "sum 2016 a call: few reads"
    assert backend.errors == []
    assert [backend.counter(n) for n in range(4)] == [64, 64, 20010, 10]
    assert [backend.missed(n) for n in range(4)] == [0, 0, 0, 20000]
