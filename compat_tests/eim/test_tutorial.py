"""docs/howto/extend-an-application.md: its files are written, its commands run, and what they
print compared with what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from libbpf_shim.eim import header

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "howto" / "extend-an-application.md"
_FILE = re.compile(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", re.S | re.M)
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


def test_every_command_does_what_the_page_says(tmp_path: Path) -> None:
    text = PAGE.read_text()
    given = files(text)
    assert [name for name, _ in given] == ["shop.c", "shop.yaml", "front.yaml", "ext.bpf.c",
                                          "watch.c"]
    for name, content in given:
        (tmp_path / name).write_text(content)
    rows = commands(text)
    assert len(rows) > 8
    tool = tmp_path / "bin" / "bpf-shim"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -m libbpf_shim "$@"\n')
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}",
                   "PYTHONPATH": str(ROOT), "CLANG": header.compiler()}
    lines = [f"echo '@@@'; {command} 2>&1" for command, _ in rows]
    script = "\n".join(["trap 'kill $! 2> /dev/null' EXIT", *lines])  # the daemon, if one fails
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, text=True,
                          capture_output=True, timeout=100)
    for (command, expected), shown in zip(rows, done.stdout.split("@@@\n")[1:], strict=True):
        assert shown == expected, command
