"""Maps of events, and programs that an event runs in the loader itself."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from compat_tests.elements.programs import bump, increase, tail
from compat_tests.elements.steps import (
    HASH_OF_MAPS,
    KEYS,
    LOOKUP,
    MAP_BY_ID,
    OUTPUT,
    PERF_ARRAY,
    PERF_EVENT,
    PROG_ARRAY,
    RETURN_0,
    Step,
    array,
    closed,
    fd,
    id_of,
)
from compat_tests.runtime import calls as c


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
