"""Scenarios of ring buffers, of programs and of users."""

from __future__ import annotations

import ctypes
import os
import select
import threading
from collections.abc import Iterator
from typing import Any

from compat_tests.runtime import calls as c
from compat_tests.runtime.scenario import (
    ARENA,
    ARRAY,
    RINGBUF,
    USER_RINGBUF,
    VALUES,
    Step,
    batches_of,
    created,
    flags_of,
    mapped,
    n32,
    sizes_of,
    words,
)


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
    mapped(fd, 4096, 3, 4096 * (kind == USER_RINGBUF))
    other = c.create(kind, 0, 0, 8192)
    yield "cannot be frozen", c.bpf(c.FREEZE, fd.to_bytes(4, "little"))
    frozen = c.bpf(c.FREEZE, other.to_bytes(4, "little"))
    yield "frozen", [frozen] + [min(0, mapped(other, 4096, prot, off)) for prot in (1, 3)
                                for off in (0, 4096)]


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


def arena() -> Iterator[Step]:
    """BPF_MAP_TYPE_ARENA: creation, element commands, and where it may be mapped."""
    page, window, mmapable, segv = 4096, 1 << 32, 1 << 10, 1 << 17
    yield "flags", [created(ARENA, 0, 0, 4, mmapable | 1 << bit) for bit in range(32)
                    if 1 << bit != segv]
    yield sizes_of(ARENA, (0, 0, 4), *((key, value, entries, mmapable, extra) for
                   key, value, entries, extra in (
        (4, 0, 4, 0), (0, 4, 4, 0), (0, 0, 0, 0), (0, 0, 1 << 20, 0), (0, 0, (1 << 20) + 1, 0),
        (0, 0, (1 << 32) - 1, 0), (0, 0, 4, 1), (0, 0, 4, page), (0, 0, 4, window),
        (0, 0, 4, window - page), (0, 0, 4, window - 4 * page), (0, 0, 4, window - 3 * page),
        (0, 0, 1 << 20, window), (0, 0, 1 << 20, window + page), (0, 0, 4, 1 << 63),
        (0, 0, 4, (1 << 64) - page))))

    def new(extra: int = 0, entries: int = 4) -> int:
        return c.create(ARENA, 0, 0, entries, mmapable, extra)

    def there(fd: int, at: int, length: int, flags: int = 0x11) -> int:
        got = int(c.mmap(at, length, 3, flags, fd, 0))
        return got if got > 0 else -ctypes.get_errno()

    fd = new()
    yield "elements", [c.lookup(fd, None, 8), c.lookup(fd, b"1234", 8), c.lookup(fd, None, 8, 4),
                       c.take(fd, None, 8), c.update(fd, None, VALUES[0]),
                       c.update(fd, b"1234", VALUES[0]), c.delete(fd, None),
                       c.delete(fd, b"1234"), c.following(fd, None, 8),
                       c.following(fd, b"1234", 8)]
    yield batches_of(fd, 0, 8)
    yield "first mapping", [
        min(0, mapped(new(), pages * page, prot, off))
        for pages in (1, 4, 5, 8) for prot in (0, 1, 3, 7) for off in (0, page)]
    yield "private", min(0, mapped(new(), 4 * page, 3, 0, 2))
    at = mapped(fd, 4 * page, 3)
    yield "mapped again", [mapped(fd, 4 * page, 3), mapped(fd, 2 * page, 3),
                           there(fd, at, 4 * page) - at, there(fd, at, 4 * page, 1),
                           there(fd, at + 16 * page, 4 * page), there(fd, at, 5 * page)]
    ctypes.c_uint32.from_address(at + 3 * page).value = 77
    c.libc.munmap(ctypes.c_void_p(at), 4 * page)
    yield "after munmap", [mapped(fd, 4 * page, 3), there(fd, at, 4 * page, 1) - at,
                           words(at + 3 * page, 2), words(at, 2)]
    base = 3 << 40
    fd = new(base)
    yield "an address that was asked for", [mapped(fd, 4 * page, 3), there(fd, base, 4 * page, 1),
                                            there(fd, base, 4 * page), there(fd, base, page),
                                            there(fd, base, 5 * page),
                                            there(fd, base + page, 4 * page)]
    yield "frozen", [c.bpf(c.FREEZE, n32(fd)), c.bpf(c.FREEZE, n32(new()))]
    large = mapped(new(0, 1 << 20), window, 3)
    ctypes.c_uint32.from_address(large + window - 4).value = 5
    yield "large", [large % window, words(large + window - 8, 2), words(large, 1)]


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


