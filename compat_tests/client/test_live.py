"""The Python API on live objects, as an unprivileged user whose bpf(2) is refused (checks.py)."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest

from compat_tests.client import build, checks
from compat_tests.clients.tool import Outcome, run
from compat_tests.guard import launch
from compat_tests.victims.build import VICTIM_FLAGS, make, private_copy

LIMIT = 100.0


def python(*arguments: str) -> Outcome:
    """A Python of the guard's user that can import the product."""
    interpreter = str(launch.product() / ".venv" / "bin" / "python")
    code = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
            "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')")
    return run(launch.guarded([interpreter, "-I", "-c", code, str(launch.product()), *arguments]),
               LIMIT)


@functools.cache
def outcome() -> Outcome:
    victim = make("victim", [build.HERE / "victim.c"], VICTIM_FLAGS)
    folder = private_copy({"live.bpf.o": build.own("live"), "usdt.bpf.o": build.own("usdt"),
                           "victim": victim, "checks.py": Path(checks.__file__)})
    try:
        return python(*(str(folder / name) for name in ("checks.py", "live.bpf.o", "victim")))
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", checks.CHECKS)
def test_it_holds_that(name: str) -> None:
    done = outcome()
    assert done.status == 0, done
    wrong: str = json.loads(done.out)[name]
    if wrong.startswith(checks.NOT_THERE):
        pytest.skip(wrong)
    assert not wrong, wrong
