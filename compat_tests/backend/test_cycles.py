"""Cycles of objects go while nobody waits, or when there are very many."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from libbpf_shim.backend import cycles


class Knot:
    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def by_hand() -> Iterator[None]:
    gc.disable()
    gc.collect()
    yield
    gc.enable()


def made(count: int) -> weakref.ref[Knot]:
    knots = [Knot() for _ in range(count)]
    return weakref.ref(knots[-1])


def test_they_go_when_it_is_quiet() -> None:
    last = made(2000)
    assert cycles.patience() == cycles.QUIET
    cycles.look(quiet=False)
    assert last() is not None
    cycles.look(quiet=True)
    assert last() is None
    assert cycles.patience() is None


def test_a_few_are_not_worth_a_look() -> None:
    last = made(10)
    assert cycles.patience() is None
    cycles.look(quiet=True)
    assert last() is not None


def test_so_many_go_in_any_case() -> None:
    last = made(120_000)
    cycles.look(quiet=False)
    assert last() is None


def test_older_ones_have_their_turn() -> None:
    last = made(2000)
    kept = last()
    for _ in range(3):  # it outlives looks at younger ones
        made(2000)
        cycles.look(quiet=True)
    del kept
    for _ in range(400):
        made(1000)
        cycles.look(quiet=True)
    assert last() is None
