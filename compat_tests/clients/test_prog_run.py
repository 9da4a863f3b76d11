"""BPF_PROG_TEST_RUN: the same programs and inputs on the kernel and under the shim (testrun/).

What a run returns, writes into buffers and into the attr must be the same, line by line. Known
differences are left out of testrun/ and stand in docs/parity.md; a test here fails when one goes
away.
"""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest

from compat_tests.clients.testrun.parts import PARTS
from compat_tests.clients.tool import KERNEL, SHIM, run
from compat_tests.guard import launch

SCRIPT = Path(__file__).with_name("testrun") / "__main__.py"
PYTHON = "/usr/bin/python3"


def lines(argv: list[str]) -> dict[str, dict[str, object]]:
    outcome = run(argv)
    assert outcome.status == 0, outcome.err[-2000:]
    found = [json.loads(line) for line in outcome.out.splitlines()]
    return {row["name"]: row for row in found}


def script() -> str:
    """Where the guard's user can read it."""
    there = launch.product() / SCRIPT.relative_to(launch.ROOT)
    if launch.product() != launch.ROOT:
        shutil.copytree(SCRIPT.parent, there.parent, dirs_exist_ok=True)
        for file in there.parent.glob("*.py"):
            file.chmod(0o644)
    return str(there)


@pytest.mark.kernel
@pytest.mark.parametrize("part", PARTS)
def test_a_run_is_the_kernels(part: str) -> None:
    theirs = lines(KERNEL.tool([PYTHON, str(SCRIPT), part]))
    ours = lines(SHIM.tool([PYTHON, script(), part]))
    assert theirs
    wrong = {name: (row, ours.get(name)) for name, row in theirs.items() if ours.get(name) != row}
    assert not wrong, list(wrong.items())[:3]
    assert ours.keys() == theirs.keys()


def test_what_is_not_there_is_refused_and_named() -> None:
    """Strict: a line of docs/parity.md that is not true any more fails here."""
    outcome = run(SHIM.tool([PYTHON, script(), "differences"]))
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["ret"] for row in rows] == [-errno.EOPNOTSUPP] * 3
    said = [line for line in outcome.err.splitlines() if line.startswith("libbpf_shim:")]
    assert len(said) == 3 and "bpf_clone_redirect" in said[0], outcome.err


@pytest.mark.kernel
def test_it_is_there_in_the_kernel() -> None:
    assert [row["ret"] for row in lines(KERNEL.tool(
        [PYTHON, str(SCRIPT), "differences"])).values()] == [0, 0, 0]
