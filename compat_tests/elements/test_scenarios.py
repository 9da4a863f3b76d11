"""Maps of maps, of programs and of events, call by call as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.clients import tool
from compat_tests.elements import scenarios
from compat_tests.guard import launch

SCRIPT = Path(__file__).with_name("scenarios.py")


def output(way: tool.Way, name: str) -> list[str]:
    """What the scenario prints, line by line."""
    python = str(launch.product() / ".venv" / "bin" / "python")
    outcome = tool.run(way.tool([python, "-B", str(SCRIPT), name]))
    assert outcome.status == 0, outcome.err
    return outcome.out.splitlines()


@pytest.mark.kernel
@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_elements_that_are_objects_are_as_on_the_kernel(name: str) -> None:
    lines = output(tool.KERNEL, name)
    assert lines
    assert output(tool.SHIM, name) == lines


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["maps_in_programs", "tail_calls", "timers"])
def test_a_loader_that_cannot_be_traced_finds_new_elements_too(name: str) -> None:
    assert output(tool.SHIM_NO_PTRACE, name) == output(tool.KERNEL, name)
