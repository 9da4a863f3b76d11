"""Links the agent with the runtime into a library of its own, and builds the victims."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
WARN = "-std=gnu11 -O2 -g -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes".split()
INCLUDE = [f"-I{CSRC / 'include'}", f"-I{CSRC / 'agent'}", f"-I{CSRC / 'runtime'}"]

def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def objects(name: str) -> list[Path]:
    """Of csrc/NAME, as they are in the library."""
    sources = sorted([*(CSRC / name).glob("*.c"), *(CSRC / name).glob("*.S")])
    return [CSRC.parent / "build" / "obj" / name / f"{source.name}.o" for source in sources]


def library(into: Path) -> Path:
    """libagent.so: runtime, agent, and a constructor instead of the surface."""
    start = into / "start.o"
    run(
        "gcc", *WARN, "-fPIC", "-fvisibility=hidden", *INCLUDE, "-c", HERE / "start.c", "-o", start
    )
    out = into / "libagent.so"
    run(
        "gcc",
        "-shared",
        "-Wl,-z,defs",
        "-Wl,-z,now",
        "-o",
        out,
        start,
        *objects("agent"),
        *objects("runtime"),
    )
    return out


def victim(into: Path) -> Path:
    """The program to be probed: not position independent, so that nm gives addresses."""
    out = into / "victim"
    run(
        "g++",
        "-O2",
        "-g",
        "-no-pie",
        "-fno-optimize-sibling-calls",
        "-fexceptions",
        "-Wall",
        "-Wno-unused-function",
        "-o",
        out,
        HERE / "victim.cpp",
        "-ldl",
        "-pthread",
    )
    return out


def symbols(path: Path) -> dict[str, int]:
    """Addresses by name, from nm."""
    rows = (line.split() for line in run("nm", path).splitlines())
    return {row[2]: int(row[0], 16) for row in rows if len(row) == 3}
