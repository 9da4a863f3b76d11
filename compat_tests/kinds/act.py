"""Runs scenes.py on the kernel or under guard and shim; what the kernel answered.

`python -m compat_tests.kinds.act` as root, where bpf(2) works, records the answers anew.
"""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

from compat_tests.clients.tool import KERNEL, Way, run
from compat_tests.victims import build
from compat_tests.victims.build import VICTIM_FLAGS, WARN, make

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.json"
PYTHON = shutil.which("python3", path="/usr/bin:/bin") or "python3"
SCRIPTS = (*(HERE / f"{name}.py" for name in ("scenes", "multi", "stage", "btfids")),
           HERE.parent / "attrs" / "drive.py")


@functools.cache
def files() -> dict[str, Path]:
    """The target and its library."""
    headers = [HERE / "usdt.h"]
    plug = make("libkplug.so", [HERE / "plug.c"],
                [*WARN, "-O2", "-shared", "-fPIC", "-fvisibility=hidden"], headers=headers)
    target = make("target", [HERE / "target.c"], VICTIM_FLAGS, ["-ldl"], headers=headers)
    return {"target": target, "libkplug.so": plug}


@functools.cache
def static_target() -> Path:
    """The target without a dynamic linker."""
    return make("target-static", [HERE / "target.c"], [*VICTIM_FLAGS, "-static", "-Wno-error"],
                headers=[HERE / "usdt.h"])


def answers(way: Way, *names: str) -> dict[str, Any]:
    """What the scenes of those names (none: all) see."""
    folder = build.private_copy({**files(), **{script.name: script for script in SCRIPTS}})
    try:
        outcome = run(way.tool([PYTHON, f"{folder}/scenes.py", *names]), 120)
    finally:
        shutil.rmtree(folder)
    assert outcome.status == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def expected() -> dict[str, Any]:
    """As the kernel answered."""
    recorded: dict[str, Any] = json.loads(EXPECTED.read_text())
    return recorded


def main() -> None:
    first, second = answers(KERNEL), answers(KERNEL)
    chance = [name for name in first if first[name] != second[name]]
    assert not chance, f"no oracle: {chance}"
    rows = [f" {json.dumps(name)}: {json.dumps(seen)}" for name, seen in first.items()]
    EXPECTED.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
