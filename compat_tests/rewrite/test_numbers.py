"""Which system calls a module makes (rewrite/numbers.py)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compat_tests.victims import build
from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite.numbers import MASKS, Call, calls
from libbpf_shim.uapi.syscalls import NUMBERS

HERE = Path(__file__).resolve().parent
LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")
# of libc, as functions are called: some make others besides
ALIKE = ["getpid", "getppid", "dup2", "flock", "mincore", "rt_sigprocmask", "ppoll", "pselect6",
         "epoll_pwait", "rt_sigsuspend", "sched_yield", "munmap", "getsid", "chroot"]
# glibc 2.41 makes the calls of cancellation points in one place, for all
TOGETHER = {"ppoll", "pselect6", "epoll_pwait", "rt_sigsuspend"} if tuple(
    map(int, (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[1].split("."))
) >= (2, 41) else set()
CALLED = {"rt_sigprocmask": "pthread_sigmask", "pselect6": "pselect",
          "rt_sigsuspend": "sigsuspend"}


def of(module: Module, name: str, made: list[Call]) -> list[Call]:
    symbol = module.find(name)
    assert symbol
    return [c for c in made if symbol.vaddr <= c.at < symbol.vaddr + symbol.size]


@pytest.fixture(scope="module")
def written() -> tuple[Module, list[Call]]:
    module = Module(str(build.make("numbers.so", [HERE / "numbers.S"], ["-shared", "-nostdlib"])))
    return module, list(calls(module))


@pytest.mark.parametrize("name", [
    "n_39", "n_14_before", "n_0", "n_202_kept", "n_14_39", "n_any_memory", "n_any_argument",
    "n_any_called", "n_39_saved", "n_any_part", "n_any_jumped", "n_39_jumps", "n_39_near"])
def test_all_that_a_number_may_be_is_told(
    name: str, written: tuple[Module, list[Call]]
) -> None:
    (call,) = of(written[0], name, written[1])
    assert call.numbers == tuple(int(part) for part in name.split("_") if part.isdigit())


@pytest.mark.parametrize(("name", "bytes_before"), [
    ("n_39", 5), ("n_14_before", 6), ("n_202_kept", 6), ("n_39_near", 0), ("n_any_jumped", 6)])
def test_a_place_is_where_a_jump_fits_and_all_come_by(
    name: str, bytes_before: int, written: tuple[Module, list[Call]]
) -> None:
    (call,) = of(written[0], name, written[1])
    assert (call.at - call.place if call.place else 0) == bytes_before


def test_libcs_calls_are_those_of_its_functions() -> None:
    module = Module(str(LIBC))
    made = list(calls(module))
    for name in ALIKE:
        if name in TOGETHER:
            assert not of(module, CALLED.get(name, name), made)
            continue
        numbers = {n for call in of(module, CALLED.get(name, name), made) for n in call.numbers}
        assert NUMBERS[name] in numbers, name
    # of those that may be any: syscall(), and what all threads are to do (setuid(2))
    # and where cancellation points come by
    assert sum(not call.numbers for call in made) <= (6 if TOGETHER else 4)
    assert all(call.place for call in made if MASKS & set(call.numbers) or not call.numbers)
