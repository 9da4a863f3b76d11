"""Hashes, LRU hashes, LPM tries and arrays, call by call as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.clients import tool
from compat_tests.guard import launch
from compat_tests.runtime import keyed

SCRIPT = Path(__file__).with_name("keyed.py")
GROUPS = sorted({name.partition("-")[0] for name in keyed.SCENARIOS})


def output(way: tool.Way, names: list[str]) -> list[str]:
    """What the scenarios print, line by line."""
    python = str(launch.product() / ".venv" / "bin" / "python")
    outcome = tool.run(way.tool([python, "-B", str(SCRIPT), *names]))
    assert outcome.status == 0, outcome.err
    return outcome.out.splitlines()


@pytest.mark.kernel
@pytest.mark.parametrize("group", GROUPS)
def test_a_keyed_map_answers_every_call_as_the_kernel(group: str) -> None:
    names = [name for name in keyed.SCENARIOS if name.partition("-")[0] == group]
    assert output(tool.SHIM, names) == output(tool.KERNEL, names)
