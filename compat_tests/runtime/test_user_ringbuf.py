"""bpf_user_ringbuf_drain: one at a time, and what one that does not end leaves. What it delivers
is test_plain.py's."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Any

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.runtime.test_maps import Control, Map, in_children

USER_RINGBUF, DRAIN, DYNPTR_READ = 31, 209, 201
SIZE, PAGE = 4096, 4096
EBUSY, EINVAL = -16, -22
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def ring(control: Control) -> Map:
    return Map(control, USER_RINGBUF, 0, 0, SIZE)


def put(ring: Map, *samples: bytes) -> None:
    """Writes samples as a user does."""
    at = int.from_bytes(ring.memory[PAGE : PAGE + 8], "little")
    for sample in samples:
        place = 2 * PAGE + at % SIZE
        ring.memory[place : place + 4] = len(sample).to_bytes(4, "little")
        ring.memory[place + 8 : place + 8 + len(sample)] = sample
        at += len(sample) + 15 & ~7
        ring.memory[PAGE : PAGE + 8] = at.to_bytes(8, "little")


def drain(ring: Map, callback: Any, run: Any = None, flags: int = 0) -> int:
    address = ctypes.cast(callback, ctypes.c_void_p).value
    desc = int(ffi.cast("uintptr_t", ring.desc))
    got = lib.shim_helper(DRAIN)(desc, address, 7, flags, 0, run or ring.run)
    return int(ffi.cast("s64", got))


def reader(ring: Map, seen: list[bytes]) -> Any:
    """A callback that keeps every sample."""

    def read(sample: int, context: int) -> int:
        room = ffi.new("char[]", 8)
        at = int(ffi.cast("uintptr_t", room))
        assert context == 7
        assert lib.shim_helper(DYNPTR_READ)(at, 8, sample, 0, 0, ring.run) == 0
        seen.append(bytes(ffi.buffer(room, 8)))
        return int(seen[-1] == b"the stop")

    return CALLBACK(read)


def test_samples_come_in_order_until_one_says_stop(ring: Map) -> None:
    seen: list[bytes] = []
    put(ring, b"sample 1", b"the stop", b"sample 3")
    assert drain(ring, reader(ring, seen)) == 2
    assert drain(ring, reader(ring, seen)) == 1
    assert seen == [b"sample 1", b"the stop", b"sample 3"]


def test_a_drain_inside_a_drain_finds_the_ring_busy(ring: Map) -> None:
    found: list[int] = []

    def again(sample: int, context: int) -> int:
        found.append(drain(ring, CALLBACK(lambda *_: 0)))
        return 0

    put(ring, b"sample 1")
    assert drain(ring, CALLBACK(again)) == 1
    assert found == [EBUSY]


def test_a_drain_of_an_interrupted_run_is_not_over(control: Control, ring: Map) -> None:
    thread = ffi.new("struct shim_thread *")
    ring.run.thread = int(ffi.cast("uintptr_t", thread))
    other = ffi.new("struct shim_run *", ring.run[0])
    found: list[int] = []

    def interrupted(sample: int, context: int) -> int:
        thread.outer_sp = 1
        found.append(drain(ring, CALLBACK(lambda *_: 0), other))
        thread.outer_sp = 0  # a longjmp has left the other one
        found.append(drain(ring, CALLBACK(lambda *_: 0), other))
        return 0

    put(ring, b"sample 1")
    drain(ring, CALLBACK(interrupted))
    assert found == [EBUSY, 1]


def test_a_drain_of_the_dead_is_taken_over(control: Control, ring: Map) -> None:
    put(ring, b"sample 1", b"sample 2")

    def die(index: int) -> None:
        ring.run = control.run()
        drain(ring, CALLBACK(lambda *_: signal.raise_signal(signal.SIGKILL)))

    mine = ring.run
    os.waitpid(in_children(1, die)[0], 0)
    ring.run = mine
    seen: list[bytes] = []
    assert drain(ring, reader(ring, seen)) == 2  # the first was not released
    assert seen == [b"sample 1", b"sample 2"]


@pytest.mark.parametrize(("at", "value", "want"), [
    (PAGE, 1 << 40, EINVAL), (PAGE, 17, EINVAL), (0, 1, 2), (0, 2**64 - 1, 0),
    (2 * PAGE, 0x3FFFFFFF, EINVAL),
])  # fmt: skip
def test_positions_and_lengths_that_lie_are_not_followed(
    ring: Map, at: int, value: int, want: int
) -> None:
    put(ring, b"sample 1", b"sample 2")
    if at == PAGE and value == 1 << 40:
        ring.memory[2 * PAGE + 32 : 2 * PAGE + 36] = (0).to_bytes(4, "little")
        ring.memory[2 * PAGE : 2 * PAGE + 4] = (SIZE).to_bytes(4, "little")
        want = -7
    ring.memory[at : at + 8] = value.to_bytes(8, "little")
    assert drain(ring, CALLBACK(lambda *_: 0)) == want
