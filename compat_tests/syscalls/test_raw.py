"""Raw tracepoints sys_enter and sys_exit, by a program that reads the registers they point to."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent


def test_raw_tracepoints_lead_to_the_registers_of_the_call() -> None:
    made = build.make("raw.bpf.o", [HERE / "raw.bpf.c"], build.BPF_FLAGS, compiler="clang-14")
    folder = build.private_copy({"raw.bpf.o": made, "raw.py": HERE / "raw.py"})
    python = str(launch.product() / ".venv" / "bin" / "python")
    done = subprocess.run(
        launch.guarded([python, str(folder / "raw.py"), str(folder / "raw.bpf.o"),
                        str(launch.library())]),
        capture_output=True, text=True, timeout=60)
    shutil.rmtree(folder)
    assert done.returncode == 0, done.stderr
    pid, (calls, addresses, not_yet, left, total) = json.loads(done.stdout)
    assert (calls, addresses, not_yet, left, total) == (11, 11, 11, 11, 11 * pid)
