"""Scenarios of map types that are neither hashes nor arrays: what each prints on the kernel it
must print on the shim. `python plain.py NAME` runs one, in its own process: JSON, a step a line.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
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


def functions(*arguments: str) -> tuple[int, tuple[int, int]]:
    """BTF with a main function and one that is called back; their types."""
    from libbpf_shim.btf import kinds
    from libbpf_shim.btf.write import Writer

    out = Writer()
    long = out.integer("long", 8)
    pointer = out.ref(kinds.PTR, 0)
    main = out.func("main", out.proto(long, [("ctx", pointer)]))
    body = out.func("body", out.proto(long, [(name, pointer) for name in arguments]), 0)
    return c.btf_load(out.blob()), (main, body)


class Producer:
    """A user ring buffer of 4096 bytes as its user has it, and a program that drains it: each
    sample's first 8 bytes go into `seen`, one after the other; 99 ends the drain."""

    size = 4096

    def __init__(self) -> None:
        self.fd, self.seen = c.create(USER_RINGBUF, 0, 0, self.size), c.create(ARRAY, 4, 8, 8)
        self.consumer = mapped(self.fd, 4096, 1)
        self.producer = mapped(self.fd, 4096 + 2 * self.size, 3, 4096)
        self.at = 0
        self.btf, self.types = functions("sample", "count")

    def position(self, at: int) -> int:
        """A u64."""
        return int(ctypes.c_uint64.from_address(at).value)

    def put(self, data: bytes, flags: int = 0, length: int = -1) -> None:
        """Writes a record; what its header says may be wrong. publish() makes it one."""
        there = self.producer + 4096
        length = len(data) if length < 0 else length
        ctypes.memmove(there + (self.at + 8) % self.size, data, len(data))
        ctypes.c_uint32.from_address(there + self.at % self.size).value = length | flags
        self.at += length + 15 & ~7

    def publish(self, more: int = 0) -> None:
        """The producer's position."""
        ctypes.c_uint64.from_address(self.producer).value = self.at + more

    def call(self, body: bytes, flags: int = 0) -> int:
        """Runs a program that drains with this callback: what bpf_user_ringbuf_drain returned."""
        before = c.insn(0x7A, 10, off=-8) + c.map_fd(1, self.fd)
        after = (c.copy(3, 10) + c.add(3, -8) + c.mov(4, flags) + c.call(209) + c.EXIT)
        entry = (len(before) + 16 + len(after)) // 8
        there = entry - len(before) // 8 - 1
        code = before + c.insn(0x18, 2, 4, imm=there) + c.insn(0) + after + body
        rows = b"".join(n.to_bytes(4, "little") for n in (0, self.types[0], entry, self.types[1]))
        fd = c.load(code, functions=(self.btf, rows))
        if fd < 0:
            return fd - 10000
        ret = c.run(fd)
        os.close(fd)
        return ret

    def drain(self, flags: int = 0) -> list[Any]:
        """The result, positions, and what was seen."""
        return [self.call(self.body(), flags), self.position(self.consumer),
                self.position(self.producer),
                [c.lookup(self.seen, n.to_bytes(4, "little"), 8) for n in range(4)]]

    def body(self) -> bytes:
        """The callback: R1 the sample, R2 the counter."""
        return b"".join((
            c.copy(6, 1), c.copy(7, 2), c.insn(0x7A, 10, off=-16),
            c.copy(1, 10), c.add(1, -16), c.mov(2, 8), c.copy(3, 6), c.mov(4, 0), c.mov(5, 0),
            c.call(201), c.insn(0x79, 1, 7), c.insn(0x63, 10, 1, -4), c.add(1, 1),
            c.insn(0x7B, 7, 1), c.map_fd(1, self.seen), c.copy(2, 10), c.add(2, -4),
            c.copy(3, 10), c.add(3, -16), c.mov(4, 0), c.call(2), c.insn(0x79, 1, 10, -16),
            c.mov(0, 0), c.insn(0x55, 1, off=1, imm=99), c.mov(0, 1), c.EXIT))


