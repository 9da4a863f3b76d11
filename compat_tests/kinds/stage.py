"""What the scenes have in hand: a target that does as it is told, a program that notes its runs.

Run on the kernel as root or under guard and shim, beside drive.py (compat_tests/attrs): plain
Python, bpf(2) and perf_event_open(2) as they are.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any

import drive  # type: ignore[import-not-found]  # the file beside this one

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET, PLUG = os.path.join(HERE, "target"), os.path.join(HERE, "libkplug.so")
LINK_CREATE, LINK_UPDATE, LINK_DETACH, FD_QUERY = 28, 29, 34, 20
PERF_EVENT, MULTI, SESSION = 41, 48, 57
ENABLE, DISABLE, SET_BPF = 0x2400, 0x2401, 0x40042408
KPROBE = 2
ROW = 48  # bytes of a value: count, func_ip, ip, pid_tgid, ax, di


def close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class Target:
    """A running target. places: offsets in its file."""

    def __init__(self, *argv: str) -> None:
        self.child = subprocess.Popen([TARGET, *argv], stdin=-1, stdout=-1, text=True, bufsize=1)
        self.pid = int(self.read().split()[1])
        self.places = {name: int(value) for name, _, value in
                       (part.partition("=") for part in self.say("places").split())}

    def read(self) -> str:
        assert self.child.stdout
        line = self.child.stdout.readline()
        assert line, "the target has ended"
        return str(line).strip()

    def say(self, text: str) -> str:
        assert self.child.stdin
        self.child.stdin.write(text + "\n")
        return self.read()

    def end(self) -> int:
        if self.child.stdin:
            self.child.stdin.close()
        return self.child.wait(10)

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def ins(op: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", op, dst | src << 4, off, imm)


def map_fd(dst: int, fd: int) -> bytes:
    return ins(0x18, dst, 1, 0, fd) + ins(0)


def call(number: int) -> bytes:
    return ins(0x85, 0, 0, 0, number)


class Notes:
    """A program that notes each of its runs in the row that its attach cookie names. more:
    instructions before its end (r7: the row, r6: the context), which set r0."""

    def __init__(self, kind: int = KPROBE, expected: int = 0, flags: int = 0,
                 more: bytes = b"") -> None:
        self.map = drive.make_map(2, 4, ROW, 32)
        self.prog = drive.make_prog(kind, expected, self.code(more), flags)

    def code(self, more: bytes) -> bytes:
        return b"".join((
            ins(0xBF, 6, 1), call(174), ins(0x63, 10, 0, -4), map_fd(1, self.map),
            ins(0xBF, 2, 10), ins(0x07, 2, 0, 0, -4), call(1), ins(0x55, 0, 0, 2),
            ins(0xB7, 0), ins(0x95), ins(0xBF, 7, 0),
            ins(0xB7, 1, 0, 0, 1), ins(0xDB, 7, 1, 0),  # count
            ins(0xBF, 1, 6), call(173), ins(0x7B, 7, 0, 8),
            ins(0x79, 1, 6, 128), ins(0x7B, 7, 1, 16),
            call(14), ins(0x7B, 7, 0, 24),
            ins(0x79, 1, 6, 80), ins(0x7B, 7, 1, 32),
            ins(0x79, 1, 6, 112), ins(0x7B, 7, 1, 40),
            more or ins(0xB7, 0), ins(0x95)))

    def row(self, index: int = 0) -> tuple[int, ...]:
        key, value = drive.buffer(struct.pack("<I", index)), drive.buffer(bytes(ROW))
        ret, _ = drive.bpf(1, struct.pack("<I4xQQQ", self.map, key, value, 0))
        assert ret == 0, ret
        return struct.unpack("<6Q", ctypes.string_at(value, ROW))

    def count(self, index: int = 0) -> int:
        return int(self.row(index)[0])

    def close(self) -> None:
        os.close(self.map)
        os.close(self.prog)


class Hits:
    """How often a program's row 0 has been counted since the last look."""

    def __init__(self, notes: Notes, row: int = 0) -> None:
        self.notes, self.row, self.last = notes, row, notes.count(row)

    def more(self) -> int:
        now = self.notes.count(self.row)
        before, self.last = self.last, now
        return now - before


def sems(*targets: Target) -> list[str]:
    """The semaphores of each."""
    return [t.say("sem") for t in targets]


def pmu() -> int:
    with open("/sys/bus/event_source/devices/uprobe/type") as file:
        return int(file.read())


