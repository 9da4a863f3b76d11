"""Scenarios of map types that are neither hashes nor arrays: what each prints on the kernel it
must print on the shim. `python plain.py NAME` runs one, in its own process: JSON, a step a line.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from compat_tests.runtime import calls as c  # noqa: E402

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


def pushes(kind: int) -> Iterator[Step]:
    """QUEUE and STACK."""
    yield flags_of(kind, 0, 8, 4)
    yield sizes_of(
        kind, (4, 8, 4), (0, 0, 4), (0, 8, 0), (0, 1 << 22, 1), (0, (1 << 22) + 1, 1),
        (0, (1 << 32) - 1, 1), (0, 8, 4, 0x18), (0, 8, 4, 0x180), (0, 8, 4, 0, 1), (0, 3, 5))
    fd = c.create(kind, 0, 8, 3)
    order = ((0, 0), (1, 1), (1, 2), (2, 3), (2, 4), (2, 8), (2, 0), (3, 0), (3, 2), (4, 0))
    yield "push", [c.update(fd, None, VALUES[n], flags) for n, flags in order]
    yield "peek", [c.lookup(fd, None, 8), c.lookup(fd, b"1234", 8), c.lookup(fd, None, 8, 1),
                   c.lookup(fd, None, 8, 4)]
    yield "pop flags", [c.take(fd, None, 8, 1), c.take(fd, None, 8, 4), c.take(fd, b"1234", 8)]
    yield "pop", [c.take(fd, None, 8) for _ in range(4)]
    yield "empty", [c.element(c.TAKE, fd, None, b"abcdefgh"),
                    c.element(c.LOOKUP, fd, None, b"abcdefgh")]
    yield "not there", [c.delete(fd, None), c.delete(fd, b"1234"), c.following(fd, None, 4),
                        c.following(fd, b"1234", 4), c.update(fd, None, None),
                        c.update(fd, b"1234", VALUES[0])]
    yield batches_of(fd, 0, 8)
    odd = c.create(kind, 0, 3, 2)
    for n in range(9):  # round the ring several times, at every fill
        steps = [c.update(odd, None, b"%03d" % n, 2 * (n % 2)), c.lookup(odd, None, 3)]
        yield f"round {n}", steps + [c.take(odd, None, 3) for _ in range(n % 3)]
    for flags in (8, 16):
        fd = c.create(kind, 0, 8, 3, flags)
        yield f"access {flags}", [c.update(fd, None, VALUES[0]), c.take(fd, None, 8),
                                  c.lookup(fd, None, 8)]
    fd = c.create(kind, 0, 8, 3)
    yield "frozen", [c.update(fd, None, VALUES[0]), c.bpf(c.FREEZE, fd.to_bytes(4, "little")),
                     c.update(fd, None, VALUES[0]), c.take(fd, None, 8), c.lookup(fd, None, 8)]


def helper_call(fd: int, helper: int, value: int, flags: int = 0) -> bytes:
    """push, pop or peek of an 8-byte value that holds `value` before; r0 and the value after go
    into the result: r0 in the low 16 bits, what the value became in those above."""
    return b"".join((
        c.mov(1, value), c.insn(0x7B, 10, 1, -8), c.map_fd(1, fd), c.copy(2, 10), c.add(2, -8),
        c.mov(3, flags), c.call(helper), c.insn(0x57, 0, imm=0xFFFF), c.insn(0x79, 1, 10, -8),
        c.insn(0x67, 1, imm=16), c.insn(0x4F, 0, 1), c.EXIT))


def in_programs(fd: int) -> Iterator[Step]:
    """Helpers 87, 88, 89."""
    for number, (helper, value, flags) in enumerate((
        (88, 77, 0), (89, 78, 0), (87, 1, 0), (87, 2, 0), (87, 3, 2), (87, 3, 1), (87, 4, 8),
        (89, 2, 0), (89, 9, 0), (88, 79, 0), (88, 80, 0), (88, 81, 0), (87, 5, 0),
    )):
        yield f"helper {number}", c.execute(helper_call(fd, helper, value, flags))
    yield "refused", [c.execute(c.map_fd(1, fd) + c.copy(2, 10) + c.add(2, -8) + c.insn(
        0x7A, 10, off=-8) + c.call(number) + c.mov(0, 0) + c.EXIT) for number in (1, 3)]


def queue() -> Iterator[Step]:
    """BPF_MAP_TYPE_QUEUE."""
    yield from pushes(QUEUE)
    yield from in_programs(c.create(QUEUE, 0, 8, 2))


def stack() -> Iterator[Step]:
    """BPF_MAP_TYPE_STACK."""
    yield from pushes(STACK)
    yield from in_programs(c.create(STACK, 0, 8, 2))


def bloom() -> Iterator[Step]:
    """BPF_MAP_TYPE_BLOOM_FILTER, false positives included."""
    yield flags_of(BLOOM, 0, 8, 4)
    yield sizes_of(
        BLOOM, (4, 8, 4), (0, 0, 4), (0, 8, 0), (0, 1 << 22, 1), (0, (1 << 22) + 1, 1),
        (0, (1 << 32) - 1, 1), (0, 8, 4, 0x18), (0, 8, 4, 0x180), (0, 8, 4, 0, 1),
        (0, 8, 4, 0, 15), (0, 8, 4, 0, 16), (0, 8, 4, 0, 1 << 63), (0, 3, 5))
    fd = c.create(BLOOM, 0, 8, 3)
    yield "push", [c.update(fd, None, VALUES[0], flags) for flags in range(5)]
    yield "with a key", [c.update(fd, b"1234", VALUES[0]), c.lookup(fd, b"1234", 8)]
    yield "peek", [c.element(c.LOOKUP, fd, None, VALUES[0]), c.element(c.LOOKUP, fd, None, None),
                   c.element(c.LOOKUP, fd, None, VALUES[0], 4),
                   c.element(c.LOOKUP, fd, None, VALUES[0], 1)]
    yield "not there", [c.take(fd, None, 8), c.delete(fd, None), c.delete(fd, b"1234"),
                        c.following(fd, None, 4), c.following(fd, b"1234", 4)]
    yield batches_of(fd, 0, 8)
    for flags in (8, 16):
        fd = c.create(BLOOM, 0, 8, 3, flags)
        yield f"access {flags}", [c.update(fd, None, VALUES[0]),
                                  c.element(c.LOOKUP, fd, None, VALUES[0])]
    zero_seed = 1 << 6
    for size, entries, hashes in ((1, 4, 0), (3, 20, 3), (4, 20, 1), (8, 30, 2), (12, 33, 15),
                                  (13, 40, 4), (24, 100, 2), (25, 8, 7)):
        fd = c.create(BLOOM, 0, size, entries, zero_seed, hashes)
        names = [(n * 2654435761).to_bytes(40, "little")[:size] for n in range(1, 200)]
        for name in names[: entries * 2]:
            c.update(fd, None, name)
        yield f"members {size}", [c.element(c.LOOKUP, fd, None, name)[0] for name in names]
    fd = c.create(BLOOM, 0, 8, 4, zero_seed, 2)
    for number, (helper, value, flags) in enumerate((
        (89, 1, 0), (87, 1, 0), (89, 1, 0), (89, 2, 0), (87, 2, 2), (88, 1, 0),
    )):
        yield f"helper {number}", c.execute(helper_call(fd, helper, value, flags))
    unset = c.map_fd(1, fd) + c.copy(2, 10) + c.add(2, -8) + c.call(89) + c.EXIT
    yield "the question must be there", c.execute(unset)


def mapped(fd: int, length: int, prot: int, off: int = 0, flags: int = 1) -> int:
    """mmap(2) of a map: an address, or a negative errno."""
    at = int(c.mmap(0, length, prot, flags, fd, off))
    return at if at > 0 else -ctypes.get_errno()


def mappings(fd: int, size: int) -> Iterator[Step]:
    """Which parts of a ring of `size` bytes may be mapped, and how."""
    page = 4096
    for length in (0, 1, page, 2 * page, size + page, 2 * size + page, 2 * size + 2 * page,
                   2 * size + 3 * page):
        yield f"mmap {length}", [min(0, mapped(fd, length, prot, off * page))
                                 for off in (0, 1, 2, 6) for prot in (1, 3)]
    yield "mmap ways", [min(0, mapped(fd, page, prot, off, flags)) for prot, off, flags in (
        (1, 0, 2), (3, 0, 2), (0, 0, 1), (5, 0, 1), (1, 100, 1), (1, 0, 3))]
    for off in (0, page):
        at = mapped(fd, page, 1, off)
        yield "mprotect", [c.libc.mprotect(ctypes.c_void_p(at), page, 3), ctypes.get_errno()]


def no_elements(kind: int) -> Iterator[Step]:
    """RINGBUF and USER_RINGBUF: creation and element commands."""
    yield flags_of(kind, 0, 0, 4096)
    yield sizes_of(kind, (4, 0, 4096), (0, 4, 4096), (0, 0, 0), (0, 0, 1), (0, 0, 4097),
                   (0, 0, 12288), (0, 0, 8192), (0, 0, 4096, 0, 1))
    fd = c.create(kind, 0, 0, 8192)
    yield "elements", [c.lookup(fd, None, 8), c.lookup(fd, b"1234", 8), c.lookup(fd, None, 8, 4),
                       c.take(fd, None, 8), c.update(fd, None, VALUES[0]),
                       c.update(fd, b"1234", VALUES[0]), c.delete(fd, None),
                       c.delete(fd, b"1234"), c.following(fd, None, 8),
                       c.following(fd, b"1234", 8)]
    yield batches_of(fd, 0, 8)
    yield from mappings(fd, 8192)
    other = c.create(kind, 0, 0, 8192)
    frozen = c.bpf(c.FREEZE, other.to_bytes(4, "little"))
    yield "frozen", [frozen] + [min(0, mapped(other, 4096, prot, off)) for prot in (1, 3)
                                for off in (0, 4096)]


def words(at: int, count: int) -> list[int]:
    """u32s in memory."""
    return list((ctypes.c_uint32 * count).from_address(at))


def ringbuf() -> Iterator[Step]:
    """BPF_MAP_TYPE_RINGBUF: its positions and record headers after each helper call."""
    yield from no_elements(RINGBUF)
    size = 4096
    fd = c.create(RINGBUF, 0, 0, size)
    consumer, producer = mapped(fd, 4096, 3), mapped(fd, 4096 + 2 * size, 1, 4096)

    def output(length: int, flags: int = 0) -> bytes:
        return (c.mov(1, 7) + c.insn(0x7B, 10, 1, -8) + c.map_fd(1, fd) + c.copy(2, 10)
                + c.add(2, -8) + c.mov(3, length) + c.mov(4, flags) + c.call(130) + c.EXIT)

    def reserve(length: int, flags: int, end: int) -> bytes:
        return (c.map_fd(1, fd) + c.mov(2, length) + c.mov(3, flags) + c.call(131)
                + c.insn(0x55, 0, off=2) + c.mov(0, 99) + c.EXIT + c.copy(1, 0) + c.mov(2, 0)
                + c.call(end) + c.mov(0, 0) + c.EXIT)

    def query(what: int) -> bytes:
        return c.map_fd(1, fd) + c.mov(2, what) + c.call(134) + c.EXIT

    def state() -> list[Any]:
        positions = words(producer, 1)[0], words(consumer, 1)[0]
        at, headers = positions[1], []
        while at < positions[0]:
            headers.append(words(producer + 4096 + at % size, 1)[0])
            at += (headers[-1] & 0x3FFFFFFF) + 15 & ~7
        return [positions, headers, [c.execute(query(what)) for what in range(6)]]

    for name, program in (
        ("output", output(8)), ("no wakeup", output(8, 1)), ("forced", output(3, 2)),
        ("both", output(8, 3)), ("bad flags", output(8, 4)), ("submit", reserve(24, 0, 132)),
        ("discard", reserve(24, 0, 133)), ("reserve flags", reserve(24, 1, 132)),
        ("too large", reserve(4089, 0, 132)), ("as large as the ring", reserve(4088, 0, 132)),
        ("fills", reserve(3900, 0, 132)), ("nothing", reserve(0, 0, 132)),
        ("nearly full", reserve(16, 0, 132)), ("one byte is left", reserve(16, 0, 132)),
    ):
        yield name, [c.execute(program), state()]
    ctypes.c_uint64.from_address(consumer).value = words(producer, 1)[0]
    yield "consumed", [c.execute(output(8)), state()]
    yield "wraps", [c.execute(reserve(300, 0, 132)), state()]


def user_ringbuf() -> Iterator[Step]:
    """BPF_MAP_TYPE_USER_RINGBUF, the user's side."""
    yield from no_elements(USER_RINGBUF)


