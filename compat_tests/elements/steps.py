"""What scenarios are made of: numbers of linux/bpf.h, and maps, programs and their ids."""

from __future__ import annotations

import os
import struct
import time
from typing import Any

from compat_tests.runtime import calls as c

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
