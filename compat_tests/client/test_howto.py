"""docs/howto/use-from-python.md does what it says: its two programs are built and run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from compat_tests.clients.tool import run
from compat_tests.guard import launch
from compat_tests.victims.build import BPF_FLAGS, CLANG

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "use-from-python.md"


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert found
    return found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.owner() == Path("/tmp").owner() and parent != Path("/tmp") and (
                str(parent).startswith("/tmp/")):
            parent.chmod(0o755)
    source = tmp_path / "calls.bpf.c"
    source.write_text(block("c"))
    subprocess.run([CLANG, *BPF_FLAGS, source, "-o", tmp_path / "calls.bpf.o"], check=True)
    # as `pip install` would leave it: the package importable, bpf-shim on the path
    (tmp_path / "calls.py").write_text(block("python"))
    shim = tmp_path / "bpf-shim"
    python = launch.product() / ".venv" / "bin" / "python"
    shim.write_text(f"#!/bin/sh\nPYTHONPATH={launch.product()} "
                    f"exec {python} -m libbpf_shim \"$@\"\n")
    shim.chmod(0o755)
    return tmp_path


def test_the_example_counts_the_mallocs_of_a_command(folder: Path) -> None:
    python = str(launch.product() / ".venv" / "bin" / "python")
    script = f"cd {folder} && PATH={folder}:$PATH exec {python} calls.py sort /etc/services"
    done = run(launch.guarded(["sh", "-c", script],
                              env={"PYTHONPATH": str(launch.product())}), 100)
    assert done.status == 0, done
    records = re.findall(r"^(\d+) wants (\d+) bytes$", done.out, re.M)
    counts = dict(re.findall(r"^(\d+) called malloc (\d+) times$", done.out, re.M))
    assert records and all(int(size) >= 4096 for _, size in records), done
    assert {pid for pid, _ in records} <= set(counts)
    assert all(int(count) > 0 for count in counts.values())
