"""Types of keys and values for scenarios: what maps are created with, what is special in them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

from compat_tests.runtime import calls as c
from libbpf_shim.btf import kinds as k
from libbpf_shim.btf.write import Writer

F_LOCK, RDONLY_PROG, WRONLY_PROG = 4, 128, 256


class Types:
    """A BTF that has what the cases are made of. Ids."""

    def __init__(self) -> None:
        self.w = w = Writer()
        self.u32, self.u64 = w.integer("u32", 4), w.integer("u64", 8)
        self.lock = w.struct("bpf_spin_lock", 4, [("val", self.u32, 0)])
        self.timer = w.struct("bpf_timer", 16, [("opaque", w.array(self.u64, self.u32, 2), 0)])

    def struct(self, size: int, *members: tuple[int, int], kind: int = k.STRUCT) -> int:
        """members: type, offset in bytes."""
        named = [(f"m{n}", t, offset) for n, (t, offset) in enumerate(members)]
        return self.w.struct(f"s{self.w.next_id}", size, named, kind)

    def inner(self) -> int:
        """A struct with a lock in it."""
        return self.struct(8, (self.lock, 0), (self.u32, 4))

    def var(self, of: int) -> int:
        return self.w._add(f"v{self.w.next_id}", k.VAR, of, trailer=struct.pack("<I", 1))

    def section(self) -> int:
        """A lock at 4 and a number at 8."""
        rows = struct.pack("<IIIIII", self.var(self.lock), 4, 4, self.var(self.u64), 8, 8)
        return self.w._add(".bss", k.DATASEC, 16, 2, trailer=rows)


Made = Callable[[Types], int]


@dataclass(frozen=True)
class Case:
    """value, key: make the types; key None: the map has none of its own (id 0)."""

    size: int
    value: Made
    kinds: tuple[int, ...] = (1,)
    flags: int = 0
    key: Made | None = lambda t: t.u32
    key_size: int = 4
    entries: int = 1


def _v(*members: tuple[str, int], size: int) -> Made:
    return lambda t: t.struct(size, *((getattr(t, name), at) for name, at in members))


_LOCK, _PLAIN = _v(("lock", 4), ("u64", 8), size=16), _v(("u64", 0), size=8)
_TIMER = _v(("u64", 0), ("timer", 8), size=24)
_ANY = (1, 2, 5, 6, 9, 10)
CASES = {
    "plain": Case(8, _PLAIN, _ANY),
    "four": Case(4, lambda t: t.u32, (1, 2, 4, 5, 6, 8, 9, 10)),
    "lock": Case(16, _LOCK, (*_ANY, 7)),
    "timer": Case(24, _TIMER, (*_ANY, 7)),
    "both": Case(32, _v(("u32", 0), ("lock", 4), ("timer", 8), ("u64", 24), size=32), (1, 2)),
    "read by programs": Case(16, _LOCK, (1, 2), RDONLY_PROG),
    "written by programs": Case(16, _LOCK, (1, 2), WRONLY_PROG),
    "plain, read by programs": Case(8, _PLAIN, (1, 2), RDONLY_PROG),
    "inside": Case(16, lambda t: t.struct(16, (t.inner(), 0), (t.u64, 8))),
    "array of two locks": Case(8, lambda t: t.struct(8, (t.w.array(t.lock, t.u32, 2), 0))),
    "array of one lock": Case(
        8, lambda t: t.struct(8, (t.w.array(t.lock, t.u32, 1), 0), (t.u32, 4))),
    "array of locks, and a timer": Case(
        24, lambda t: t.struct(24, (t.w.array(t.lock, t.u32, 2), 0), (t.timer, 8))),
    "two timers": Case(40, _v(("timer", 0), ("timer", 16), ("u64", 32), size=40)),
    "array of insides": Case(16, lambda t: t.struct(16, (t.w.array(t.inner(), t.u32, 2), 0))),
    "in a union": Case(8, lambda t: t.struct(
        8, (t.struct(8, (t.lock, 0), (t.u64, 0), kind=k.UNION), 0))),
    "a union": Case(8, lambda t: t.struct(8, (t.lock, 0), (t.u64, 0), kind=k.UNION)),
    "nothing but a lock": Case(4, lambda t: t.lock),
    "typedef": Case(16, lambda t: t.w.ref(k.TYPEDEF, _LOCK(t), "T")),
    "const": Case(16, lambda t: t.w.ref(k.CONST, _LOCK(t))),
    "typedef of a lock": Case(
        16, lambda t: t.struct(16, (t.w.ref(k.TYPEDEF, t.lock, "L"), 4), (t.u64, 8))),
    "typedef inside": Case(
        16, lambda t: t.struct(16, (t.w.ref(k.TYPEDEF, t.inner(), "N"), 0), (t.u64, 8))),
    "timer out of place": Case(24, _v(("u32", 0), ("timer", 4), size=24)),
    "number": Case(8, lambda t: t.u64, (1, 2)),
    "of another size": Case(16, _PLAIN, (1, 2)),
    "void": Case(8, lambda t: 0, (1,)),
    "not there": Case(8, lambda t: 99, (1, 2)),
    "pointer": Case(8, lambda t: t.w.ref(k.PTR, t.u32)),
    "function": Case(8, lambda t: t.w.proto(0, [])),
    "variable": Case(8, lambda t: t.var(t.u64)),
    "section": Case(16, Types.section, (2, 1, 6), key=None),
    "section, two entries": Case(16, Types.section, (2,), key=None, entries=2),
    "section with a key": Case(16, Types.section, (2,)),
    "no key": Case(8, _PLAIN, _ANY, key=None),
    "no key, four": Case(4, lambda t: t.u32, (4, 8), key=None),
    "no key at all": Case(4, lambda t: t.u32, (22, 23, 30), key=None, key_size=0),
    "key where none is": Case(4, lambda t: t.u32, (22, 23, 30), key_size=0),
    "long key": Case(8, _PLAIN, (1, 2, 5, 6, 9), key=lambda t: t.u64, key_size=8),
    "key of another size": Case(8, _PLAIN, _ANY, key=lambda t: t.u64),
    "struct key": Case(8, _PLAIN, (1, 2, 6), key=lambda t: t.struct(4, (t.u32, 0))),
    "typedef key": Case(8, _PLAIN, (1, 2, 6), key=lambda t: t.w.ref(k.TYPEDEF, t.u32, "K")),
    "enum key": Case(8, _PLAIN, (1, 2, 6), key=lambda t: t.w.enum("E", [("A", 1)])),
    "prefix": Case(8, _PLAIN, (11,), 1, lambda t: t.struct(8, (t.u32, 0), (t.u32, 4)), 8),
    "prefix in a number": Case(8, _PLAIN, (11,), 1, lambda t: t.u64, 8),
}  # fmt: skip


def made(case: Case, kind: int) -> int:
    """The map's descriptor, or a negative errno."""
    types = Types()
    value, key = case.value(types), case.key(types) if case.key else 0
    blob = c.held(types.w.blob())
    btf = c.bpf(c.BTF_LOAD, struct.pack("<QQIII", c.at(blob), 0, len(blob or b""), 0, 0))
    if btf < 0:
        return btf - 10000
    fd = c.create(kind, case.key_size, case.size, case.entries, case.flags, btf=(btf, key, value))
    os.close(btf)
    return fd


