"""Commands under the guard, and where the guard's user finds the product.

The user is one that owns nothing on this machine. Where it cannot reach the checkout, the
product is copied to a world-readable place under /tmp and used from there.
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
from pathlib import Path

from compat_tests.victims import build

ROOT = Path(__file__).resolve().parents[2]
UID = int(os.environ.get("LIBBPF_SHIM_TEST_UID", "61187")) if os.getuid() == 0 else os.getuid()
RUN_DIR = Path(f"/tmp/libbpf_shim-{UID}")


def reachable(path: Path) -> bool:
    """A user without any group can read PATH and search every folder above it."""
    if os.getuid():
        return os.access(path, os.R_OK)
    if not path.stat().st_mode & stat.S_IROTH:
        return False
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


@functools.cache
def product() -> Path:
    """The folder that holds libbpf_shim/ and .venv/, as the guard's user can use it."""
    interpreter = ROOT / ".venv" / "bin" / "python"
    if reachable(ROOT / "setup.py") and reachable(interpreter):
        return ROOT
    copy = build.CACHE / "product"
    for part in ("libbpf_shim", ".venv"):
        shutil.copytree(ROOT / part, copy / part, symlinks=True, dirs_exist_ok=True)
    conf = copy / "libbpf_shim" / "_lib" / "libbpf_shim.conf"
    if conf.exists():
        conf.write_text(f"{copy / '.venv' / 'bin' / 'python'}\n{copy}\n")
    return copy


def library() -> Path:
    """libbpf_shim.so as built; a test that needs it fails with its path if it is absent."""
    path = product() / "libbpf_shim" / "_lib" / "libbpf_shim.so"
    assert path.exists(), f"{path} is not built: make build"
    return path


def guarded(
    argv: list[str], *, preload: bool = False, drop_in: bool = False, no_ptrace: bool = False,
    env: dict[str, str] | None = None,
) -> list[str]:
    """ARGV under the guard; with PRELOAD the shim is named in LD_PRELOAD, with DROP_IN its
    libbpf.so.1 is found through LD_LIBRARY_PATH.

    NO_PTRACE refuses ptrace(2) and process_vm_*(2) as well.
    """
    variables = dict(env or {})
    if preload:
        variables["LD_PRELOAD"] = str(library())
    if drop_in:
        variables["LD_LIBRARY_PATH"] = str(library().parent)
    if tier := os.environ.get("LIBBPF_SHIM_TIER"):  # whoever runs the tests asks for one compiler
        variables["LIBBPF_SHIM_TIER"] = tier
    if no_ptrace:  # a session that an earlier tool left may have what the guard refuses
        variables["LIBBPF_SHIM_SESSION"] = "private"
    command = [str(build.guard()), "--uid", str(UID), "--chdir", "/"]
    if no_ptrace:
        command.append("--no-ptrace")
    for name, value in variables.items():
        command += ["--env", f"{name}={value}"]
    return [*command, "--", *argv]


def shim_run(argv: list[str], *, no_ptrace: bool = False) -> list[str]:
    """`bpf-shim run -- ARGV` under the guard."""
    python = str(product() / ".venv" / "bin" / "python")
    inner = [python, "-I", "-c", "import sys; sys.path.insert(0, sys.argv.pop(1)); "
             "from libbpf_shim.cli import main; sys.exit(main())", str(product()), "run", "--"]
    return guarded([*inner, *argv], no_ptrace=no_ptrace)
