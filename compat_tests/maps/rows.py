"""Map types as rows: what a random sequence may do with a type, and what of it is comparable.

A row added here is driven through the kernel and the shim by test_differential.py. Where nothing
is said, everything that comes back must be equal. What is not comparable, and why:
- the order in which a hash is walked: `UNORDERED`, then pairs are compared as a set, and a batch
  either has room for everything or is one of a whole walk;
- per-CPU values of CPUs that the kernel does not have: the first two are compared, the others must
  hold what was written (values.c);
- what a bloom filter of a random seed takes for known: the kernel itself answers otherwise each
  time (test_differential.py shows it). `check` (model.py) then says what must hold for each side,
  and errors that elements have no part in must be equal;
- what lies behind a per-CPU value that a program wrote, up to the next 8 bytes: what some key had
  there before (`PADDED`; `WHOLE_SHAPES` have nothing behind).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from compat_tests.maps.drive import (
    BYTES,
    CGROUPS,
    EVENTS,
    INNER_MAPS,
    NEAR,
    PERCPU,
    PIDFDS,
    PIN,
    PROGS,
    TASKS,
    UNORDERED,
    Cmd,
    Create,
)
from compat_tests.maps.model import Check, bloom
from libbpf_shim.btf.write import Writer

NO_PREALLOC, NO_COMMON_LRU, RDONLY, WRONLY, ZERO_SEED = 1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 6
RDONLY_PROG, WRONLY_PROG, MMAPABLE, PRESERVE_ELEMS, INNER_MAP = (1 << 7, 1 << 8, 1 << 10, 1 << 11,
                                                                 1 << 12)
CLONE = 1 << 9
ACCESS = (RDONLY, WRONLY, RDONLY_PROG, WRONLY_PROG)

Keys = Callable[[Create], list[bytes]]
Weights = dict[Cmd, int]

# How often each command comes, of 256. FREEZE is rare by itself: it ends the writing.
ELEMENTS: Weights = {Cmd.LOOKUP: 40, Cmd.UPDATE: 60, Cmd.DELETE: 30, Cmd.NEXT: 25, Cmd.TAKE: 12,
                     Cmd.FREEZE: 1, Cmd.INFO: 1}
BATCHES: Weights = {Cmd.READ_BATCH: 8, Cmd.TAKE_BATCH: 3, Cmd.UPDATE_BATCH: 8, Cmd.DELETE_BATCH: 6}
WALKS: Weights = {Cmd.WALK: 4, Cmd.BATCH_WALK: 4, Cmd.DRAIN: 2}
EVERYTHING: Weights = {**ELEMENTS, **BATCHES, **WALKS}
USES: Weights = {**EVERYTHING, Cmd.RUN: 60, Cmd.MOVE: 4}
MOVES: Weights = {**ELEMENTS, Cmd.UPDATE: 90, Cmd.UPDATE_BATCH: 20, Cmd.DELETE_BATCH: 3,
                  Cmd.TAKE_BATCH: 1, Cmd.WALK: 2, Cmd.MOVE: 6}


def indices(create: Create) -> list[bytes]:
    """u32 keys of an array, and some beyond its end."""
    beyond = (create.max_entries, create.max_entries + 1, 0xFFFFFFFF)
    return [struct.pack("<I", n) for n in (*range(create.max_entries), *beyond)]


def names(create: Create) -> list[bytes]:
    """Twice as many keys as there is room for, alike in all but some bytes."""
    count = min(2 * create.max_entries + 2, 1 << 8 * create.key_size)
    return [n.to_bytes(create.key_size, "little") for n in range(count)] if create.key_size < 3 \
        else [struct.pack("<H", n * 257 & 0xFFFF).rjust(create.key_size, b"k")[:-1]
              + bytes([n & 255]) for n in range(count)]


def numbers(create: Create) -> list[bytes]:
    """Half as many keys again as there is room for."""
    return [n.to_bytes(create.key_size, "little") for n in range(create.max_entries * 3 // 2)]


def few_names(create: Create) -> list[bytes]:
    """So few that no LRU map has to evict any, whatever it keeps back for other CPUs."""
    return names(create)[: max(1, create.max_entries // 8)]


def prefixes(create: Create) -> list[bytes]:
    """struct bpf_lpm_trie_key: nested and neighbouring prefixes, and lengths that cannot be."""
    data, bits = create.key_size - 4, 8 * (create.key_size - 4)
    heads = (b"\x00", b"\x80", b"\xc0", b"\xc1", b"\xff")
    lengths = (0, 1, 2, 7, 8, bits // 2, bits - 1, bits, bits + 1, 0xFFFFFFFF)
    return [struct.pack("<I", length) + head.ljust(data, fill)
            for length in lengths for head in heads for fill in (b"\x00", b"\xa5")]


def tasks(_: Create) -> list[bytes]:
    """The driver's pidfds in the place of the first ones, then what names no task."""
    return [struct.pack("<i", n) for n in (*[0] * TASKS, -1, 9999, 0)]


