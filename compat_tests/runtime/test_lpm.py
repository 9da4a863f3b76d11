"""LPM tries: against a model, read while they change, and under kill -9.

The order of keys and what calls answer is test_keyed.py's.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time

import pytest

from compat_tests.runtime.test_maps import Control, Map, in_children, u64

LPM, NO_PREALLOC = 11, 1
ENOENT, EEXIST, EINVAL, ENOSPC = 2, 17, 22, 28


@pytest.fixture
def control() -> Control:
    return Control()


def prefix(bits: int, data: bytes) -> bytes:
    return struct.pack("<I", bits) + data


def covers(one: bytes, other: bytes) -> bool:
    """The prefix `one` is one of the prefix `other`."""
    bits, more = (struct.unpack_from("<I", p)[0] for p in (one, other))
    width = len(one) * 8 - 32
    a, b = (int.from_bytes(p[4:], "big") >> (width - bits) for p in (one, other))
    return bool(bits <= more) and a == b


@pytest.mark.parametrize("few", [False, True])  # lengths: then each is looked for by itself
@pytest.mark.parametrize("width", [1, 4, 7, 8, 16, 33])
def test_a_lookup_finds_the_longest_prefix(control: Control, width: int, few: bool) -> None:
    chance, entries = random.Random(width), 40
    lengths = [0, width * 4, width * 8] if few else list(range(width * 8 + 1))
    trie = Map(control, LPM, 4 + width, 8, entries, NO_PREALLOC)
    model: dict[tuple[int, int], tuple[bytes, bytes]] = {}

    def some() -> bytes:
        data = bytes(chance.choice((0, 0x80, 0xFF, chance.randrange(256))) for _ in range(width))
        return prefix(chance.choice(lengths), data)

    for step in range(4000):
        key, what = some(), chance.random()
        if few and step % 1000 == 999:
            lengths[1] = chance.randrange(width * 8 + 1)  # more of them for a while
        if what >= 0.6:
            key = prefix(chance.randrange(width * 8 + 1), key[4:])
        bits = struct.unpack_from("<I", key)[0]
        place = bits, int.from_bytes(key[4:], "big") >> (width * 8 - bits)
        if what < 0.4:
            full = place not in model and len(model) == entries
            assert trie.update(key, u64(step)) == (ENOSPC if full else 0)
            if not full:
                model[place] = key, u64(step)
        elif what < 0.6:
            assert trie.delete(key) == (0 if model.pop(place, None) else ENOENT)
        else:
            found = [(k, v) for k, v in model.values() if covers(k, key)]
            best = max(found, default=None, key=lambda kv: struct.unpack_from("<I", kv[0])[0])
            assert trie.lookup(key) == (best[1] if best else ENOENT)
    assert sorted(trie.keys()) == sorted(k for k, _ in model.values())


def test_elements_beyond_what_the_chains_take_are_found_as_the_others(control: Control) -> None:
    chained, more = 4 << 16, 300  # map_lpm_chain.c
    trie = Map(control, LPM, 8, 8, chained + more, NO_PREALLOC)
    keys = [prefix(32, struct.pack(">I", number * 2654435761 & 0xFFFFFFFF))
            for number in range(chained + more)]
    for number, key in enumerate(keys):
        assert trie.update(key, u64(number)) == 0
    last = range(chained - 50, chained + more)
    assert [trie.lookup(keys[number]) for number in last] == [u64(number) for number in last]
    assert trie.lookup(prefix(31, keys[-1][4:])) == ENOENT
    assert trie.update(prefix(32, bytes(3) + b"\1"), u64(0)) == ENOSPC
    for number in last:
        assert trie.update(keys[number], u64(0), flags=1) == EEXIST
        assert trie.update(keys[number], u64(number + 1)) == 0
        assert trie.lookup(keys[number]) == u64(number + 1)
    for number in last:
        assert trie.delete(keys[number]) == 0
        assert trie.delete(keys[number]) == ENOENT == trie.lookup(keys[number])
    assert trie.update(prefix(8, keys[-1][4:]), u64(8)) == 0
    assert trie.lookup(keys[-1]) == u64(8)
    assert len(set(trie.keys())) == chained - 50 + 1


def test_a_prefix_too_long_is_no_prefix(control: Control) -> None:
    trie = Map(control, LPM, 8, 8, 4, NO_PREALLOC)
    assert trie.update(prefix(33, bytes(4)), u64(1)) == EINVAL
    assert trie.delete(prefix(33, bytes(4))) == EINVAL
    assert trie.lookup(prefix(33, bytes(4))) == ENOENT
    assert trie.update(prefix(32, bytes(4)), u64(1)) == 0


def changing(trie: Map, control: Control, index: int, rounds: int | None) -> None:
    """One process sets and removes prefixes of a half of its own, below 128.0.0.0 and above."""
    trie.run, chance, done = control.run(), random.Random(index), 0
    while rounds is None or done < rounds:
        key = prefix(chance.randrange(2, 32), bytes([0x80 | index << 6 | chance.randrange(64),
                                                      chance.randrange(4), 0, 0]))
        if chance.random() < 0.5:
            trie.update(key, u64(7))
        else:
            trie.delete(key)
        done += 1


FIXED = [prefix(0, bytes(4)), prefix(8, b"\x0a\0\0\0"), prefix(32, b"\x0a\1\2\3"),
         prefix(32, b"\x80\1\2\3"), prefix(32, b"\xc0\1\2\3")]


def with_fixed(control: Control) -> Map:
    trie = Map(control, LPM, 8, 8, 600, NO_PREALLOC)
    for number, key in enumerate(FIXED):
        assert trie.update(key, u64(number)) == 0
    return trie


def whole(trie: Map, entries: int) -> None:
    """Every key once, and room for as many as there may be."""
    keys = list(trie.keys())
    assert len(keys) == len(set(keys)) <= entries and set(FIXED) <= set(keys)
    for number in range(entries):
        error = trie.update(prefix(32, struct.pack(">I", number << 4 | 1)), u64(1))
        assert error == (0 if len(keys) < entries else ENOSPC)
        keys += [bytes(8)] * (not error)
    for key in list(trie.keys()):
        assert trie.delete(key) == 0
    assert list(trie.keys()) == []


def test_readers_see_no_change_half_done(control: Control) -> None:
    trie = with_fixed(control)

    def read() -> None:
        trie.run = control.run()
        for _ in range(8000):
            assert [trie.lookup(key) for key in FIXED] == [u64(n) for n in range(len(FIXED))]
            assert trie.lookup(prefix(32, b"\x0a\1\2\4")) == u64(1)
            assert trie.lookup(prefix(32, b"\x55\1\2\4")) == u64(0)

    def work(index: int) -> None:
        if index < 2:
            changing(trie, control, index, 30000)
        else:
            read()
        os.kill(os.getpid(), signal.SIGKILL)

    for pid in in_children(4, work):  # a failed assertion would end one in another way
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    whole(trie, 600)


def test_kill_of_writers_leaves_a_whole_trie(control: Control) -> None:
    trie, chance = with_fixed(control), random.Random(3)
    for _ in range(12):
        pids = in_children(2, lambda index: changing(trie, control, index, None))
        pause = chance.uniform(0.002, 0.02)  # how long they live is the experiment
        time.sleep(pause)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert [trie.lookup(key) for key in FIXED] == [u64(n) for n in range(len(FIXED))]
    whole(trie, 600)
