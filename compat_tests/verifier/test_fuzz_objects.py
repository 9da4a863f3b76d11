"""Random programs of fuzz_owned.py: verdict, errno and the last line are the kernel's. Fixed
seeds."""

from __future__ import annotations

import errno
import os
import random

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier import fuzz_owned
from compat_tests.verifier.fuzz_objects_base import types
from compat_tests.verifier.test_fuzz import last, shows_a_bug, with_fds
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.kernel
Difference = tuple[int, str, str]


class Kernel:
    """Programs and maps share one BTF object: what they hold is of one type."""

    def __init__(self, shared: bool) -> None:
        self.real, self.types = kernel.driver(), types(shared)
        self.btf = self.real.btf_load(self.types.blob)
        self.fds = [self.real.map_create(
            m.type, m.key_size, m.value_size, m.max_entries,
            btf_fd=self.btf if m.btf else 0, btf_key_type_id=m.btf_key_type_id,
            btf_value_type_id=m.btf_value_type_id) for m in self.types.maps]  # fmt: skip

    def verdict(self, kind: int, code: bytes, rows: bytes) -> tuple[int, str]:
        """errno, log."""
        for size in 1 << 20, 1 << 28:
            fd, log, *_ = self.real.prog_load_raw(
                with_fds(code, self.fds), kind, license="GPL", log_level=1, log_size=size,
                btf_fd=self.btf, func_info=rows)  # fmt: skip
            if fd != -errno.ENOSPC:  # the log is there, whole
                break
        if fd < 0:
            return -fd, log
        os.close(fd)
        return 0, log


def ours(shared: bool, kind: int, code: bytes, rows: bytes) -> tuple[int, str]:
    verdict = verify(Program(
        code, kind, license="GPL", maps=types(shared).maps, log_level=1, btf=types(shared).blob,
        func_info=rows, func_info_rec_size=8, kernel_btf=MACHINE))  # fmt: skip
    return verdict.errno, verdict.log


def differences(count: int, seed: int) -> tuple[list[Difference], int]:
    """Programs that are not judged as by the kernel, by number; how many both accept."""
    real = {shared: Kernel(shared) for shared in (False, True)}
    found: list[Difference] = []
    accepted = 0
    for at in range(count):
        kind, shared, code, entries = fuzz_owned.program(random.Random(seed << 32 | at))
        rows = types(shared).rows(entries)
        theirs, their_log = real[shared].verdict(kind, code, rows)
        mine, log = ours(shared, kind, code, rows)
        accepted += not theirs and not mine
        same = theirs == mine and (not mine or last(their_log) == last(log))
        if not same and not shows_a_bug(their_log):
            found.append((at, last(their_log), last(log)))
    return found, accepted


def test_programs_that_take_and_give_are_judged_as_by_the_kernel() -> None:
    found, both = differences(700, seed=8)
    assert not found, (len(found), found[:3])
    assert both > 200


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_programs_that_take_and_give_are_judged_as_by_the_kernel() -> None:
    found, both = differences(40_000, seed=9)
    assert not found, (len(found), found[:3])
    assert both > 12_000
