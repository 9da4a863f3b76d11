"""A process that has a part of its program mapped a second time: hits count in both places."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from compat_tests.clients.tool import Session
from compat_tests.guard import launch
from compat_tests.inject.test_live import Reads, soon
from compat_tests.victims import build
from libbpf_shim.attach.target import look

HERE = Path(__file__).resolve().parent


def test_each_call_in_either_place_is_counted() -> None:
    made = build.make("again", [HERE / "again.c"], [*build.WARN, "-O1"])
    folder = build.private_copy({"again": made})
    try:
        program = folder / "again"
        with Session(launch.guarded([str(program)]), stdin=subprocess.PIPE) as victim:
            victim.until(b"ready\n")
            for turn in range(2):
                with Reads(program, "twice") as loader:
                    victim.send(b"\n")
                    victim.until(b"%d\n" % (7 * (turn + 1)))
                    assert loader.counters()[0] == 7
                    loader.finish()
                soon("an agent is left", lambda: look(victim.child.pid) is None)
            assert victim.child.stdin
            victim.child.stdin.close()
            assert victim.child.wait(20) == 0
    finally:
        shutil.rmtree(folder)
