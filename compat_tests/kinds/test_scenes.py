"""Uprobes of every kind, links of many uprobes, sessions, reference counters: as on the kernel."""

from __future__ import annotations

from typing import Any

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way
from compat_tests.kinds import act

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """The answers of each way, asked for once."""
    return {}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", list(act.expected()))
@pytest.mark.parametrize("way", WAYS)
def test_a_scene_is_as_on_the_kernel(
    way: Way, name: str, seen: dict[str, dict[str, Any]]
) -> None:
    if way.name not in seen:
        seen[way.name] = act.answers(way)
    assert seen[way.name][name] == act.expected()[name]
