"""Scenarios of queues, stacks and bloom filters."""

from __future__ import annotations

from collections.abc import Iterator

from compat_tests.runtime import calls as c
from compat_tests.runtime.scenario import (
    BLOOM,
    QUEUE,
    STACK,
    VALUES,
    Step,
    batches_of,
    flags_of,
    sizes_of,
)


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
