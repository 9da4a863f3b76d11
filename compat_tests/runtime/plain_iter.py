"""Scenarios of kernel functions that programs may call: iterators over numbers and bits, and what
there is for dynptrs. Raw tracepoint programs, and packets' by plain test runs."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from collections.abc import Iterator

from compat_tests.runtime import calls as c
from compat_tests.runtime.plain_dynptr import FROM_MEM, READ, fp, keep
from compat_tests.runtime.scenario import ARRAY, Step
from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf

SOCKET, SCHED_CLS, XDP, CGROUP_SKB = 1, 3, 6, 8
KEY = bytes(4)
SHORT = c.insn(0x67, 0, imm=32) + c.insn(0x77, 0, imm=32)  # of an int, the lower half


@functools.cache
def kernel_btf() -> Btf:
    with open("/sys/kernel/btf/vmlinux", "rb") as file:
        return Btf(file.read())


def kfunc(name: str) -> bytes:
    found = kernel_btf().find(name, kinds.FUNC)
    return c.insn(0x85, src=2, imm=found.id if found else 0)


def num_loop(start: int, end: int, out: int) -> bytes:
    """The result of new; then how many numbers there were, their sum, the last one; 20 at most."""
    head = fp(1, -8) + kfunc("bpf_iter_num_next")
    body = (c.insn(0x61, 1, 0) + c.add(6, 1) + c.insn(0x0F, 7, 1) + c.copy(8, 1)
            + c.insn(0x25, 6, off=1, imm=20))  # fmt: skip
    back = -(len(head) + 8 + len(body) + 8) // 8
    return (fp(1, -8) + c.mov(2, start) + c.mov(3, end) + kfunc("bpf_iter_num_new")
            + SHORT + keep(out, 0) + c.mov(6, 0) + c.mov(7, 0) + c.mov(8, 0) + head
            + c.insn(0x15, 0, off=len(body) // 8 + 1) + body + c.insn(0x05, off=back)
            + fp(1, -8) + kfunc("bpf_iter_num_destroy")
            + b"".join(c.copy(0, r) + keep(out, 8 * (r - 5)) for r in (6, 7, 8))
            + c.mov(0, 0) + c.EXIT)  # fmt: skip


def bits_loop(words: int, out: int, source: int) -> bytes:
    head = fp(1, -16) + kfunc("bpf_iter_bits_next")
    body = c.insn(0x61, 1, 0) + c.add(6, 1) + c.insn(0x0F, 7, 1) + c.copy(8, 1)
    back = -(len(head) + 8 + len(body) + 8) // 8
    return (fp(1, -16) + c.map_value(2, source) + c.mov(3, words) + kfunc("bpf_iter_bits_new")
            + SHORT + keep(out, 0) + c.mov(6, 0) + c.mov(7, 0) + c.mov(8, 0) + head
            + c.insn(0x15, 0, off=len(body) // 8 + 1) + body + c.insn(0x05, off=back)
            + fp(1, -16) + kfunc("bpf_iter_bits_destroy")
            + b"".join(c.copy(0, r) + keep(out, 8 * (r - 5)) for r in (6, 7, 8))
            + c.mov(0, 0) + c.EXIT)  # fmt: skip


def iterators() -> Iterator[Step]:
    """Loops over numbers and over the bits of a map's value."""
    out, source = c.create(ARRAY, 4, 64, 1), c.create(ARRAY, 4, 64, 1)
    low, high = -(1 << 31), (1 << 31) - 1
    for start, end in ((0, 10), (5, 5), (5, 4), (-3, 3), (0, 8 << 20), (0, (8 << 20) + 1),
                       (low, low + 2), (high - 2, high), (low, high), (3, 4)):
        c.update(out, KEY, bytes(64))
        yield f"numbers {start} {end}", [c.execute(num_loop(start, end, out)),
                                         c.lookup(out, KEY, 64)]
    for words, value in ((1, b"\x05"), (1, b""), (2, bytes(7) + b"\x80\x01"), (8, b"\xff" * 64),
                         (3, bytes(23) + b"\x80"), (0, b"\x05"), (512, b"\x05"), (4, b"")):
        c.update(out, KEY, bytes(64))
        c.update(source, KEY, value.ljust(64, b"\0"))
        yield f"bits {words} {value.hex()}", [c.execute(bits_loop(words, out, source)),
                                              c.lookup(out, KEY, 64)]


def made(value: int, size: int, at: int = -16, off: int = 0) -> bytes:
    return (c.map_value(1, value, off) + c.mov(2, size) + c.mov(3, 0) + fp(4, at)
            + c.call(FROM_MEM))  # fmt: skip


def on(what: str, *numbers: int, at: int = -16) -> bytes:
    return (fp(1, at) + b"".join(c.mov(n + 2, v) for n, v in enumerate(numbers))
            + kfunc(f"bpf_dynptr_{what}"))  # fmt: skip


def asked(out: int) -> bytes:
    """Size, and whether it is null or read-only, into out from byte 8 on."""
    return b"".join(on(what) + (c.insn(0x57, 0, imm=255) if n else SHORT) + keep(out, 8 + 8 * n)
                    for n, what in enumerate(("size", "is_null", "is_rdonly")))


