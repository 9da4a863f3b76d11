"""Maps without preallocation: memory as they fill, an errno where there is none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compat_tests.runtime.test_maps import layout
from libbpf_shim.object.file import MemFile

HASH, PERCPU_HASH, LPM, NO_PREALLOC = 1, 5, 11, 1
SCRIPT = Path(__file__).with_name("growing.py")


def namespace() -> list[str]:
    """A mount namespace in which this user may mount; a skip where there is none."""
    argv = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    if subprocess.run([*argv, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces for this user")
    return argv


@pytest.mark.parametrize("kind", [HASH, PERCPU_HASH, LPM])
def test_a_map_that_cannot_grow_says_so(kind: int) -> None:
    done = subprocess.run([*namespace(), sys.executable, "-B", str(SCRIPT), str(kind)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr  # SIGBUS would be -7
    taken, error = map(int, done.stdout.split())
    assert error == errno.ENOMEM and 100 < taken < 5000


@pytest.mark.parametrize("kind", [HASH, PERCPU_HASH, LPM])
def test_a_map_that_grows_is_small_at_first(kind: int) -> None:
    header = layout(kind, 8, 64, 100000, NO_PREALLOC)
    file = MemFile("bpf-map", header.file_size, front=header.elem_off)
    assert os.fstat(file.fd).st_blocks * 512 <= header.elem_off + 2 * 4096
    file.close()
    file = MemFile("bpf-map", header.file_size)
    assert os.fstat(file.fd).st_blocks * 512 >= header.file_size
    file.close()
