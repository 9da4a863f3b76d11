"""Random programs of fuzz.py: verdict, errno, message and every state that the kernel prints are
ours. Fixed seeds."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier import fuzz, fuzz_functions, fuzz_pointers, states
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.kernel
SOCKET = 1
LD_IMM64 = 0x18


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
    found, both = disagreements(700, seed=1)
    assert not found, (len(found), found[:3])
    assert both > 80


def with_fds(code: bytes, fds: list[int]) -> bytes:
    """ld_imm64 of maps with file descriptors instead of indexes."""
    out = bytearray(code)
    for at in range(0, len(out), 8):
        if out[at] == LD_IMM64 and out[at + 1] >> 4 == 1:
            struct.pack_into("<i", out, at + 4, fds[struct.unpack_from("<i", out, at + 4)[0]])
    return bytes(out)


def pointers(count: int, seed: int) -> tuple[list[tuple[str, str, str]], int]:
    """Programs of fuzz_pointers.py that are not judged as by the kernel; how many both accept."""
    real = kernel.driver()
    fds = [real.map_create(m.type, m.key_size, m.value_size, m.max_entries)
           for m in fuzz_pointers.MAPS]  # fmt: skip
    found: list[tuple[str, str, str]] = []
    accepted = 0
    for at in range(count):
        kind, code = fuzz_pointers.program(random.Random(seed << 32 | at))
        theirs = real.kernel_verdict(with_fds(code, fds), kind, license="GPL", log_level=1)
        ours = verify(Program(code, kind, license="GPL", maps=fuzz_pointers.MAPS, log_level=1))
        accepted += theirs.ok and not ours.errno
        errno = 0 if theirs.ok else theirs.errno
        if errno != ours.errno or (errno and last(theirs.log) != last(ours.log)):
            found.append((last(theirs.log), last(ours.log), code.hex()))
    return found, accepted


def functions(count: int, seed: int) -> tuple[list[tuple[str, str, str]], int]:
    """Programs of fuzz_functions.py that are not judged as by the kernel; how many both accept."""
    real = kernel.driver()
    maps = fuzz_functions.MAPS
    fds = [real.map_create(m.type, m.key_size, m.value_size, m.max_entries) for m in maps]
    found: list[tuple[str, str, str]] = []
    accepted = 0
    for at in range(count):
        code, entry = fuzz_functions.program(random.Random(seed << 32 | at))
        btf, rows = fuzz_functions.infos(entry)
        kind = fuzz_functions.SCHED_CLS
        theirs = real.kernel_verdict(with_fds(code, fds), kind, license="GPL", log_level=1,
                                     btf=btf, func_info=rows)  # fmt: skip
        ours = verify(Program(code, kind, license="GPL", maps=maps, log_level=1, btf=btf,
                              func_info=rows, func_info_rec_size=8))  # fmt: skip
        accepted += theirs.ok and not ours.errno
        errno = 0 if theirs.ok else theirs.errno
        if errno != ours.errno or (errno and last(theirs.log) != last(ours.log)):
            found.append((last(theirs.log), last(ours.log), code.hex()))
    return found, accepted


def test_programs_with_functions_are_judged_as_by_the_kernel() -> None:
    found, both = functions(700, seed=6)
    assert not found, (len(found), found[:3])
    assert both > 50


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_programs_with_functions_are_judged_as_by_the_kernel() -> None:
    found, both = functions(30_000, seed=7)
    assert not found, (len(found), found[:3])
    assert both > 3000


def test_programs_on_pointers_are_judged_as_by_the_kernel() -> None:
    found, both = pointers(800, seed=4)
    assert not found, (len(found), found[:3])
    assert both > 50


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_programs_on_pointers_are_judged_as_by_the_kernel() -> None:
    found, both = pointers(40_000, seed=5)
    assert not found, (len(found), found[:3])
    assert both > 2500  # the share of the test above


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_random_programs_are_judged_as_by_the_kernel() -> None:
    found, both = disagreements(40_000, seed=2)
    assert not found, (len(found), found[:3])
    assert both > 5000
