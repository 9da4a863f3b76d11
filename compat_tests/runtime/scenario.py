"""What scenarios of map types share: steps, and the calls that each type is asked."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from compat_tests.runtime import calls as c

ARRAY, STACK_TRACE, CGROUP_ARRAY, QUEUE, STACK = 2, 7, 8, 22, 23
RINGBUF, TASK_STORAGE, BLOOM, USER_RINGBUF, ARENA = 27, 29, 30, 31, 33
Step = tuple[str, Any]
VALUES = [b"%08d" % n for n in range(16)]


def created(kind: int, *sizes: int) -> int:
    """MAP_CREATE and close: 0 or a negative errno."""
    fd = c.create(kind, *sizes)
    if fd > 0:
        os.close(fd)
    return min(fd, 0)


def flags_of(kind: int, key: int, value: int, entries: int) -> Step:
    """Which single flags a type takes."""
    return "flags", [created(kind, key, value, entries, 1 << bit) for bit in range(32)]


def sizes_of(kind: int, *cases: tuple[int, ...]) -> Step:
    """MAP_CREATE of (key, value, entries[, flags[, extra]])."""
    return "sizes", [created(kind, *case) for case in cases]


def batches_of(fd: int, key: int, value: int) -> Step:
    """Batch commands."""
    commands = (c.LOOKUP_BATCH, c.TAKE_BATCH, c.UPDATE_BATCH, c.DELETE_BATCH)
    return "batches", [c.batch(command, fd, key, value, 2) for command in commands]


def mapped(fd: int, length: int, prot: int, off: int = 0, flags: int = 1) -> int:
    """mmap(2) of a map: an address, or a negative errno."""
    at = int(c.mmap(0, length, prot, flags, fd, off))
    return at if at > 0 else -ctypes.get_errno()


def words(at: int, count: int) -> list[int]:
    """u32s in memory."""
    return list((ctypes.c_uint32 * count).from_address(at))


def n32(number: int) -> bytes:
    """A u32."""
    return (number & 0xFFFFFFFF).to_bytes(4, "little")


def plain(value: Any) -> Any:
    """Bytes as hexadecimal, for JSON."""
    if isinstance(value, bytes):
        return value.hex()
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
