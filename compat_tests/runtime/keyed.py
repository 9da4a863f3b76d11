"""Scenarios of hashes, LRU hashes, LPM tries and arrays: what each prints on the kernel it must
print on the shim. `python keyed.py NAME` runs one, in its own process: JSON, a step a line.
"""

from __future__ import annotations

import itertools
import json
import random
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from compat_tests.runtime import calls as c  # noqa: E402
from compat_tests.runtime import values as v  # noqa: E402
from compat_tests.runtime.scenario import Step, flags_of, plain, sizes_of  # noqa: E402

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY, LRU, LRU_PERCPU, LPM = 1, 2, 5, 6, 9, 10, 11
NO_PREALLOC, NO_COMMON_LRU, NUMA_NODE, ZERO_SEED = 1, 2, 4, 64
ANY, NOEXIST, EXIST, F_LOCK = 0, 1, 2, 4
PERCPU = (PERCPU_HASH, PERCPU_ARRAY, LRU_PERCPU)
KMALLOC_MAX = 1 << 22


def possible() -> int:
    """Possible CPUs, as this loader is told."""
    text = Path("/sys/devices/system/cpu/possible").read_text()
    return int(text.strip().split("-")[-1]) + 1


def width(kind: int, value: int) -> int:
    """Bytes of a value as system calls see it."""
    return (value + 7) // 8 * 8 * possible() if kind in PERCPU else value


def created_as(kind: int) -> Iterator[Step]:
    """MAP_CREATE over sizes and flags."""
    entry = 48  # of the kernel's own, beside key and value
    edges = [KMALLOC_MAX - entry - 4 + n for n in (-2, -1, 0, 1)]
    edges += [KMALLOC_MAX - 280 + n for n in (-1, 0, 1)]
    big = (32760, 32761, 32768, 32769, 1 << 31, (1 << 31) - 1, (1 << 32) - 1)
    sizes = [(key, 8, 4) for key in (0, 1, 3, 4, 5, 8, 259, 260, 261, 512, 4096)]
    sizes += [(4, value, 1) for value in (0, 1, 7, *edges, *big[:4 if kind == ARRAY else 7])]
    sizes += [(8, value, 1) for value in edges] + [(4, 8, 0)]
    for more in (0, NO_PREALLOC):
        yield sizes_of(kind, *((*size, more) for size in sizes))
    yield flags_of(kind, 4 + 4 * (kind == LPM), 8, 2)
    pairs = [a | b for a, b in itertools.combinations((1, 2, 4, 8, 16, 64, 128, 256), 2)]
    yield sizes_of(kind, *((4 + 4 * (kind == LPM), 8, 3, flags) for flags in pairs))
    if kind in (HASH, LPM):
        many = (1 << 27, (1 << 27) + 1, (1 << 31) + 1, (1 << 32) - 1)
        yield sizes_of(kind, *((8, 8, entries, NO_PREALLOC) for entries in many[1 - kind % 2:]))


def items(fd: int, kind: int, key: int, value: int) -> list[Any]:
    """Keys with their values, in the map's order where the kernel's is no accident."""
    found = [(name, c.lookup(fd, name, width(kind, value))) for name in c.keys(fd, key)]
    return found if kind in (ARRAY, PERCPU_ARRAY, LPM) else sorted(found)


