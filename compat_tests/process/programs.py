"""The programs of this folder, built."""

from __future__ import annotations

import functools
from pathlib import Path

from compat_tests.victims.build import BPF_FLAGS, VICTIM_FLAGS, WARN, make

HERE = Path(__file__).resolve().parent


@functools.cache
def tasks() -> dict[str, Path]:
    """The victim that becomes many things, the programs that look at it, and their loader."""
    header = [HERE / "task.h"]
    return {
        "tasks": make("tasks", [HERE / "tasks.c"], VICTIM_FLAGS),
        "task.bpf.o": make("task.bpf.o", [HERE / "task.bpf.c"], BPF_FLAGS, compiler="clang-14",
                           headers=header),
        "watch": make("watch", [HERE / "watch.c"], [*WARN, "-O2"], ["-lbpf"]),
    }
