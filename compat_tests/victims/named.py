"""The libbpf-tools under their own names: from Debian 13 on opensnoop is opensnoop-libbpf."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from compat_tests.victims.build import CACHE

SUFFIX = "-libbpf"


def link() -> None:
    """Puts a folder of links on PATH where they have no such names."""
    if shutil.which("opensnoop") or not (tool := shutil.which(f"opensnoop{SUFFIX}")):
        return
    folder = CACHE / "named"
    folder.mkdir(parents=True, exist_ok=True)
    for path in Path(tool).parent.glob(f"*{SUFFIX}"):
        name = folder / path.name.removesuffix(SUFFIX)
        if not name.is_symlink():
            name.symlink_to(path)
    os.environ["PATH"] = f"{folder}:{os.environ['PATH']}"
