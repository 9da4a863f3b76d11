"""Random programs of fuzz.py: verdict, errno, message and every state that the kernel prints are
ours. Fixed seeds."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier import fuzz, states
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.kernel
SOCKET = 1


def last(log: str) -> str:
    """The line that says why."""
    lines = [line for line in log.splitlines()
             if line and not line.startswith(("processed", "mark_precise"))]
    return lines[-1] if lines else ""


def compared(code: bytes, fd: int, real: Any) -> tuple[str, bool]:
    """What is not as the kernel's: verdict, errno, last line, or a state; whether both accept."""
    given = bytearray(code)
    struct.pack_into("<i", given, 4, fd)
    theirs = real.kernel_verdict(bytes(given), SOCKET, log_level=2)
    ours = verify(Program(code, SOCKET, maps=(fuzz.VALUE,), log_level=2))
    both = theirs.ok and not ours.errno
    if (0 if theirs.ok else theirs.errno) != ours.errno:
        return f"{last(theirs.log)}; ours {last(ours.log)}", both
    if not theirs.ok and last(theirs.log) != last(ours.log):
        return f"{last(theirs.log)}; ours {last(ours.log)}", both
    found = states.differences(states.trace(theirs.log), states.trace(ours.log))
    told = [what for what in found if not what.startswith(states.OTHER)]  # pruned elsewhere
    return told[0] if told else "", both


def disagreements(count: int, seed: int) -> tuple[list[tuple[str, str]], int]:
    """Programs that are judged otherwise than by the kernel, and how many both accept."""
    real = kernel.driver()
    fd = real.map_create(2, 4, 64, 1)
    found: list[tuple[str, str]] = []
    accepted = 0
    for at in range(count):
        code = fuzz.program(random.Random(seed << 32 | at))
        what, both = compared(code, fd, real)
        accepted += both
        if what:
            found.append((what, code.hex()))
    return found, accepted


def test_random_programs_are_judged_as_by_the_kernel() -> None:
    found, both = disagreements(1200, seed=1)
    assert not found, (len(found), found[:3])
    assert both > 150


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_random_programs_are_judged_as_by_the_kernel() -> None:
    found, both = disagreements(40_000, seed=2)
    assert not found, (len(found), found[:3])
    assert both > 5000
