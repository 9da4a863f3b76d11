"""What a process does before, beside and behind test runs that read (csrc/agent/alone.c): signals,
jumps, threads, children, and memory that comes and goes. What it sees is what it sees on the
kernel."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Outcome, Session, Way, run
from compat_tests.oracle import kernel
from compat_tests.victims.build import BPF_FLAGS, CLANG, WARN, make

HERE = Path(__file__).resolve().parent
SENT = "handled 1 code -1 value 42 from 1 mask 0"
MODES = {
    "bus": f"{SENT} own 2 there wrong 0 interrupted 1",
    "bus segv": f"{SENT} own 1 there wrong 0 interrupted 1",
    "bus between": f"{SENT} own 2 there wrong 0 interrupted 0",
    "bus blocked": f"before 0 pending 1 {SENT} own 2 there wrong 0 interrupted 0",
    "bus ignored": "handled 0 code 0 value 0 from 0 mask 0 wrong 0 interrupted 0",
    "as it is": f"{SENT} blocked 0 wrong 0 interrupted 0",
    "jump": "hits 100 refused 3200 ours 0 blocked 0 own 1 there own 1 there wrong 0 interrupted 0",
    "threads": " wrong 0 interrupted 0",
    "forks": "child 0 child 0 child 0 ended by 11 wrong 0 interrupted 0",
    "execs": " wrong 0 interrupted 0\n wrong 0 interrupted 0",
    "setters": " own 1 there plain 2 own 1 there own 2 there kept 1 own 1 there wrong 0 "
               "interrupted 0",
    "masks": "blocked 40 wrong 0 interrupted 0",
    "changes": "found 0 found 1 found 0 wrong 0 interrupted 0",
    "file grows": "found 1 early 1 wrong 0 interrupted 0",
    "is mapped": "found 1 early 1 wrong 0 interrupted 0",
}  # fmt: skip


def command(mode: str) -> list[str]:
    header = HERE / "testreads.h"
    loader = make(
        "testedges",
        [HERE / "testedges.c"],
        [*WARN, "-O1", "-pthread"],
        ["-lbpf"],
        headers=[header],
    )
    obj = make(
        "testreads.bpf.o",
        [HERE / "testreads.bpf.c"],
        [*BPF_FLAGS, "-mcpu=v3"],
        compiler=CLANG,
    )
    return [str(loader), str(obj), mode]


def ran(way: Way, mode: str) -> Outcome:
    return run(way.tool(command(mode)))


@pytest.mark.parametrize(
    "way",
    [
        SHIM,
        pytest.param(
            KERNEL,
            marks=pytest.mark.skipif(
                bool(kernel.why_not()), reason=f"no kernel's answer: {kernel.why_not()}"
            ),
        ),
    ],
    ids=lambda way: way.name,
)
@pytest.mark.parametrize("mode", MODES)
def test_it_is_as_on_the_kernel(mode: str, way: Way) -> None:
    outcome = ran(way, mode)
    assert outcome.status == 0, outcome
    assert outcome.out.rstrip("\n") == MODES[mode]
    if mode == "jump" and way is SHIM:
        assert outcome.err == "in a run 1\n"  # else nothing was tried


def test_a_sigbus_that_ends_it_ends_it() -> None:
    outcome = ran(SHIM, "bus ends")
    assert outcome.status in (128 + signal.SIGBUS, -signal.SIGBUS), outcome


def test_reads_are_right_while_others_attach_to_it() -> None:
    """Each attach and detach is conversations with the thread, wherever it is. A tool ends when it
    has seen five hits."""
    argv = command("visited")
    count = f"uprobe:{argv[0]}:mark {{ @hits += 1; if (@hits >= 5) {{ exit(); }} }}"
    with Session(SHIM.tool(argv), stdin=subprocess.PIPE) as loader:
        loader.until(b"ready\n")
        for _ in range(3):
            counted = run(SHIM.tool(["bpftrace", "-e", count]))
            found = re.search(r"@hits: (\d+)", counted.out)
            assert found and int(found[1]) >= 5, counted
        assert loader.child.stdin
        loader.child.stdin.close()
        loader.until(b"interrupted 0\n")
        assert loader.seen.endswith(b" own 1 there wrong 0 interrupted 0\n")
