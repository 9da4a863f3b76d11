"""docs/tokens.md does what it says, docs/security.md names tests that are there."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import run
from compat_tests.guard import launch
from compat_tests.victims.build import CLANG

DOCS = Path(__file__).parents[2] / "docs"
MARK = "---- block {} ----"


@pytest.fixture
def desk() -> Iterator[Path]:
    """A folder of the guard's user, with bpf-shim as an installation would have it."""
    folder = Path(tempfile.mkdtemp(prefix="desk-", dir="/tmp"))
    shim = folder / "bin" / "bpf-shim"
    shim.parent.mkdir()
    python = launch.product() / ".venv" / "bin" / "python"
    shim.write_text(f"#!/bin/sh\nPYTHONPATH={launch.product()} "
                    f"exec {python} -m libbpf_shim \"$@\"\n")
    for path in (shim, shim.parent, folder):
        path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(folder, launch.UID, -1)
    yield folder
    shutil.rmtree(folder)


def _pattern(line: str) -> str:
    return ".*".join(re.escape(part) for part in line.split("..."))


def test_the_tutorial_says_what_its_commands_print(desk: Path) -> None:
    page = (DOCS / "tokens.md").read_text()
    assert "\nclang -target" in page
    page = page.replace("\nclang -target", f"\n{CLANG} -target")
    blocks = re.findall(r"^```sh\n(.*?)^```\n```text\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) == page.count("```sh") >= 5
    script = "".join(f"echo '{MARK.format(number)}'\n{commands}"
                     for number, (commands, _) in enumerate(blocks))
    done = run(launch.guarded(["bash", "-e", "-c", (
        f"exec 2>&1; cd {desk}; PATH={desk}/bin:$PATH\n{script}")]), 100)
    assert done.status == 0, done
    for number, (_, expected) in enumerate(blocks):
        said = done.out.split(MARK.format(number))[1].split(MARK.format(number + 1))[0]
        for line in expected.splitlines():
            line = line.replace('"BEGIN"', '"BEGIN..."')  # a later bpftrace's is BEGIN_1
            assert re.search(f"^{_pattern(line)}$", said, re.M), (line, said)


def test_every_attack_of_the_table_has_its_test() -> None:
    tests: dict[str, str] = {}
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        tests[path.name] = tests.get(path.name, "") + path.read_text()
    rows = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (DOCS / "security.md").read_text())
    assert len(rows) > 50
    assert not [row for row in rows if f"def {row[1]}(" not in tests.get(row[0], "")]
