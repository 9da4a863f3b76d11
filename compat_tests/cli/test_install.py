"""tools/install.sh: the library works by its bare name, and finds its backend by its real path."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import run
from compat_tests.faults import survivors
from compat_tests.guard import launch

ROOT = Path(__file__).resolve().parents[2]
HELLO = ["bpftrace", "-e", 'BEGIN { printf("hello\\n"); exit(); }']


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """An installation in a folder of its own, with lib/, links/ and bin/."""
    if os.getuid():
        pytest.skip("tools/install.sh: not root")
    folder = Path(tempfile.mkdtemp(prefix="installed-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "links").mkdir()
    done = subprocess.run(
        [str(ROOT / "tools" / "install.sh"), *(str(folder / n) for n in ("lib", "links", "bin"))],
        capture_output=True, text=True, timeout=120,
    )
    assert done.returncode == 0, done.stderr
    yield folder
    shutil.rmtree(folder)


def test_bare_name_on_the_loaders_path_is_enough(installed: Path) -> None:
    # LD_LIBRARY_PATH stands for the multiarch folder, which a test must not write to.
    env = {"LD_LIBRARY_PATH": str(installed / "links"), "LD_PRELOAD": "libbpf_shim.so"}
    outcome = run(launch.guarded(HELLO, env=env))
    assert outcome.status == 0 and "hello\n" in outcome.out, outcome
    survivors.nothing_left()


def test_installed_command_runs_a_tool_from_any_folder(installed: Path) -> None:
    outcome = run(launch.guarded([f"{installed}/bin/bpf-shim", "run", "--", *HELLO]))
    assert outcome.status == 0 and "hello\n" in outcome.out, outcome
    path = run(launch.guarded([f"{installed}/bin/bpf-shim", "path"]))
    assert path.out.strip() == f"{installed}/lib/libbpf_shim/_lib/libbpf_shim.so"


def test_command_may_be_linked_to_and_imports_nothing_of_the_callers(installed: Path) -> None:
    (installed / "links" / "shim").symlink_to(installed / "bin" / "bpf-shim")
    (installed / "links" / "libbpf_shim.py").write_text("raise SystemExit('the caller's')")
    outcome = run(launch.guarded(["sh", "-c", f"cd {installed}/links && exec ./shim path"],
                                 env={"PYTHONPATH": f"{installed}/links"}))
    assert outcome.out.strip() == f"{installed}/lib/libbpf_shim/_lib/libbpf_shim.so", outcome


def test_installation_does_not_need_the_checkout(installed: Path) -> None:
    conf = installed / "lib" / "libbpf_shim" / "_lib" / "libbpf_shim.conf"
    assert str(ROOT) not in conf.read_text()
