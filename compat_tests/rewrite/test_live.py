"""Exported functions, and any instructions, of stock programs and libraries, really patched while
the programs work: the answers are those without, nobody is hurt, and the text is put back. The
long run's sample is larger than two thousand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from compat_tests.rewrite.workloads import ALL, missing

ROOT = Path(__file__).resolve().parents[2]
IN_THE_SUITE = {"bash": 80, "redis": 80, "python": 80}
LONG = 420  # functions of each
AS_USER = {"postgres"}  # refuses to work for root


def _live(name: str, count: int, *more: str) -> dict[str, Any]:
    user: dict[str, Any] = {}
    if name in AS_USER and os.getuid() == 0:
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="lc") as cache:
        os.chmod(cache, 0o777)  # what is built for that user
        env = {"PATH": "/usr/bin:/bin", "LIBBPF_SHIM_TEST_CACHE": cache if user else
               os.environ.get("LIBBPF_SHIM_TEST_CACHE", f"/tmp/libbpf_shim-tests-{os.getuid()}")}
        done = subprocess.run(
            [sys.executable, "-B", "-m", "compat_tests.rewrite.live", name, str(count), "3",
             *more],
            capture_output=True, text=True, cwd=ROOT, timeout=300, env=env, **user)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in IN_THE_SUITE else pytest.mark.long) for n in ALL])
def test_a_program_answers_the_same_with_probes_in_it(
    name: str, request: pytest.FixtureRequest
) -> None:
    if lack := missing(name):
        pytest.skip(f"{lack} is not installed: tools/setup.sh")
    count = LONG if request.config.getoption("--long") else IN_THE_SUITE[name]
    _check(_live(name, count), count)


@pytest.mark.parametrize(
    "name", ["bash", *(pytest.param(n, marks=pytest.mark.long) for n in ("python", "cpp"))])
def test_a_program_answers_the_same_with_probes_at_any_instruction(
    name: str, request: pytest.FixtureRequest
) -> None:
    if lack := missing(name):
        pytest.skip(f"{lack} is not installed: tools/setup.sh")
    count = LONG if request.config.getoption("--long") else 120
    found = _live(name, count, "any")
    _check(found, count)
    assert found["tactics"]["backward"] > count // 5


def _check(found: dict[str, Any], count: int) -> None:
    assert (found["wrong"], found["not_restored"], found["notices"]) == ([], 0, [])
    assert found["status"] in (0, -15)
    assert found["executed"] > 0
    assert len(found["refused"]) <= max(count // 50, 1), found["refused"]
    assert found["attached"] + len(found["refused"]) == count
