"""Scenarios of dynptrs that programs make by helpers: of a value, of a ring buffer's record."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from compat_tests.runtime import calls as c
from compat_tests.runtime.scenario import ARRAY, RINGBUF, Step, mapped

FROM_MEM, RESERVE, SUBMIT, DISCARD, READ, WRITE, DATA = 197, 198, 199, 200, 201, 202, 203
BYTES = bytes(range(1, 33))


def fp(reg: int, off: int) -> bytes:
    return c.copy(reg, 10) + c.add(reg, off)


def keep(value: int, at: int) -> bytes:
    """R0 goes to the value's byte at."""
    return c.map_value(1, value, at) + c.insn(0x7B, 1, 0)


def read(off: int, size: int, flags: int = 0) -> bytes:
    """So many bytes to fp-48, from the dynptr at fp-16."""
    return (fp(1, -48) + c.mov(2, size) + fp(3, -16) + c.mov(4, off) + c.mov(5, flags)
            + c.call(READ))  # fmt: skip


def write(off: int, size: int, flags: int = 0) -> bytes:
    return (fp(1, -16) + c.mov(2, off) + fp(3, -48) + c.mov(4, size) + c.mov(5, flags)
            + c.call(WRITE))  # fmt: skip


def data(off: int, size: int) -> bytes:
    """R0: the first byte there + 1, 0 for NULL."""
    return (fp(1, -16) + c.mov(2, off) + c.mov(3, size) + c.call(DATA) + c.insn(0x15, 0, off=2)
            + c.insn(0x71, 0, 0) + c.add(0, 1))  # fmt: skip


def dynptr() -> Iterator[Step]:
    """Each of several calls on a dynptr of 16 bytes of an array's value: result, value."""
    value, out = c.create(ARRAY, 4, 64, 1), c.create(ARRAY, 4, 64, 1)
    key = bytes(4)

    def on(made: bytes, body: bytes) -> list[object]:
        """What making it, and the body, returned; the stack's bytes; the value."""
        c.update(value, key, BYTES + bytes(32))
        c.update(out, key, bytes(64))
        stack = b"".join(c.insn(0x7A, 10, off=-48 + 8 * n, imm=77 + n) for n in range(4))
        seen = b"".join(c.insn(0x79, 2, 10, -48 + 8 * n) + c.map_value(1, out, 16 + 8 * n)
                        + c.insn(0x7B, 1, 2) for n in range(4))  # fmt: skip
        ret = c.execute(made + keep(out, 0) + stack + body + keep(out, 8) + seen + c.mov(0, 0)
                        + c.EXIT)  # fmt: skip
        return [ret, c.lookup(out, key, 64), c.lookup(value, key, 64)]

    def of(size: int, flags: int = 0, off: int = 8) -> bytes:
        return (c.map_value(1, value, off) + c.mov(2, size) + c.mov(3, flags) + fp(4, -16)
                + c.call(FROM_MEM))  # fmt: skip

    for size, flags in ((16, 0), (16, 1), (0, 0), (56, 0)):
        made = of(size, flags)
        for off, length in ((0, 8), (8, 8), (9, 8), (16, 0), (17, 0), (0, 16), (-1, 1), (15, 1)):
            yield f"read {size} {flags} {off} {length}", on(made, read(off, length))
            yield f"write {size} {flags} {off} {length}", on(made, write(off, length))
            yield f"data {size} {flags} {off} {length}", on(made, data(off, length or 1))
        yield f"flags {size}", [on(made, read(0, 1, 1)), on(made, write(0, 1, 1)),
                                on(made, write(99, 1, 1))]
    yield from records()


def records() -> Iterator[Step]:
    """Records of a ring buffer that are reserved, written and given back through dynptrs."""
    ring, out = c.create(RINGBUF, 0, 0, 4096), c.create(ARRAY, 4, 64, 1)

    def reserve(size: int, flags: int = 0, at: int = -16) -> bytes:
        return (c.map_fd(1, ring) + c.mov(2, size) + c.mov(3, flags) + fp(4, at)
                + c.call(RESERVE))  # fmt: skip

    def give(helper: int, flags: int = 0, at: int = -16) -> bytes:
        return fp(1, at) + c.mov(2, flags) + c.call(helper)

    def content() -> list[int]:
        there = mapped(ring, 8192, 1, 4096)
        # of a record's header the second half is the ring's own
        return [int.from_bytes(ctypes.string_at(there + off, size), "little")
                for off, size in ((0, 8), (4096, 4), (4104, 8), (4112, 8), (4120, 4), (4128, 8))]

    stack = b"".join(c.insn(0x7A, 10, off=-48 + 8 * n, imm=7 + n) for n in range(4))
    for size, flags, end, how in (
        (16, 0, SUBMIT, 0), (16, 0, DISCARD, 1), (16, 1, SUBMIT, 0), (5000, 0, SUBMIT, 0),
        (4080, 0, DISCARD, 0), (0, 0, SUBMIT, 2), (1 << 24, 0, SUBMIT, 0), (-1, 0, DISCARD, 0),
    ):  # fmt: skip
        yield f"record {size} {flags} {end} {how}", [c.execute(
            stack + reserve(size, flags) + keep(out, 0) + write(0, 16) + keep(out, 8) + read(8, 8)
            + keep(out, 16) + data(0, 8) + keep(out, 24) + give(end, how) + c.mov(0, 0) + c.EXIT),
            c.lookup(out, bytes(4), 64)[:32], content() if size > 0 else []]  # type: ignore[index]
    yield "two at once", [c.execute(
        stack + reserve(8) + keep(out, 0) + reserve(24, at=-64) + keep(out, 8) + write(0, 8)
        + give(DISCARD) + give(SUBMIT, at=-64) + c.mov(0, 3) + c.EXIT), content()]