def user_ring_of_libbpf() -> Iterator[Step]:
    """libbpf's user_ring_buffer, which also waits for room."""
    ring, lib = Producer(), ctypes.CDLL("libbpf.so.1", use_errno=True)
    for name in ("new", "reserve", "reserve_blocking"):
        getattr(lib, f"user_ring_buffer__{name}").restype = ctypes.c_void_p
    handle = ctypes.c_void_p(lib.user_ring_buffer__new(ring.fd, None))

    def submit(data: bytes, place: int | None) -> bool:
        if place:
            ctypes.memmove(place, data, len(data))
            lib.user_ring_buffer__submit(handle, ctypes.c_void_p(place))
        return bool(place)

    for value in VALUES[:3]:
        submit(value, lib.user_ring_buffer__reserve(handle, 8))
    yield "three", ring.drain()
    sent = 0
    while submit(bytes(500), lib.user_ring_buffer__reserve(handle, 500)):
        sent += 1
    yield "full", [sent, ctypes.get_errno()]
    waited: list[bool] = []
    waiter = threading.Thread(target=lambda: waited.append(
        submit(VALUES[4], lib.user_ring_buffer__reserve_blocking(handle, 8, 20000))))
    waiter.start()
    got = 0
    while waiter.is_alive():
        got += ring.call(ring.body())
        waiter.join(0.01)
    got += ring.call(ring.body())
    yield "waited", [waited, got, ring.position(ring.producer) - ring.position(ring.consumer)]


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


def arena_that_faults() -> Iterator[Step]:
    """BPF_F_SEGV_ON_FAULT."""
    yield "flag", created(ARENA, 0, 0, 4, 1 << 10 | 1 << 17)


