"""kill -9 after every single instruction of a map's change: stepped.c."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from compat_tests.victims import build

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = HERE / "stepped.c"
CHANGES = re.findall(r'^\t\{ "([a-z-]+)", ', SOURCE.read_text(), re.M)


def program() -> Path:
    """stepped.c with the runtime as it is in the library."""
    runtime = sorted((ROOT / "csrc" / "runtime").glob("*.c"))
    objects = [ROOT / "build" / "obj" / "runtime" / f"{source.name}.o" for source in runtime]
    return build.make("stepped", [SOURCE, *objects],
                      [*build.WARN, "-O1", f"-I{ROOT / 'csrc' / 'include'}"])


def test_there_are_changes() -> None:
    assert len(CHANGES) > 15


@pytest.mark.parametrize("change", CHANGES)
def test_death_after_any_instruction_leaves_a_whole_map(change: str) -> None:
    done = subprocess.run([program(), change], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 300  # it was the change that was stepped through