def storage(size: int) -> dict[str, Any]:
    """BTF of a task storage: an int, and so many bytes."""
    out = Writer()
    key, byte = out.integer("int", 4), out.integer("char", 1)
    value = out.array(byte, key, size)
    return {"btf": out.blob(), "btf_key": key, "btf_value": value}


def special(size: int, **at: int) -> dict[str, Any]:
    """BTF of a value of so many bytes with a lock or a timer at an offset, and of a u32 key."""
    out = Writer()
    word, byte = out.integer("u32", 4), out.integer("u8", 1)
    kinds = {"lock": out.struct("bpf_spin_lock", 4, [("val", word, 0)]),
             "timer": out.struct("bpf_timer", 16, [("opaque", out.array(byte, word, 16), 0)])}
    value = out.struct("v", size, [(name, kinds[name], offset) for name, offset in at.items()])
    return {"btf": out.blob(), "btf_key": word, "btf_value": value}


def nothing(_: Create) -> list[bytes]:
    """Types without keys."""
    return [b""]


@dataclass(frozen=True, slots=True)
class Row:
    """One map type. shapes: (key_size, value_size, max_entries); flags: of MAP_CREATE, each alone
    beside 0."""

    name: str
    type: int
    shapes: tuple[tuple[int, int, int], ...]
    keys: Keys
    flags: tuple[int, ...] = (0,)
    weights: Weights = field(default_factory=lambda: EVERYTHING)
    style: int = 0
    values: int = BYTES
    map_extra: int = 0
    btf: bytes = b""
    btf_value: int = 0
    btf_key: int = 0
    check: Check | None = None
    share: float = 1.0  # of the operations; less where each is a message to the backend

    def creates(self) -> list[Create]:
        """Every shape with every flag; keys and values in the program's own memory, and not."""
        return [Create(self.type, key, value, entries, flags, self.map_extra, self.style | near,
                       self.values, self.btf, self.btf_value, b"row", self.btf_key)
                for near in (NEAR, 0) for flags in self.flags
                for key, value, entries in self.shapes]


ARRAY_SHAPES = ((4, 8, 5), (4, 1, 3), (4, 13, 1), (4, 100, 8))
HASH_SHAPES = ((4, 8, 8), (1, 1, 4), (8, 16, 32), (13, 5, 7), (64, 100, 3), (3, 8, 1))
KEYLESS = ((0, 8, 5), (0, 1, 1), (0, 13, 3), (0, 100, 8))
LRU_SHAPES = ((4, 8, 64), (13, 5, 80), (64, 100, 32))
FULL_SHAPES = ((4, 8, 8), (13, 5, 23), (64, 100, 4), (4, 8, 2))
WHOLE_SHAPES = ((4, 8, 8), (13, 16, 24), (64, 104, 4), (4, 8, 2))
MANY_SHAPES = ((4, 8, 301), (8, 3, 1030))
LRU_FLAGS = (0, NO_COMMON_LRU, ZERO_SEED, *ACCESS)

