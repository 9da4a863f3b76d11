"""Map types that are neither hashes nor arrays, call by call as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.clients import tool
from compat_tests.guard import launch
from compat_tests.runtime import plain

SCRIPT = Path(__file__).with_name("plain.py")


def output(way: tool.Way, name: str) -> list[str]:
    """What the scenario prints, line by line."""
    python = str(launch.product() / ".venv" / "bin" / "python")
    outcome = tool.run(way.tool([python, "-B", str(SCRIPT), name]))
    assert outcome.status == 0, outcome.err
    return outcome.out.splitlines()


@pytest.mark.kernel
@pytest.mark.parametrize("name", plain.SCENARIOS)
def test_a_type_answers_every_call_as_the_kernel(name: str) -> None:
    assert output(tool.SHIM, name) == output(tool.KERNEL, name)
