"""bpf(2) through libc's syscall(): the same calls on the kernel and, preloaded, on the shim.

Imported by scenarios, which run as programs of their own (plain.py): nothing here but ctypes.
"""

from __future__ import annotations

import ctypes
import os
import struct

(CREATE, LOOKUP, UPDATE, DELETE, NEXT, LOAD) = range(6)
TEST_RUN, BTF_LOAD, TAKE, FREEZE = 10, 18, 21, 22
LOOKUP_BATCH, TAKE_BATCH, UPDATE_BATCH, DELETE_BATCH = 24, 25, 26, 27
SYS_BPF = 321
RAW_TRACEPOINT = 17
SIZE = 168  # of union bpf_attr

libc = ctypes.CDLL(None, use_errno=True)
mmap = libc.mmap
mmap.restype = ctypes.c_long
mmap.argtypes = [ctypes.c_long] * 6


def bpf(command: int, attr: bytes) -> int:
    """The result, or a negative errno. What attr points to must be alive."""
    return bpf_out(command, attr)[0]


def bpf_out(command: int, attr: bytes) -> tuple[int, bytes]:
    """The result, or a negative errno, and the attr as it is afterwards."""
    room = ctypes.create_string_buffer(attr, max(len(attr), SIZE))
    ret = libc.syscall(SYS_BPF, command, room, ctypes.c_long(SIZE))
    return (-ctypes.get_errno() if ret < 0 else int(ret)), room.raw


def at(buffer: ctypes.Array[ctypes.c_char] | None) -> int:
    """Address, 0 for None."""
    return ctypes.addressof(buffer) if buffer is not None else 0


def held(data: bytes | None) -> ctypes.Array[ctypes.c_char] | None:
    """A buffer of exactly these bytes."""
    return None if data is None else ctypes.create_string_buffer(data, len(data))


def create(kind: int, key: int = 0, value: int = 0, entries: int = 0, flags: int = 0,
           extra: int = 0, *, btf: tuple[int, int, int] = (0, 0, 0), inner: int = 0) -> int:
    """BPF_MAP_CREATE. btf: descriptor, type of the key, type of the value."""
    return bpf(CREATE, struct.pack("<IIIIIiI16sIIIIIQ", kind, key, value, entries, flags,
                                   inner, 0, b"m", 0, *btf, 0, extra))


def element(command: int, fd: int, key: bytes | None, value: bytes | int | None = None,
            flags: int = 0) -> tuple[int, bytes]:
    """One element command. value: bytes in, or room for so many out. Result, value afterwards."""
    k = held(key)
    v = held(bytes(value) if isinstance(value, int) else value)
    ret = bpf(command, struct.pack("<I4xQQQ", fd, at(k), at(v), flags))
    return ret, v.raw if v is not None else b""


def lookup(fd: int, key: bytes | None, size: int, flags: int = 0) -> bytes | int:
    """The value, or a negative errno."""
    ret, value = element(LOOKUP, fd, key, size, flags)
    return ret or value


def take(fd: int, key: bytes | None, size: int, flags: int = 0) -> bytes | int:
    """LOOKUP_AND_DELETE: the value, or a negative errno."""
    ret, value = element(TAKE, fd, key, size, flags)
    return ret or value


def update(fd: int, key: bytes | None, value: bytes | None, flags: int = 0) -> int:
    """0 or a negative errno."""
    return element(UPDATE, fd, key, value, flags)[0]


def delete(fd: int, key: bytes | None) -> int:
    """0 or a negative errno."""
    return element(DELETE, fd, key)[0]


def following(fd: int, key: bytes | None, size: int) -> bytes | int:
    """The next key, or a negative errno."""
    ret, value = element(NEXT, fd, key, size)
    return ret or value


def keys(fd: int, size: int) -> list[bytes]:
    """All of a map's keys, in its order."""
    found, key = [], following(fd, None, size)
    while isinstance(key, bytes):
        found.append(key)
        key = following(fd, key, size)
    return found


def batch(command: int, fd: int, key: int, value: int, count: int, flags: int = 0) -> int:
    """One batch command of `count` elements from the start: its result."""
    k, v = held(bytes(key * count or 8)), held(bytes(value * count or 8))
    out = held(bytes(64))
    return bpf(command, struct.pack("<QQQQIIQQ", 0, at(out), at(k), at(v), count, fd, flags, 0))


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """One instruction."""
    return struct.pack("<BBhI", code, dst | src << 4, off, imm & 0xFFFFFFFF)


def map_fd(dst: int, fd: int) -> bytes:
    """dst = the map."""
    return insn(0x18, dst, 1, 0, fd) + insn(0)


def map_value(dst: int, fd: int, off: int = 0) -> bytes:
    """dst = address in the first value of an array."""
    return insn(0x18, dst, 2, 0, fd) + insn(0, imm=off)


def call(helper: int) -> bytes:
    """A helper."""
    return insn(0x85, imm=helper)


def mov(dst: int, imm: int) -> bytes:
    """dst = imm."""
    return insn(0xB7, dst, imm=imm)


def copy(dst: int, src: int) -> bytes:
    """dst = src."""
    return insn(0xBF, dst, src)


def add(dst: int, imm: int) -> bytes:
    """dst += imm."""
    return insn(0x07, dst, imm=imm)


EXIT = insn(0x95)


def btf_load(blob: bytes) -> int:
    """BPF_BTF_LOAD."""
    data = held(blob)
    return bpf(BTF_LOAD, struct.pack("<QQIIIII", at(data), 0, len(blob), 0, 0, 0, 0))


def load(insns: bytes, kind: int = RAW_TRACEPOINT, log: bool = False,
         functions: tuple[int, bytes] = (0, b""), *, flags: int = 0, attach: int = 0) -> int:
    """A program's descriptor, or a negative errno. functions: BTF and func_info, 8 bytes a row.
    attach: expected_attach_type."""
    code, name, text = held(insns), held(b"GPL\0"), held(bytes(1 << 20))
    btf, rows = functions
    info = held(rows)
    ret = bpf(LOAD, struct.pack(
        "<IIQQIIQII16sIIIIQI", kind, len(insns) // 8, at(code), at(name), int(log),
        (1 << 20) * log, at(text) * log, 0, flags, b"", 0, attach, btf, 8 * bool(rows),
        at(info) * bool(rows), len(rows) // 8))
    if ret < 0 and log and text is not None:
        os.write(2, text.value)
    return ret


def run(fd: int) -> int:
    """BPF_PROG_TEST_RUN of a raw tracepoint program: its result, a signed number."""
    ret, attr = bpf_out(TEST_RUN, struct.pack("<IIII", fd, 0, 0, 0))
    return ret or struct.unpack_from("<i", attr, 4)[0]


def execute(insns: bytes) -> int:
    """Loads, runs once, closes; what the program returns, or loading's errno less 10000."""
    fd = load(insns)
    if fd < 0:
        return fd - 10000
    ret = run(fd)
    os.close(fd)
    return ret