ROWS = (
    Row("ARRAY", 2, ARRAY_SHAPES, indices, (0, *ACCESS, MMAPABLE, INNER_MAP)),
    Row("PERCPU_ARRAY", 6, ARRAY_SHAPES, indices, (0, *ACCESS), style=PERCPU),
    Row("HASH", 1, HASH_SHAPES, names, (0, NO_PREALLOC, ZERO_SEED, *ACCESS), style=UNORDERED),
    Row("PERCPU_HASH", 5, HASH_SHAPES, names, (0, NO_PREALLOC, ZERO_SEED, *ACCESS),
        style=UNORDERED | PERCPU),
    Row("RINGBUF", 27, ((0, 0, 4096), (0, 0, 16384)), nothing),
    Row("USER_RINGBUF", 31, ((0, 0, 4096),), nothing, share=0.2),
    Row("STACK_TRACE", 7, ((4, 8, 4), (4, 1016, 2)), indices, (0, RDONLY, WRONLY)),
    Row("LRU_HASH", 9, LRU_SHAPES, few_names, LRU_FLAGS, style=UNORDERED | PIN),
    Row("LRU_PERCPU_HASH", 10, LRU_SHAPES, few_names, LRU_FLAGS, style=UNORDERED | PERCPU | PIN),
    Row("LRU_HASH that evicts", 9, FULL_SHAPES, names, LRU_FLAGS, style=UNORDERED | PIN),
    Row("LRU_PERCPU_HASH that evicts", 10, FULL_SHAPES, names, LRU_FLAGS,
        style=UNORDERED | PERCPU | PIN),
    Row("LRU_HASH that programs use", 9, FULL_SHAPES, names, LRU_FLAGS, USES,
        style=UNORDERED | PIN, share=0.3),
    Row("LRU_PERCPU_HASH that programs use", 10, WHOLE_SHAPES, names, LRU_FLAGS, USES,
        style=UNORDERED | PERCPU | PIN, share=0.3),
    Row("LRU_HASH of many", 9, MANY_SHAPES, numbers, (0, NO_COMMON_LRU), MOVES,
        style=UNORDERED | PIN, share=0.2),
    Row("LRU_PERCPU_HASH of many", 10, MANY_SHAPES, numbers, (0, NO_COMMON_LRU), MOVES,
        style=UNORDERED | PERCPU | PIN, share=0.2),
    Row("LPM_TRIE", 11, ((8, 8, 16), (5, 1, 4), (20, 40, 100), (7, 3, 8)), prefixes,
        (NO_PREALLOC, *(NO_PREALLOC | flag for flag in ACCESS))),
    Row("HASH with a lock", 1, ((4, 24, 8),), names, (0, NO_PREALLOC), style=UNORDERED,
        **special(24, lock=4)),
    Row("HASH with a timer", 1, ((4, 25, 8),), names, (0, NO_PREALLOC), style=UNORDERED,
        **special(25, timer=8)),
    Row("ARRAY with both", 2, ((4, 40, 5),), indices, (0, MMAPABLE, INNER_MAP),
        **special(40, timer=8, lock=32)),
    Row("LRU_HASH with a timer", 9, ((4, 16, 64),), few_names, style=UNORDERED | PIN,
        **special(16, timer=0)),
    Row("QUEUE", 22, KEYLESS, nothing, (0, *ACCESS)),
    Row("STACK", 23, KEYLESS, nothing, (0, *ACCESS)),
    Row("PROG_ARRAY", 3, ((4, 4, 4),), indices, (0, RDONLY, WRONLY), values=PROGS, share=0.2),
    Row("PERF_EVENT_ARRAY", 4, ((4, 4, 4),), indices, (0, RDONLY, WRONLY, PRESERVE_ELEMS),
        values=EVENTS, share=0.2),
    Row("CGROUP_ARRAY", 8, ((4, 4, 4),), indices, (0, RDONLY, WRONLY), values=CGROUPS),
    Row("ARRAY_OF_MAPS", 12, ((4, 4, 4),), indices, (0, RDONLY, WRONLY), values=INNER_MAPS,
        share=0.03),
    Row("HASH_OF_MAPS", 13, ((4, 4, 4), (13, 4, 8)), names, (0, NO_PREALLOC, RDONLY, WRONLY),
        style=UNORDERED, values=INNER_MAPS, share=0.03),
    Row("BLOOM_FILTER", 30, KEYLESS, nothing, (0, *ACCESS), check=bloom),
    Row("BLOOM_FILTER of a known seed", 30, KEYLESS, nothing,
        (ZERO_SEED, *(ZERO_SEED | flag for flag in ACCESS))),
    Row("BLOOM_FILTER of two hashes", 30, KEYLESS, nothing, (ZERO_SEED,), map_extra=2),
    Row("TASK_STORAGE", 29, ((4, 8, 0),), tasks, (NO_PREALLOC, NO_PREALLOC | CLONE), style=PIDFDS,
        **storage(8)),
    Row("TASK_STORAGE of 100 bytes", 29, ((4, 100, 0),), tasks, (NO_PREALLOC,), style=PIDFDS,
        **storage(100)),
)

# What the kernel answers depends on what lay in an element before, and that on its random seed.
PADDED = Row("LRU_PERCPU_HASH with padding that programs use", 10, ((4, 5, 8),), names, (0,), USES,
             style=UNORDERED | PERCPU | PIN)