def shown(case: Case, kind: int) -> int | list[int]:
    """A negative errno, or: update, bytes of a value of 0xff that read 0, lookup with F_LOCK."""
    fd = made(case, kind)
    if fd < 0 or kind in (4, 5, 6, 8, 10, 22, 23, 30):
        if fd > 0:
            os.close(fd)
        return min(fd, 0)
    key = bytes(case.key_size)
    ret = c.update(fd, key, b"\xff" * case.size)
    value = c.lookup(fd, key, case.size)
    blank = value.count(0) if isinstance(value, bytes) else value
    first = value.find(0) if isinstance(value, bytes) else 0
    locked = c.lookup(fd, key, case.size, F_LOCK)
    os.close(fd)
    return [ret, blank, first, locked if isinstance(locked, int) else 0]


class Batch:
    """Room for batches of up to `entries` elements."""

    def __init__(self, key: int, value: int, entries: int) -> None:
        self.key, self.value = key, value
        self.room = [c.held(bytes(max(1, size * entries))) for size in (key, value)]

    def fill(self, keys: bytes, values: bytes) -> None:
        """What an update or delete reads."""
        self.room = [c.held(keys), c.held(values)]

    def call(self, command: int, fd: int, count: int, *, position: bytes | None = None,
             elem_flags: int = 0, flags: int = 0) -> tuple[int, int, bytes]:
        """Result, count and position as they are afterwards."""
        start, out = c.held(position), c.held(bytes(512))
        assert out is not None
        ret, attr = c.bpf_out(command, struct.pack(
            "<QQQQIIQQ", c.at(start), c.at(out), c.at(self.room[0]), c.at(self.room[1]), count, fd,
            elem_flags, flags))
        return ret, struct.unpack_from("<I", attr, 32)[0], out.raw

    def keys(self, count: int) -> list[bytes]:
        """The first of those there are."""
        keys = self.room[0]
        assert keys is not None
        return [keys.raw[n * self.key : (n + 1) * self.key] for n in range(count)]
