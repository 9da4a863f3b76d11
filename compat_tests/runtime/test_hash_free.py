"""Which elements of a hash map are free: with their buckets, on the list (map_hash_free.c)."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from libbpf_shim._native import ffi

from compat_tests.runtime.test_maps import (
    E2BIG,
    HASH,
    NO_PREALLOC,
    NOEXIST,
    PERCPU_HASH,
    Control,
    Map,
    u32,
    u64,
)


@pytest.fixture
def control() -> Control:
    return Control()


def key_of(number: int, size: int) -> bytes:
    return u32(number).ljust(size, b"\1")


@pytest.mark.parametrize(("kind", "key", "value", "entries", "flags"), [
    (HASH, 4, 8, 1, 0), (HASH, 4, 8, 7, 0), (HASH, 4, 8, 1500, 0), (HASH, 8, 24, 1500, 0),
    (HASH, 12, 8, 700, 0), (HASH, 8, 8, 1500, NO_PREALLOC), (PERCPU_HASH, 4, 8, 700, 0),
    (HASH, 4, 8, 6000, 0), (HASH, 8, 8, 6000, NO_PREALLOC),
])  # fmt: skip
def test_a_map_takes_as_many_keys_as_it_has_room_for_whatever_went_before(
    control: Control, kind: int, key: int, value: int, entries: int, flags: int
) -> None:
    """Fuller and emptier by turns, each key another bucket's than that which went."""
    table, chance = Map(control, kind, key, value, entries, flags), random.Random(entries)
    there: list[int] = []
    number = refused = 0
    for rounds, fuller in ((3, 0.5), (2, 0.9), (6, 0.55), (3, 0.1), (6, 0.6), (4, 0.48)):
        for _ in range(rounds * entries + 8):
            if chance.random() < fuller:
                number += 1
                full = len(there) == entries
                got = table.update(key_of(number, key), bytes(table.room), NOEXIST)
                assert got == (E2BIG if full else 0)
                refused += full
                there += [] if full else [number]
            elif there:
                at = chance.randrange(len(there))
                there[at], there[-1] = there[-1], there[at]
                assert table.delete(key_of(there.pop(), key)) == 0
    assert refused
    assert sorted(table.keys()) == sorted(key_of(number, key) for number in there)


def hash_free(table: Map) -> dict[str, int]:
    """What it says of itself (struct hash_free)."""
    words = ffi.cast("u32 *", table.desc.base)
    return {"listed": words[6], "scarce": words[16], "kept": words[17], "ask": words[18]}


def test_a_key_that_comes_again_gets_its_buckets_element(control: Control) -> None:
    table = Map(control, HASH, 4, 8, 64)
    for number in range(1000):
        assert table.update(u32(5), u64(number)) == 0
        assert table.delete(u32(5)) == 0
    assert hash_free(table) == {"listed": 0, "scarce": 0, "kept": 1, "ask": 0}


def test_a_map_that_is_nearly_full_keeps_none_until_it_is_emptier(control: Control) -> None:
    entries = 4096
    table = Map(control, HASH, 4, 8, entries)
    for number in range(entries):
        assert table.update(u32(number), u64(0)) == 0
    assert table.delete(u32(7)) == 0
    assert hash_free(table)["scarce"] == 0
    assert table.update(u32(entries), u64(0)) == 0
    assert hash_free(table) == {"listed": 0, "scarce": 1, "kept": 0, "ask": 0}
    for number in range(entries + 1, entries + 5):
        assert table.update(u32(number), u64(0)) == E2BIG
    assert hash_free(table) == {"listed": 0, "scarce": 1, "kept": 0, "ask": 0}
    for number in range(8, 8 + entries // 4):
        assert table.delete(u32(number)) == 0
        assert hash_free(table) == {"listed": number - 7, "scarce": 1, "kept": 0, "ask": 0}
    assert table.delete(u32(0)) == 0
    assert hash_free(table)["scarce"] == 0
    assert table.delete(u32(1)) == 0
    assert hash_free(table) == {"listed": entries // 4 + 1, "scarce": 0, "kept": 1, "ask": 0}


def test_buckets_of_a_large_map_have_been_asked_when_the_list_is_empty(control: Control) -> None:
    """Some at each update, so that no update asks all of them."""
    entries, gone = 20000, 2000
    table = Map(control, HASH, 4, 8, entries)
    for number in range(gone):
        assert table.update(u32(number), u64(0)) == 0
    for number in range(gone):
        assert table.delete(u32(number)) == 0
    assert hash_free(table)["listed"] < gone // 8 and hash_free(table)["kept"] == 1
    number, asked = gone, []
    while not hash_free(table)["scarce"]:
        assert table.update(u32(number), u64(0)) == 0
        number += 1
    assert number < entries
    while hash_free(table)["kept"]:
        asked.append(hash_free(table)["ask"])
        assert table.update(u32(number), u64(0)) == 0
        number += 1
    assert all(0 <= before - after <= 24 for before, after in zip(asked, asked[1:], strict=False))
    assert number < gone + entries - 500
    while number < gone + entries:
        assert table.update(u32(number), u64(0)) == 0
        number += 1
    assert table.update(u32(number), u64(0)) == E2BIG


def churn(table: Map, control: Control, index: int, rounds: int | None) -> None:
    """Its own keys in and out, so that there is always room for them."""
    table.run, chance = control.run(), random.Random(index)
    mine: list[bytes] = []
    number = 0
    while rounds is None or number < rounds:
        number += 1
        if len(mine) < 16 and (not mine or chance.random() < 0.5):
            key = u32(index << 24 | chance.randrange(1 << 20))
            got = table.update(key, u64(index))
            assert got == 0, f"{got} in process {index} after {number}"
            mine += [] if key in mine else [key]
        else:
            assert table.delete(mine.pop(chance.randrange(len(mine)))) == 0
    for key in mine:
        assert table.delete(key) == 0


def forked(table: Map, control: Control, index: int, rounds: int | None) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        churn(table, control, index, rounds)
        status = 0
    finally:
        os._exit(status)


def test_processes_never_miss_what_others_have_given_back(control: Control) -> None:
    """The map has just the room that all of them need together."""
    table = Map(control, HASH, 4, 8, 4 * 16)
    pids = [forked(table, control, index, 30000) for index in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0, 0]
    assert not list(table.keys())
    for number in range(64):
        assert table.update(u32(number), u64(0)) == 0
    assert table.update(u32(64), u64(0)) == E2BIG


def test_what_killed_processes_had_is_free_again(control: Control) -> None:
    table, chance = Map(control, HASH, 4, 8, 8 * 16), random.Random(5)
    others = [forked(table, control, index, 60000) for index in (1, 2)]
    for _ in range(60):
        pid = forked(table, control, 3, None)
        time.sleep(chance.random() * 0.01)  # wherever it is by then
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for key in set(table.keys()):  # a walk may meet some twice
            if key[3] == 3:
                assert table.delete(key) == 0
    assert [os.waitpid(pid, 0)[1] for pid in others] == [0, 0]
    assert not list(table.keys())
    for number in range(128):
        assert table.update(u32(number), u64(0)) == 0
    assert table.update(u32(128), u64(0)) == E2BIG
