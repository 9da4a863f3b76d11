"""Maps through _native: the same C that runs in loaders and targets, on memory of this process."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from libbpf_shim._native import ffi, lib

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, STACK_TRACE, RINGBUF = 1, 2, 5, 6, 7, 27
LRU_PERCPU_HASH = 10
PERCPU = (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU_HASH)
ANY, NOEXIST, EXIST = 0, 1, 2
VCPUS = 4
EPERM, ENOENT, E2BIG, EEXIST, EINVAL, EOPNOTSUPP = 1, 2, 7, 17, 22, 95
NO_PREALLOC = 1


class Control:
    """A control page of its own, shared with fork children."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, ffi.sizeof("struct shim_ctl"))
        self.ctl: Any = ffi.cast("struct shim_ctl *", ffi.from_buffer(self.memory))
        self.ctl.nr_vcpus = VCPUS
        for index in range(lib.SHIM_MAX_SLOTS):
            self.ctl.slot[index].gen = 1

    def run(self) -> Any:
        """A run of this process."""
        run = ffi.new("struct shim_run *")
        run.ctl = int(ffi.cast("uintptr_t", self.ctl))
        run.owner = lib.shim_slot_claim(self.ctl, os.getpid(), 0) | 1
        run.vcpu = lib.SHIM_NO_VCPU
        return run


class Map:
    def __init__(self, control: Control, kind: int, key: int, value: int, entries: int,
                 flags: int = 0) -> None:
        header = layout(kind, key, value, entries, flags)
        self.memory = mmap.mmap(-1, header.file_size)
        view = ffi.from_buffer(self.memory)
        assert lib.shim_map_format(view, header) == 0
        self.desc: Any = ffi.new("struct shim_map_desc *")
        assert lib.shim_map_desc_init(self.desc, view, header.file_size) == 0
        self.desc.ctl = int(ffi.cast("uintptr_t", control.ctl))
        self.run = control.run()
        self.room = (value + 7) // 8 * 8 * VCPUS if kind in PERCPU else value
        self.key = key

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> int:
        return -int(lib.shim_map_sys_update(self.desc, ffi.from_buffer(key),
                                            ffi.from_buffer(value), flags, self.run))

    def lookup(self, key: bytes) -> bytes | int:
        out = ffi.new("char[]", self.room)
        err = lib.shim_map_sys_lookup(self.desc, ffi.from_buffer(key), out, 0, self.run)
        return -int(err) if err else bytes(ffi.buffer(out, self.room))

    def delete(self, key: bytes) -> int:
        return -int(lib.shim_map_sys_delete(self.desc, ffi.from_buffer(key), self.run))

    def keys(self) -> Iterator[bytes]:
        out, key = ffi.new("char[]", self.key), ffi.NULL
        while lib.shim_map_sys_next_key(self.desc, key, out, self.run) == 0:
            yield bytes(ffi.buffer(out, self.key))
            key = ffi.from_buffer(bytes(ffi.buffer(out, self.key)))

    def items(self) -> dict[bytes, bytes | int]:
        return {key: self.lookup(key) for key in self.keys()}


