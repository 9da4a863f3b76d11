"""Reads in test runs (csrc/agent/alone.c): what is read is right, handlers are there only where
nobody could see them, and what the process has of its own is as if there were none."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, Outcome, run
from compat_tests.victims.build import BPF_FLAGS, CLANG, WARN, make

HERE = Path(__file__).resolve().parent


def ran(mode: str, *variables: str) -> Outcome:
    loader = make("testreads", [HERE / "testreads.c"], [*WARN, "-O1", "-pthread"], ["-lbpf"])
    obj = make("testreads.bpf.o", [HERE / "testreads.bpf.c"], [*BPF_FLAGS, "-mcpu=v3"],
               compiler=CLANG)
    return run(SHIM.tool(["env", *variables, str(loader), str(obj), mode]))


def said(outcome: Outcome) -> dict[str, int]:
    assert outcome.status == 0, outcome
    first = outcome.out.split("\n")[0]
    return {name: int(n) for name, n in re.findall(r"(\w+) (\d+)(?: |$)", first)}


QUIET = {"wrong": 0, "left": 0, "handled": 0, "interrupted": 0, "from": 0}


@pytest.mark.parametrize("mode", ["plain", "ring"])
def test_handlers_stand_while_runs_read(mode: str) -> None:
    """ring: a thread of the library's own is there."""
    assert said(ran(mode)) == {"seen": 1, **QUIET}


@pytest.mark.parametrize("mode", ["thread", "blocked", "other", "altstack", "nothing"])
def test_they_do_not_where_it_is_not_certain_or_nothing_is_read(mode: str) -> None:
    assert said(ran(mode)) == {"seen": 0, **QUIET}


def test_they_do_not_if_they_are_switched_off() -> None:
    assert said(ran("off", "LIBBPF_SHIM_QUICK_READS=0")) == {"seen": 0, **QUIET}


def test_a_handler_of_the_loaders_is_put_back() -> None:
    outcome = ran("handler")
    assert said(outcome) == {"seen": 1, **QUIET}
    assert outcome.out.split("\n")[1] == "its own 1 at 0x10"


def test_a_signal_that_was_sent_is_the_loaders() -> None:
    assert said(ran("told")) == {"seen": 1, **QUIET, "handled": 1, "interrupted": 1, "from": 1}


def test_one_that_it_ignores_is_ignored() -> None:
    assert said(ran("ignored")) == {"seen": 1, **QUIET}


@pytest.mark.parametrize("mode", ["killed", "fault"])
def test_one_that_ends_it_ends_it(mode: str) -> None:
    """Sent in a run, or its own fault behind it."""
    outcome = ran(mode)
    assert outcome.status == 128 + signal.SIGSEGV or outcome.status == -signal.SIGSEGV, outcome
