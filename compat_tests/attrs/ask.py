"""Runs drive.py over CASES on the kernel or under guard and shim; what the kernel answered.

`python -m compat_tests.attrs.ask` as root, where bpf(2) works, records them anew.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from compat_tests.attrs.cases import CASES
from compat_tests.clients.tool import KERNEL, Way, run

HERE = Path(__file__).parent
EXPECTED, STORIES = HERE / "expected.json", HERE / "stories.json"
PYTHON = shutil.which("python3", path="/usr/bin:/bin") or "python3"


def _said(way: Way, program: str, **files: str) -> dict[str, Any]:
    """What a program of this folder prints. Files: readable by the guard's user, in one folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for file in ("drive.py", "stories.py"):
            (folder / file).write_text((HERE / file).read_text())
        for file, text in files.items():
            (folder / file).write_text(text)
        outcome = run(way.tool([PYTHON, f"{folder}/{program}", *(f"{folder}/{f}" for f in files)]))
    assert outcome.status == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def answers(way: Way, cases: dict[str, Any] = CASES) -> dict[str, Any]:
    """What each case is answered."""
    return _said(way, "drive.py", cases=json.dumps(cases))


def stories(way: Way) -> dict[str, Any]:
    """What each story saw."""
    return _said(way, "stories.py")


def families() -> dict[str, list[str]]:
    """The names of cases by what stands before their colon."""
    found: dict[str, list[str]] = {}
    for name in CASES:
        found.setdefault(name.partition(":")[0], []).append(name)
    return found


def expected() -> dict[str, Any]:
    """The kernel's answers as recorded: a list for each family."""
    recorded: dict[str, list[Any]] = json.loads(EXPECTED.read_text())
    return {name: answer for family, names in families().items()
            for name, answer in zip(names, recorded.get(family, ()), strict=True)}


def main() -> None:
    first, second = answers(KERNEL), answers(KERNEL)
    chance = [name for name in first if first[name] != second[name]]
    assert not chance, f"no oracle: {chance}"
    rows = [f" {json.dumps(family)}: {json.dumps([first[name] for name in names])}"
            for family, names in families().items()]
    EXPECTED.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    told = [f" {json.dumps(name)}: {json.dumps(seen)}" for name, seen in stories(KERNEL).items()]
    STORIES.write_text("{\n" + ",\n".join(told) + "\n}\n")


if __name__ == "__main__":
    main()