def layout(kind: int, key: int, value: int, entries: int, flags: int = 0) -> Any:
    header = ffi.new("struct shim_map_hdr *")
    header.magic, header.version = lib.SHIM_MAP_MAGIC, lib.SHIM_MAP_VERSION
    header.type, header.key_size, header.value_size = kind, key, value
    header.max_entries, header.map_flags, header.nr_vcpus = entries, flags, VCPUS
    err = lib.shim_map_layout(header)
    if err:
        raise OSError(-err, os.strerror(-err))
    return header


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.mark.parametrize(("kind", "key", "value", "entries", "flags", "errno"), [
    (ARRAY, 8, 8, 1, 0, EINVAL), (ARRAY, 4, 8, 0, 0, EINVAL), (ARRAY, 4, 0, 1, 0, EINVAL),
    (ARRAY, 4, 8, 1, 1, EINVAL), (HASH, 0, 8, 1, 0, EINVAL), (HASH, 4, 0, 1, 0, EINVAL),
    (HASH, 4, 8, 0, 0, EINVAL), (HASH, 4, 1 << 30, 1, 0, E2BIG), (HASH, 4, 8, 1, 1 << 30, EINVAL),
    (PERCPU_HASH, 4, 40000, 1, 0, E2BIG), (PERCPU_ARRAY, 4, 40000, 1, 0, E2BIG),
    (RINGBUF, 0, 0, 4097, 0, EINVAL), (RINGBUF, 4, 0, 4096, 0, EINVAL),
    (STACK_TRACE, 4, 9, 1, 0, EINVAL), (17, 4, 4, 1, 0, EOPNOTSUPP), (0, 4, 4, 1, 0, EINVAL),
])  # fmt: skip
def test_a_map_that_cannot_be_has_the_kernels_errno(
    kind: int, key: int, value: int, entries: int, flags: int, errno: int
) -> None:
    with pytest.raises(OSError) as caught:
        layout(kind, key, value, entries, flags)
    assert caught.value.errno == errno


@pytest.mark.parametrize("field", ["file_size", "stride", "nr_buckets", "elem_off", "bucket_off",
                                   "nr_elems", "mmap_size"])  # fmt: skip
def test_a_header_that_lies_is_refused(field: str) -> None:
    header = layout(HASH, 4, 8, 16)
    memory = mmap.mmap(-1, header.file_size)
    view = ffi.from_buffer(memory)
    assert lib.shim_map_format(view, header) == 0
    desc = ffi.new("struct shim_map_desc *")
    assert lib.shim_map_desc_init(desc, view, header.file_size) == 0
    inside = ffi.cast("struct shim_map_hdr *", view + header.file_size - 4096)
    setattr(inside, field, getattr(inside, field) * 2 + 4096)
    assert lib.shim_map_desc_init(desc, view, header.file_size) < 0


def test_array_elements(control: Control) -> None:
    array = Map(control, ARRAY, 4, 6, 3)
    assert array.update(u32(1), b"abcdef") == 0
    assert [array.lookup(u32(n)) for n in range(4)] == [bytes(6), b"abcdef", bytes(6), ENOENT]
    assert array.update(u32(3), b"abcdef") == E2BIG
    assert array.update(u32(1), b"abcdef", NOEXIST) == EEXIST
    assert array.update(u32(1), b"abcdef", 7) == EINVAL
    assert array.delete(u32(1)) == EINVAL
    assert list(array.keys()) == [u32(0), u32(1), u32(2)]
    assert array.memory[8:14] == b"abcdef"  # the kernel's layout, for mmap


def test_hash_elements(control: Control) -> None:
    table = Map(control, HASH, 4, 8, 2)
    assert table.lookup(u32(1)) == ENOENT
    assert table.update(u32(1), u64(10), EXIST) == ENOENT
    assert table.update(u32(1), u64(10)) == 0
    assert table.update(u32(1), u64(11), NOEXIST) == EEXIST
    assert table.update(u32(2), u64(20), NOEXIST) == 0
    assert table.update(u32(3), u64(30)) == E2BIG
    assert table.update(u32(1), u64(12), EXIST) == 0
    assert table.items() == {u32(1): u64(12), u32(2): u64(20)}
    assert table.delete(u32(1)) == 0 and table.delete(u32(1)) == ENOENT
    assert table.update(u32(3), u64(30)) == 0
    assert table.items() == {u32(2): u64(20), u32(3): u64(30)}


