"""The driver (driver.c) on both sides: processes that stay, sequences that go there and back."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import IO

from compat_tests.clients.tool import KERNEL, SHIM, Way
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent
_DRIVER = ("driver", "values", "elements", "batches")  # its files
UNORDERED, PERCPU, PIN, PIDFDS, NEAR = 1, 2, 4, 8, 16
TASKS = 4  # keys that PIDFDS stands for: the first ones
BYTES, INNER_MAPS, PROGS, CGROUPS, EVENTS = range(5)
GOOD, NONE, BAD = range(3)  # pointers
JUNK_TAIL, BAD_FD, OTHER_FD = 16, 32, 64


class Cmd(IntEnum):
    """What an op does; a walk and a drain are many calls, RUN is a program's lookup, update or
    delete, MOVE is to another CPU."""

    NOP = 0
    LOOKUP = 1
    UPDATE = 2
    DELETE = 3
    NEXT = 4
    TAKE = 5
    READ_BATCH = 6
    TAKE_BATCH = 7
    UPDATE_BATCH = 8
    DELETE_BATCH = 9
    FREEZE = 10
    INFO = 11
    WALK = 12
    BATCH_WALK = 13
    DRAIN = 14
    RUN = 15
    MOVE = 16


@dataclass(frozen=True, slots=True)
class Create:
    """The MAP_CREATE of a sequence, and how its values are made and compared."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0
    map_extra: int = 0
    style: int = 0
    values: int = BYTES
    btf: bytes = b""
    btf_value: int = 0
    name: bytes = b""
    btf_key: int = 0

    def attr(self) -> bytes:
        """union bpf_attr: map_extra lies at 64, the BTF ids at 48."""
        head = struct.pack("<6I", self.type, self.key_size, self.value_size, self.max_entries,
                           self.flags, 0)
        body = head + struct.pack("<I16s", 0, self.name) + bytes(4)
        body += struct.pack("<4IQ", 0, self.btf_key, self.btf_value, 0, self.map_extra)
        return body.ljust(128, b"\0")


@dataclass(frozen=True, slots=True)
class Op:
    """struct op of driver.h. key: index into the keys; value: seed, or index of an object."""

    cmd: Cmd
    key: int = 0
    value: int = 0
    flags: int = 0
    count: int = 0
    mode: int = 0
    at: int = 0  # of a batch: 0 from the start, 1 the key, 2 nowhere, 3 no memory; RUN: 0 to 2
    stride: int = 1

    def packed(self) -> bytes:
        return _OP.pack(self.cmd, self.mode, self.at, self.stride, self.key, self.flags,
                        self.value, self.count)

    def __str__(self) -> str:
        names = [f"{n}={v}" for n, v in (
            ("key", self.key), ("value", self.value), ("flags", hex(self.flags)),
            ("count", self.count), ("mode", self.mode), ("at", self.at), ("stride", self.stride),
        ) if v not in (0, "0x0") and (n, v) != ("stride", 1)]
        return f"{self.cmd.name}({', '.join(names)})"


_OP = struct.Struct("<BBBBIQII")
_ANSWER = struct.Struct("<iI")


@dataclass(frozen=True, slots=True)
class Answer:
    """0 or -errno, and what came back."""

    ret: int
    data: bytes

    def __str__(self) -> str:
        shown = self.data.hex() if len(self.data) <= 64 else f"{self.data[:64].hex()}…"
        return f"{self.ret} {shown} ({len(self.data)} bytes)"


@dataclass(frozen=True, slots=True)
class Reply:
    """What MAP_CREATE said and the answers, as they came; raw equal: all equal."""

    created: int
    calls: int
    raw: bytes

    def answers(self) -> list[Answer]:
        found, at = [], 0
        while at < len(self.raw):
            ret, size = _ANSWER.unpack_from(self.raw, at)
            found.append(Answer(ret, self.raw[at + 8 : at + 8 + size]))
            at += 8 + size
        return found


@dataclass(frozen=True, slots=True)
class Sequence:
    """One map and what is done to it. cpu: where a pinned driver begins; it counts those that it
    may use."""

    create: Create
    keys: list[bytes]
    ops: list[Op]
    cpu: int = 0

    def key(self, index: int) -> bytes:
        """As the driver takes it."""
        return self.keys[index % len(self.keys)]


def frame(found: Sequence) -> bytes:
    """One sequence as the driver reads it."""
    create = found.create
    head = struct.pack("<6I", len(found.ops), len(found.keys), len(create.btf), create.style,
                       create.values, found.cpu)
    return b"".join([head, create.attr(), create.btf, *found.keys,
                     *(op.packed() for op in found.ops)])


class Died(AssertionError):
    """The driver ended in the middle of a sequence."""


class Side:
    """One driver process; started again after a death."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.child: subprocess.Popen[bytes] | None = None
        self.stderr: IO[bytes]

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self.child is None:
            program = build.make(
                "maps-driver", [HERE / f"{name}.c" for name in _DRIVER], [*build.WARN, "-O2"],
                headers=[HERE / "driver.h", HERE / "runner.h"])
            argv = ([str(program), "patient"] if self.way is KERNEL
                    else launch.guarded([str(program)], preload=True))
            self.stderr = tempfile.TemporaryFile()
            self.child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                          stderr=self.stderr)
        assert self.child.stdin and self.child.stdout
        return self.child.stdin, self.child.stdout

    def send(self, data: bytes) -> None:
        to = self._pipes()[0]
        to.write(data)
        to.flush()

    def reply(self) -> Reply:
        """Of the sequence sent last; the oldest without an answer."""
        source = self._pipes()[1]
        head = source.read(12)
        if len(head) == 12:
            size, calls, created = struct.unpack("<IIi", head)
            raw = source.read(size - 8)
            if len(raw) == size - 8:
                return Reply(min(created, 0), calls, raw)
        assert self.child
        status = self.child.wait()
        self.stderr.seek(0)
        said = self.stderr.read()[-1000:].decode(errors="replace")
        self.close()
        raise Died(f"{self.way.name}: the driver ended with {status}: {said}")

    def close(self) -> None:
        if self.child is None:
            return
        assert self.child.stdin and self.child.stdout
        self.child.kill()
        self.child.wait()
        with contextlib.suppress(BrokenPipeError):
            self.child.stdin.close()
        self.child.stdout.close()
        self.stderr.close()
        self.child = None


class Pair:
    """The kernel and the shim (or another kernel), the same sequences for both."""

    def __init__(self, other: Way = SHIM) -> None:
        self.kernel, self.shim = Side(KERNEL), Side(other)
        self.ops = self.calls = 0

    def run(self, found: Sequence) -> tuple[Reply, Reply]:
        """Both at once: the kernel's reply, the shim's."""
        data = frame(found)
        try:
            self.kernel.send(data)
            self.shim.send(data)
            replies = self.kernel.reply(), self.shim.reply()
        except BaseException:
            self.close()  # what they would say next belongs to this sequence
            raise
        self.ops += len(found.ops)
        self.calls += replies[1].calls
        return replies

    def close(self) -> None:
        self.kernel.close()
        self.shim.close()
