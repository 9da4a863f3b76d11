"""Statistics, modes of descriptors, freezing, queries, relocations: as on the kernel."""

from __future__ import annotations

import json

import pytest

from compat_tests.attrs import ask
from compat_tests.clients.tool import KERNEL, SHIM, Way

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]


@pytest.mark.parametrize("way", WAYS)
def test_every_story_ends_as_on_the_kernel(way: Way) -> None:
    assert ask.stories(way) == json.loads(ask.STORIES.read_text())
