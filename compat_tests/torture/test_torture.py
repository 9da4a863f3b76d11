"""200 probes come and go in random order while eight threads run through them, with signals,
forks, exceptions, longjmp, fibres and threads that end inside: no wrong answer, no missing count,
no death, and the original bytes in the end."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compat_tests.clients import tool
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent
FLAGS = ["-std=gnu++17", "-g", "-O2", "-Wall", "-Wextra", "-Wno-infinite-recursion", "-rdynamic",
         "-pthread"]
THREADS = 8


@functools.cache
def files() -> dict[str, Path]:
    victim = build.make("torture", [HERE / "functions.cpp", HERE / "victim.cpp"], FLAGS,
                        compiler="g++", headers=[HERE / "functions.h"])
    program = build.make("torture.bpf.o", [HERE / "torture.bpf.c"], build.BPF_FLAGS,
                         compiler="clang-14")
    return {"torture": victim, "torture.bpf.o": program, "driver.py": HERE / "driver.py"}


def torture(seconds: int, seed: int) -> dict[str, Any]:
    """What driver.py says of a run of so many seconds."""
    folder = build.private_copy(files())
    interpreter = str(launch.product() / ".venv" / "bin" / "python")
    code = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
            "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')")
    inner = [interpreter, "-I", "-c", code, str(launch.product()), str(folder / "driver.py"),
             str(folder / "torture.bpf.o"), str(folder / "torture"), str(launch.library()),
             str(THREADS), str(seconds), str(seed)]
    try:
        done = tool.run(launch.guarded(inner), seconds + 90.0)
        assert done.status == 0, done
        report: dict[str, Any] = json.loads(done.out)
        return report
    finally:
        shutil.rmtree(folder)


def holds(report: dict[str, Any]) -> None:
    assert report["wrong"] == [], report
    assert report["hits"] > 1000 and report["changes"] > 10, report


def test_probes_come_and_go_under_eight_threads() -> None:
    holds(torture(6, 1))


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_probes_come_and_go_for_a_minute(seed: int) -> None:
    report = torture(60, seed)
    holds(report)
    print(report)
