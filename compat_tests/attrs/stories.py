"""What commands do to objects over several calls; each story answers with what it saw.

Run as drive.py is, with it in one folder: `python3 stories.py` prints the answers of all.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Callable
from typing import Any

import drive  # type: ignore[import-not-found]  # the file beside this one


def info(fd: int, size: int = 232) -> bytes:
    at = drive.buffer(bytes(size))
    ret, _ = drive.bpf(15, struct.pack("<IIQ", fd, size, at))
    assert ret == 0, ret
    return ctypes.string_at(at, size)


def runs(fd: int) -> int:
    return int(struct.unpack_from("<Q", info(fd), 200)[0])


def test_run(fd: int) -> int:
    return int(drive.bpf(10, struct.pack("<I", fd).ljust(76, b"\0"))[0])


def statistics() -> list[Any]:
    """Runs are counted while a descriptor of ENABLE_STATS is open, of whoever loaded them."""
    prog = drive.make_prog(17)
    seen: list[Any] = [test_run(prog), runs(prog)]
    first = drive.bpf(32, bytes(4))[0]
    second = drive.bpf(32, bytes(4))[0]
    seen += [test_run(prog), test_run(prog), runs(prog)]
    os.close(first)
    seen += [test_run(prog), runs(prog), struct.unpack_from("<Q", info(prog), 192)[0] > 0]
    os.close(second)
    return [*seen, test_run(prog), runs(prog)]


def modes() -> list[Any]:
    """A descriptor's mode is its own: the map can be read and written by others."""
    seen: list[Any] = []
    key, value = drive.buffer(bytes(4)), drive.buffer(struct.pack("<Q", 7))
    for flags in (0, 1 << 3, 1 << 4):
        fd = drive.make_map(2, 4, 8, 4, flags)
        for other in (fd, os.dup(fd), by_id_of(fd, 0), by_id_of(fd, 8), by_id_of(fd, 16)):
            elem = struct.pack("<I4xQQQ", other, key, value, 0)
            seen.append([drive.bpf(2, elem)[0], drive.bpf(1, elem)[0], drive.bpf(4, elem[:24])[0],
                         drive.bpf(3, elem[:16])[0], fcntl.fcntl(other, fcntl.F_GETFL) & 3])
        seen.append(struct.unpack_from("<I", info(fd, 104), 20)[0])
    return seen


def by_id_of(fd: int, flags: int) -> int:
    number, = struct.unpack_from("<I", info(fd, 104), 4)
    return int(drive.bpf(14, struct.pack("<III", number, 0, flags))[0])


def freezing() -> list[Any]:
    """A frozen map is not written; what is mapped to be written is not frozen."""
    fd = drive.make_map(2, 4, 8, 4, 1 << 10)
    frozen = struct.pack("<I", fd)
    at = drive.libc.mmap(None, 4096, 3, 1, fd, 0)
    seen = [drive.bpf(22, frozen)[0]]
    drive.libc.munmap(ctypes.c_void_p(at), 4096)
    key, value = drive.buffer(bytes(4)), drive.buffer(bytes(8))
    elem = struct.pack("<I4xQQQ", fd, key, value, 0)
    calls = ((2, elem), (22, frozen), (22, frozen), (2, elem), (1, elem))
    seen += [drive.bpf(cmd, attr)[0] for cmd, attr in calls]
    writable = drive.libc.mmap(None, 4096, 3, 1, fd, 0) != ctypes.c_void_p(-1).value
    readable = drive.libc.mmap(None, 4096, 1, 1, fd, 0) != ctypes.c_void_p(-1).value
    return [*seen, writable, readable]


def queries() -> list[Any]:
    """TASK_FD_QUERY tells a uprobe's path and offset, with and without room for it."""
    seen: list[Any] = []
    for ret in (False, True):
        event = drive.uprobe(ret)
        ask = struct.pack("<III", os.getpid(), event, 0).ljust(48, b"\0")
        seen.append(drive.bpf(20, ask)[0])
        kept = drive.link(drive.get("kprobe"), event)
        for room in (0, 1, 4, 64, 4096):
            path = drive.buffer(b"#" * 4096)
            ask = struct.pack("<IIIIQ", os.getpid(), event, 0, room, path).ljust(48, b"\0")
            answer, attr = drive.bpf(20, ask)
            length, _, prog, kind, offset, address = struct.unpack_from("<IQIIQQ", attr, 12)
            seen.append([answer, length, kind, offset == drive.entry(), address,
                         prog == struct.unpack_from("<I", info(drive.get("kprobe")), 4)[0],
                         ctypes.string_at(path, 8).hex()])
        seen.append(drive.bpf(20, struct.pack("<III", os.getpid(), kept, 0).ljust(48, b"\0"))[0])
    clock = drive.perf_event(1, 0, 1 << 40)
    drive.link(drive.get("perf"), clock)
    seen.append(drive.bpf(20, struct.pack("<III", os.getpid(), clock, 0).ljust(48, b"\0"))[0])
    return seen


