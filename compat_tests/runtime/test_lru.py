"""LRU hashes: what goes when they are full, with many writers, and under kill -9.

Which element goes in what order is the kernel's choice, and compared with it in
compat_tests/maps; what calls answer is test_keyed.py's.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.runtime.test_maps import (
    EXIST,
    NOEXIST,
    VCPUS,
    Control,
    Map,
    in_children,
    layout,
    u32,
    u64,
)

LRU, LRU_PERCPU = 9, 10
NO_COMMON_LRU = 2


@pytest.fixture
def control() -> Control:
    return Control()


def numbers(table: Map) -> list[int]:
    return sorted(int.from_bytes(key, "little") for key in table.keys())


def used(table: Map, number: int) -> bool:
    """A program looks it up."""
    return bool(lib.shim_map_lookup(table.desc, ffi.from_buffer(u32(number)), table.run))


def ready(entries: int) -> int:
    """Elements that a CPU gets ready at a time, at the cost of others if need be."""
    return min(max(entries // VCPUS // 2, 1), 128)


def content(kind: int, number: int) -> bytes:
    return u64(number) * (VCPUS if kind == LRU_PERCPU else 1)


@pytest.mark.parametrize(("entries", "becomes"), [(1, 4), (4, 4), (5, 8)])
def test_lists_of_their_own_have_even_shares(entries: int, becomes: int) -> None:
    assert layout(LRU, 4, 8, entries).max_entries == entries
    assert layout(LRU, 4, 8, entries, NO_COMMON_LRU).max_entries == becomes


@pytest.mark.parametrize("kind", [LRU, LRU_PERCPU])
@pytest.mark.parametrize("entries", [1, 2, 7, 64])
def test_an_update_never_fails_and_its_key_is_there(
    control: Control, kind: int, entries: int
) -> None:
    table, chance = Map(control, kind, 4, 8, entries), random.Random(entries)
    table.run.vcpu = 0
    for _ in range(3000):
        number = chance.randrange(entries * 3)
        assert table.update(u32(number), content(kind, number)) == 0
        assert table.lookup(u32(number)) == content(kind, number)
    found = numbers(table)
    assert entries - ready(entries) <= len(found) == len(set(found)) <= entries
    assert all(table.lookup(u32(n)) == content(kind, n) for n in found)


def test_what_programs_look_up_stays(control: Control) -> None:
    table = Map(control, LRU, 4, 8, 8)
    for number in range(8):
        table.update(u32(number), u64(number))
    assert all(used(table, number) for number in range(4))
    for number in range(8, 12):
        table.update(u32(number), u64(number))
    assert numbers(table) == [0, 1, 2, 3, 8, 9, 10, 11]


def test_what_system_calls_look_up_goes(control: Control) -> None:
    table = Map(control, LRU, 4, 8, 8)
    for number in range(8):
        table.update(u32(number), u64(number))
    assert all(table.lookup(u32(number)) == u64(number) for number in range(4))
    for number in range(8, 12):
        table.update(u32(number), u64(number))
    assert numbers(table) == [4, 5, 6, 7, 8, 9, 10, 11]


def test_an_update_of_what_is_there_needs_another_element_first(control: Control) -> None:
    table = Map(control, LRU, 4, 8, 8)
    table.run.vcpu = 0
    for number in range(8):
        table.update(u32(number), u64(number))
    assert table.update(u32(3), u64(30), EXIST) == 0  # it takes the place of the oldest
    assert table.update(u32(3), u64(31), NOEXIST) == 17
    assert table.update(u32(9), u64(9), EXIST) == 2
    assert numbers(table) == list(range(1, 8)) and table.lookup(u32(3)) == u64(30)
    assert table.update(u32(9), u64(9)) == 0  # which left one free
    assert numbers(table) == [*range(1, 8), 9]


def test_a_key_may_make_room_for_itself(control: Control) -> None:
    table = Map(control, LRU, 4, 8, 1)
    assert table.update(u32(1), u64(1)) == 0
    assert table.update(u32(1), u64(2), EXIST) == 2
    assert numbers(table) == []


def test_values_of_each_cpu_are_written_where_they_are(control: Control) -> None:
    table = Map(control, LRU_PERCPU, 4, 8, 1)
    assert table.update(u32(1), content(LRU_PERCPU, 1)) == 0
    assert table.update(u32(1), content(LRU_PERCPU, 2), EXIST) == 0
    assert table.lookup(u32(1)) == content(LRU_PERCPU, 2)


def test_each_cpu_evicts_of_its_own_share(control: Control) -> None:
    table = Map(control, LRU, 4, 8, 8, NO_COMMON_LRU)
    for number in range(20):
        table.run.vcpu = 0 if number < 2 else 1
        table.update(u32(number), u64(number))
    assert {0, 1, 19} <= set(numbers(table))
    assert len(numbers(table)) <= 4


def test_a_cpu_takes_what_others_were_given(control: Control) -> None:
    table = Map(control, LRU, 4, 8, 3)
    for number in range(3):
        table.run.vcpu = number
        table.update(u32(number), u64(number))  # each CPU has the one that it was given
    table.run.vcpu = 3
    assert used(table, 0)
    table.update(u32(7), u64(7))  # it begins with CPU 0's, used or not
    assert numbers(table) == [1, 2, 7]
    table.update(u32(8), u64(8))  # and now it has one
    assert numbers(table) == [1, 2, 8]


def test_a_hot_set_survives_a_flood(control: Control) -> None:
    table = Map(control, LRU, 4, 8, 1000)
    for number in range(500):
        table.update(u32(number), u64(number))
    for number in range(10000, 30000):
        if number % 100 == 0:
            assert all(used(table, hot) for hot in range(500))
        table.update(u32(number), u64(number))
    assert set(numbers(table)) >= set(range(500))


def racing(table: Map, control: Control, index: int, rounds: int | None) -> None:
    """Random changes by one process; a value is its key."""
    table.run, chance, done = control.run(), random.Random(index), 0
    while rounds is None or done < rounds:
        number = chance.randrange(200)
        if chance.random() < 0.8:
            assert table.update(u32(number), u64(number)) == 0
        else:
            table.delete(u32(number))
        done += 1


def fill(table: Map, first: int) -> int:
    """New keys by one CPU until nothing that it could use is free; how many there are then."""
    seen: list[int] = []
    for number in range(first, first + 200):
        assert table.update(u32(number), u64(number)) == 0
        seen.append(len(numbers(table)))
        if number > first + 100 and seen[-1] == max(seen):
            break
    return seen[-1]


def whole(table: Map, entries: int) -> None:
    """No key twice, no value that is another's, and all of the room is there."""
    found = numbers(table)
    assert len(found) == len(set(found)) <= entries
    assert all(table.lookup(u32(n)) == u64(n) for n in found)
    for cpu in range(VCPUS):
        table.run.vcpu = cpu
        room = fill(table, 1000 * (cpu + 1))
    assert room == entries


def test_processes_that_evict_each_others_elements(control: Control) -> None:
    table = Map(control, LRU, 4, 8, 50)

    def work(index: int) -> None:
        racing(table, control, index, 20000)
        os.kill(os.getpid(), signal.SIGKILL)

    for pid in in_children(4, work):  # a failed assertion would end one in another way
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    whole(table, 50)


def test_kill_of_writers_loses_no_room(control: Control) -> None:
    table, chance = Map(control, LRU, 4, 8, 50), random.Random(5)
    for _ in range(15):
        pids = in_children(2, lambda index: racing(table, control, index, None))
        pause = chance.uniform(0.002, 0.02)  # how long they live is the experiment
        time.sleep(pause)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    whole(table, 50)
