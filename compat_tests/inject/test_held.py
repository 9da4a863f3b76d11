"""A process that is visited as its preloaded agent begins: it stands between the moment at which
its library can be called and its own word to the session."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from compat_tests.guard import launch
from compat_tests.inject.targets import COMMANDS, HERE, Target
from compat_tests.inject.test_live import Reads, own_copy, soon
from compat_tests.inject.test_verbs import folder
from compat_tests.victims import build

__all__ = ["folder"]
pytestmark = pytest.mark.timeout(180)


class Held(Target):
    """A target of held.c's, until it is let `go`."""

    def __init__(self, command: list[str]) -> None:
        held = build.make("held", [HERE / "held.c"], [*build.WARN, "-O1"])
        argv = launch.guarded([str(held), str(launch.library()), str(launch.RUN_DIR), *command])
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.pid, self.asked = self.process.pid, 0

    def status(self, name: str) -> str:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return text.partition(f"{name}:\t")[2].split()[0]

    def visited(self) -> bool:
        """It has the session, and nobody is at it any more."""
        return (any("memfd:bpf-ctl" in line for line in self.ours())
                and self.status("TracerPid") == "0")

    def go(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        first = self._line()
        assert first[0] == "ready", first
        self.words = first[1:]


def test_a_link_that_a_visit_has_brought_is_not_put_once_more(folder: Path) -> None:
    command = own_copy(folder, COMMANDS["glibc"]())
    with Reads(Path(command[0]), "asked") as loader, (target := Held(command)):
        soon("it is not held", lambda: target.status("State") == "T")
        soon("it is not visited", target.visited)
        assert target.status("State") == "T"
        target.go()
        for _ in range(10):
            target.works()
        hits = target.asked
        assert loader.counters() == (hits, 12 * hits, hits, 0)
        loader.finish()
        target.works()
        target.end()
