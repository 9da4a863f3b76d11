"""csrc/runtime compiled into a test program, as a sanitizer wants it."""

from __future__ import annotations

from pathlib import Path

from compat_tests.maps.drive import HERE
from compat_tests.victims import build

CSRC = HERE.parents[1] / "csrc"
WARN = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]


def program(name: str, source: str, flags: list[str]) -> Path:
    """SOURCE of this folder and the whole runtime but bytes.c: libc's memcpy is what sanitizers
    look into."""
    runtime = sorted(p for p in (CSRC / "runtime").glob("*.c") if p.name != "bytes.c")
    headers = sorted([*CSRC.glob("*/*.h"), *HERE.glob("*.h")])
    return build.make(name, [HERE / source, *runtime],
                      [*WARN, *flags, f"-I{CSRC / 'include'}", f"-I{CSRC / 'runtime'}"],
                      headers=headers)