def sliced(out: int, off: int, size: int, rdwr: str = "") -> bytes:
    """The first byte of a slice + 1, 0 if there is none."""
    return (fp(1, -16) + c.mov(2, off) + fp(3, -48) + c.mov(4, size)
            + kfunc("bpf_dynptr_slice" + rdwr) + c.insn(0x15, 0, off=2) + c.insn(0x71, 0, 0)
            + c.add(0, 1) + keep(out, 32))  # fmt: skip


BUFFER = b"".join(c.insn(0x7A, 10, off=-48 + 8 * n, imm=9) for n in range(4))


def dynptr_kfuncs() -> Iterator[Step]:
    """Kernel functions on dynptrs of a map's value."""
    value, out = c.create(ARRAY, 4, 64, 1), c.create(ARRAY, 4, 64, 1)

    def seen(body: bytes) -> list[object]:
        c.update(value, KEY, bytes(range(1, 65)))
        c.update(out, KEY, bytes(64))
        ret = c.execute(BUFFER + body + c.mov(0, 0) + c.EXIT)
        return [ret, c.lookup(out, KEY, 64), c.lookup(value, KEY, 64)]

    for size in (0, 16, 64, 1 << 24):
        start = made(value, min(size, 64)) if size < 1 << 24 else (
            c.map_value(1, value) + c.mov(2, 16) + c.mov(3, 1) + fp(4, -16) + c.call(FROM_MEM))
        yield f"of {size}", seen(start + asked(out))
        for begin, end in ((0, 16), (2, 5), (5, 2), (16, 16), (0, 17), (17, 17), (-1, 0)):
            yield f"adjust {size} {begin} {end}", seen(
                start + on("adjust", begin, end) + SHORT + keep(out, 0) + asked(out)
                + sliced(out, 0, 1))  # fmt: skip
        for off, length in ((0, 8), (9, 8), (16, 8), (15, 1), (-1, 4)):
            yield f"slice {size} {off} {length}", seen(start + sliced(out, off, length)
                                                      + sliced(out, off, length, "_rdwr"))
            yield f"memset {size} {off} {length}", seen(
                start + on("memset", off, length, 0x177) + SHORT + keep(out, 0))
            yield f"copy {size} {off} {length}", seen(
                start + made(value, 24, at=-80, off=32) + fp(1, -80) + c.mov(2, 1) + fp(3, -16)
                + c.mov(4, off) + c.mov(5, length) + kfunc("bpf_dynptr_copy") + SHORT
                + keep(out, 0))  # fmt: skip
            yield f"copy into {size} {off} {length}", seen(
                start + made(value, 24, at=-80, off=32) + fp(1, -16) + c.mov(2, off) + fp(3, -80)
                + c.mov(4, 1) + c.mov(5, length) + kfunc("bpf_dynptr_copy") + SHORT
                + keep(out, 0))  # fmt: skip
        yield f"clone {size}", seen(
            start + on("adjust", 3, 9) + fp(1, -16) + fp(2, -80) + kfunc("bpf_dynptr_clone")
            + SHORT + keep(out, 0) + on("adjust", 1, 2) + on("size", at=-80) + SHORT
            + keep(out, 40) + asked(out))  # fmt: skip


def test_run(insns: bytes, kind: int, data: bytes) -> list[object]:
    """Loads and runs it on a packet: result, the packet afterwards."""
    fd = c.load(insns, kind)
    if fd < 0:
        return [fd]
    room, packet = ctypes.create_string_buffer(256), c.held(data)
    ret, attr = c.bpf_out(c.TEST_RUN, struct.pack(
        "<IIIIQQII", fd, 0, len(data), 256, c.at(packet), ctypes.addressof(room), 1, 0))
    os.close(fd)
    size = struct.unpack_from("<I", attr, 12)[0]
    return [ret, struct.unpack_from("<i", attr, 4)[0], room.raw[:size]]


def packets() -> Iterator[Step]:
    """Dynptrs of packets in test runs."""
    out = c.create(ARRAY, 4, 64, 1)
    data = bytes(range(60))
    for kind, how in ((SCHED_CLS, "skb"), (CGROUP_SKB, "skb"), (SOCKET, "skb"), (XDP, "xdp")):
        for flags in (0, 1):
            start = (c.copy(9, 1) + BUFFER + c.mov(2, flags) + fp(3, -16)
                     + kfunc(f"bpf_dynptr_from_{how}") + keep(out, 0))  # fmt: skip
            end = c.mov(0, 1) + c.EXIT
            writes = "_rdwr" if kind in (SCHED_CLS, XDP) else ""
            bodies = {
                "asked": asked(out),
                "slices": sliced(out, 20, 4) + sliced(out, 57, 4) + sliced(out, 20, 4, writes),
                "read": fp(1, -48) + c.mov(2, 8) + fp(3, -16) + c.mov(4, 30) + c.mov(5, 0)
                + c.call(READ) + c.insn(0x79, 0, 10, -48) + keep(out, 32),
                "write": fp(1, -16) + c.mov(2, 30) + fp(3, -48) + c.mov(4, 8) + c.mov(5, 0)
                + c.call(202) + SHORT + keep(out, 32),
                "memset": on("memset", 40, 6, 7) + SHORT + keep(out, 32),
                "adjust": on("adjust", 4, 12) + asked(out) + sliced(out, 0, 8),
            }
            for what, body in bodies.items():
                c.update(out, KEY, bytes(64))
                yield f"{how} of {kind}, flags {flags}: {what}", [
                    *test_run(start + body + end, kind, data), c.lookup(out, KEY, 64)]
