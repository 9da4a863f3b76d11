"""docs/howto/extend-nginx.md: its files are written, its commands run by an ordinary user, and
what they print compared with what the page says."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import run
from compat_tests.eim.test_tutorial import ROOT, commands, files
from compat_tests.faults import survivors
from compat_tests.guard import launch
from compat_tests.victims import build
from libbpf_shim.eim import header

PAGE = ROOT / "docs" / "howto" / "extend-nginx.md"
SOURCES = Path("/usr/share/nginx/src")
NEEDED = ("nginx", "wrk", "curl", "bpftool")
PORT = "8123"  # on the page
CONNECTIONS = 8  # of wrk


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def folder() -> Iterator[Path]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"
    lacking = [name for name in NEEDED if not shutil.which(name, path=path)]
    if lacking or not SOURCES.is_dir():
        pytest.skip(f"not installed: {', '.join(lacking) or 'nginx-dev'}")
    found = Path(tempfile.mkdtemp(prefix="libbpf_shim-nginx-"))
    found.chmod(0o777)
    try:
        yield found
    finally:
        with contextlib.suppress(OSError, ValueError):  # where the page's last command did not run
            os.kill(int((found / "nginx.pid").read_text()), signal.SIGTERM)
        survivors.wait_for("nginx has ended", lambda: not (found / "nginx.pid").exists())
        shutil.rmtree(found)


def configured() -> Path:
    """What the page's first command makes, which takes some seconds: once for each nginx-dev."""
    flags = (SOURCES / "conf_flags").read_bytes() + (SOURCES / "auto" / "cc" / "conf").read_bytes()
    made = build.CACHE / f"nginx-{hashlib.sha256(flags).hexdigest()[:16]}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="nginx-", dir=made.parent))
        command = commands(PAGE.read_text())[0][0]
        subprocess.run(["sh", "-c", command], cwd=scratch, check=True, timeout=200)
        scratch.chmod(0o755)
        scratch.rename(made)
    return made


ISOLATED = (  # where classes say so, and what is said of one
    ("    entries: [done]\n", "    isolation: {}\n"),
    ("    entries: [request]\n", "    isolation: {}\n"),
    ("  overrides the function with any value\n", "  is isolated: {}\n"))


def placed(text: str) -> str:
    """Without where fields lie, which other versions of nginx have elsewhere."""
    return re.sub(r"bytes at \d+\)", "bytes at OFFSET)", text)


@pytest.mark.parametrize("isolation", [
    "", pytest.param("sfi", marks=pytest.mark.long)])
def test_every_command_of_the_page_does_what_it_says(folder: Path, isolation: str) -> None:
    """And the same with both classes isolated."""
    port = str(free_port())
    text = PAGE.read_text().replace(PORT, port)
    for line, more in ISOLATED if isolation else ():
        assert text.count(line) == 1
        text = text.replace(line, line + more.format(isolation))
    for name, content in files(text):
        (folder / name).write_text(content)
        (folder / name).chmod(0o644)
    shutil.copytree(configured() / "objs", folder / "objs")
    python = launch.product() / ".venv" / "bin" / "python"
    (folder / "bpf-shim").write_text(
        f"#!/bin/sh\nPYTHONPATH={launch.product()} exec {python} -m libbpf_shim \"$@\"\n")
    (folder / "bpf-shim").chmod(0o755)
    rows = commands(text)[1:]
    script = [f"cd {folder}", f"PATH={folder}:/usr/sbin:$PATH"]
    script += [f"echo '@@@'; {command} 2>&1" for command, _ in rows]
    (folder / "all.sh").write_text("\n".join(script))
    done = run(launch.guarded(["sh", f"{folder}/all.sh"], env={"CLANG": header.compiler()}), 100)
    shown = done.out.split("@@@\n")[1:]
    for (command, expected), got in zip(rows, shown, strict=True):
        assert placed(got) == placed(expected), command
    assert done.err == "", done
    answered = {row.split()[1]: int(row.split()[2])
                for row in (folder / "answers.txt").read_text().splitlines()}
    words = (folder / "refused.txt").read_text().split()
    asked = int(words[words.index("requests") - 1])
    # with curl's, and those that wrk did not wait for
    assert asked < answered["/private/"] <= asked + 1 + CONNECTIONS
