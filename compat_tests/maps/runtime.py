"""csrc/runtime compiled into a test program, as a sanitizer wants it."""

from __future__ import annotations

from pathlib import Path

from compat_tests.maps.drive import HERE
from compat_tests.victims import build

CSRC = HERE.parents[1] / "csrc"
WARN = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
THREADS = ["-fsanitize=thread", "-Wno-tsan"]


def program(name: str, source: Path, flags: list[str]) -> Path:
    """SOURCE and the whole runtime but bytes.c: libc's memcpy is what sanitizers look into."""
    runtime = [p for p in (CSRC / "runtime").glob("*.c") if p.name != "bytes.c"]
    flags = [*WARN, *flags, f"-I{CSRC / 'include'}", f"-I{CSRC / 'runtime'}"]
    headers = sorted([*CSRC.glob("*/*.h"), *source.parent.glob("*.h")])
    return build.make(name, [source, *build.objects(runtime, flags)], flags, headers=headers)
