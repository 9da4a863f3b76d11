"""Two loaders on the same functions of one process, ended in every order and manner."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.clients.processes import Eight, Victim, computed
from compat_tests.clients.tool import KERNEL, SHIM, Way
from compat_tests.victims import build

ORDERS = ["first in, first out", "first in, last out"]
ENDS = ["ends", "killed"]


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({**build.calls(), **build.eight(static=False)})
    yield place
    shutil.rmtree(place)


def leave(loader: Eight, how: str) -> None:
    if how == "killed":
        loader.kill()
    else:
        loader.finish()


def cases() -> list[Any]:
    """Who goes first, and how; of the kernel a sample is in the suite."""
    found = []
    for way, order, *ends in itertools.product((KERNEL, SHIM), ORDERS, ENDS, ENDS):
        marks = [pytest.mark.kernel] if way is KERNEL else []
        if way is KERNEL and ends != ["killed", "ends"]:
            marks.append(pytest.mark.long)
        found.append(pytest.param(way, order, *ends, marks=marks,
                                  id="-".join([way.name, order, *ends])))
    return found


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("way", "order", "first_end", "second_end"), cases())
def test_both_count_while_attached_and_the_code_comes_back(
    way: Way, order: str, first_end: str, second_end: str, folder: Path
) -> None:
    with Victim(way, folder) as victim:
        before = victim.code()
        with Eight(way, folder) as older:
            victim.rounds(100)
            assert older.report() == computed(100, 1, 1)
            with Eight(way, folder) as newer:
                victim.rounds(100)
                assert older.report().total == 2 * 8 * 100
                assert newer.report() == computed(100, 1, 1)
                goes, stays = (older, newer) if "first out" in order else (newer, older)
                counted = stays.report().total
                leave(goes, first_end)
                victim.rounds(100)
                assert stays.report().total == counted + 8 * 100
                leave(stays, second_end)
        victim.code_becomes(before)
        victim.rounds(100)
        victim.finish()