@pytest.mark.parametrize(("key", "value"), [(1, 1), (4, 8), (8, 3), (16, 20), (27, 64)])
def test_hash_is_a_dict(control: Control, key: int, value: int) -> None:
    chance, entries = random.Random(key * 100 + value), 50
    table = Map(control, HASH, key, value, entries)
    model: dict[bytes, bytes] = {}
    pool = [chance.randbytes(key) for _ in range(80)]
    for _ in range(4000):
        name, content = chance.choice(pool), chance.randbytes(value)
        what = chance.random()
        if what < 0.5:
            full = name not in model and len(model) == entries
            assert table.update(name, content) == (E2BIG if full else 0)
            if not full:
                model[name] = content
        elif what < 0.8:
            assert table.delete(name) == (0 if model.pop(name, None) is not None else ENOENT)
        else:
            assert table.lookup(name) == model.get(name, ENOENT)
    assert table.items() == model


def test_next_of_an_unknown_key_is_the_first(control: Control) -> None:
    table = Map(control, HASH, 4, 8, 8)
    for number in range(3):
        table.update(u32(number), u64(number))
    out = ffi.new("char[]", 4)
    assert lib.shim_map_sys_next_key(table.desc, ffi.from_buffer(u32(99)), out, table.run) == 0
    assert bytes(ffi.buffer(out, 4)) == next(table.keys())


def test_percpu_values_are_a_cpus_own(control: Control) -> None:
    table = Map(control, PERCPU_HASH, 4, 8, 4)
    for cpu in (2, 0):
        table.run.vcpu = cpu
        assert lib.shim_map_update(table.desc, ffi.from_buffer(u32(7)),
                                   ffi.from_buffer(u64(cpu + 1)), ANY, table.run) == 0
    assert table.lookup(u32(7)) == u64(1) + u64(0) + u64(3) + u64(0)
    table.run.vcpu = 2
    found = lib.shim_map_lookup(table.desc, ffi.from_buffer(u32(7)), table.run)
    assert ffi.cast("u64 *", found)[0] == 3


