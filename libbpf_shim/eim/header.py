"""Types from a C header: compiled by clang with debug information, which is then read as DWARF."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from libbpf_shim.eim.types import TypesError, from_dwarf

_COMPILERS = ("clang", *(f"clang-{n}" for n in range(21, 10, -1)))
_SECONDS = 60


def from_header(path: Path, flags: Sequence[str], names: Sequence[str]) -> bytes:
    """The types of those names (`struct NAME`, or a typedef's name), and what they lead to.
    TypesError: no compiler, or it refuses; its own words."""
    if not path.is_file():
        raise TypesError(f"{path}: no such file")
    return _compiled(str(path), os.stat(path).st_mtime_ns, tuple(flags), tuple(names))


@functools.lru_cache(maxsize=8)
def _compiled(path: str, _stamp: int, flags: tuple[str, ...], names: tuple[str, ...]) -> bytes:
    lines = [f'#include "{os.path.abspath(path)}"']
    lines += [f"{name} *eim_{n};" for n, name in enumerate(names)]
    with tempfile.TemporaryDirectory(prefix="libbpf_shim-eim-") as folder:
        source, made = Path(folder, "types.c"), Path(folder, "types.o")
        source.write_text("\n".join([*lines, ""]))
        command = [compiler(), "-g", "-O0", "-fstandalone-debug", "-w", "-I",
                   os.path.dirname(os.path.abspath(path)), *flags, "-c", str(source), "-o",
                   str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise TypesError(f"{path}: {command[0]} took more than {_SECONDS} s") from None
        if done.returncode:
            first = next((row for row in done.stderr.splitlines() if "error" in row), done.stderr)
            raise TypesError(f"{path}: {command[0]}: {first.strip()}")
        plain = [name.split()[-1] for name in names]
        return from_dwarf(made, (), [f"eim_{n}" for n in range(len(names))], plain)


def compiler() -> str:
    """$CLANG, or the newest clang that is there. TypesError."""
    if wanted := os.environ.get("CLANG"):
        return wanted
    for name in _COMPILERS:
        if found := shutil.which(name):
            return found
    raise TypesError("no clang to compile a header with; install clang, or set CLANG")
