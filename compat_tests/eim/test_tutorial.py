"""The tutorials of docs/howto: each page's files are written into an empty folder, its commands
run there by an ordinary user, and what they print is compared with what the page says."""

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
from libbpf_shim.eim import header

ROOT = Path(__file__).resolve().parents[2]
HOWTO = ROOT / "docs" / "howto"
PAGES = {"developers": ["shop.c", "shop.yaml", "greedy.bpf.c"],
         "managers": ["shop.c", "shop.yaml", "front.yaml", "count.bpf.c", "watch.py"],
         "authors": ["shop.c", "shop.yaml", "front.yaml", "ext.bpf.c", "extend.c"]}
_FILE = re.compile(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", re.S | re.M)
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.S | re.M)


def commands(text: str) -> list[tuple[str, str]]:
    """(command, what it prints)."""
    found: list[tuple[str, str]] = []
    for block in _CONSOLE.findall(text):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:].strip(), ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def files(text: str) -> list[tuple[str, str]]:
    """(name, content)."""
    return _FILE.findall(text)


@pytest.fixture
def desk() -> Iterator[Path]:
    """An empty folder of the guard's user, bpf-shim and Python in a folder beside it."""
    top = Path(tempfile.mkdtemp(prefix="desk-", dir="/tmp"))
    product = launch.product()
    python = f"{product}/.venv/bin/python"
    (top / "bin").mkdir()
    for name, line in (("bpf-shim", f'{python} -m libbpf_shim "$@"'),
                       ("python3", f'{python} "$@"')):
        (top / "bin" / name).write_text(f"#!/bin/sh\nPYTHONPATH={product} exec {line}\n")
    (top / "work").mkdir()
    for path in (top, top / "bin", top / "work", *(top / "bin").iterdir()):
        path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(top / "work", launch.UID, launch.UID)
    yield top
    shutil.rmtree(top)


def pattern(said: str) -> str:
    return ".*".join(re.escape(part) for part in said.split("..."))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_every_command_does_what_the_page_says(desk: Path, page: str) -> None:
    text = (HOWTO / f"extend-for-{page}.md").read_text()
    given = files(text)
    assert [name for name, _ in given] == PAGES[page]
    for name, content in given:
        (desk / "work" / name).write_text(content)
        (desk / "work" / name).chmod(0o644)
    rows = commands(text)
    assert len(rows) >= 9 and text.count("\n$ ") == len(rows)
    lines = [f"echo '@@@'; {command}" if " & " in command  # the daemon's, which goes on
             else f"echo '@@@'; {{ {command}\n}} 2>&1" for command, _ in rows]
    script = "\n".join([f"cd {desk}/work", "trap 'kill $! 2> /dev/null' EXIT", *lines])
    environment = {"PATH": f"{desk}/bin:/usr/local/bin:/usr/bin:/bin", "CLANG": header.compiler()}
    done = run(launch.guarded(["sh", "-c", script], env=environment), limit=270)
    shown = done.out.split("@@@\n")[1:]
    for (command, said), printed in zip(rows, shown, strict=True):
        assert re.fullmatch(pattern(said), printed, re.S), f"{command}\n{printed}"


def test_no_command_of_a_page_is_left_out() -> None:
    """Whatever looks like a command stands in a block that is run."""
    for page in PAGES:
        text = _CONSOLE.sub("", (HOWTO / f"extend-for-{page}.md").read_text())
        assert "```sh" not in text and "\n$ " not in text
