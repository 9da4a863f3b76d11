"""A JVM looks return addresses up: those of its functions stay, and each return is counted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from compat_tests.attach.host import HERE, LIBRARY, LIMIT, Host, serving
from compat_tests.victims import build

ROUNDS = 5


def test_who_looks_for_its_return_address_finds_it(host: Host, runtime_dir: Path) -> None:
    source = [HERE / "looks.c"]
    folder = build.private_copy({
        "looks": build.make("looks", source, [*build.WARN, "-O2"], ["-ldl"]),
        "libjvm.so": build.make("libjvm.so", source,
                                [*build.WARN, "-O2", "-DLIBRARY", "-shared", "-fPIC"]),
    })  # fmt: skip
    try:
        _, counter = host.attach(folder / "libjvm.so", "entered", ret=True)
        env = {"LD_PRELOAD": str(LIBRARY), "XDG_RUNTIME_DIR": str(runtime_dir)}
        with serving(host):
            done = subprocess.run([folder / "looks", folder / "libjvm.so", str(ROUNDS)], env=env,
                                  capture_output=True, text=True, timeout=LIMIT)  # fmt: skip
    finally:
        shutil.rmtree(folder)
    assert (done.returncode, done.stdout) == (0, f"{ROUNDS}\n"), done
    assert (counter.hits, host.notices) == (ROUNDS, [])
