"""Programs call functions of the application that they run in, and read its variables: by an
unmodified loader, `__ksym` externs, libbpf's own resolution by the BTF of a module."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import Outcome, run
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    found = build.private_copy({
        "app": build.make("host-app", [HERE / "app.c"], ["-g", "-O1", "-Wall", "-Werror"]),
        "ext.bpf.o": build.make("host-ext.bpf.o", [HERE / "ext.bpf.c"], build.BPF_FLAGS,
                                compiler="clang-14"),
        "loader": build.make("host-loader", [HERE / "loader.c"], [*build.WARN, "-O1"], ["-lbpf"]),
        "app.yaml": HERE / "app.yaml", "grants.yaml": HERE / "grants.yaml"})
    yield found
    shutil.rmtree(found)


def extended(folder: Path, program: str, where: str, *args: str, grants: str = "grants.yaml",
             preload: bool = True) -> Outcome:
    return run(launch.guarded(
        [*(f"{folder}/{name}" for name in ("loader", "ext.bpf.o", "app")), program, where, *args],
        preload=preload, env={"LIBBPF_SHIM_POLICY": f"{folder}/{grants}"}))


PLAIN = "price 240.000 exact 47.50 tokens 0 served 10 jumps 0"  # of ten requests
# Program, where, the application's arguments; what it says, what the program has seen.
RUNS = [
    # arguments and results in vector and x87 registers, which the function called changes
    ("calls_spoil", "app_price", PLAIN, "out 10 60 0 0 0 0 each 0"),
    ("calls_exact", "app_exact%return", PLAIN, "out 10 60 0 0 0 0 each 0"),
    # 1 - 20 - 300 + 255000 - 1280000; 0x80, 0x8765 and 0xffffffff as their types have them
    ("calls_narrow", "app_handle", PLAIN, "out 10 -1025319 -128 34661 -1 0 each 0"),
    ("calls_count", "app_handle", PLAIN.replace("tokens 0", "tokens 70"),
     "out 10 0 0 0 0 0 each 0"),
    ("calls_fill", "app_handle", PLAIN,
     f"out 0 6 {int.from_bytes(b'abcdxx', 'little')} 0 0 0 each 0"),
    # the last of ten: nine were served, and number 9 is the newest
    ("reads_state", "app_handle", PLAIN, "out 10 9 40 3 9 0 each 0"),
    # both before and behind the call
    ("counts_each", "app_handle", PLAIN, "out 0 0 0 0 0 0 each 20"),
    # the function called is extended too: one run inside of another, and no further
    ("calls_again", "app_handle", PLAIN.replace("served 10", "served 30"),
     "out 20 0 0 0 0 0 each 0"),
]


@pytest.mark.parametrize("case", RUNS, ids=[row[0] for row in RUNS])
def test_programs_call_what_they_run_in(folder: Path, case: tuple[str, str, str, str]) -> None:
    program, where, says, seen = case
    done = extended(folder, program, where, "10")
    assert (done.status, done.out) == (0, f"{says}\n{seen}\n"), done


def test_a_function_that_does_not_come_back_ends_the_run(folder: Path) -> None:
    """It jumps out of the hit; later hits are runs like any other."""
    done = extended(folder, "calls_jump", "app_handle", "10", "jump")
    assert done.out == (f"{PLAIN.replace('served 10 jumps 0', 'served 0 jumps 10')}\n"
                        "out 10 0 0 0 0 0 each 0\n"), done
    assert extended(folder, "calls_jump", "app_handle", "10").out == (
        f"{PLAIN}\nout 10 10 0 0 0 0 each 0\n")
