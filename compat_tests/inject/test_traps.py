"""Where nothing but int3 fits (rewrite/traps.c), in a process that was started without the shim:
the agent that is put there is no reason to refuse it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import Session
from compat_tests.guard import launch
from compat_tests.inject.test_live import Reads, soon
from compat_tests.rewrite.test_traps import FLAGS
from compat_tests.victims import build
from libbpf_shim.attach.target import look

SOURCE = Path(__file__).resolve().parents[1] / "rewrite" / "traps.c"
COMMANDS = ("once", "masks", "suspended", "own", "children", "pester")


@pytest.fixture
def program() -> Iterator[Path]:
    folder = build.private_copy({"traps": build.make("traps", [SOURCE], FLAGS)})
    yield folder / "traps"
    shutil.rmtree(folder)


def _says(victim: Session, command: str) -> int:
    """How often the function has been called so far."""
    victim.seen = b""
    victim.send(command.encode() + b"\n")
    victim.until(b"\n")
    word, calls, verdict = victim.seen.decode().split()
    assert (word, verdict) == (command, "ok"), victim.seen
    return int(calls)


def test_every_hit_counts_and_nothing_else_changes(program: Path) -> None:
    with Session(launch.guarded([str(program)]), stdin=subprocess.PIPE) as victim:
        victim.until(b"ready\n")
        before = 0
        for _ in range(2):
            with Reads(program, "tiny") as loader:
                for command in COMMANDS:
                    calls = _says(victim, command)
                    assert loader.counters()[0] == calls - before, command
                before = calls
                loader.finish()
            soon("an agent is left", lambda: look(victim.child.pid) is None)
            before = _says(victim, "masks")
        assert victim.child.stdin
        victim.child.stdin.close()
        assert victim.child.wait(20) == 0
