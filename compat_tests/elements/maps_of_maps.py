"""Maps of maps: what may be in them, element by element, in batches and in programs."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

from compat_tests.elements.steps import (
    ARRAY,
    ARRAY_OF_MAPS,
    BLOOM,
    CGROUP_ARRAY,
    DELETE,
    HASH,
    HASH_OF_MAPS,
    INNER_MAP,
    KEYS,
    LOOKUP,
    LPM,
    LRU_HASH,
    NO_PREALLOC,
    NUMA,
    OUTPUT,
    PERCPU_ARRAY,
    PERF_ARRAY,
    PROG_ARRAY,
    QUEUE,
    RETURN_0,
    RINGBUF,
    STACK,
    STACK_TRACE,
    UPDATE,
    Step,
    array,
    closed,
    fd,
    id_of,
)
from compat_tests.runtime import calls as c


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