def event(offset: int, *, pid: int = -1, cpu: int = 0, ret: bool = False, ref: int = 0,
          path: str = TARGET, flags: int = 0) -> int:
    """perf_event_open(2) of a uprobe: a descriptor, or the negative errno."""
    attr = bytearray(128)
    struct.pack_into("<IIQQQ", attr, 0, pmu(), 128, int(ret) | ref << 32, 0, 0)
    struct.pack_into("<Q", attr, 40, flags)
    struct.pack_into("<QQ", attr, 56, drive.buffer(path.encode() + b"\0"), offset)
    return int(drive.syscall(drive.SYS_PERF, drive.buffer(bytes(attr)), pid, cpu, -1, 8))


def ioctl(fd: int, request: int, argument: int = 0) -> int:
    ret = int(drive.libc.ioctl(fd, ctypes.c_ulong(request), ctypes.c_ulong(argument)))
    return ret if ret >= 0 else -ctypes.get_errno()


def link(prog: int, target: int, cookie: int = 0) -> int:
    attr = struct.pack("<IIIIQ", prog, target, PERF_EVENT, 0, cookie).ljust(64, b"\0")
    return int(drive.bpf(LINK_CREATE, attr)[0])


def words(values: list[int] | None) -> int:
    return drive.buffer(struct.pack(f"<{len(values)}q", *values)) if values is not None else 0


def multi(prog: int, offsets: list[int] | None, *, path: str | int = TARGET, pid: int = 0,
          cookies: list[int] | None = None, refs: list[int] | None = None, flags: int = 0,
          kind: int = MULTI, cnt: int | None = None, create: int = 0,
          at: dict[int, int] | None = None) -> int:
    """LINK_CREATE of a UPROBE_MULTI link: a descriptor, or the negative errno. at: words of the
    attr to be put over it."""
    name = path if isinstance(path, int) else drive.buffer(path.encode() + b"\0")
    attr = bytearray(64)
    count = len(offsets or ()) if cnt is None else cnt
    struct.pack_into("<IIII", attr, 0, prog, 0, kind, create)
    struct.pack_into("<QQQQIII", attr, 16, name, words(offsets), words(refs), words(cookies),
                     count, flags, pid)
    for where, value in (at or {}).items():
        struct.pack_into("<Q", attr, where, value)
    return int(drive.bpf(LINK_CREATE, bytes(attr))[0])


def opened(fd: int) -> int:
    return int(drive.need(fd, "descriptor"))


def said(fd: int) -> Any:
    """1: a descriptor, closed again; else the errno."""
    if fd >= 0:
        os.close(fd)
        return 1
    return fd


def settled(done: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Waits until it is so: what the end of another process leads to."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def plug_places() -> tuple[int, int]:
    """Offsets in the library's file of its probe and of the probe's semaphore."""
    with open(PLUG, "rb") as file:
        data = file.read()
    table, = struct.unpack_from("<Q", data, 32)
    count, = struct.unpack_from("<H", data, 56)
    loads = [struct.unpack_from("<IIQQQQQQ", data, table + 56 * i) for i in range(count)]
    note = data.index(b"kinds\0plug\0")
    place, _, semaphore = struct.unpack_from("<QQQ", data, note - 24)

    def offset(address: int) -> int:
        return next(int(at[2] + address - at[3]) for at in loads
                    if at[0] == 1 and at[3] <= address < at[3] + at[6])

    return offset(place), offset(semaphore)


def path_size() -> int:
    """Of the target's path with its NUL."""
    return len(TARGET) + 1


def info(fd: int, put: dict[int, Any], named: dict[int, str]) -> list[Any]:
    """OBJ_GET_INFO_BY_FD of a link: its answer, the structure without ids and addresses, and what
    a buffer holds. put: words of the structure by offset, "buffer" for a buffer's address; named:
    what numbers are to be called."""
    given, held = bytearray(64), 0
    for at, value in put.items():
        if value == "buffer":
            held = drive.buffer(b"#" * 4096)
            struct.pack_into("<Q", given, at, held)
        else:
            struct.pack_into("<I", given, at, value)
    where = drive.buffer(bytes(given))
    answer, _ = drive.bpf(15, struct.pack("<IIQ", fd, 64, where))
    seen = bytearray(ctypes.string_at(where, 64))
    seen[4:12] = bytes(8)
    for at in range(12, 60, 4):
        if held and seen[at : at + 8] == held.to_bytes(8, "little"):
            seen[at : at + 8] = bytes(8)
    words = struct.unpack("<16I", seen)
    text: Any = ctypes.string_at(held, 4096) if held else b""
    if text[:1] == b"/":
        text = text.split(b"\0")[0].decode().replace(HERE, "$V")
    elif text:
        text = [named.get(n, n) for n in struct.unpack_from("<3Q", text)]
    return [answer, [named.get(w, w) for w in words], text or ""]


def fdinfo(fd: int) -> list[str]:
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return file.read().splitlines()
