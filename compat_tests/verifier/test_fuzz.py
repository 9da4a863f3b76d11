"""Random programs of fuzz.py: the kernel's verdict and errno are ours. Fixed seeds."""

from __future__ import annotations

import random
import struct

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier import fuzz
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.kernel
SOCKET = 1


def last(log: str) -> str:
    """The line that says why."""
    lines = [line for line in log.splitlines() if line and not line.startswith("processed")]
    return lines[-1] if lines else ""


def disagreements(count: int, seed: int) -> tuple[list[tuple[str, str, str]], int]:
    """Programs that are judged otherwise than by the kernel, and how many both accept."""
    real = kernel.driver()
    fd = real.map_create(2, 4, 64, 1)
    found: list[tuple[str, str, str]] = []
    both = 0
    for at in range(count):
        code = fuzz.program(random.Random(seed << 32 | at))
        given = bytearray(code)
        struct.pack_into("<i", given, 4, fd)
        theirs = real.kernel_verdict(bytes(given), SOCKET, log_level=1)
        ours = verify(Program(code, SOCKET, maps=(fuzz.VALUE,), log_level=1))
        both += theirs.ok and not ours.errno
        if (theirs.errno if not theirs.ok else 0) != ours.errno:
            found.append((code.hex(), last(theirs.log), last(ours.log)))
    return found, both


def test_random_programs_are_judged_as_by_the_kernel() -> None:
    found, both = disagreements(1500, seed=1)
    assert not found, (len(found), found[:3])
    assert both > 200


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_random_programs_are_judged_as_by_the_kernel() -> None:
    found, both = disagreements(60_000, seed=2)
    assert not found, (len(found), found[:3])
    assert both > 8000
