"""Uprobes of every kind, links of many uprobes, sessions, reference counters: as on the kernel."""

from __future__ import annotations

from typing import Any

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way
from compat_tests.kinds import act

# What the kernel answers is recorded; it is asked again in the suite where it does not take long.
SLOW = {"whose_hits", "addresses", "garbage", "answers_to_multi"}


def cases() -> list[Any]:
    """Of both ways, all scenes."""
    kernel = [pytest.param(KERNEL, name, id=f"kernel-{name}", marks=[
        pytest.mark.kernel, *([pytest.mark.long] if name in SLOW else [])])
        for name in act.expected()]
    return [*kernel, *(pytest.param(SHIM, name, id=f"shim-{name}") for name in act.expected())]


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """The answers of each way, asked for once."""
    return {}


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("way", "name"), cases())
def test_a_scene_is_as_on_the_kernel(
    way: Way, name: str, seen: dict[str, dict[str, Any]], request: pytest.FixtureRequest
) -> None:
    if way.name not in seen:
        asked = [name for name in act.expected()
                 if way is SHIM or name not in SLOW or request.config.getoption("--long")]
        seen[way.name] = act.answers(way, *asked)
    assert seen[way.name][name] == act.expected()[name]
