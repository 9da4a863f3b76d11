"""Random programs of fuzz.py: verdict, errno, message and every state that the kernel prints are
ours, but where a bug of Linux 6.18 shows (test_scalar_bugs.py, docs/parity.md). Fixed seeds."""

from __future__ import annotations

import random
import re
import struct
from typing import Any

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier import fuzz, fuzz_functions, fuzz_pointers, states
from compat_tests.verifier.fuzz import insn
from compat_tests.verifier.test_scalar_bugs import ACCEPTED_THERE, START
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.kernel
SOCKET = 1
LD_IMM64 = 0x18
BUG = "6.18's: "
# a number that an atomic fetched is followed as if it had been there before
_FOLLOWED = re.compile(r"regs=(\S*) stack=\S* before \d+: \((?:c3|db)\) (r\d+) = atomic")
# what was filled with its sign counts as a copy of what was spilled
_COPIED = re.compile(r"^\d+: \((?:91|89|81)\) r(\d+) = .*; (?:.* )?R\1=scalar\(id=", re.M)
# who is behind the end of a packet is there after it has moved, too
_BEYOND = re.compile(r"^\d+: \((?:07|17|0f|1f)\) r(\d+) .*R\1=pkt\([^)]*r=0xf{15}[ef]\)", re.M)


def shows_a_bug(log: str) -> bool:
    """The kernel's log tells that it went wrong, or it says so itself."""
    if "verifier bug: " in log:
        return True
    return bool(_COPIED.search(log) or _BEYOND.search(log)) or any(
        m[2] in m[1].split(",") for m in _FOLLOWED.finditer(log))


def last(log: str) -> str:
    """The line that says why; some of 6.18's do not end."""
    log = re.sub(r"(?<!^)processed \d+ insns .*", "", log, flags=re.M)
    lines = [line for line in log.splitlines()
             if line and not line.startswith(("processed", "mark_precise"))]
    return lines[-1] if lines else ""


def compared(code: bytes, fd: int, real: Any) -> tuple[str, bool]:
    """What is not as the kernel's: verdict, errno, last line, or a state, with BUG before it where
    the kernel is wrong; whether both accept."""
    given = bytearray(code)
    struct.pack_into("<i", given, 4, fd)
    theirs = real.kernel_verdict(bytes(given), SOCKET, log_level=2)
    ours = verify(Program(code, SOCKET, maps=(fuzz.VALUE,), log_level=2))
    both = theirs.ok and not ours.errno
    if (0 if theirs.ok else theirs.errno) != ours.errno:
        what = f"{last(theirs.log)}; ours {last(ours.log)}"
    elif not theirs.ok and last(theirs.log) != last(ours.log):
        what = f"{last(theirs.log)}; ours {last(ours.log)}"
    else:
        found = states.differences(states.trace(theirs.log), states.trace(ours.log))
        told = [what for what in found if not what.startswith(states.OTHER)]  # pruned elsewhere
        what = told[0] if told else ""
    return (BUG if what and shows_a_bug(theirs.log) else "") + what, both


def disagreements(count: int, seed: int) -> tuple[list[tuple[str, str]], int]:
    """Programs that are judged otherwise than by the kernel, and how many both accept."""
    real = kernel.driver()
    fd = real.map_create(2, 4, 64, 1)
    found: list[tuple[str, str]] = []
    accepted = bugs = 0
    for at in range(count):
        code = fuzz.program(random.Random(seed << 32 | at))
        what, both = compared(code, fd, real)
        accepted += both
        if what.startswith(BUG):
            bugs += 1
        elif what:
            found.append((what, code.hex()))
    assert bugs <= count // 2000
    return found, accepted


def test_what_the_kernel_alone_accepts_is_told_by_its_log() -> None:
    real = kernel.driver()
    fd = real.map_create(2, 4, 64, 1)
    for name, body, *_ in ACCEPTED_THERE:
        assert compared(START[8:] + body, fd, real)[0].startswith(BUG), name


def test_nothing_is_told_where_there_is_no_bug() -> None:
    """The same but for a token: a fill without the sign, an addition that fetches nothing."""
    real = kernel.driver()
    fd = real.map_create(2, 4, 64, 1)
    fill, fetch, _ = (body for _, body, *_ in ACCEPTED_THERE)
    for was, now in ((insn(0x91, 2, 10, -8), insn(0x71, 2, 10, -8)),
                     (insn(0xDB, 10, 1, -8, 1), insn(0xDB, 10, 1, -8))):
        body = fill if was in fill else fetch
        assert compared(START[8:] + body.replace(was, now), fd, real) == ("", True)


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
    accepted = bugs = 0
    for at in range(count):
        kind, code = fuzz_pointers.program(random.Random(seed << 32 | at))
        theirs = real.kernel_verdict(with_fds(code, fds), kind, license="GPL", log_level=1)
        ours = verify(Program(code, kind, license="GPL", maps=fuzz_pointers.MAPS, log_level=1))
        accepted += theirs.ok and not ours.errno
        errno = 0 if theirs.ok else theirs.errno
        if errno != ours.errno or (errno and last(theirs.log) != last(ours.log)):
            if shows_a_bug(theirs.log):
                bugs += 1
            else:
                found.append((last(theirs.log), last(ours.log), code.hex()))
    assert bugs <= count // 2000
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