def binding() -> list[Any]:
    """A bound map is one of the program's, once, and lives as long."""
    prog, bound = drive.make_prog(1), drive.make_map(2, 4, 8, 4)
    number = struct.unpack_from("<I", info(bound, 104), 4)[0]
    seen: list[Any] = [struct.unpack_from("<I", info(prog), 52)[0]]
    for _ in range(2):
        seen.append(drive.bpf(35, struct.pack("<III", prog, bound, 0))[0])
    seen.append(struct.unpack_from("<I", info(prog), 52)[0])
    os.close(bound)
    again = drive.bpf(14, struct.pack("<III", number, 0, 0))[0]
    return [*seen, again >= 0]


def exclusive() -> list[Any]:
    """A map for one program is refused to others."""
    insns = struct.pack("<BBhiq", 0x18, 0x11, 0, 0, 0) + drive.RET0
    digest = hashlib.sha256(insns).digest()
    attr = bytearray(struct.pack("<5I", 2, 4, 8, 1, 0).ljust(92, b"\0"))
    struct.pack_into("<QI", attr, 80, drive.buffer(digest), 32)
    fd = drive.bpf(0, bytes(attr))[0]
    named = insns[:4] + struct.pack("<i", fd) + insns[8:]
    other = insns[:4] + struct.pack("<i", fd) + insns[8:16] + b"\xb7\1" + bytes(6) + drive.RET0
    answers = []
    for code in (named, other):
        load = bytearray(168)
        where, license_ = drive.buffer(code), drive.buffer(b"GPL\0")
        struct.pack_into("<IIQQ", load, 0, 1, len(code) // 8, where, license_)
        answers.append(min(drive.bpf(5, bytes(load))[0], 0))
    return [fd >= 0, *answers]


def relocated() -> list[Any]:
    """CO-RE relocations of a light skeleton are applied against the kernel's types."""
    seen = []
    for type_id, kind, held in ((2, 9, 4), (2, 8, 1), (2, 6, 2), (3, 8, 1), (3, 9, 8), (2, 0, 0)):
        code = struct.pack("<BBhiBBhi", 0xB7, 0, 0, held, 0x95, 0, 0, 0)
        load = bytearray(168)
        struct.pack_into("<IIQQ", load, 0, 17, 2, drive.buffer(code), drive.buffer(b"GPL\0"))
        function = drive.buffer(struct.pack("<II", 0, 5))
        struct.pack_into("<IIQI", load, 72, drive.get("btf"), 8, function, 1)
        relocation = struct.pack("<IIII", 0, type_id, drive.text("0"), kind)
        struct.pack_into("<I", load, 116, 1)
        struct.pack_into("<QI", load, 128, drive.buffer(relocation), 16)
        fd = drive.bpf(5, bytes(load))[0]
        if fd < 0:
            seen.append([fd])
            continue
        ret, attr = drive.bpf(10, struct.pack("<I", fd).ljust(76, b"\0"))
        seen.append([ret, struct.unpack_from("<I", attr, 4)[0]])
    return seen


def hits() -> list[Any]:
    """Runs at a uprobe are counted like others, and only while they are asked for."""
    where = ctypes.cast(drive.libc.getppid, ctypes.c_void_p).value or 0
    with open("/proc/self/maps") as file:
        rows = [line.split() for line in file]
    row = next(r for r in rows if len(r) > 5 and int(r[0].split("-")[0], 16) <= where
               < int(r[0].split("-")[1], 16))
    offset = where - int(row[0].split("-")[0], 16) + int(row[2], 16)
    with open("/sys/bus/event_source/devices/uprobe/type") as file:
        kind = int(file.read())
    path = drive.buffer(row[5].encode() + b"\0")
    event = drive.perf_event(kind, 0, 0, config1=path, config2=offset, pid=os.getpid(), cpu=-1)
    prog = drive.make_prog(2)
    kept = drive.link(prog, event)
    seen = []
    for counted in (False, True, False):
        stats = drive.bpf(32, bytes(4))[0] if counted else -1
        for _ in range(5):
            drive.libc.getppid()
        if counted:
            os.close(stats)
        seen.append(runs(prog))
    os.close(kept)
    drive.libc.getppid()
    return [*seen, runs(prog)]


def informed() -> list[Any]:
    """What a program's information says of maps, functions and lines."""
    values = drive.make_map(2, 4, 64, 1)
    # r1 = value 8 of the map; r2 = another map; call +2; r0 = 0; exit; r0 = 0; exit
    insns = struct.pack("<BBhiBBhi", 0x18, 0x21, 0, values, 0, 0, 0, 8)
    insns += struct.pack("<BBhiq", 0x18, 0x12, 0, drive.get("hash"), 0)
    insns += struct.pack("<BBhi", 0x85, 0x10, 0, 2) + drive.RET0 + drive.RET0
    load = bytearray(168)
    where, license_ = drive.buffer(insns), drive.buffer(b"GPL\0")
    struct.pack_into("<IIQQ", load, 0, 2, len(insns) // 8, where, license_)
    load[48:53] = b"named"
    funcs = struct.pack("<4I", 0, 5, 7, 5)
    lines = struct.pack("<12I", 0, 1, 1, 1 << 10, 4, 1, 1, 2 << 10, 7, 1, 1, 3 << 10)
    struct.pack_into("<IIQI", load, 72, drive.get("btf"), 8, drive.buffer(funcs), 2)
    struct.pack_into("<IQI", load, 92, 16, drive.buffer(lines), 3)
    fd = drive.bpf(5, bytes(load))[0]
    ask, rooms = bytearray(232), {}
    for count, at, number, size in ((52, 56, 9, 4), (20, 32, 999, 1), (144, 136, 9, 8),
                                    (148, 152, 9, 16), (180, 184, 9, 8), (108, 120, 9, 4),
                                    (104, 112, 9, 8), (168, 160, 9, 8), (16, 24, 9999, 1)):
        rooms[at] = drive.buffer(bytes(number * size))
        struct.pack_into("<I", ask, count, number)
        struct.pack_into("<Q", ask, at, rooms[at])
    for at, size in ((132, 8), (172, 16), (176, 8)):
        struct.pack_into("<I", ask, at, size)
    at = drive.buffer(bytes(ask))
    answer, attr = drive.bpf(15, struct.pack("<IIQ", fd, 232, at))
    told = ctypes.string_at(at, 232)
    counts = {what: struct.unpack_from("<I", told, where)[0] for what, where in (
        ("type", 0), ("maps", 52), ("ksyms", 104), ("lens", 108), ("funcs", 144), ("lines", 148),
        ("jited lines", 168), ("tags", 180), ("verified", 216), ("gpl", 84), ("btf", 128))}
    counts["btf"] -= struct.unpack_from("<I", info(drive.get("btf"), 32), 12)[0]
    ids = [struct.unpack_from("<I", info(m, 104), 4)[0] for m in (values, drive.get("hash"))]
    shown = ctypes.string_at(rooms[32], 32)
    used = struct.unpack("<2I", ctypes.string_at(rooms[56], 8))
    lens = struct.unpack("<2I", ctypes.string_at(rooms[120], 8))
    tags = ctypes.string_at(rooms[184], 16)
    return [
        answer, struct.unpack_from("<I", attr, 4)[0], told[64:80].hex(), counts,
        sorted(used) == sorted(ids), shown[:4].hex(), shown[16:20].hex(),
        struct.unpack_from("<I", shown, 4)[0] == ids[0], struct.unpack_from("<I", shown, 12)[0],
        struct.unpack_from("<I", shown, 20)[0] == ids[1],
        ctypes.string_at(rooms[136], 16) == funcs, ctypes.string_at(rooms[152], 48).hex(),
        min(lens) > 0, tags[:8] != tags[8:],
        sum(lens) <= struct.unpack_from("<I", told, 16)[0],
    ]


STORIES: tuple[Callable[[], list[Any]], ...] = (
    statistics, modes, freezing, queries, binding, exclusive, relocated,
    hits, informed)


if __name__ == "__main__":
    print(json.dumps({story.__name__: story() for story in STORIES}))
