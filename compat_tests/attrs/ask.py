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

EXPECTED = Path(__file__).with_name("expected.json")
DRIVER = Path(__file__).with_name("drive.py")
PYTHON = shutil.which("python3", path="/usr/bin:/bin") or "python3"


def answers(way: Way, cases: dict[str, Any] = CASES) -> dict[str, Any]:
    """What each case is answered."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "cases.json").write_text(json.dumps(cases))
        (folder / "drive.py").write_text(DRIVER.read_text())  # readable by the guard's user
        outcome = run(way.tool([PYTHON, f"{folder}/drive.py", f"{folder}/cases.json"]))
    assert outcome.status == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def expected() -> dict[str, Any]:
    """The kernel's answers as recorded."""
    found: dict[str, Any] = json.loads(EXPECTED.read_text())
    return found


def main() -> None:
    first, second = answers(KERNEL), answers(KERNEL)
    chance = [name for name in first if first[name] != second[name]]
    assert not chance, f"no oracle: {chance}"
    rows = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in first.items()]
    EXPECTED.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
