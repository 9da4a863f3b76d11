"""Queues and stacks under kill -9. What they answer is test_plain.py's."""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Iterator

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.runtime.test_maps import Control, Map, in_children, layout

QUEUE, STACK = 22, 23
ANY, EXIST = 0, 2
ENTRIES, SIZE = 64, 16


@pytest.fixture
def control() -> Control:
    return Control()


def push(ring: Map, value: bytes, flags: int = ANY) -> int:
    return int(lib.shim_map_push(ring.desc, ffi.from_buffer(value), flags, ring.run))


def popped(ring: Map) -> Iterator[bytes]:
    """Everything there is."""
    room = ffi.new("char[]", SIZE)
    while lib.shim_map_pop(ring.desc, room, ring.run) == 0:
        yield bytes(ffi.buffer(room, SIZE))


@pytest.mark.parametrize("kind", [QUEUE, STACK])
def test_kill_of_a_writer_loses_and_doubles_nothing(control: Control, kind: int) -> None:
    chance = random.Random(kind)
    for _ in range(20):
        ring = Map(control, kind, 0, SIZE, ENTRIES)

        def work(index: int, ring: Map = ring) -> None:
            ring.run, number, room = control.run(), 0, ffi.new("char[]", SIZE)
            while True:
                number += push(ring, struct.pack("<QQ", index, number), EXIST) == 0
                if number % 3 == 0:
                    lib.shim_map_pop(ring.desc, room, ring.run)

        pids = in_children(2, work)
        pause = chance.uniform(0.001, 0.02)  # how long they live is the experiment
        time.sleep(pause)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        found = [struct.unpack("<QQ", value) for value in popped(ring)]
        for index in range(2):
            numbers = [number for who, number in found if who == index]
            order = numbers if kind == QUEUE else numbers[::-1]
            assert order == sorted(set(order))
        assert [push(ring, bytes(SIZE)) for _ in range(ENTRIES + 1)] == [0] * ENTRIES + [-7]
        assert len(list(popped(ring))) == ENTRIES


@pytest.mark.parametrize("state", [2**64 - 1, 65 << 32, 66, 3 << 32 | 64])
def test_positions_that_lie_stay_inside(control: Control, state: int) -> None:
    ring = Map(control, QUEUE, 0, SIZE, ENTRIES)
    ffi.cast("u64 *", ffi.from_buffer(ring.memory))[1] = state
    assert len(list(popped(ring))) <= ENTRIES
    assert [push(ring, bytes(SIZE)) for _ in range(ENTRIES + 1)] == [0] * ENTRIES + [-7]


@pytest.mark.parametrize("field", ["file_size", "stride", "elem_off", "state_off", "mmap_size"])
def test_a_header_that_lies_is_refused(control: Control, field: str) -> None:
    ring = Map(control, QUEUE, 0, SIZE, ENTRIES)
    size = len(ring.memory)
    view = ffi.from_buffer(ring.memory)
    assert layout(QUEUE, 0, SIZE, ENTRIES).file_size == size
    inside = ffi.cast("struct shim_map_hdr *", view + size - 4096)
    setattr(inside, field, getattr(inside, field) + 4096)
    assert lib.shim_map_desc_init(ffi.new("struct shim_map_desc *"), view, size) < 0
