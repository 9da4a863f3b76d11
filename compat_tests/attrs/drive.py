"""Asks bpf(2) what a file of cases says and prints the answers. Plain Python, run as a program:
`python3 drive.py CASES.json` as root on the kernel, or under guard and shim.

A case is {"cmd", "size", "put": [[offset, bytes, value]...], "bufs": {name: hex or size},
"fill": [[buffer, offset, bytes, value]...], "say": [[offset, bytes]...], "show": [buffer names],
"at": address in place of the attr's}. Values: a number, "fd:NAME" and "id:NAME" (an object of
OBJECTS, made at first use; "new-NAME": made for this case), "ptr:NAME" (a buffer; "bad",
"kernel": memory that is not there), "pid". An answer is the errno (0: it went well), or a list of
it, what the attr says at "say" afterwards, and what the buffers of "show" hold.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

SYS_BPF, SYS_PERF = 321, 298
UNMAPPED, KERNEL = 0x10, 0xFFFFFFFF81000000
GIVES_FD = {0, 5, 7, 13, 14, 17, 18, 19, 28, 30, 32, 33, 36}
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]

RET0 = bytes.fromhex("b700000000000000" "9500000000000000")
# int; struct bpf_spin_lock { int val; }; struct v { struct bpf_spin_lock l; int x; };
STRINGS = b"\0int\0bpf_spin_lock\0val\0v\0l\0x\0f\0a\x000\0"  # the last: an access string


def text(word: str) -> int:
    return STRINGS.index(b"\0" + word.encode() + b"\0") + 1


def types() -> bytes:
    """1 int, 2 bpf_spin_lock, 3 v, 4 int (*)(int a), 5 f."""
    out = struct.pack("<IIII", text("int"), 1 << 24, 4, 1 << 24 | 32)
    out += struct.pack("<III", text("bpf_spin_lock"), 4 << 24 | 1, 4)
    out += struct.pack("<III", text("val"), 1, 0)
    out += struct.pack("<III", text("v"), 4 << 24 | 2, 8)
    out += struct.pack("<IIIIII", text("l"), 2, 0, text("x"), 1, 32)
    out += struct.pack("<IIIII", 0, 13 << 24 | 1, 1, text("a"), 1)
    return out + struct.pack("<III", text("f"), 12 << 24, 4)


def btf_blob() -> bytes:
    body = types()
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(STRINGS))
    return head + body + STRINGS


def syscall(number: int, *args: int) -> int:
    """Its result, or the negative errno."""
    ret = int(libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args]))
    return ret if ret >= 0 else -ctypes.get_errno()


def bpf(cmd: int, attr: bytes) -> tuple[int, bytes]:
    data = ctypes.create_string_buffer(attr, max(len(attr), 1))
    return syscall(SYS_BPF, cmd, ctypes.addressof(data), len(attr)), data.raw


def need(fd: int, what: str) -> int:
    if fd < 0:
        raise OSError(-fd, what)
    return fd


keep: list[Any] = []


def buffer(data: bytes) -> int:
    made = ctypes.create_string_buffer(data, max(len(data), 1))
    keep.append(made)
    return ctypes.addressof(made)


def make_map(kind: int, key: int, value: int, entries: int, flags: int = 0, **more: int) -> int:
    attr = bytearray(struct.pack("<6I", kind, key, value, entries, flags, more.get("inner", 0)))
    attr = attr.ljust(72, b"\0")
    if "btf" in more:
        struct.pack_into("<III", attr, 48, more["btf"], 1, more["btf_value"])
    return need(bpf(0, bytes(attr))[0], f"map of type {kind}")


def make_prog(kind: int, expected: int = 0, insns: bytes = RET0, flags: int = 0) -> int:
    attr = bytearray(152)
    struct.pack_into("<IIQQ", attr, 0, kind, len(insns) // 8, buffer(insns), buffer(b"GPL\0"))
    struct.pack_into("<I", attr, 44, flags)
    struct.pack_into("<I", attr, 68, expected)
    return need(bpf(5, bytes(attr))[0], f"program of type {kind}")


def make_btf() -> int:
    blob = btf_blob()
    attr = struct.pack("<QQIII", buffer(blob), 0, len(blob), 0, 0)
    return need(bpf(18, attr)[0], "BTF")


def perf_event(kind: int, config: int, period: int, **more: int) -> int:
    attr = bytearray(128)
    struct.pack_into("<IIQQQ", attr, 0, kind, 128, config, period, more.get("sample", 0))
    struct.pack_into("<QQ", attr, 56, more.get("config1", 0), more.get("config2", 0))
    fd = syscall(SYS_PERF, buffer(bytes(attr)), more.get("pid", -1), more.get("cpu", 0), -1, 8)
    return need(fd, "perf event")


def uprobe(ret: bool) -> int:
    with open("/sys/bus/event_source/devices/uprobe/type") as file:
        kind = int(file.read())
    path = buffer(sys.executable.encode() + b"\0")
    return perf_event(kind, int(ret), 0, config1=path, config2=entry(), pid=os.getpid(), cpu=-1)


def entry() -> int:
    """File offset of a function in the executable."""
    where = ctypes.cast(ctypes.pythonapi.PySys_WriteStdout, ctypes.c_void_p).value or 0
    with open("/proc/self/maps") as file:
        for line in file:
            row = line.split()
            start, end = (int(part, 16) for part in row[0].split("-"))
            if start <= where < end and row[-1] == os.path.realpath(sys.executable):
                return where - start + int(row[2], 16)
    raise ValueError(sys.executable)


def link(prog: int, event: int) -> int:
    return need(bpf(28, struct.pack("<IIII", prog, event, 41, 0).ljust(48, b"\0"))[0], "link")


def frozen() -> int:
    fd = make_map(2, 4, 8, 4)
    need(bpf(22, struct.pack("<I", fd))[0], "freeze")
    return fd


def mapped() -> int:
    fd = make_map(2, 4, 8, 4, 1 << 10)
    at = libc.mmap(None, 4096, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    assert at != ctypes.c_void_p(-1).value
    return fd


def read_mapped() -> int:
    fd = make_map(2, 4, 8, 4, 1 << 10)
    assert libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0) != 2**64 - 1
    return fd


def by_id(kind: int, cmd: int, flags: int) -> int:
    return need(bpf(cmd, struct.pack("<III", number("array"), 0, flags))[0], "by id")


def filled(kind: int) -> int:
    fd = make_map(kind, 4, 8, 4)
    attr = struct.pack("<I4xQQQ", fd, buffer(struct.pack("<I", 1)), buffer(bytes(8)), 0)
    need(bpf(2, attr)[0], "element")
    return fd


def vmlinux() -> int:
    return need(bpf(19, struct.pack("<III", 1, 0, 0))[0], "BTF 1")


def load(insns: bytes, *fields: tuple[str, int, int]) -> int:
    """A socket filter; fields: format, offset, value."""
    attr = bytearray(168)
    struct.pack_into("<IIQQ", attr, 0, 1, len(insns) // 8, buffer(insns), buffer(b"GPL\0"))
    for form, at, what in fields:
        struct.pack_into("<" + form, attr, at, what)
    return need(bpf(5, bytes(attr))[0], "program")


def with_infos() -> int:
    funcs = buffer(struct.pack("<II", 0, 5))
    lines = buffer(struct.pack("<IIII", 0, 1, 1, 1 << 10))
    return load(RET0, ("I", 72, get("btf")), ("I", 76, 8), ("Q", 80, funcs), ("I", 88, 1),
                ("I", 92, 16), ("Q", 96, lines), ("I", 104, 1))


def with_maps() -> int:
    named = struct.pack("<BBhiq", 0x18, 0x11, 0, get("array"), 0)
    return load(named + named.replace(get("array").to_bytes(4, "little"),
                                      get("hash").to_bytes(4, "little")) + RET0)


OBJECTS: dict[str, Callable[[], int]] = {
    "array": lambda: make_map(2, 4, 8, 4),
    "hash": lambda: filled(1),
    "percpu": lambda: make_map(6, 4, 8, 4),
    "lpm": lambda: make_map(11, 8, 8, 4, 1),
    "ringbuf": lambda: make_map(27, 0, 0, 4096),
    "perf-array": lambda: make_map(4, 4, 4, 4),
    "prog-array": lambda: make_map(3, 4, 4, 4),
    "queue": lambda: make_map(22, 0, 8, 4),
    "stack-trace": lambda: make_map(7, 4, 64, 4),
    "rdonly": lambda: make_map(2, 4, 8, 4, 1 << 3),
    "wronly": lambda: make_map(2, 4, 8, 4, 1 << 4),
    "rdonly-id": lambda: by_id(1, 14, 1 << 3),
    "wronly-id": lambda: by_id(1, 14, 1 << 4),
    "frozen": frozen,
    "mapped": mapped,
    "read-mapped": read_mapped,
    "locks": lambda: make_map(2, 4, 8, 1, btf=get("btf"), btf_value=3),
    "btf": make_btf,
    "vmlinux": vmlinux,
    "prog": lambda: make_prog(1),
    "prog-infos": with_infos,
    "prog-maps": with_maps,
    "kprobe": lambda: make_prog(2),
    "cls": lambda: make_prog(3),
    "tracepoint": lambda: make_prog(5),
    "xdp": lambda: make_prog(6),
    "perf": lambda: make_prog(7),
    "raw-tp": lambda: make_prog(17),
    "kprobe-multi": lambda: make_prog(2, 42),
    "uprobe-multi": lambda: make_prog(2, 48),
    "clock": lambda: perf_event(1, 0, 1 << 40),
    "clock2": lambda: perf_event(1, 0, 1 << 40),
    "uprobe": lambda: uprobe(False),
    "uretprobe": lambda: uprobe(True),
    "output": lambda: perf_event(1, 10, 1, sample=0x400),
    "link": lambda: link(get("perf"), get("clock")),
    "uprobe-link": lambda: link(get("kprobe"), get("uprobe")),
    "null": lambda: os.open("/dev/null", os.O_RDWR),
    "memfd": lambda: os.memfd_create("x"),
    "file": lambda: os.open(sys.executable, os.O_RDONLY),
    "root": lambda: os.open("/", os.O_RDONLY | os.O_DIRECTORY),
    "pipe": lambda: os.pipe()[0],
}  # fmt: skip
made: dict[str, int] = {}


def get(name: str) -> int:
    """The descriptor of an object, made if need be."""
    if name not in made:
        made[name] = OBJECTS[name.removeprefix("new-")]()
    return made[name]


def number(name: str) -> int:
    """The id of an object: struct bpf_*_info has it at 4, bpf_btf_info at 12."""
    info = buffer(bytes(32))
    need(bpf(15, struct.pack("<IIQ", get(name), 32, info))[0], name)
    return int.from_bytes(ctypes.string_at(info + (12 if name == "btf" else 4), 4), "little")


def value(what: int | str, bufs: dict[str, int]) -> int:
    if isinstance(what, int):
        return what
    kind, _, name = what.partition(":")
    if kind == "fd":
        return get(name)
    if kind == "id":
        return number(name)
    if kind == "ptr":
        return {"bad": UNMAPPED, "kernel": KERNEL}.get(name) or bufs[name]
    return os.getpid()


def answer(case: dict[str, Any]) -> Any:
    keep_before = len(keep)
    hexes = {n: bytes.fromhex(b) if isinstance(b, str) else bytes(b)
             for n, b in case.get("bufs", {}).items()}
    bufs = {n: buffer(b) for n, b in hexes.items()}
    for name, at, size, what in case.get("fill", []):
        data = value(what, bufs) & (1 << 8 * size) - 1
        ctypes.memmove(bufs[name] + at, data.to_bytes(size, "little"), size)
    attr = bytearray(max(case["size"], 168))
    for at, size, what in case["put"]:
        attr[at : at + size] = (value(what, bufs) & (1 << 8 * size) - 1).to_bytes(size, "little")
    data = ctypes.create_string_buffer(bytes(attr), len(attr))
    where = case.get("at") or ctypes.addressof(data)
    ret = syscall(SYS_BPF, case["cmd"], where, case["size"])
    if ret >= 0 and case["cmd"] in GIVES_FD:
        os.close(ret)
    for name in [n for n in made if n.startswith("new-")]:
        os.close(made.pop(name))
    code = max(-ret, 0)
    if not case.get("say") and not case.get("show"):
        del keep[keep_before:]
        return code
    said = [int.from_bytes(data.raw[at : at + size], "little") for at, size in case.get("say", [])]
    shown = [ctypes.string_at(bufs[n], len(hexes[n])).hex() for n in case.get("show", [])]
    return [code, *said, *shown]


def main() -> None:
    with open(sys.argv[1]) as file:
        cases = json.load(file)
    get("array")
    answers = {}
    for name, case in cases.items():
        try:
            answers[name] = answer(case)
        except OSError as error:  # an object cannot be made
            answers[name] = [error.errno, error.strerror]
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
