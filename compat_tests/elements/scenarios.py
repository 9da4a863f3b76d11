"""Scenarios of maps whose values are maps, programs or events: what each prints on the kernel it
must print on the shim. `python scenarios.py NAME` runs one in a process of its own: JSON, a step a
line. Over 500 lines: scenarios share the programs that they are made of.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from compat_tests.runtime import calls as c  # noqa: E402

HASH, ARRAY, PROG_ARRAY, PERF_ARRAY, PERCPU_ARRAY = 1, 2, 3, 4, 6
STACK_TRACE, CGROUP_ARRAY, LRU_HASH, LPM, ARRAY_OF_MAPS, HASH_OF_MAPS = 7, 8, 9, 11, 12, 13
QUEUE, STACK, RINGBUF, BLOOM = 22, 23, 27, 30
NO_PREALLOC, NUMA, INNER_MAP = 1, 4, 1 << 12
SOCKET_FILTER, KPROBE, SCHED_CLS, XDP, PERF_EVENT, RAW_TRACEPOINT = 1, 2, 3, 6, 7, 17
CGROUP_SOCK_ADDR, INET4_BIND, INET6_BIND, XDP_HAS_FRAGS = 18, 8, 9, 1 << 5
PROG_BY_ID, MAP_BY_ID, INFO, BIND_MAP = 13, 14, 15, 35
LOOKUP, UPDATE, DELETE, TAIL_CALL, OUTPUT, LOOP = 1, 2, 3, 12, 25, 181
Step = tuple[str, Any]
KEYS = [n.to_bytes(4, "little") for n in range(10)]
RETURN_0 = c.mov(0, 0) + c.EXIT


def fd(number: int) -> bytes:
    """A descriptor as a value."""
    return (number & 0xFFFFFFFF).to_bytes(4, "little")


def info(descriptor: int) -> bytes:
    room = c.held(bytes(232))
    assert room
    assert not c.bpf(INFO, struct.pack("<IIQ", descriptor, 232, c.at(room)))
    return room.raw


def id_of(descriptor: int) -> bytes:
    """As lookups give it. Of maps and programs it is the second word of their information."""
    return info(descriptor)[4:8]


def there(command: int, number: bytes) -> int:
    """Whether an id still is: 0 or a negative errno, once that has had time to become so."""
    ret = 0
    for _ in range(200):
        ret = c.bpf(command, number + bytes(8))
        if ret < 0:
            break
        os.close(ret)
        time.sleep(0.01)
    return min(ret, 0)


def array(entries: int = 1, flags: int = 0, value: int = 8) -> int:
    return c.create(ARRAY, 4, value, entries, flags)


def closed(made: int) -> int:
    """0 or a negative errno of what makes a descriptor."""
    if made > 0:
        os.close(made)
    return min(made, 0)


# maps of maps


def creation() -> Iterator[Step]:
    """Sizes, flags, and what an inner map may be."""
    inner = array()
    for kind in (PROG_ARRAY, PERF_ARRAY, ARRAY_OF_MAPS, HASH_OF_MAPS):
        within = inner if kind in (ARRAY_OF_MAPS, HASH_OF_MAPS) else 0
        yield f"flags {kind}", [closed(c.create(kind, 4, 4, 1, 1 << bit, inner=within))
                                for bit in range(32)]
        yield f"sizes {kind}", [closed(c.create(kind, *sizes, inner=within)) for sizes in (
            (4, 4, 1), (8, 4, 1), (4, 8, 1), (4, 4, 0), (0, 4, 1), (4, 0, 1), (600, 4, 1),
            (4, 4, 1, 0x18), (4, 4, 1, 0, 1))]
        yield f"inner_map_fd {kind}", [closed(c.create(kind, 4, 4, 1, inner=n))
                                       for n in (-1, 0, 99)]
    prog = c.load(RETURN_0)
    nested = c.create(ARRAY_OF_MAPS, 4, 4, 1, inner=inner)
    made = [prog, nested, c.create(HASH_OF_MAPS, 4, 4, 1, inner=inner),
            c.create(PROG_ARRAY, 4, 4, 1), c.create(PERF_ARRAY, 4, 4, 1),
            c.create(HASH, 4, 4, 1), c.create(PERCPU_ARRAY, 4, 4, 1)]
    for kind in (ARRAY_OF_MAPS, HASH_OF_MAPS):
        yield f"inner {kind}", [closed(c.create(kind, 4, 4, 1, inner=n)) for n in made]
        yield f"first {kind}", [closed(c.create(kind, 4, 4, 0, inner=99)),
                                closed(c.create(kind, 4, 8, 1, inner=99))]


LIKE: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((ARRAY, 4, 4, 4), (ARRAY, 4, 4, 4)), ((ARRAY, 4, 4, 4), (ARRAY, 4, 4, 5)),
    ((ARRAY, 4, 4, 4), (ARRAY, 4, 8, 4)), ((ARRAY, 4, 4, 4), (HASH, 4, 4, 4)),
    ((ARRAY, 4, 4, 4), (ARRAY, 4, 4, 4, INNER_MAP)),
    ((ARRAY, 4, 4, 4, INNER_MAP), (ARRAY, 4, 4, 4)),
    ((ARRAY, 4, 4, 4, INNER_MAP), (ARRAY, 4, 4, 9, INNER_MAP)),
    ((ARRAY, 4, 4, 4), (ARRAY, 4, 4, 4, NUMA)), ((ARRAY, 4, 4, 4), (ARRAY, 4, 4, 4, 8)),
    ((ARRAY, 4, 4, 4, 16), (ARRAY, 4, 4, 4, 8)), ((ARRAY, 4, 4, 4), (ARRAY, 4, 4, 4, 1 << 7)),
    ((HASH, 4, 4, 4), (HASH, 4, 4, 9)), ((HASH, 4, 4, 4), (HASH, 8, 4, 4)),
    ((HASH, 4, 4, 4), (HASH, 4, 4, 4, NO_PREALLOC)),
    ((PERCPU_ARRAY, 4, 8, 4), (PERCPU_ARRAY, 4, 8, 9)),
    ((RINGBUF, 0, 0, 4096), (RINGBUF, 0, 0, 8192)), ((QUEUE, 0, 4, 4), (QUEUE, 0, 4, 9)),
    ((QUEUE, 0, 4, 4), (STACK, 0, 4, 4)), ((BLOOM, 0, 4, 4), (BLOOM, 0, 4, 9, 0, 3)),
    ((PERF_ARRAY, 4, 4, 4), (PERF_ARRAY, 4, 4, 9)),
    ((STACK_TRACE, 4, 8, 4), (STACK_TRACE, 4, 8, 9)),
    ((CGROUP_ARRAY, 4, 4, 4), (CGROUP_ARRAY, 4, 4, 9)), ((LRU_HASH, 4, 4, 4), (LRU_HASH, 4, 4, 9)),
    ((LRU_HASH, 4, 4, 4), (HASH, 4, 4, 4)), ((LPM, 8, 4, 4, 1), (LPM, 8, 4, 9, 1)),
)  # fmt: skip


def likeness() -> Iterator[Step]:
    """bpf_map_meta_equal(): which maps may stand in for which."""
    for first, second in LIKE:
        outer = c.create(ARRAY_OF_MAPS, 4, 4, 1, inner=c.create(*first))
        yield f"{first} {second}", c.update(outer, KEYS[0], fd(c.create(*second)))


def elements(kind: int) -> Iterator[Step]:
    """Every element command on a map of maps."""
    one, two, other = array(), array(), c.create(HASH, 4, 8, 1)
    outer, prog = c.create(kind, 4, 4, 3, inner=one), c.load(RETURN_0)
    names = {id_of(one): "one", id_of(two): "two"}

    def named(value: bytes | int) -> str | int:
        return names.get(value, "?") if isinstance(value, bytes) else value

    def all_of() -> list[str | int]:
        return [named(c.lookup(outer, key, 4)) for key in (*KEYS[:5], KEYS[9])]

    yield "empty", [all_of(), c.keys(outer, 4) if kind == HASH_OF_MAPS else 0,
                    c.delete(outer, KEYS[0]), c.delete(outer, KEYS[9])]
    yield "flags of lookups", [c.lookup(outer, KEYS[0], 4, flags) for flags in (1, 2, 4, 8)]
    yield "no map", [c.update(outer, KEYS[0], fd(n)) for n in (-1, 99, prog, other, outer)]
    yield "flags", [c.update(outer, KEYS[0], fd(one), flags) for flags in (3, 4, 5, 8, 1 << 32)]
    yield "which error first", [
        c.update(outer, key, fd(n), flags) for key in (KEYS[0], KEYS[9]) for n in (99, one)
        for flags in (1, 2, 4, 8)]
    yield "after", [all_of(), c.delete(outer, KEYS[9])]
    yield "update", [c.update(outer, KEYS[0], fd(one), flags) for flags in (2, 1, 1, 2, 0)]
    yield "another", [all_of(), c.update(outer, KEYS[0], fd(two), 0), all_of(),
                      c.update(outer, KEYS[0], fd(one), 2), c.update(outer, KEYS[0], fd(two), 1),
                      all_of()]
    yield "no address", [c.update(outer, None, fd(one)), c.update(outer, KEYS[0], None),
                         c.lookup(outer, None, 4), c.delete(outer, None)]
    yield "full", [c.update(outer, key, fd(one)) for key in KEYS[1:6]]
    yield "take", [c.take(outer, KEYS[0], 4, flags) for flags in (0, 1, 4, 8)]
    yield "delete", [c.delete(outer, KEYS[1]), c.delete(outer, KEYS[1]), all_of()]
    yield "frozen", [c.bpf(c.FREEZE, fd(outer)), c.update(outer, KEYS[0], fd(one)),
                     c.delete(outer, KEYS[0]), all_of()]
    for flags in (8, 16):
        narrow = c.create(kind, 4, 4, 3, flags, inner=one)
        yield f"access {flags}", [c.update(narrow, KEYS[0], fd(one)), c.lookup(narrow, KEYS[0], 4),
                                  c.delete(narrow, KEYS[0])]


def batches(kind: int) -> Iterator[Step]:
    """Batches of a map of maps."""
    one, two = array(), array()
    outer = c.create(kind, 4, 4, 4, inner=one)
    names = {id_of(one): "one", id_of(two): "two"}

    def ask(command: int, keys: list[bytes], maps: list[int], count: int = 0, elem: int = 0,
            flags: int = 0) -> list[Any]:
        """Result, how many, and what they are, sorted: hashes have no order."""
        room = max(count or len(keys), 1)
        k, v = (c.held(b"".join(part).ljust(4 * room)) for part in (keys, map(fd, maps)))
        out = c.held(bytes(8))
        assert k and v
        ret, attr = c.bpf_out(command, struct.pack(
            "<QQQQIIQQ", 0, c.at(out), c.at(k), c.at(v), count or len(keys), outer, elem, flags))
        (n,) = struct.unpack_from("<I", attr, 32)
        rows = [] if command in (c.UPDATE_BATCH, c.DELETE_BATCH) else sorted(
            (k.raw[4 * i : 4 * i + 4].hex(), names.get(v.raw[4 * i : 4 * i + 4], "?"))
            for i in range(n if ret in (0, -2) else 0))
        return [ret, n, rows]

    yield "update", ask(c.UPDATE_BATCH, KEYS[:3], [one, two, one])
    yield "lookup", ask(c.LOOKUP_BATCH, [], [], 8)
    yield "again", ask(c.UPDATE_BATCH, KEYS[:2], [two, two])
    yield "no map in it", ask(c.UPDATE_BATCH, KEYS[:3], [one, 99, one])
    yield "flags", [ask(c.UPDATE_BATCH, KEYS[:1], [one], elem=n) for n in (1, 4, 8)]
    yield "lookup all", ask(c.LOOKUP_BATCH, [], [], 8)
    yield "delete", ask(c.DELETE_BATCH, [KEYS[0], KEYS[7]], [])
    yield "take", ask(c.TAKE_BATCH, [], [], 8)
    yield "left", ask(c.LOOKUP_BATCH, [], [], 8)


def array_of_maps() -> Iterator[Step]:
    yield from elements(ARRAY_OF_MAPS)
    yield from batches(ARRAY_OF_MAPS)


def hash_of_maps() -> Iterator[Step]:
    yield from elements(HASH_OF_MAPS)
    yield from batches(HASH_OF_MAPS)
    inner = array()
    wide = c.create(HASH_OF_MAPS, 40, 4, 3, NO_PREALLOC, inner=inner)
    key = b"k" * 40
    yield "long keys", [c.update(wide, key, fd(inner)), c.lookup(wide, key, 4) == id_of(inner),
                        c.lookup(wide, b"k" * 39 + b"l", 4), c.keys(wide, 40), c.delete(wide, key)]


def find(outer: int, then: bytes) -> bytes:
    """R0 = a lookup of key 0 in the outer map and then, unless it is empty (then 7777), `then`,
    with the inner map in R1 and key 0 at fp-4."""
    return b"".join((
        c.insn(0x62, 10, off=-4), c.copy(2, 10), c.add(2, -4), c.map_fd(1, outer), c.call(LOOKUP),
        c.insn(0x55, 0, off=2), c.mov(0, 7777), c.EXIT, c.copy(1, 0), c.copy(2, 10), c.add(2, -4),
        then))


READ = c.call(LOOKUP) + c.insn(0x55, 0, off=2) + c.mov(0, 8888) + c.EXIT + c.insn(
    0x79, 0, 0) + c.EXIT
WRITE = c.insn(0x7A, 10, off=-16, imm=55) + c.copy(3, 10) + c.add(3, -16) + c.mov(4, 0) + c.call(
    UPDATE) + c.EXIT


def maps_in_programs() -> Iterator[Step]:
    """Lookups by programs, and what may be done with what they give."""
    for kind in (ARRAY_OF_MAPS, HASH_OF_MAPS):
        one, two = array(), array()
        for number, inner in ((11, one), (22, two)):
            c.update(inner, KEYS[0], number.to_bytes(8, "little"))
        outer = c.create(kind, 4, 4, 4, inner=one)
        read, write = c.load(find(outer, READ)), c.load(find(outer, WRITE))
        steps = [c.run(read)]
        for inner in (one, two, one):
            steps += [c.update(outer, KEYS[0], fd(inner)), c.run(read)]
        yield f"read {kind}", [*steps, c.delete(outer, KEYS[0]), c.run(read)]
        yield f"write {kind}", [c.update(outer, KEYS[0], fd(two)), c.run(write),
                                c.lookup(two, KEYS[0], 8), c.lookup(one, KEYS[0], 8)]
        os.close(two)
        yield f"it lives in the outer map {kind}", c.run(read)
        yield f"refused {kind}", [closed(c.load(insns)) for insns in (
            find(outer, c.mov(0, 0) + c.EXIT), find(outer, c.add(1, 8) + RETURN_0),
            find(outer, c.insn(0x79, 0, 2) + RETURN_0), find(outer, c.call(DELETE) + c.EXIT),
            c.insn(0x62, 10, off=-4) + c.copy(2, 10) + c.add(2, -4) + c.map_fd(1, outer)
            + c.call(DELETE) + c.EXIT,
            c.insn(0x62, 10, off=-4) + c.copy(2, 10) + c.add(2, -4) + c.map_fd(1, outer)
            + c.call(LOOKUP) + c.copy(1, 0) + c.copy(2, 10) + c.add(2, -4) + c.call(LOOKUP)
            + RETURN_0,
            c.map_value(1, outer) + RETURN_0,
        )]
    lengths = [array(n, INNER_MAP) for n in (1, 3)]
    outer = c.create(ARRAY_OF_MAPS, 4, 4, 1, inner=lengths[0])
    third = c.load(b"".join((
        find(outer, b"")[:-24], c.copy(1, 0), c.insn(0x62, 10, off=-4, imm=2), c.copy(2, 10),
        c.add(2, -4), READ)))
    yield "lengths that differ", [
        [c.update(outer, KEYS[0], fd(n)), c.run(third)] for n in lengths]


def kinds_of_inner_maps() -> Iterator[Step]:
    """What helpers do with an inner map of each kind is done to that map."""
    value = c.insn(0x7A, 10, off=-16, imm=55) + c.copy(3, 10) + c.add(3, -16) + c.mov(4, 0)
    pushed = c.copy(2, 3) + c.mov(3, 0)
    # key 0 at fp-4 is in R2, the map in R1; R7 keeps it
    keep = c.copy(7, 1)
    again = c.copy(1, 7) + c.copy(2, 10) + c.add(2, -4)
    there = c.call(LOOKUP) + c.insn(0x15, 0, off=1) + c.insn(0x79, 0, 0) + c.EXIT
    ways: dict[str, tuple[tuple[int, ...], bytes]] = {
        "hash": ((HASH, 4, 8, 4), keep + value + c.call(UPDATE) + again + there),
        "hash, deleted": ((HASH, 4, 8, 4), keep + value + c.call(UPDATE) + again + c.call(DELETE)
                          + again + there),
        "LRU hash": ((LRU_HASH, 4, 8, 4), keep + value + c.call(UPDATE) + again + there),
        "per-CPU array": ((PERCPU_ARRAY, 4, 8, 4), keep + value + c.call(UPDATE) + again + there),
        "per-CPU hash": ((5, 4, 8, 4), keep + value + c.call(UPDATE) + again + there),
        "queue": ((QUEUE, 0, 8, 4), keep + value + pushed + c.call(87) + c.copy(1, 7) + c.copy(
            2, 10) + c.add(2, -16) + c.call(88) + c.insn(0x79, 0, 10, -16) + c.EXIT),
        "stack": ((STACK, 0, 8, 4), keep + value + pushed + c.call(87) + c.EXIT),
        "bloom filter": ((BLOOM, 0, 8, 4), keep + value + c.copy(2, 3) + c.call(89) + c.EXIT),
        "ring buffer": ((RINGBUF, 0, 0, 4096), keep + value + c.copy(2, 3) + c.mov(3, 8)
                        + c.call(130) + c.copy(1, 7) + c.mov(2, 0) + c.call(134) + c.EXIT),
        "ring buffer, a record": ((RINGBUF, 0, 0, 4096), keep + c.mov(2, 16) + c.mov(3, 0)
                                  + c.call(131) + c.insn(0x15, 0, off=5) + c.insn(0x7A, 0, imm=1)
                                  + c.copy(1, 0) + c.mov(2, 0) + c.call(132) + c.mov(0, 1)
                                  + c.EXIT),
        "perf events": ((PERF_ARRAY, 4, 4, 4), c.copy(2, 1) + c.copy(1, 6) + c.mov(3, 0)
                        + c.insn(0x7A, 10, off=-16) + c.copy(4, 10) + c.add(4, -16) + c.mov(5, 8)
                        + c.call(OUTPUT) + c.EXIT),
    }
    for name, (shape, then) in ways.items():
        for kind in (ARRAY_OF_MAPS, HASH_OF_MAPS):
            inner, template = c.create(*shape), c.create(*shape)
            outer = c.create(kind, 4, 4, 4, inner=template)
            prog = c.load(c.copy(6, 1) + find(outer, then), log=True)
            put = c.update(outer, KEYS[0], fd(inner))
            yield f"{name} {kind}", [min(prog, 0), put, c.run(prog), c.run(prog)]
            yield f"what is in it {name} {kind}", [
                c.lookup(n, KEYS[0] if shape[1] else None, 8) for n in (inner, template)
                if shape[0] in (HASH, LRU_HASH, QUEUE, STACK)]


# programs


def bump(counter: int) -> bytes:
    """R6 = R1, and the counter goes up by one."""
    return c.copy(6, 1) + increase(counter)


def increase(counter: int) -> bytes:
    return c.map_value(1, counter) + c.mov(2, 1) + c.insn(0xDB, 1, 2)


def tail(programs: int, index: int) -> bytes:
    """A tail call; R6 is the context."""
    return c.copy(1, 6) + c.map_fd(2, programs) + c.mov(3, index) + c.call(TAIL_CALL)


def value(counter: int) -> bytes:
    return c.map_value(1, counter) + c.insn(0x79, 0, 1) + c.EXIT


def prog_array() -> Iterator[Step]:
    """Every element command, and which programs go together."""
    programs, prog = c.create(PROG_ARRAY, 4, 4, 2), c.load(RETURN_0)
    yield "empty", [c.lookup(programs, KEYS[0], 4), c.lookup(programs, KEYS[9], 4),
                    c.following(programs, None, 4), c.following(programs, KEYS[1], 4),
                    c.delete(programs, KEYS[0]), c.delete(programs, KEYS[9])]
    yield "no program", [c.update(programs, KEYS[0], fd(n)) for n in (-1, 99, programs)]
    yield "flags", [c.update(programs, KEYS[0], fd(prog), flags) for flags in (1, 2, 3, 4, 8)]
    yield "which error first", [c.update(programs, key, fd(n), flags) for key in (KEYS[0], KEYS[9])
                                for n in (99, prog) for flags in (0, 1)][:-2]
    yield "update", [c.update(programs, KEYS[0], fd(prog)),
                     c.lookup(programs, KEYS[0], 4) == id_of(prog), c.lookup(programs, KEYS[1], 4)]
    yield "not there", [c.take(programs, KEYS[0], 4), *(c.batch(n, programs, 4, 4, 1) for n in (
        c.LOOKUP_BATCH, c.TAKE_BATCH, c.UPDATE_BATCH, c.DELETE_BATCH))]
    yield "another type", [c.update(programs, KEYS[1], fd(c.load(RETURN_0, kind)))
                           for kind in (KPROBE, XDP, RAW_TRACEPOINT)]
    yield "delete", [c.delete(programs, KEYS[0]), c.delete(programs, KEYS[0]),
                     c.update(programs, KEYS[1], fd(c.load(RETURN_0, XDP)))]
    yield "frozen", [c.bpf(c.FREEZE, fd(programs)), c.update(programs, KEYS[0], fd(prog))]


def go_on(programs: int) -> bytes:
    return c.copy(6, 1) + tail(programs, 0) + RETURN_0


def owner(programs: int) -> list[str]:
    """Of its fdinfo, what tells about programs."""
    lines = Path(f"/proc/self/fdinfo/{programs}").read_text().splitlines()
    return [line for line in lines if line.startswith("owner_")]


def owners() -> Iterator[Step]:
    """bpf_prog_map_compatible(): the first program decides, loaded or put."""
    made = [c.create(PROG_ARRAY, 4, 4, 2) for _ in range(6)]
    yield "nobody's", [owner(made[0]), c.update(made[0], KEYS[9], fd(c.load(RETURN_0))),
                       owner(made[0])]
    yield "of the first put", [c.update(made[0], KEYS[0], fd(c.load(RETURN_0))), owner(made[0]),
                               closed(c.load(go_on(made[0]), XDP)), closed(c.load(go_on(made[0])))]
    yield "of the first loaded", [
        closed(c.load(go_on(made[1]), XDP)), owner(made[1]),
        c.update(made[1], KEYS[0], fd(c.load(RETURN_0))),
        c.update(made[1], KEYS[0], fd(c.load(RETURN_0, XDP))),
        c.update(made[1], KEYS[0], fd(c.load(RETURN_0, XDP, flags=XDP_HAS_FRAGS)))]
    yield "not of one refused", [closed(c.load(go_on(made[2])[:-8])), owner(made[2])]
    prog, bound = c.load(RETURN_0), info(made[3])
    yield "not of one bound to it", [c.bpf(BIND_MAP, struct.pack("<III", prog, made[3], 0)),
                                     owner(made[3]), len(bound)]


def counted(programs: int, counter: int, *before: int) -> int:
    """A program that counts itself and tail-calls slots, the last time slot 0."""
    calls = b"".join(tail(programs, n) for n in (*before, 0))
    return c.load(bump(counter) + calls + value(counter))


def tail_calls() -> Iterator[Step]:
    """How deep, by what index, and what comes back."""
    programs, counter = c.create(PROG_ARRAY, 4, 4, 4), array()
    prog = counted(programs, counter)
    yield "empty", c.run(prog)
    yield "33 deep", [c.update(programs, KEYS[0], fd(prog)), c.run(prog), c.run(prog)]
    programs, counter = c.create(PROG_ARRAY, 4, 4, 4), array()
    prog = counted(programs, counter, 1, 2, 3, 1, 2, 3)
    yield "empty slots do not count", [c.update(programs, KEYS[0], fd(prog)), c.run(prog)]
    other = c.load(c.mov(0, 99) + c.EXIT)
    programs = c.create(PROG_ARRAY, 4, 4, 4)
    by = [c.load(c.copy(6, 1) + tail(programs, n) + c.mov(0, 7) + c.EXIT) for n in (0, 3, 4, -1)]
    far = c.load(c.map_fd(2, programs) + c.insn(0x18, 3) + c.insn(0, imm=1) + c.call(TAIL_CALL)
                 + c.mov(0, 7) + c.EXIT)
    yield "indices", [*(c.update(programs, KEYS[n], fd(other)) for n in (0, 3)),
                      [c.run(n) for n in (*by, far)]]
    another = c.load(c.mov(0, 98) + c.EXIT)
    yield "changes", [c.run(by[0]), c.update(programs, KEYS[0], fd(another)), c.run(by[0]),
                      c.delete(programs, KEYS[0]), c.run(by[0])]
    yield "refused", [closed(c.load(insns)) for insns in (
        c.copy(6, 1) + tail(programs, 0) + c.EXIT,
        c.add(1, 8) + c.map_fd(2, programs) + c.mov(3, 0) + c.call(TAIL_CALL) + RETURN_0,
        c.copy(1, 10) + c.map_fd(2, programs) + c.mov(3, 0) + c.call(TAIL_CALL) + RETURN_0,
        c.copy(6, 1) + tail(array(), 0) + RETURN_0,
        c.copy(6, 1) + tail(c.create(ARRAY_OF_MAPS, 4, 4, 1, inner=counter), 0) + RETURN_0,
        c.insn(0x62, 10, off=-4) + c.copy(2, 10) + c.add(2, -4) + c.map_fd(1, programs)
        + c.call(LOOKUP) + RETURN_0,
    )]
    # what a program with per-CPU values is called from need have none
    cpus, programs = c.create(PERCPU_ARRAY, 4, 8, 1), c.create(PROG_ARRAY, 4, 4, 1)
    add = c.load(b"".join((
        c.insn(0x62, 10, off=-4), c.copy(2, 10), c.add(2, -4), c.map_fd(1, cpus), c.call(LOOKUP),
        c.insn(0x15, 0, off=3), c.insn(0x79, 1, 0), c.add(1, 1), c.insn(0x7B, 0, 1), c.mov(0, 3),
        c.EXIT)))
    first = c.load(c.copy(6, 1) + tail(programs, 0) + RETURN_0)
    yield "per-CPU values", [c.update(programs, KEYS[0], fd(add)), [c.run(first) for _ in KEYS]]
    values = c.lookup(cpus, KEYS[0], 8 * 512)
    assert isinstance(values, bytes)
    yield "their sum", sum(struct.unpack("<512Q", values))


def functions(returns: int) -> Callable[..., tuple[int, bytes]]:
    """BTF of a program `main` and static functions; returns: 1 int, 2 a pointer. The result takes
    their first slots."""
    strings = b"\0int\0main\0sub\0ctx\0"
    name = {word: strings.index(b"\0" + word + b"\0") + 1
            for word in (b"int", b"main", b"sub", b"ctx")}
    types = b"".join((
        struct.pack("<IIII", name[b"int"], 1 << 24, 4, 1 << 24 | 32),
        struct.pack("<III", 0, 2 << 24, 0),
        struct.pack("<IIIII", 0, 13 << 24 | 1, 1, name[b"ctx"], 2),
        struct.pack("<IIIII", 0, 13 << 24 | 1, returns, name[b"ctx"], 2),
        struct.pack("<III", name[b"main"], 12 << 24 | 1, 3),
        struct.pack("<III", name[b"sub"], 12 << 24, 4),
    ))
    blob = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    btf = c.btf_load(blob + types + strings)
    return lambda *slots: (btf, b"".join(struct.pack("<II", n, 6 if n else 5) for n in slots))


def tail_calls_of_functions() -> Iterator[Step]:
    """A tail call of a function ends the function, not the program."""
    number = functions(1)
    programs, other = c.create(PROG_ARRAY, 4, 4, 2), c.load(c.mov(0, 99) + c.EXIT)
    c.update(programs, KEYS[0], fd(other))
    main = c.copy(6, 1) + c.insn(0x85, 0, 1, imm=2) + c.add(0, 1000) + c.EXIT

    def sub(index: int) -> bytes:
        return c.copy(6, 1) + tail(programs, index) + c.mov(0, 1) + c.EXIT

    yield "result", [c.run(c.load(main + sub(n), functions=number(0, 4))) for n in (0, 1)]
    yield "without BTF", c.load(main + sub(0))
    yield "that returns a pointer", c.load(main + sub(0), functions=functions(2)(0, 4))
    deep = [c.load(c.insn(0x7A, 10, off=-n) + main + sub(0), functions=number(0, 5))
            for n in (240, 248, 256)]
    yield "stack above it", [closed(n) for n in deep]
    unknown = c.copy(6, 1) + c.insn(0x85, 0, 1, imm=5) + c.map_value(1, array()) + c.insn(
        0x0F, 1, 0) + c.insn(0x71, 0, 1) + c.EXIT
    yield "its result is unknown", c.load(unknown + sub(1), functions=number(0, 7))
    looped = b"".join((
        c.copy(6, 1), c.insn(0x7B, 10, 1, -8), c.mov(1, 2), c.insn(0x18, 2, 4, imm=7), c.insn(0),
        c.copy(3, 10), c.add(3, -8), c.mov(4, 0), c.call(LOOP), c.mov(0, 0), c.EXIT))
    called = c.insn(0x79, 1, 2) + c.map_fd(2, programs) + c.mov(3, 0) + c.call(TAIL_CALL)
    yield "by a callback", [closed(c.load(looped + part + RETURN_0, functions=number(0, 11)))
                            for part in (called[:8], called)]
    counter, programs = array(), c.create(PROG_ARRAY, 4, 4, 1)
    twice = b"".join((
        bump(counter), c.copy(1, 6), c.insn(0x85, 0, 1, imm=6), c.copy(1, 6),
        c.insn(0x85, 0, 1, imm=4), value(counter)))
    prog = c.load(twice + sub(0), functions=number(0, len(twice) // 8))
    yield "33 in all", [c.update(programs, KEYS[0], fd(prog)), c.run(prog)]
    spoil = c.load(b"".join((
        c.mov(6, 1), c.mov(7, 1), c.mov(8, 2), c.mov(9, 3), c.insn(0x7A, 10, off=-512, imm=5),
        c.mov(0, 5), c.EXIT)))
    keeper = b"".join((
        c.copy(6, 1), c.mov(7, 100), c.mov(8, 200), c.mov(9, 300), c.insn(0x7A, 10, off=-8, imm=7),
        c.copy(1, 6), c.insn(0x85, 0, 1, imm=6), *(c.insn(0x0F, 0, n) for n in (7, 8, 9)),
        c.insn(0x79, 1, 10, -8), c.insn(0x0F, 0, 1), c.EXIT))
    programs = c.create(PROG_ARRAY, 4, 4, 1)
    prog = c.load(keeper + sub(0), functions=number(0, len(keeper) // 8))
    yield "registers and stack are kept", [c.update(programs, KEYS[0], fd(spoil)), c.run(prog)]


def run_packet(prog: int, packet: bytes) -> tuple[int, int, bytes]:
    """BPF_PROG_TEST_RUN with a packet: result, what the program returns, the packet afterwards."""
    data, out = c.held(packet), c.held(bytes(len(packet)))
    assert out
    ret, attr = c.bpf_out(c.TEST_RUN, struct.pack(
        "<IIIIQQII", prog, 0, len(packet), len(packet), c.at(data), c.at(out), 1, 0))
    return ret, struct.unpack_from("<I", attr, 4)[0], out.raw


def tail_calls_with_packets() -> Iterator[Step]:
    """What comes after a program that looked at nothing sees the packet all the same."""
    packet = bytes(range(12)) + b"\x08\x00" + bytes(range(100, 150))
    # R2, R3: data, data_end; the first byte of the packet is read, and changed to 77
    touch = b"".join((
        c.copy(4, 2), c.add(4, 20), c.insn(0x2D, 4, 3, 3), c.insn(0x71, 0, 2),
        c.insn(0x72, 2, imm=77), c.EXIT, c.mov(0, 9), c.EXIT))
    into = {XDP: c.insn(0x61, 2, 1) + c.insn(0x61, 3, 1, 4) + touch,
            SCHED_CLS: c.insn(0x61, 2, 1, 76) + c.insn(0x61, 3, 1, 80) + touch,
            SOCKET_FILTER: c.copy(6, 1) + c.insn(0x30, imm=3) + c.EXIT}
    for kind, insns in into.items():
        programs, counter = c.create(PROG_ARRAY, 4, 4, 2), array()
        first = c.load(c.copy(6, 1) + tail(programs, 0) + c.mov(0, 5) + c.EXIT, kind)
        deep = c.load(bump(counter) + tail(programs, 1) + value(counter), kind)
        yield f"{kind}", [
            run_packet(first, packet), c.update(programs, KEYS[0], fd(c.load(insns, kind))),
            run_packet(first, packet), c.update(programs, KEYS[1], fd(deep)),
            run_packet(deep, packet)]
    programs = c.create(PROG_ARRAY, 4, 4, 1)
    kept = b"".join((  # a packet pointer from before a tail call that found nothing
        c.mov(0, 2), c.copy(6, 1), c.insn(0x61, 7, 6), c.insn(0x61, 8, 6, 4), c.copy(1, 7),
        c.add(1, 8), c.insn(0x2D, 1, 8, 7), tail(programs, 0), c.insn(0x79, 1, 7), c.mov(0, 3),
        c.EXIT))
    yield "packet pointers are kept", [run_packet(c.load(kept, XDP), packet)]


# perf events


def perf_event(type: int, config: int, period: int = 1) -> int:
    attr = c.held(struct.pack("<IIQQQQ", type, 112, config, period, 1 << 10, 0).ljust(112, b"\0"))
    return int(c.libc.syscall(298, attr, -1, 0, -1, 8))


def perf_array() -> Iterator[Step]:
    """Every element command, and what goes with a descriptor of the map."""
    events, prog = c.create(PERF_ARRAY, 4, 4, 2), c.load(RETURN_0)
    output, clock = perf_event(1, 10), perf_event(1, 0)
    yield "empty", [c.lookup(events, KEYS[0], 4), c.lookup(events, KEYS[0], 4, 4),
                    c.following(events, None, 4), c.following(events, KEYS[1], 4),
                    c.delete(events, KEYS[0]), c.delete(events, KEYS[9])]
    yield "no event", [c.update(events, KEYS[0], fd(n)) for n in (-1, 99, events, prog, 0)]
    yield "events", [c.update(events, KEYS[0], fd(n)) for n in (output, clock, output)]
    yield "flags", [c.update(events, KEYS[0], fd(output), flags) for flags in (1, 2, 3, 4, 8)]
    yield "which error first", [c.update(events, KEYS[9], fd(output)),
                                c.update(events, KEYS[9], fd(99)),
                                c.update(events, KEYS[0], fd(99), 1)]
    yield "not there", [c.take(events, KEYS[0], 4), *(c.batch(n, events, 4, 4, 1) for n in (
        c.LOOKUP_BATCH, c.TAKE_BATCH, c.UPDATE_BATCH, c.DELETE_BATCH))]
    yield "delete", [c.delete(events, KEYS[0]), c.delete(events, KEYS[0])]
    yield "frozen", [c.bpf(c.FREEZE, fd(events)), c.update(events, KEYS[0], fd(output))]
    for flags in (0, 1 << 11):
        events = c.create(PERF_ARRAY, 4, 4, 1, flags)
        number, holder = id_of(events), c.load(c.map_fd(1, events) + RETURN_0)
        same, again = os.dup(events), c.bpf(MAP_BY_ID, number + bytes(8))
        steps = [c.update(events, KEYS[0], fd(output))]
        for one in (again, same, events):
            os.close(one)
            again = c.bpf(MAP_BY_ID, number + bytes(8))
            steps.append(c.delete(again, KEYS[0]) if one == events else 0)
        yield f"elements go with their descriptor {flags}", [steps, closed(holder)]
    events = c.create(PERF_ARRAY, 4, 4, 1)
    put = c.load(b"".join((
        c.insn(0x7A, 10, off=-8, imm=1), c.map_fd(2, events), c.mov(3, 0), c.copy(4, 10),
        c.add(4, -8), c.mov(5, 8), c.call(OUTPUT), c.EXIT)))
    yield "for programs too", [c.run(put), c.update(events, KEYS[0], fd(clock)), c.run(put),
                               closed(events), c.run(put)]


def timers() -> Iterator[Step]:
    """A program that a timer runs in the loader itself, while the loader changes what it finds."""
    inner, hits, empty = array(), array(), array()
    outer, programs = c.create(HASH_OF_MAPS, 4, 4, 4, inner=inner), c.create(PROG_ARRAY, 4, 4, 1)
    nothing = increase(empty) + RETURN_0
    prog = c.load(b"".join((
        bump(hits), c.insn(0x62, 10, off=-4), c.copy(2, 10), c.add(2, -4), c.map_fd(1, outer),
        c.call(LOOKUP), c.insn(0x55, 0, off=len(nothing) // 8), nothing, tail(programs, 0),
        nothing)), PERF_EVENT)
    after = [c.load(bump(array()) + RETURN_0, PERF_EVENT) for _ in range(2)]
    c.update(outer, KEYS[0], fd(inner))
    c.update(programs, KEYS[0], fd(after[0]))
    event = perf_event(1, 0, 100_000)
    yield "attached", [int(c.libc.ioctl(event, 0x40042408, prog)),
                       int(c.libc.ioctl(event, 0x2400, 0))]
    before, steps = bytes(8), set()
    for turn in range(60):
        inner = array()
        steps |= {c.update(outer, KEYS[0], fd(inner)),
                  c.update(programs, KEYS[0], fd(after[turn % 2]))}
        os.close(inner)
        for _ in range(10_000):  # some hits between the changes
            now = c.lookup(hits, KEYS[0], 8)
            if now != before and isinstance(now, bytes):
                before = now
                break
    os.close(event)
    yield "changed", [list(steps), c.lookup(hits, KEYS[0], 8) != bytes(8),
                      c.lookup(empty, KEYS[0], 8)]


# lifetimes


def lifetimes() -> Iterator[Step]:
    """What an element holds, and when it lets go."""
    template, inner, holder = array(), array(), c.load(RETURN_0)
    for kind in (ARRAY_OF_MAPS, HASH_OF_MAPS):
        outer, inner = c.create(kind, 4, 4, 1, inner=template), array()
        number = id_of(inner)
        c.update(outer, KEYS[0], fd(inner))
        os.close(inner)
        again = c.bpf(MAP_BY_ID, number + bytes(8))
        yield f"an inner map lives {kind}", closed(again)
        c.update(outer, KEYS[0], fd(template))
        yield f"replaced {kind}", there(MAP_BY_ID, number)
        inner = array()
        number = id_of(inner)
        c.update(outer, KEYS[0], fd(inner))
        os.close(inner)
        os.close(outer)
        yield f"with its outer map {kind}", there(MAP_BY_ID, number)
    programs = c.create(PROG_ARRAY, 4, 4, 1)
    prog = c.load(go_on(programs))
    number, own = id_of(prog), id_of(programs)
    c.update(programs, KEYS[0], fd(prog))
    os.close(prog)
    yield "a program lives", closed(c.bpf(PROG_BY_ID, number + bytes(8)))
    os.close(programs)
    yield "not by itself alone", [there(PROG_BY_ID, number), there(MAP_BY_ID, own)]
    programs = c.create(PROG_ARRAY, 4, 4, 1)
    prog, own = c.load(go_on(programs)), id_of(programs)
    c.update(programs, KEYS[0], fd(prog))
    os.close(programs)
    for _ in range(200):
        programs = c.bpf(MAP_BY_ID, own + bytes(8))
        left = c.lookup(programs, KEYS[0], 4)
        if isinstance(left, int):
            break
        os.close(programs)
        time.sleep(0.01)
    yield "cleared with the last descriptor", [left, c.update(programs, KEYS[0], fd(prog)),
                                               c.lookup(programs, KEYS[0], 4) == id_of(prog)]
    closed(holder)


SCENARIOS: dict[str, Callable[[], Iterator[Step]]] = {
    f.__name__: f for f in (
        creation, likeness, array_of_maps, hash_of_maps, maps_in_programs, kinds_of_inner_maps,
        prog_array, owners,
        tail_calls, tail_calls_of_functions, tail_calls_with_packets, perf_array,
        timers, lifetimes)
}


def plain(value: Any) -> Any:
    """Bytes as hexadecimal, for JSON."""
    if isinstance(value, bytes):
        return value.hex()
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    for what, result in SCENARIOS[sys.argv[1]]():
        print(json.dumps([what, plain(result)]))