def stack_trace() -> Iterator[Step]:
    """BPF_MAP_TYPE_STACK_TRACE without a stack, since a raw tracepoint's is the kernel's there."""
    yield flags_of(STACK_TRACE, 4, 64, 4)
    build_id = 1 << 5
    yield sizes_of(
        STACK_TRACE, (8, 64, 4), (0, 64, 4), (4, 0, 4), (4, 4, 4), (4, 9, 4), (4, 64, 0),
        (4, 127 * 8, 4), (4, 128 * 8, 4), (4, 64, 1, build_id), (4, 32, 1, build_id),
        (4, 40, 1, build_id), (4, 127 * 32, 1, build_id), (4, 128 * 32, 1, build_id),
        (4, 64, 1, 0, 1), (4, 64, 1, 0x18), (4, 8, (1 << 31) + 1))
    for entries in (4, 5):
        fd = c.create(STACK_TRACE, 4, 64, entries)
        ids = [n.to_bytes(4, "little") for n in (0, 3, 4, 7, 8, 9, 2**32 - 1)]
        yield f"of {entries}", [[c.lookup(fd, n, 64) for n in ids],
                                [c.take(fd, n, 64) for n in ids],
                                [c.delete(fd, n) for n in ids],
                                [c.following(fd, n, 4) for n in [None, *ids]],
                                [c.lookup(fd, ids[0], 64, flags) for flags in (1, 4, 8)],
                                [c.take(fd, ids[0], 64, flags) for flags in (1, 4)],
                                [c.update(fd, ids[0], bytes(64), n) for n in (0, 1, 2, 4, 8)],
                                c.lookup(fd, None, 64), c.delete(fd, None)]
        yield batches_of(fd, 4, 64)
        yield "mmap", min(0, mapped(fd, 4096, 1))
        yield "stackid", [c.execute(c.map_fd(2, fd) + c.mov(3, flags) + c.call(27) + c.EXIT)
                          for flags in (200, 255, 1 << 11, 1 << 12)]
    for flags in (8, 16):
        fd = c.create(STACK_TRACE, 4, 64, 4, flags)
        yield f"access {flags}", [c.delete(fd, bytes(4)), c.lookup(fd, bytes(4), 64)]
    for size in (4, 8, 16, 64):
        yield f"stack {size}", [c.execute(
            c.copy(2, 10) + c.add(2, -64) + c.mov(3, size) + c.mov(4, flags) + c.call(67) + c.EXIT)
            for flags in (200, 255, 1 << 11, 1 << 9, 1 << 12)]


