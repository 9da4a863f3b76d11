"""200 probes come and go in random order while eight threads run through them, with signals,
forks, exceptions, longjmp, fibres and threads that end inside: no wrong answer, no missing count,
no death, and the original bytes in the end. The same in servers under load: no request fails."""

from __future__ import annotations

import functools
import json
import os
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
                         compiler=build.CLANG)
    return {"torture": victim, "torture.bpf.o": program, "driver.py": HERE / "driver.py",
            "served.py": HERE / "served.py"}


def report_of(script: str, arguments: list[str], limit: float) -> dict[str, Any]:
    """What one of the scripts here says, run as the guard's user. @NAME: a file of files()."""
    folder = build.private_copy(files())
    interpreter = str(launch.product() / ".venv" / "bin" / "python")
    code = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
            "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')")
    given = [str(folder / a[1:]) if a[0] == "@" else a for a in arguments]
    inner = [interpreter, "-I", "-c", code, str(launch.product()), str(folder / script), *given]
    try:
        done = tool.run(launch.guarded(inner), limit)
        assert done.status == 0, done
        report: dict[str, Any] = json.loads(done.out)
        return report
    finally:
        shutil.rmtree(folder)


def torture(seconds: int, seed: int) -> dict[str, Any]:
    return report_of("driver.py", ["@torture.bpf.o", "@torture", str(launch.library()),
                                   str(THREADS), str(seconds), str(seed)], seconds + 100.0)


def served(server: str, seconds: int, seed: int) -> dict[str, Any]:
    programs = {"nginx": ("nginx", "wrk"), "redis": ("redis-server", "redis-benchmark")}[server]
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
    if lacking := [p for p in programs if not shutil.which(p, path=path)]:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    return report_of("served.py", [server, "@torture.bpf.o", str(launch.library()), str(seconds),
                                   str(seed)], seconds + 100.0)


def holds(report: dict[str, Any]) -> None:
    assert report["wrong"] == [], report
    assert report["hits"] > 100 and report["changes"] > 9, report  # it did happen


def test_probes_come_and_go_under_eight_threads() -> None:
    holds(torture(4, 1))


@pytest.mark.parametrize("server", ["nginx", "redis"])
def test_no_request_of_a_server_fails(server: str) -> None:
    holds(served(server, 3, 1))


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("server", ["nginx", "redis"])
def test_no_request_of_a_server_fails_for_a_minute(server: str) -> None:
    report = served(server, 60, 2)
    holds(report)
    print(report)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_probes_come_and_go_for_a_minute(seed: int) -> None:
    report = torture(60, seed)
    holds(report)
    print(report)
