"""A loader of Go that has libbpf make bpf(2), and makes other system calls by itself: the same
however it comes to the library."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, run
from compat_tests.guard import launch
from compat_tests.process import programs
from compat_tests.victims import build

pytestmark = pytest.mark.skipif(not shutil.which("go"), reason="go: not installed")


@pytest.fixture(params=["inside", "beside"])
def loader(request: pytest.FixtureRequest) -> Iterator[str]:
    folder = build.private_copy({"lifts": programs.lifts(request.param)})
    yield str(folder / "lifts")
    shutil.rmtree(folder)


def judge(argv: list[str], said: str) -> None:
    outcome = run(argv)
    assert (outcome.status, outcome.out, outcome.err) == (0, said, ""), outcome


@pytest.mark.kernel
def test_what_it_says_on_the_kernel(loader: str) -> None:
    """Whether the limit may be lifted is the machine's: containers keep root from it."""
    outcome = run(KERNEL.tool([loader, "a b"]))
    assert outcome.out.startswith(f"[{loader} a b] "), outcome
    assert outcome.out.endswith(" true 77\n"), outcome


def test_it_may_lift_its_limit_under_run(loader: str) -> None:
    judge(launch.shim_run([loader, "a b"]), f"[{loader} a b] <nil> true 77\n")


def test_it_may_lift_its_limit_where_the_library_is_preloaded(loader: str) -> None:
    judge(SHIM.tool([loader, "a b"]), f"[{loader} a b] <nil> true 77\n")


def test_it_may_where_another_program_starts_it_by_another_name(loader: str) -> None:
    argv = SHIM.tool(["/bin/bash", "-c", f"(exec -a other {loader} -n --)"])
    judge(argv, "[other -n --] <nil> true 77\n")


def test_it_begins_as_others_do_where_it_cannot_be_served(loader: str) -> None:
    argv = launch.shim_run([loader], no_ptrace=True)
    judge(argv, f"[{loader}] operation not permitted true 77\n")
    argv = launch.guarded([loader], preload=True, no_ptrace=True)
    judge(argv, f"[{loader}] operation not permitted true 77\n")