def cgroup_array() -> Iterator[Step]:
    """BPF_MAP_TYPE_CGROUP_ARRAY; sys.argv[2] is a cgroup below the root."""
    yield flags_of(CGROUP_ARRAY, 4, 4, 4)
    yield sizes_of(CGROUP_ARRAY, (8, 4, 4), (4, 8, 4), (4, 0, 4), (0, 4, 4), (4, 4, 0),
                   (4, 4, 1, 0, 1), (4, 4, 1, 0x18))
    fd, size = c.create(CGROUP_ARRAY, 4, 4, 4), 4
    below = sys.argv[2]

    def n(number: int) -> bytes:
        return (number & 0xFFFFFFFF).to_bytes(4, "little")

    yield "empty", [c.lookup(fd, n(0), 4), c.lookup(fd, n(9), 4), c.lookup(fd, n(0), 4, 4),
                    c.lookup(fd, None, 4), c.take(fd, n(0), 4), c.delete(fd, n(0)),
                    c.delete(fd, n(4)), c.delete(fd, None), c.keys(fd, 4),
                    c.following(fd, n(9), 4)]
    opened = [os.open(path, flags) for path, flags in (
        (str(Path(below).parent), os.O_RDONLY), (below, os.O_RDONLY), (below, os.O_PATH),
        ("/sys/fs/cgroup", os.O_RDONLY), (below + "/cgroup.procs", os.O_RDONLY),
        ("/tmp", os.O_RDONLY))]
    for number, value in enumerate([*opened, 999, -1, fd]):
        yield f"put {number}", [c.update(fd, n(1), n(value)), c.delete(fd, n(1))]
    root, sub = opened[:2]
    yield "put", [[c.update(fd, n(1), n(sub), flags) for flags in (0, 1, 2, 3, 4, 8)],
                  [c.update(fd, n(i), n(sub)) for i in (0, 3, 4, -1)],
                  c.update(fd, None, n(sub)), c.update(fd, n(1), None),
                  c.update(fd, n(4), n(999)), c.update(fd, n(1), n(999), 1)]
    yield "full", [c.lookup(fd, n(1), 4), c.take(fd, n(1), 4), c.delete(fd, n(1)),
                   c.delete(fd, n(1)), mapped(fd, 4096, 1)]
    yield batches_of(fd, 4, size)
    c.update(fd, n(0), n(root))
    yield "under", [c.execute(c.map_fd(1, fd) + c.mov(2, i) + c.call(37) + c.EXIT)
                    for i in (0, 1, 2, 3, 4, -1)]
    yield "own id", c.execute(c.call(80) + c.EXIT)
    for flags in (8, 16):
        fd = c.create(CGROUP_ARRAY, 4, 4, 4, flags)
        yield f"access {flags}", [c.update(fd, n(0), n(root)), c.delete(fd, n(0)),
                                  c.lookup(fd, n(0), 4), c.following(fd, None, 4)]
    fd = c.create(CGROUP_ARRAY, 4, 4, 4)
    yield "frozen", [c.bpf(c.FREEZE, n(fd)), c.update(fd, n(0), n(root))]


SCENARIOS: dict[str, Callable[[], Iterator[Step]]] = {
    f.__name__: f for f in (
        queue, stack, bloom, ringbuf, user_ringbuf, stack_trace, cgroup_array)
}


def plain(value: Any) -> Any:
    """Bytes as hexadecimal, for JSON."""
    if isinstance(value, bytes):
        return value.hex()
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    for what, result in SCENARIOS[sys.argv[1]]():
        print(json.dumps([what, plain(result)]))