class Chance(random.Random):
    """What a random sequence is made of."""

    def __init__(self, kind: int, seed: int) -> None:
        super().__init__(kind * 1000 + seed)
        self.kind = kind
        self.key = 4 if kind in (ARRAY, PERCPU_ARRAY) else self.choice((5, 8, 6, 12, 20, 36))
        self.value = self.choice((1, 3, 4, 8, 12, 16, 33))
        self.entries = self.choice((1, 2, 3, 7, 16, 50))
        self.used = [self.fresh() for _ in range(self.entries * 3 // 2 + 2)]

    def fresh(self) -> bytes:
        if self.kind in (ARRAY, PERCPU_ARRAY):
            index = self.choice((self.randrange(self.entries + 2), 0xFFFFFFFF))
            return struct.pack("<I", index)
        data = bytes(self.choice((0, 0x80, 0xC0, 0xFF, self.randrange(256)))
                     for _ in range(self.key - 4))
        bits = (self.key - 4) * 8
        return struct.pack("<I", self.choice((self.randrange(bits + 2), bits))) + data

    def name(self) -> bytes:
        return self.choice(self.used) if self.random() < 0.7 else self.fresh()

    def content(self) -> bytes:
        """One value, the same for each CPU: their number differs."""
        one = self.randbytes(self.value)
        wide = one.ljust((self.value + 7) // 8 * 8)
        return wide * possible() if self.kind in PERCPU else one


def mixed(kind: int, seed: int, flags: int = 0) -> Iterator[Step]:
    """A random sequence of operations on one map, never full if it is an LRU."""
    chance = Chance(kind, seed)
    entries = 4096 if kind in (LRU, LRU_PERCPU) else chance.entries
    fd = c.create(kind, chance.key, chance.value, entries, flags)
    size, ordered = width(kind, chance.value), kind in (ARRAY, PERCPU_ARRAY, LPM)
    for _ in range(300):
        name, what = chance.name(), chance.random()
        if what < 0.4:
            how = chance.choice((ANY, ANY, NOEXIST, EXIST, 3, F_LOCK, 8))
            yield "update", (name, how, c.update(fd, name, chance.content(), how))
        elif what < 0.55:
            yield "delete", (name, c.delete(fd, name))
        elif what < 0.7:
            yield "lookup", (name, short(c.lookup(fd, name, size), kind))
        elif what < 0.8:
            yield "take", (name, short(c.take(fd, name, size), kind))
        elif what < 0.9 and ordered:
            yield "next", (name, c.following(fd, name, chance.key))
        else:
            yield "items", [(k, short(x, kind)) for k, x in items(fd, kind, chance.key,
                                                                  chance.value)]


def short(value: bytes | int, kind: int) -> bytes | int:
    """Of a value of all CPUs, which are the same here: one."""
    if isinstance(value, int) or kind not in PERCPU:
        return value
    one = len(value) // possible()
    assert value == value[:one] * possible()
    return value[:one]


def fullness(kind: int, flags: int) -> Iterator[Step]:
    """E2BIG, and that an element there is may be replaced."""
    fd = c.create(kind, 4, 8, 2, flags)
    one = bytes(width(kind, 8))
    names = [struct.pack("<I", n) for n in range(4)]
    yield "fill", [c.update(fd, name, one) for name in names]
    yield "again", [c.update(fd, name, one, how) for name in names for how in (0, 1, 2)]
    yield "delete", [c.delete(fd, names[0]), c.delete(fd, names[0]), c.update(fd, names[3], one)]
    yield "keys", sorted(c.keys(fd, 4))


def batches(kind: int, flags: int) -> Iterator[Step]:
    """Batches, by buckets and by keys, with their ends."""
    key, entries = 4 if kind in (ARRAY, PERCPU_ARRAY) else 8, 64
    fd = c.create(kind, key, 8, 4096 if kind in (LRU, LRU_PERCPU) else entries, flags)
    names = [struct.pack("<I", n if key == 4 else 32) + struct.pack(">I", n << 8)[: key - 4]
             for n in range(entries)]
    one = b"".join(struct.pack("<Q", 5) * (width(kind, 8) // 8) for _ in names)
    room = v.Batch(key, width(kind, 8), entries)
    for command in (c.LOOKUP_BATCH, c.TAKE_BATCH, c.UPDATE_BATCH, c.DELETE_BATCH):
        for elem_flags, other in ((0, 1), (8, 0), (F_LOCK, 0), (1, 0), (2, 0)):
            wrong = elem_flags | other if command < c.UPDATE_BATCH else elem_flags & ~3
            if wrong:
                yield "flags", (command, elem_flags, other,
                                room.call(command, fd, 1, elem_flags=elem_flags, flags=other)[0])
        yield "nothing", room.call(command, fd, 0)[:2]
    room.fill(b"".join(names), one)
    yield "update", room.call(c.UPDATE_BATCH, fd, entries)[:2]
    yield "noexist", room.call(c.UPDATE_BATCH, fd, entries, elem_flags=NOEXIST)[:2]
    for command in (c.LOOKUP_BATCH, c.TAKE_BATCH):
        ret, count, _ = room.call(command, fd, entries)
        yield "all", (command, ret, count, sorted(room.keys(count)))
    room.fill(b"".join(names), one)
    yield "again", room.call(c.UPDATE_BATCH, fd, 40)[:2]
    yield "far", room.call(c.LOOKUP_BATCH, fd, 4, position=b"\xff" * key)[:2]
    if kind in (ARRAY, PERCPU_ARRAY, LPM):
        at = None
        for _ in range(6):
            ret, count, at = room.call(c.LOOKUP_BATCH, fd, 16, position=at)
            yield "part", (ret, count, at[:key], room.keys(count))
    room.fill(b"".join(names), one)
    yield "delete", room.call(c.DELETE_BATCH, fd, 10)[:2]
    yield "left", sorted(c.keys(fd, key))


def typed() -> Iterator[Step]:
    """MAP_CREATE with the BTF of its key and value; which bytes of a value are not a loader's."""
    for name, case in v.CASES.items():
        for kind in case.kinds:
            yield f"{name} {kind}", v.shown(case, kind)


def locked(kind: int) -> Iterator[Step]:
    """BPF_F_LOCK where a value has a lock and where it has none."""
    for name in ("plain", "lock"):
        fd = v.made(v.CASES[name], kind)
        size = v.CASES[name].size
        key, ones = bytes(4), b"\xff" * size
        yield name, [
            c.update(fd, key, ones, F_LOCK | EXIST), c.update(fd, key, ones, F_LOCK),
            c.update(fd, key, ones, F_LOCK | NOEXIST), c.lookup(fd, key, size, F_LOCK),
            c.update(fd, key, ones, F_LOCK | 3), c.update(fd, b"\1\0\0\0", ones, F_LOCK | EXIST),
            c.update(fd, b"\xff" * 4, ones, F_LOCK), c.lookup(fd, key, size, 8 | F_LOCK),
        ]
        room = v.Batch(4, size, 2)
        for command in (c.LOOKUP_BATCH, c.UPDATE_BATCH):
            yield "batch", room.call(command, fd, 1, elem_flags=F_LOCK)[:2]
        yield "take", c.take(fd, key, size, F_LOCK)


def of_a_cpu(kind: int) -> Iterator[Step]:
    """bpf_map_lookup_percpu_elem() in a program: the value of that CPU, or NULL."""
    fd = c.create(kind, 4, 8, 2)
    value = b"".join(struct.pack("<Q", 40 + cpu) for cpu in range(possible()))
    yield "update", c.update(fd, bytes(4), value)
    for name, cpu in ((0, 0), (0, 1), (0, 4095), (7, 0)):
        yield "lookup", c.execute(
            c.insn(0x62, 10, off=-4, imm=name) + c.map_fd(1, fd) + c.copy(2, 10) + c.add(2, -4)
            + c.mov(3, cpu) + c.call(195) + c.insn(0x15, 0, off=1) + c.insn(0x79, 0, 0) + c.EXIT)


MAPS = ((HASH, 0), (HASH, NO_PREALLOC), (ARRAY, 0), (PERCPU_HASH, 0), (PERCPU_HASH, NO_PREALLOC),
        (PERCPU_ARRAY, 0), (LRU, 0), (LRU, NO_COMMON_LRU), (LRU_PERCPU, 0), (LPM, NO_PREALLOC))


def scenarios() -> Iterator[tuple[str, Callable[[], Iterator[Step]]]]:
    """All, by name; what comes before the first hyphen is the group."""
    for kind in sorted({kind for kind, _ in MAPS}):
        yield f"create-{kind}", partial(created_as, kind)
    for kind, flags in MAPS:
        for seed in range(3):
            yield f"mixed-{kind}-{flags}-{seed}", partial(mixed, kind, seed, flags)
        yield f"batches-{kind}-{flags}", partial(batches, kind, flags)
        if kind in (HASH, PERCPU_HASH):
            yield f"full-{kind}-{flags}", partial(fullness, kind, flags)
    yield "typed", typed
    yield from ((f"locked-{kind}", partial(locked, kind)) for kind in (HASH, ARRAY))
    yield from ((f"percpu-{kind}", partial(of_a_cpu, kind)) for kind in PERCPU)


SCENARIOS = dict(scenarios())


if __name__ == "__main__":
    for _name in sys.argv[1:]:
        for what, result in SCENARIOS[_name]():
            print(json.dumps([what, plain(result)]))