def user_ringbuf() -> Iterator[Step]:
    """BPF_MAP_TYPE_USER_RINGBUF: what the user may do, and what programs find."""
    yield from no_elements(USER_RINGBUF)
    ring = Producer()
    yield "empty", ring.drain()
    busy, discard = 1 << 31, 1 << 30
    one = VALUES[1]
    for name, records in (
        ("two", [(one, 0), (VALUES[2], 0)]),
        ("discarded", [(one, 0), (one, discard), (VALUES[3], 0)]),
        ("all discarded", [(one, discard), (one, discard | busy)]),
        ("says stop", [((99).to_bytes(8, "little"), 0), (VALUES[4], 0)]), ("the rest", []),
        ("short", [(b"abc", 0)]), ("of nothing", [(b"", 0)]), ("long", [(bytes(2000), 0)]),
        ("round the ring", [(VALUES[5] * 100, 0)]), ("again", [(VALUES[6] * 200, 0)]),
        ("and again", [(VALUES[7] * 300, 0)]), ("and once more", [(VALUES[8] * 300, 0)]),
    ):
        for data, flags in records:
            ring.put(data, flags)
        ring.publish()
        yield name, ring.drain()
    ring.put(one)
    ring.publish()
    yield "flags", [ring.drain(4), ring.drain(8), ring.drain(1)]
    ring.put(one)
    ring.publish()
    yield "flags again", [ring.drain(2), ring.drain(3)]
    ring.put(one, busy)
    ring.publish()
    yield "busy", ring.drain()
    ring.at -= 16
    ring.put(one)
    yield "no longer", ring.drain()
    for more in (1, 4, 7):
        ring.publish(more)
        yield f"not aligned {more}", ring.drain()
    ring.put(one, 0, 100)
    ring.at -= 112 - 16
    ring.publish()
    yield "longer than what is there", ring.drain()
    ring.at += 3 * 4096
    ring.publish()
    there = ring.producer + 4096 + ring.position(ring.consumer) % 4096
    ctypes.c_uint32.from_address(there).value = 4089
    yield "longer than the ring", ring.drain()
    ctypes.c_uint64.from_address(ring.producer).value = 0
    yield "gone back", ring.drain()
    yield from waits(Producer())
    yield from callbacks(Producer())


def mirror() -> Iterator[Step]:
    """A user ring buffer's data, and what stands behind it."""
    ring = Producer()
    ring.put(VALUES[1])
    yield "again", words(ring.producer + 4096 + ring.size, 4)


def waits(ring: Producer) -> Iterator[Step]:
    """Room in the ring is readiness to be written."""
    epoll, poll = select.epoll(), select.poll()
    epoll.register(ring.fd, select.EPOLLIN | select.EPOLLOUT)
    poll.register(ring.fd, select.POLLIN | select.POLLOUT)

    def ready() -> list[Any]:
        return [[event for _, event in epoll.poll(0)], [event for _, event in poll.poll(0)],
                [len(found) for found in select.select([ring.fd], [ring.fd], [], 0)]]

    yield "room", [ready(), ready()]
    ring.put(bytes(4080))
    ring.publish()
    yield "nearly full", ready()
    ring.put(b"")
    ring.publish()
    yield "full", [ready(), ready()]
    yield "drained", [ring.drain(), ready(), ready()]


def callbacks(ring: Producer) -> Iterator[Step]:
    """What a callback may do with a sample."""
    zero = c.mov(0, 0) + c.EXIT
    data = c.mov(2, 0) + c.mov(3, 8) + c.call(203)
    checked = data + c.insn(0x55, 0, off=1) + c.EXIT
    for name, body in (
        ("data", checked + c.insn(0x79, 1, 0) + c.insn(0x79, 1, 0, 0) + zero),
        ("data is written", checked + c.insn(0x7A, 0, imm=1) + zero),
        ("data unchecked", data + c.insn(0x79, 1, 0) + zero),
        ("data beyond", checked + c.insn(0x79, 1, 0, 8) + zero),
        ("data of unknown size", c.copy(6, 1) + c.call(7) + c.copy(1, 6) + c.mov(2, 0)
         + c.copy(3, 0) + c.call(203) + zero),
        ("looked into", c.insn(0x79, 0, 1) + zero),
        ("written to", c.insn(0x7A, 1, imm=1) + zero),
        ("moved", c.add(1, 8) + c.mov(2, 0) + c.mov(3, 8) + c.call(203) + zero),
        ("returned", c.copy(0, 1) + c.EXIT), ("two", c.mov(0, 2) + c.EXIT),
        ("three arguments", c.copy(0, 3) + zero),
        ("spilled", c.insn(0x7B, 10, 1, -8) + c.insn(0x79, 1, 10, -8) + data + zero),
        ("a stack is no sample", c.insn(0x7A, 10, off=-8) + c.insn(0x7A, 10, off=-16)
         + c.copy(1, 10) + c.add(1, -16) + data + zero),
        ("a counter is no sample", c.copy(1, 2) + data + zero),
        ("write", c.copy(6, 2) + c.mov(2, 4) + c.copy(3, 6) + c.mov(4, 4) + c.mov(5, 0)
         + c.call(202) + zero),
        ("drains itself", c.copy(6, 2) + c.map_fd(1, ring.fd) + c.insn(0x18, 2, 4, imm=-4)
         + c.insn(0) + c.copy(3, 6) + c.mov(4, 0) + c.call(209) + zero),
    ):
        ring.put(VALUES[1])
        ring.publish()
        yield name, [ring.call(body), ring.position(ring.consumer)]
    start = ring.producer + 4096
    yield "written", words(start, 64)




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
        queue, stack, bloom, ringbuf, user_ringbuf, stack_trace, cgroup_array, mirror)
}


def plain(value: Any) -> Any:
    """Bytes as hexadecimal, for JSON."""
    if isinstance(value, bytes):
        return value.hex()
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    for what, result in SCENARIOS[sys.argv[1]]():
        print(json.dumps([what, plain(result)]))