def arena_programs() -> Iterator[Step]:
    """Programs with addresses of an arena: their results, and what is in it afterwards."""
    page, base = 4096, (3 << 40) + (5 << 20)
    fd = c.create(ARENA, 0, 0, 4, 1 << 10, base)
    c.mmap(base, 4 * page, 3, 0x11, fd, 0)

    def kern(dst: int, src: int) -> bytes:
        return c.insn(0xBF, dst, src, 1, 1)

    def user(dst: int, src: int) -> bytes:
        return c.insn(0xBF, dst, src, 1, 1 << 16)

    def at(dst: int, off: int = 0) -> bytes:
        return c.map_value(dst, fd, off) + kern(dst, dst)

    read, end = c.insn(0x79, 0, 1) + c.EXIT, c.mov(0, 0) + c.EXIT
    beyond = at(1, 3 * page) + c.add(1, page)
    cases = {
        "load": at(1, 16) + read, "load with an offset": at(1) + c.insn(0x79, 0, 1, 16) + c.EXIT,
        "store": at(1, 24) + c.mov(2, 77) + c.insn(0x7B, 1, 2) + end,
        "store of a constant": at(1, 32) + c.insn(0x7A, 1, imm=-55) + end,
        "behind the last page": beyond + c.mov(0, 5) + read,
        "across its end": at(1, 3 * page) + c.mov(0, 5) + c.insn(0x79, 0, 1, 4092) + c.EXIT,
        "at its end": at(1, 3 * page) + c.mov(0, 5) + c.insn(0x79, 0, 1, 4088) + c.EXIT,
        "before the first": at(1) + c.mov(0, 5) + c.insn(0x79, 0, 1, -8) + c.EXIT,
        "store behind": beyond + c.mov(2, 5) + c.insn(0x7B, 1, 2) + c.mov(0, 9) + c.EXIT,
        "null": at(1) + c.mov(1, 0) + kern(1, 1) + read,
        "without a cast": c.map_value(1, fd) + read, "as its user": at(1) + user(1, 1) + read,
        "back again": c.map_value(1, fd, 16) + kern(2, 1) + user(2, 2) + c.insn(0x1F, 2, 1)
        + c.copy(0, 2) + c.EXIT,
        "null as its user": at(1) + c.mov(2, 0) + user(2, 2) + c.copy(0, 2) + c.EXIT,
        "high half": at(2, 16) + user(2, 2) + c.copy(0, 2) + c.insn(0x77, 0, imm=32) + c.EXIT,
        "shift by 40": at(1, 16) + c.insn(0x77, 1, imm=40) + c.copy(0, 1) + c.EXIT,
        "stored": at(1, 16) + c.insn(0x7B, 1, 1, 40) + end,
        "difference": at(1, 16) + at(2) + c.insn(0x1F, 1, 2) + c.copy(0, 1) + c.EXIT,
        "number less address": at(1, 16) + c.mov(2, 3) + c.insn(0x1F, 2, 1)
        + c.insn(0x7B, 1, 2, 48) + end,
        "signed": at(1, 60) + c.insn(0x81, 0, 1) + c.EXIT,
        "moved in 32 bits": at(1, 16) + c.insn(0xBC, 2, 1) + c.insn(0x79, 0, 2) + c.EXIT,
        "negated": at(1, 16) + c.insn(0x87, 1) + read,
        "spilled": at(1, 16) + c.insn(0x7B, 10, 1, -8) + c.insn(0x79, 1, 10, -8) + read,
        "and": at(1, 16) + c.insn(0x57, 1, imm=-1) + read,
        "of a stack": at(1) + kern(2, 10) + c.insn(0x79, 0, 2) + end,
        "is it null": at(1, 16) + c.insn(0x15, 1, off=1) + c.insn(0x79, 0, 1) + end,
        "a helper's memory": at(1) + c.mov(2, 8) + c.copy(3, 10) + c.call(113) + end,
        "just behind": c.map_value(1, fd, 4 * page) + end,
        "further behind": c.map_value(1, fd, 4 * page + 1) + end,
        "no arena": c.mov(1, 0) + kern(1, 1) + end,
        "another": at(1) + c.map_fd(2, c.create(ARENA, 0, 0, 4, 1 << 10, base + (1 << 32))) + end,
        "not mapped": c.map_fd(1, c.create(ARENA, 0, 0, 4, 1 << 10)) + end,
        "two kinds": c.map_value(6, fd, 16) + kern(6, 6) + c.insn(0x7A, 10, off=-8) + c.call(7)
        + c.insn(0x55, 0, off=2) + c.copy(6, 10) + c.add(6, -8) + c.insn(0x79, 0, 6) + end,
        **{f"cast {imm:#x}": at(1) + c.insn(code, 1, 1 if code & 8 else 0, 1, imm) + end
           for code, imm in ((0xBF, 0), (0xBF, 2), (0xBF, 0x10001), (0xBC, 1), (0xB7, 1))},
        **{f"load of {code:#x}": at(1, 16) + c.insn(code, 0, 1, 1) + c.EXIT
           for code in (0x71, 0x69, 0x61, 0x91, 0x89)},
        **{f"arithmetic {code:#x}": at(1, 16) + c.mov(2, 3) + c.insn(code, dst, 3 - dst)
           + at(3, 64) + c.insn(0x7B, 3, dst) + c.insn(0x79, 0, 3) + c.EXIT
           for code in (0x0F, 0x1F, 0x2F, 0x3F, 0x4F, 0x5F, 0x6F, 0x7F, 0x9F, 0xAF, 0xCF, 0x0C,
                        0x1C, 0x2C, 0x3C, 0x6C) for dst in (1, 2)},
        **{f"atomic {code:#x} {imm:#x}": at(1, 80 + 8 * (imm & 1)) + c.mov(0, 3) + c.mov(2, 5)
           + c.insn(code, 1, 2, 0, imm) + c.insn(0x0F, 0, 2) + c.EXIT
           for code in (0xDB, 0xC3)
           for imm in (0, 0x40, 0x50, 0xA0, 1, 0x41, 0x51, 0xA1, 0xE1, 0xF1, 0x110)},
        **{f"atomic behind {imm:#x}": beyond + c.mov(0, 3) + c.mov(2, 5)
           + c.insn(0xDB, 1, 2, 0, imm) + c.insn(0x0F, 0, 2) + c.EXIT
           for imm in (0, 1, 0xE1, 0xF1, 0x110)},
        "acquire": at(1, 16) + c.insn(0xDB, 0, 1, 0, 0x100) + c.EXIT,
    }
    for number in range(16):
        ctypes.c_uint64.from_address(base + 8 * number).value = 0x8000000180010280 + number
    ctypes.c_uint64.from_address(base + 4 * page - 8).value = 11
    for name, code in cases.items():
        yield name, [c.execute(code), words(base, 32)]