def lines(table: Map, number: int, before: int, size: int) -> set[int]:
    """Of the cache: those of a key's value for the run's CPU, with what lies before it."""
    found = lib.shim_map_lookup(table.desc, ffi.from_buffer(u32(number)), table.run)
    at = int(ffi.cast("uintptr_t", found)) if found else 0
    return set(range((at - before) // 64, (at + size - 1) // 64 + 1)) if at else set()


@pytest.mark.parametrize("size", [1, 8, 12, 24, 64, 100])
@pytest.mark.parametrize(("kind", "entries"), [
    (PERCPU_ARRAY, 1), (PERCPU_ARRAY, 4), (PERCPU_ARRAY, 9), (PERCPU_HASH, 1), (PERCPU_HASH, 5),
    (LRU_PERCPU_HASH, 16),
])  # fmt: skip
def test_values_of_two_cpus_share_no_line(
    control: Control, kind: int, entries: int, size: int
) -> None:
    table, seen = Map(control, kind, 4, size, entries), set[int]()
    for number in range(entries):
        table.update(u32(number), bytes(table.room))
    for cpu in range(VCPUS):
        table.run.vcpu = cpu
        mine = set[int]().union(*(lines(table, n, 0, size) for n in range(entries)))
        assert mine
        assert not mine & seen
        seen |= mine


@pytest.mark.parametrize("flags", [0, NO_PREALLOC])
@pytest.mark.parametrize("size", [8, 24, 48, 64])
def test_the_first_keys_share_no_line(control: Control, size: int, flags: int) -> None:
    """Each thread's key its own."""
    table, seen = Map(control, HASH, 4, size, 1000, flags), set[int]()
    for number in range(32):
        assert table.update(u32(number), bytes(size)) == 0
        mine = lines(table, number, 16 + 8, size)
        assert mine
        assert not mine & seen
        seen |= mine
    for number in range(32, 1000):
        assert table.update(u32(number), bytes(size)) == 0
    assert table.update(u32(1000), bytes(size)) == E2BIG
    assert len(set(table.keys())) == 1000


def test_a_batch_ends_with_enoent_and_what_it_delivered(control: Control) -> None:
    table = Map(control, HASH, 4, 8, 100)
    for number in range(60):
        table.update(u32(number), u64(number * 2))
    keys, values = ffi.new("u32[100]"), ffi.new("u64[100]")
    where, count, seen, first = ffi.new("u32 *"), ffi.new("u32 *"), {}, True
    for _ in range(100):
        count[0] = 16
        err = lib.shim_map_sys_lookup_batch(table.desc, ffi.NULL if first else where, where, keys,
                                            values, count, 0, 1, table.run)
        assert err in (0, -ENOENT)
        seen.update({keys[i]: values[i] for i in range(count[0])})
        first = False
        if err:
            break
    assert seen == {n: n * 2 for n in range(60)}
    assert table.items() == {}


def in_children(count: int, work: Any) -> list[int]:
    pids = []
    for index in range(count):
        if not (pid := os.fork()):
            try:
                work(index)
            finally:
                os._exit(0)
        pids.append(pid)
    return pids


def test_processes_that_race_for_a_key_make_one_element(control: Control) -> None:
    table = Map(control, HASH, 4, 8, 512)

    def work(index: int) -> None:
        table.run = control.run()
        for number in range(512):
            table.update(u32(number), u64(index), NOEXIST)

    for pid in in_children(4, work):
        os.waitpid(pid, 0)
    assert sorted(table.keys()) == sorted(u32(n) for n in range(512))
    assert table.update(u32(600), u64(0)) == E2BIG


def test_kill_of_writers_loses_and_doubles_nothing(control: Control) -> None:
    entries, chance = 64, random.Random(7)
    table = Map(control, HASH, 4, 8, entries)

    def work(index: int) -> None:
        table.run, own = control.run(), random.Random(index)
        while True:
            name = u32(own.randrange(entries))
            if own.random() < 0.5:
                table.update(name, u64(index))
            else:
                table.delete(name)

    for _ in range(15):
        pids = in_children(2, work)
        time.sleep(chance.uniform(0.002, 0.02))  # how long they live is the experiment
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        found = list(table.keys())
        assert len(found) == len(set(found)) <= entries
    for number in range(entries):  # capacity is whole again
        assert table.update(u32(number), u64(1)) == 0
    assert sorted(table.keys()) == sorted(u32(n) for n in range(entries))
    assert table.update(u32(entries), u64(1)) == E2BIG


def test_a_lock_of_the_dead_is_taken_over(control: Control) -> None:
    word = ffi.new("u32 *")
    shared = mmap.mmap(-1, 4096)
    lock = ffi.cast("u32 *", ffi.from_buffer(shared))

    def work(index: int) -> None:
        lib.shim_lock(lock, control.ctl, control.run().owner)

    pid = in_children(1, work)[0]
    os.waitpid(pid, 0)
    assert lock[0] != 0 and word[0] == 0
    mine = control.run().owner
    assert lib.shim_lock(lock, control.ctl, mine) == 1
    lib.shim_unlock(lock, mine)
    assert lib.shim_lock(lock, control.ctl, mine) == 0


def test_virtual_cpus_are_owned_one_at_a_time(control: Control) -> None:
    owner = control.run().owner
    taken = [lib.shim_vcpu_claim(control.ctl, owner) for _ in range(VCPUS)]
    assert sorted(taken) == list(range(VCPUS))
    lib.shim_vcpu_release(control.ctl, taken[2], owner)
    assert lib.shim_vcpu_claim(control.ctl, owner) == taken[2]


def test_a_virtual_cpu_of_the_dead_is_taken_over(control: Control) -> None:
    def work(index: int) -> None:
        for _ in range(VCPUS):
            lib.shim_vcpu_claim(control.ctl, control.run().owner)

    os.waitpid(in_children(1, work)[0], 0)
    assert lib.shim_vcpu_claim(control.ctl, control.run().owner) < VCPUS
