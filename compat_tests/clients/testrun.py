#!/usr/bin/python3
"""Loads programs, runs them by BPF_PROG_TEST_RUN, prints a line of JSON for each run.

A client like any other: ctypes and syscall(2), nothing of the project. test_prog_run.py runs it on
the kernel and under the shim and compares the lines. Figures that differ from run to run (ns) are
left out. Over 500 lines: a function a part, each run by its name, on the same few builders.
"""

import ctypes
import errno
import json
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_BPF, PROG_LOAD, TEST_RUN = 321, 5, 10
SOCKET, CLS, TP, XDP, PERF, CGROUP_SKB, LWT_IN, LWT_XMIT, RAW_TP, SYSCALL = (
    1, 3, 5, 6, 7, 8, 10, 12, 17, 31)  # fmt: skip
KPROBE, SLEEPABLE = 2, 16
OUT = 70000


def bpf(cmd: int, attr: bytes) -> tuple[int, bytes]:
    buf = ctypes.create_string_buffer(attr, len(attr))
    ret = LIBC.syscall(ctypes.c_long(SYS_BPF), ctypes.c_long(cmd), buf, ctypes.c_long(len(attr)))
    return (ret if ret >= 0 else -ctypes.get_errno()), buf.raw


def at(buf: Any) -> int:
    return ctypes.addressof(buf)


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhI", code, src << 4 | dst, off, imm & 0xFFFFFFFF)


EXIT = insn(0x95)


def ret(value: int) -> bytes:
    return insn(0xB7, 0, 0, 0, value) + EXIT


def call(number: int) -> bytes:
    return insn(0x85, 0, 0, 0, number)


# BTF: 1 u32, 2 u64, 3 struct bpf_spin_lock, 4 value {u32 a; lock; u64 b}, 5 void *, 6 its function
# type, 7 main, 8 a static function of it, 9 u64[2], 10 struct bpf_timer, 11 {u64 a; timer; u64 b}
STRINGS = (b"\0u32\0u64\0bpf_spin_lock\0val\0value\0a\0lock\0b\0main\0body\0bpf_timer\0"
           b"__opaque\0")


def btf() -> bytes:
    def name(text: bytes) -> int:
        return STRINGS.index(b"\0" + text + b"\0") + 1

    def one(*words: int) -> bytes:
        return struct.pack(f"<{len(words)}I", *words)

    types = (
        one(name(b"u32"), 1 << 24, 4, 32) + one(name(b"u64"), 1 << 24, 8, 64)
        + one(name(b"bpf_spin_lock"), 4 << 24 | 1, 4, name(b"val"), 1, 0)
        + one(name(b"value"), 4 << 24 | 3, 16, name(b"a"), 1, 0, name(b"lock"), 3, 32, name(b"b"),
              2, 64)
        + one(0, 2 << 24, 0) + one(0, 13 << 24 | 1, 2, name(b"a"), 5)
        + one(name(b"main"), 12 << 24 | 1, 6) + one(name(b"body"), 12 << 24, 6)
        + one(0, 3 << 24, 0, 2, 1, 2) + one(name(b"bpf_timer"), 4 << 24 | 1, 16, name(b"__opaque"),
                                            9, 0)
        + one(name(b"value"), 4 << 24 | 3, 32, name(b"a"), 2, 0, name(b"lock"), 10, 64,
              name(b"b"), 2, 192)
    )  # fmt: skip
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(STRINGS))
    return head + types + STRINGS


def load_btf() -> int:
    blob = btf()
    data = ctypes.create_string_buffer(blob, len(blob))
    return bpf(18, struct.pack("<QQIII4x", at(data), 0, len(blob), 0, 0))[0]


def create(
    kind: int, key: int, value: int, entries: int, flags: int = 0, btf_fd: int = 0,
    value_type: int = 4,
) -> int:
    types = (btf_fd, 1, value_type) if btf_fd else (0, 0, 0)
    return bpf(0, struct.pack("<IIIIIII16sIIII", kind, key, value, entries, flags, 0, 0, b"m", 0,
                              *types))[0]


def element(
    cmd: int, fd: int, key: bytes, value: bytes = b"", flags: int = 0
) -> tuple[int, bytes]:
    """MAP_LOOKUP_ELEM (1), UPDATE (2), DELETE (3): what it returns, and the value."""
    k = ctypes.create_string_buffer(key, len(key))
    v = ctypes.create_string_buffer(value.ljust(1 << 16, b"\0"), 1 << 16)
    got, _ = bpf(cmd, struct.pack("<I4xQQQ", fd, at(k), at(v) if cmd < 3 else 0, flags))
    return got, v.raw


def load(
    kind: int, code: bytes, attach: int = 0, flags: int | None = None, body: int = 0,
    btf_fd: int = 0,
) -> int:
    """A descriptor, or a negative errno. body: first slot of the static function, if there is
    one."""
    insns = ctypes.create_string_buffer(code, len(code))
    licence, log = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(1 << 16)
    if flags is None:
        flags = SLEEPABLE if kind == SYSCALL else 0
    infos = ctypes.create_string_buffer(struct.pack("<IIII", 0, 7, body, 8), 16)
    attr = struct.pack("<IIQQIIQII16sIIIIQI", kind, len(code) // 8, at(insns), at(licence), 1,
                       1 << 16, at(log), 0, flags, b"t", 0, attach, btf_fd, 8 if body else 0,
                       at(infos) if body else 0, 2 if body else 0)
    fd, _ = bpf(PROG_LOAD, attr)
    if fd < 0:
        print(json.dumps({"load": log.value.decode(errors="replace")[-300:]}), file=sys.stderr)
    return fd


def run(
    fd: int, data: bytes | None = None, room: int | None = OUT, ctx: bytes | None = None,
    ctx_room: int | None = None, **fields: int,
) -> dict[str, Any]:
    """One test run: what came back, and every field that it wrote. room, ctx_room: sizes of the
    buffers for output, None: no buffer."""
    data_in = ctypes.create_string_buffer(data, max(len(data), 1)) if data is not None else None
    ctx_in = ctypes.create_string_buffer(ctx, max(len(ctx), 1)) if ctx is not None else None
    data_out = ctypes.create_string_buffer(b"\xaa" * OUT, OUT)
    ctx_out = ctypes.create_string_buffer(b"\xbb" * 256, 256)
    f = {
        "data_size_in": len(data) if data is not None else 0, "data_size_out": room or 0,
        "data_in": at(data_in) if data_in else 0, "data_out": at(data_out) if room else 0,
        "repeat": 0, "ctx_size_in": len(ctx) if ctx is not None else 0,
        "ctx_size_out": ctx_room or 0, "ctx_in": at(ctx_in) if ctx_in else 0,
        "ctx_out": at(ctx_out) if ctx_room else 0, "flags": 0, "cpu": 0, "batch_size": 0,
        "retval": 0x5A5A5A5A, "duration": 0,
    }  # fmt: skip
    f.update(fields)
    attr = struct.pack(
        "<IIIIQQIIIIQQIIII", fd, f["retval"], f["data_size_in"], f["data_size_out"], f["data_in"],
        f["data_out"], f["repeat"], f["duration"], f["ctx_size_in"], f["ctx_size_out"],
        f["ctx_in"], f["ctx_out"], f["flags"], f["cpu"], f["batch_size"], 0)  # fmt: skip
    result, raw = bpf(TEST_RUN, attr)
    back = struct.unpack("<IIIIQQIIIIQQIIII", raw)
    out = {
        "ret": result, "retval": back[1], "size": back[3],
        "ctx_size": back[9], "timed": back[7] > 0 or bool(f["duration"]),
    }  # fmt: skip
    if room:
        out["data"] = data_out.raw.rstrip(b"\xaa").hex()
    if ctx_room:
        out["ctx"] = ctx_out.raw.rstrip(b"\xbb").hex()
    if ctx_in and not ctx_room:
        out["ctx_in"] = ctx_in.raw.hex()
    return out


def say(name: str, result: dict[str, Any]) -> None:
    print(json.dumps({"name": name, **result}, sort_keys=True), flush=True)


IPV4 = bytes(range(6)) + bytes(range(10, 16)) + b"\x08\x00" + bytes.fromhex(
    "4500003c1c4640004006b1e6ac100a63ac100a0c") + bytes(range(60))
PACKET = bytes(12) + b"\x08\x00" + bytes(range(50))


def skb(**fields: int) -> bytes:
    places = {"len": 0, "mark": 8, "queue_mapping": 12, "priority": 32, "ingress_ifindex": 36,
              "ifindex": 40, "tc_index": 44, "cb0": 48, "cb4": 64, "hash": 68, "data": 76,
              "tstamp": 152, "wire_len": 160, "gso_segs": 164, "gso_size": 176, "hwtstamp": 184}
    out = bytearray(192)
    for name, value in fields.items():
        size = 8 if "tstamp" in name else 4
        out[places[name] : places[name] + size] = value.to_bytes(size, "little")
    return bytes(out)


def sizes() -> None:
    """Packets of every interesting size; outputs that are too small."""
    for kind in (SOCKET, CLS, CGROUP_SKB, LWT_IN, LWT_XMIT, XDP):
        fd = load(kind, ret(1))
        for size in (0, 1, 13, 14, 15, 16, 33, 34, 64, 1500, 3519, 3520, 3521, 3712, 3713, 4096,
                     7616, 7617, 65536):
            say(f"type {kind}, {size} bytes", run(fd, bytes(12) + b"\x08\x00" + b"\x45" * (
                size - 14) if size > 13 else b"\1" * size))
        for proto in (b"\x08\x00", b"\x86\xdd", b"\x86\xde"):
            for size in (33, 34, 53, 54):
                say(f"type {kind}, {proto.hex()}, {size} bytes",
                    run(fd, (bytes(12) + proto + bytes(50))[:size]))
        for room in (None, 1, 13, 14, 63, 64, 65):
            say(f"type {kind}, room {room}", run(fd, IPV4[:64], room))
        say(f"type {kind}, no room but a buffer", run(fd, IPV4[:64], 64, data_size_out=0))
        say(f"type {kind}, a size but no buffer", run(fd, IPV4[:64], None, data_size_out=10))
        say(f"type {kind}, a bad address in", run(fd, IPV4, data_in=8))
        say(f"type {kind}, NULL in", run(fd, IPV4, data_in=0))
        say(f"type {kind}, a bad address out", run(fd, IPV4, data_out=8))
        say(f"type {kind}, 5000 times", run(fd, IPV4, repeat=5000))


def fields() -> None:
    """Fields of the attr that a type has not, and contexts."""
    for kind in (SOCKET, CLS, XDP, RAW_TP, SYSCALL, KPROBE, TP, PERF):
        fd = load(kind, ret(0))
        packet = None if kind in (RAW_TP, SYSCALL) else PACKET
        for name in ("flags", "cpu", "batch_size", "repeat", "duration"):
            for value in (1, 2, 4, 8, 1 << 31):
                if kind == XDP and name == "flags" and value == 2:
                    continue  # live frames: docs/parity.md
                if kind in (SOCKET, CLS) and name == "flags" and value == 4:
                    continue  # a checksum over the packet: docs/parity.md
                if (name, value) == ("repeat", 1 << 31):
                    continue
                say(f"type {kind}, {name} {value}",
                    run(fd, packet, OUT if packet else None, None, None, **{name: value}))
        say(f"type {kind}, data", run(fd, PACKET, None))
        say(f"type {kind}, nothing", run(fd, None, None))
        say(f"type {kind}, ctx_in without a size", run(fd, packet, None, ctx=bytes(8),
                                                       ctx_size_in=0))
        say(f"type {kind}, a size without ctx_in", run(fd, packet, None, ctx_size_in=8))
        say(f"type {kind}, ctx_out without a size", run(fd, packet, None, None, 8, ctx_size_out=0))
        say(f"type {kind}, a size without ctx_out", run(fd, packet, None, ctx_size_out=8))
        for size in (1, 8, 16, 24, 25, 64, 96, 97, 192, 193, 200):
            say(f"type {kind}, a context of {size} zeroes", run(fd, packet, None, bytes(size)))
            say(f"type {kind}, room for {size} of a context", run(
                fd, packet, None, bytes(24 if kind == XDP else 192), size))
        say(f"type {kind}, a bad context", run(fd, packet, None, bytes(24), ctx_in=8))
        say(f"type {kind}, nowhere for a context", run(fd, packet, None, bytes(24), 24, ctx_out=8))
        say(f"type {kind}, a context not zero behind its end",
            run(fd, packet, None, bytes(192) + b"\1"))
    say("no such descriptor", run(77, PACKET))
    say("not a program", run(0, PACKET))


def skb_contexts() -> None:
    """What may be given of struct __sk_buff, what comes back."""
    fd = load(CLS, ret(7))
    for at_ in range(0, 192, 4):
        byte = bytearray(192)
        byte[at_] = 1
        say(f"skb byte {at_}", run(fd, PACKET, None, bytes(byte), 192))
    for name, values in (("wire_len", (63, 64, 65, 65536, 65537)), ("gso_segs", (65535, 65536)),
                         ("ifindex", (1, 999)), ("mark", (0xFFFFFFFF,)), ("cb4", (0xFFFFFFFF,)),
                         ("tstamp", (1 << 63,)), ("gso_size", (1 << 31,))):
        for value in values:
            say(f"skb {name} {value}", run(fd, PACKET, None, skb(**{name: value}), 192))
    ctx = skb(mark=1, priority=2, ingress_ifindex=3, cb0=4, cb4=5, tstamp=6, wire_len=700,
              gso_segs=8, gso_size=9, hwtstamp=10)
    for kind in (SOCKET, CLS, CGROUP_SKB, LWT_XMIT):
        for field in (*range(0, 76, 4), 84, 88, 92, 96, 132, 136, 160, 164, 176):
            fd = load(kind, insn(0x61, 0, 1, field) + EXIT)
            if fd >= 0:
                say(f"type {kind}, field {field}", run(fd, PACKET, None, ctx))
                say(f"type {kind}, field {field} of another packet", run(fd, IPV4, None))
        for field, value in ((8, 0x12345678), (12, 5), (12, 0xFFFE), (12, 0xFFFF), (12, 0x12345),
                             (32, 0x12345678), (44, 0x12345678), (48, 0x12345678),
                             (72, 0x12345678)):
            for store in (insn(0x62, 1, 0, field, value),
                          insn(0xB7, 2, 0, 0, value) + insn(0x63, 1, 2, field)):
                fd = load(kind, store + insn(0x61, 0, 1, field) + EXIT)
                if fd >= 0:
                    say(f"type {kind}, {value:#x} stored at {field}",
                        run(fd, PACKET, None, ctx, 192))
    for mac in (bytes(6), b"\xff" * 6, b"\1" + bytes(5), b"\2" + bytes(5)):
        for proto in (b"\x08\x00", b"\x86\xdd", b"\x00\x10", b"\x05\xff", b"\x06\x00"):
            for rest in (b"\xff" * 50, bytes(range(50))):
                for field in (4, 16):
                    fd = load(SOCKET, insn(0x61, 0, 1, field) + EXIT)
                    say(f"mac {mac.hex()}, {proto.hex()}, {rest[:2].hex()}, field {field}",
                        run(fd, mac + bytes(6) + proto + rest, None))


def xdp_contexts() -> None:
    """data, data_end and data_meta of struct xdp_md, queues, and what comes back."""
    fd = load(XDP, ret(2))
    reads = [load(XDP, insn(0x61, 0, 1, field) + EXIT) for field in (12, 16)]
    for given in ((0, 64, 0), (4, 64, 0), (3, 64, 0), (4, 63, 0), (4, 65, 0), (0, 14, 0),
                  (0, 13, 0), (8, 21, 0), (8, 22, 0), (64, 64, 0), (65, 64, 0), (32, 64, 4),
                  (4, 4, 0), (0, 0, 0)):
        ctx = struct.pack("<IIIIII", *given, 0, 0, 0)
        say(f"xdp {given}", run(fd, PACKET, OUT, ctx, 24))
    big = bytes(3000)
    for meta in (216, 220, 252, 253, 256):
        ctx = struct.pack("<IIIIII", meta, 3000, 0, 0, 0, 0)
        say(f"xdp metadata of {meta}", run(fd, big, OUT, ctx, 24))
    for size in (3500, 3520, 3524, 3600, 8000):
        for meta in (0, 16):
            ctx = struct.pack("<IIIIII", meta, size, 0, 0, 0, 0)
            say(f"xdp {size} bytes, metadata of {meta}", run(fd, bytes(size), OUT, ctx, 24))
    for device in ((1, 0, 0), (0, 1, 0), (1, 1, 0), (999, 0, 0), (0, 0, 1)):
        ctx = struct.pack("<IIIIII", 0, 64, 0, *device)
        for n, one in enumerate((fd, *reads)):
            say(f"xdp device {device}, {n}", run(one, PACKET, OUT, ctx, 24))


# R6 = context; R7 = data, R8 = end; ends with R0 = 9 if there are not 14 bytes
DATA = insn(0xBF, 6, 1) + insn(0x61, 7, 6, 0) + insn(0x61, 8, 6, 4)
SKB_DATA = insn(0xBF, 6, 1) + insn(0x61, 7, 6, 76) + insn(0x61, 8, 6, 80)


def need(size: int) -> bytes:
    return (insn(0xBF, 2, 7) + insn(0x07, 2, 0, 0, size) + insn(0xBD, 2, 8, 2)
            + insn(0xB7, 0, 0, 0, 9) + EXIT)


def xdp_helpers() -> None:
    """adjust_head, adjust_meta, adjust_tail, load_bytes, store_bytes, get_buff_len, redirect."""
    for number in (44, 54, 65):
        for by in (0, 4, -4, 5, -13, 50, 51, -216, -217, 3456, 3457, -50, -252, -256, 1 << 30):
            code = insn(0xB7, 2, 0, 0, by) + call(number) + EXIT
            fd = load(XDP, code)
            say(f"xdp {number} by {by}", run(fd, PACKET, OUT, struct.pack("<6I", 8, 64, *[0] * 4),
                                             24))
            say(f"xdp {number} by {by}, no context", run(fd, PACKET))
            say(f"xdp {number} by {by}, five times", run(fd, PACKET, repeat=5))
            for size in (3521, 7000, 7616, 7617, 8000):
                say(f"xdp {number} by {by}, {size} bytes", run(fd, b"\3" * size))
    for number in (189, 190):
        for off, size in ((0, 1), (0, 64), (1, 64), (63, 1), (64, 1), (0xFFFF, 1), (0x10000, 1),
                          (3519, 2), (3000, 64)):
            code = (insn(0xBF, 6, 1)
                    + b"".join(insn(0x7A, 10, 0, -8 * n, 0x01020304) for n in range(1, 9))
                    + insn(0xB7, 2, 0, 0, off) + insn(0xBF, 3, 10) + insn(0x07, 3, 0, 0, -64)
                    + insn(0xB7, 4, 0, 0, size) + call(number) + insn(0xBF, 7, 0)
                    + insn(0x79, 0, 10, 0, -64) + insn(0x0F, 0, 7) + EXIT)
            code = code.replace(insn(0x79, 0, 10, 0, -64), insn(0x79, 0, 10, -64))
            fd = load(XDP, code)
            for length in (64, 3520, 3540):
                say(f"xdp {number} {off}+{size} of {length}",
                    run(fd, bytes(range(64)) * 60, data_size_in=length))
    fd = load(XDP, call(188) + EXIT)
    for size in (14, 64, 4000):
        say(f"xdp length {size}", run(fd, bytes(size)))
    for kind in (XDP, CLS):
        for flags in (0, 1, 2):
            fd = load(kind, insn(0xB7, 1, 0, 0, 1) + insn(0xB7, 2, 0, 0, flags) + call(23) + EXIT)
            say(f"type {kind} redirect, flags {flags}", run(fd, PACKET))


def packets() -> None:
    """Loads and stores in the packet, by pointer."""
    for kind, data in ((XDP, DATA), (CLS, SKB_DATA)):
        for size in (14, 20, 64, 65):
            code = (data + need(size) + insn(0x61, 0, 7, size - 4) + insn(0x73, 7, 0, 3)
                    + insn(0x6A, 7, 0, 6, 0x1234) + EXIT)
            say(f"type {kind}, the first {size} bytes", run(load(kind, code), PACKET))
        code = data + insn(0xBF, 0, 8) + insn(0x1F, 0, 7) + EXIT
        say(f"type {kind}, end - data", run(load(kind, code), PACKET))
    meta = insn(0xBF, 6, 1) + insn(0x61, 7, 6, 8) + insn(0x61, 8, 6, 0)
    code = meta + need(4) + insn(0x61, 0, 7, 0) + insn(0x62, 7, 0, 0, 0x55) + EXIT
    say("xdp metadata", run(load(XDP, code), PACKET, OUT, struct.pack("<6I", 8, 64, *[0] * 4), 24))


def skb_call(number: int, *args: Any) -> bytes:
    """ctx, then constants; 'buf' is 64 bytes of stack; R0 + the first 8 bytes of buf."""
    code = insn(0xBF, 6, 1) + b"".join(
        insn(0x7A, 10, 0, -8 * n, 0x11223344 * n) for n in range(1, 9))
    code += insn(0xBF, 1, 6)
    for regno, value in enumerate(args, 2):
        if value == "buf":
            code += insn(0xBF, regno, 10) + insn(0x07, regno, 0, 0, -64)
        else:
            code += insn(0xB7, regno, 0, 0, value)
    return (code + call(number) + insn(0xBF, 7, 0) + insn(0x79, 0, 10, -64) + insn(0x0F, 0, 7)
            + EXIT)


def skb_helpers() -> None:
    """Everything that skb programs do to a packet by calls."""
    cases: list[tuple[Any, ...]] = []
    for off, size in ((0, 14), (0, 64), (50, 14), (51, 14), (63, 1), (64, 1), (-1, 4), (14, 20)):
        cases += [(26, off, "buf", size), (9, off, "buf", size, 0), (9, off, "buf", size, 3)]
        cases += [(68, off, "buf", size, start) for start in (0, 1, 2)]
    cases += [(9, 0, "buf", 4, 4), (68, 0x10000, "buf", 1, 0)]
    for flags in (0, 2, 4, 1, 3, 5, 16, 32, 33, 34, 36, 52, 64, 98, 128, 130, 256):
        for off in (24, 25, 62, 63, 0x10000):
            for old, new in ((0, 0), (0, 0x1234), (0x1234, 0x4321), (0xFFFF, 0),
                             (0x12345678, 0x7EDCBA98)):
                cases += [(10, off, old, new, flags), (11, off, old, new, flags)]
    cases += [(39, size) for size in (0, 1, 64, 65)]
    cases += [(38, size, 0) for size in (0, 13, 14, 15, 64, 65, 1500, 3712, 16064, 16065, 65536)]
    cases += [(38, 64, 1), (43, 0, 0), (43, 4, 0), (43, 4, 1), (43, 1000, 0), (43, 16000, 0),
              (43, 16001, 0), (43, -1, 0), (40, 5), (32, 0), (32, 3), (32, 4)]
    for number, *args in cases:
        for kind in (SOCKET, CLS, CGROUP_SKB, LWT_XMIT):
            fd = load(kind, skb_call(number, *args))
            if fd >= 0:
                say(f"type {kind}: {number} {args}", run(fd, IPV4[:64], OUT, bytes(192), 192))
    fd = load(CLS, insn(0xBF, 6, 1) + insn(0xB7, 2, 0, 0, 77) + call(48) + insn(0xBF, 1, 6)
              + call(34) + insn(0xBF, 7, 0) + insn(0x61, 0, 6, 68) + insn(0x0F, 0, 7) + EXIT)
    say("set_hash, get_hash_recalc", run(fd, IPV4))
    fd = load(CLS, insn(0xBF, 6, 1) + insn(0xB7, 2, 0, 0, 77) + call(48) + insn(0xBF, 1, 6)
              + call(41) + insn(0x61, 0, 6, 68) + EXIT)
    say("set_hash, set_hash_invalid", run(fd, IPV4))
    # bytes that a segmented packet told are forgotten when it is cut
    fd = load(CLS, skb_call(38, 30, 0))
    say("change_tail of gso", run(fd, IPV4, OUT, skb(gso_size=10, gso_segs=3), 192))


def csum_diff() -> None:
    for kind in (XDP, CLS):
        for old, new in ((0, 8), (8, 0), (8, 8), (0, 0), (4, 8), (3, 8), (8, 5), (64, 4)):
            for seed in (0, 1, 0xFFFF, 0x7FFFFFFF, -1):
                code = b"".join(insn(0x7A, 10, 0, -8 * n, 0x7F223344 * n) for n in range(1, 9))
                code += insn(0xBF, 1, 10) + insn(0x07, 1, 0, 0, -64) + insn(0xB7, 2, 0, 0, old)
                code += insn(0xBF, 3, 10) + insn(0x07, 3, 0, 0, -64) + insn(0xB7, 4, 0, 0, new)
                code += insn(0xB7, 5, 0, 0, seed) + call(28) + EXIT
                fd = load(kind, code)
                if fd >= 0:
                    say(f"type {kind}, csum_diff {old} {new} {seed}", run(fd, PACKET))


def ld_abs() -> None:
    """BPF_LD_ABS and BPF_LD_IND, headers and ends."""
    for kind in (SOCKET, CLS):
        for code in (0x20, 0x28, 0x30):
            for off in (0, 1, 10, 12, 45, 46, 47, 48, 49, 50, 60, 61, 62, 63, 64, 0x7FFFFFFF,
                        -0x100000, -0x100000 + 4, -0x100000 + 46, -0x100000 + 50, -0x200000,
                        -0x200000 + 12, -0x200000 + 64, -0x1000, -1, -0x200001, -0x100001):
                body = insn(0xBF, 6, 1) + insn(code, 0, 0, 0, off) + EXIT
                say(f"type {kind}, abs {code:#x} {off}", run(load(kind, body), IPV4[:64]))
                for reg in (0, 1, 3, 8):
                    body = (insn(0xBF, 6, 1) + insn(0xB7, reg, 0, 0, off)
                            + insn(code + 0x20, 0, reg, 0, 2) + EXIT)
                    say(f"type {kind}, ind {code:#x} {off} r{reg}", run(load(kind, body),
                                                                       IPV4[:64]))


def memory() -> None:
    """Contexts that are memory: raw tracepoints and syscall programs."""
    add = insn(0x79, 0, 1, 0) + insn(0x79, 2, 1, 8) + insn(0x0F, 0, 2) + EXIT
    store = insn(0x79, 0, 1, 0) + insn(0x7B, 1, 0, 8) + insn(0x72, 1, 0, 3, 0x77) + EXIT
    words = struct.pack("<QQ", 40, 2)
    for kind, code in ((RAW_TP, add), (SYSCALL, add), (SYSCALL, store)):
        fd = load(kind, code)
        for size in (8, 12, 15, 16, 17, 24, 96, 97, 4096):
            say(f"type {kind}, {len(code)}, {size} bytes",
                run(fd, None, None, (words + bytes(5000))[:size]))
    fd = load(SYSCALL, ret(0))
    for size in (65534, 65535, 65536):
        say(f"syscall context of {size}", {k: v for k, v in run(
            fd, None, None, bytes(size)).items() if k != "ctx_in"})
    cpu = load(RAW_TP, call(8) + EXIT)
    for number in (0, 1):
        say(f"on CPU {number}", run(cpu, None, None, flags=1, cpu=number))
    say("on a CPU too many", run(cpu, None, None, flags=1, cpu=100000))
    say("a syscall program that may not sleep", {"fd": min(load(SYSCALL, ret(0), flags=0), 0)})
    say("an XDP program that may", {"fd": min(load(XDP, ret(0), flags=SLEEPABLE), 0)})


COUNT = (insn(0x79, 0, 4, 0) + insn(0x07, 0, 0, 0, 1) + insn(0x7B, 4, 0, 0)
         + insn(0x61, 1, 3, 0) + insn(0x79, 0, 4, 8) + insn(0x0F, 0, 1) + insn(0x7B, 4, 0, 8))
ON, STOP = insn(0xB7, 0, 0, 0, 0), insn(0xB7, 0, 0, 0, 1)


def for_each(fd: int, body: bytes, flags: int, after: bytes) -> tuple[bytes, int]:
    """bpf_for_each_map_elem with 16 bytes of stack as the callback's context (R4), R9 = what it
    returned; and where the body begins."""
    main = (insn(0xBF, 6, 1) + insn(0x7A, 10, 0, -8, 0) + insn(0x7A, 10, 0, -16, 0)
            + insn(0x18, 1, 1, 0, fd) + insn(0))
    rest = (insn(0xBF, 3, 10) + insn(0x07, 3, 0, 0, -16) + insn(0xB7, 4, 0, 0, flags) + call(164)
            + insn(0xBF, 9, 0) + after + EXIT)
    entry = len(main) // 8 + 2 + len(rest) // 8
    func = insn(0x18, 2, 4, 0, entry - len(main) // 8 - 1) + insn(0)
    return main + func + rest + body + EXIT, entry


def callbacks() -> None:
    """bpf_for_each_map_elem over every map that has it; callbacks that delete and that stop."""
    btf_fd = load_btf()
    results = (insn(0xBF, 0, 9), insn(0x79, 0, 10, -16), insn(0x79, 0, 10, -8))
    # a count that ends at 3: the verifiers go through its values
    third = (insn(0x79, 5, 4, 0) + insn(0x35, 5, 0, 1, 3) + insn(0x07, 5, 0, 0, 1)
             + insn(0x7B, 4, 5, 0) + ON + insn(0xA5, 5, 0, 1, 3) + STOP)
    maps = ((1, 0), (2, 0), (5, 0), (6, 0), (9, 0), (10, 0), (1, 1), (5, 1))
    for kind, map_flags in maps:
        for entries, filled in ((1, 1), (200, 0), (200, 150), (3, 3)):
            for name, body in (("all", COUNT + ON), ("three", third), ("delete", None)):
                for flags in (0, 1):
                    fd = create(kind, 4, 8, entries, map_flags)
                    if filled < 200 and name == "three" and filled == 0:
                        continue
                    for n in range(filled):
                        element(2, fd, struct.pack("<I", n), struct.pack("<Q", n + 1) * 600)
                    code = body or delete_body(fd)
                    got = []
                    for after in results:
                        program, entry = for_each(fd, code, flags, after)
                        prog = load(XDP, program, 0, 0, entry, btf_fd)
                        row = run(prog, PACKET, None)
                        got.append([row["ret"], row["retval"]])
                        if name != "all":
                            break
                    left = sum(element(1, fd, struct.pack("<I", n))[0] == 0
                               for n in range(min(entries, 200)))
                    say(f"map {kind} {map_flags}, {filled} of {entries}, {name}, flags {flags}",
                        {"got": got, "left": left})


def delete_body(fd: int) -> bytes:
    """Deletes the element whose key it is given."""
    return COUNT + insn(0x18, 1, 1, 0, fd) + insn(0) + call(3) + ON


def locks() -> None:
    """Values under bpf_spin_lock in a program, and BPF_F_LOCK from outside."""
    btf_fd = load_btf()
    for kind in (1, 2):
        fd = create(kind, 4, 16, 4, 0, btf_fd)
        value = struct.pack("<IIQ", 1, 0xFFFFFFFF, 5)
        say(f"map {kind}, put", {"ret": element(2, fd, bytes(4), value)[0]})
        say(f"map {kind}, put with F_LOCK", {"ret": element(2, fd, bytes(4), value, 4)[0]})
        code = (insn(0xBF, 6, 1) + insn(0x62, 10, 0, -4, 0) + insn(0xBF, 2, 10)
                + insn(0x07, 2, 0, 0, -4) + insn(0x18, 1, 1, 0, fd) + insn(0) + call(1)
                + insn(0x55, 0, 0, 1, 0) + EXIT + insn(0xBF, 7, 0) + insn(0xBF, 1, 7)
                + insn(0x07, 1, 0, 0, 4) + call(93) + insn(0x79, 1, 7, 8)
                + insn(0x07, 1, 0, 0, 1) + insn(0x7B, 7, 1, 8) + insn(0xBF, 1, 7)
                + insn(0x07, 1, 0, 0, 4) + call(94) + insn(0x79, 0, 7, 8) + EXIT)
        for prog_kind in (CLS, XDP, CGROUP_SKB, SYSCALL, SOCKET, KPROBE):
            prog = load(prog_kind, code if prog_kind != CGROUP_SKB else code[:-16] + ret(1))
            if prog >= 0:
                say(f"map {kind}, type {prog_kind}", run(
                    prog, *((None, None) if prog_kind == SYSCALL else (PACKET, None)),
                    repeat=0 if prog_kind == SYSCALL else 100))
            else:
                say(f"map {kind}, type {prog_kind}", {"ret": prog})
        for flags in (0, 4):
            got, raw = element(1, fd, bytes(4), b"", flags)
            say(f"map {kind}, got with {flags}", {"ret": got, "value": raw[:16].hex()})


def on_stack(text: bytes, into: int, at_: int) -> bytes:
    """R[into] = the address of the text, at fp - at_."""
    text = text.ljust(-(-len(text) // 8) * 8, b"\0")
    code = b""
    for n in range(0, len(text), 8):
        low, high = struct.unpack_from("<II", text, n)
        code += insn(0x18, 0, 0, 0, low) + insn(0, 0, 0, 0, high) + insn(0x7B, 10, 0, n - at_)
    return code + insn(0xBF, into, 10) + insn(0x07, into, 0, 0, -at_)


def strings() -> None:
    """bpf_strtol, bpf_strtoul, bpf_strncmp."""
    texts = (b"0", b"7", b" -12x", b"-0", b"0x1f", b"0X1fg", b"0x", b"0xg", b"08", b"017", b"",
             b"-", b" ", b"\t\n\v\f\r 5", b"+5", b"--5", b"9223372036854775807",
             b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809",
             b"18446744073709551615", b"18446744073709551616", b"ffffffffffffffff",
             b"1" * 70, b"0" * 62 + b"12", b"12\0003", b"\xa07", b"abc", b"0x-1", b"99z")
    for text in texts:
        for number in (105, 106):
            for flags in (0, 8, 10, 16, 2, 32, 48):
                for part in ("result", "value", "high"):
                    code = (on_stack(text + b"\0", 6, 160) + insn(0x7A, 10, 0, -8, 77)
                            + insn(0xBF, 1, 6) + insn(0xB7, 2, 0, 0, max(len(text), 1))
                            + insn(0xB7, 3, 0, 0, flags) + insn(0xBF, 4, 10)
                            + insn(0x07, 4, 0, 0, -8) + call(number))
                    if part != "result":
                        code += insn(0x79, 0, 10, -8)
                    if part == "high":
                        code += insn(0x77, 0, 0, 0, 32)
                    if part == "result" or flags == 0:
                        say(f"{number} {text!r} {flags} {part}",
                            run(load(XDP, code + EXIT), PACKET, None))
    for constant in (b"hello", b"", b"hellp", b"he"):
        fd = create(2, 4, 8, 1, 1 << 7)  # BPF_F_RDONLY_PROG
        element(2, fd, bytes(4), constant)
        bpf(22, struct.pack("<I12x", fd))  # MAP_FREEZE
        for text in (b"hello", b"hellz", b"h", b"helloworld", b"\xff", b"\0"):
            for size in (1, 2, 5, 6, 10):
                code = (on_stack(text.ljust(16, b"\0"), 6, 32) + insn(0xBF, 1, 6)
                        + insn(0xB7, 2, 0, 0, size) + insn(0x18, 3, 2, 0, fd) + insn(0)
                        + call(182) + EXIT)
                say(f"strncmp {text!r} {constant!r} {size}", run(load(XDP, code), PACKET, None))


def tasks() -> None:
    """Who runs and when, and reads that may sleep."""
    there = os.stat("/proc/self/ns/pid")
    for dev, ino, size in ((there.st_dev, there.st_ino, 8), (there.st_dev, there.st_ino, 4),
                           (there.st_dev + 1, there.st_ino, 8), (there.st_dev, 1, 8)):
        for off in (None, -8, -4):
            code = (insn(0x7A, 10, 0, -8, 5) + insn(0x18, 1, 0, 0, dev) + insn(0, 0, 0, 0, 0)
                    + insn(0x18, 2, 0, 0, ino) + insn(0, 0, 0, 0, ino >> 32) + insn(0xBF, 3, 10)
                    + insn(0x07, 3, 0, 0, -8) + insn(0xB7, 4, 0, 0, size) + call(120))
            if off is not None:
                code += insn(0x61, 0, 10, off)
            row = run(load(XDP, code + EXIT), PACKET, None)
            if row["retval"] == os.getpid():
                row["retval"] = -1
            say(f"namespace {dev - there.st_dev} {ino - there.st_ino} {size} {off}", row)
    # later is not earlier, and a day is short
    for number in (5, 125, 208, 118, 160):
        code = (call(number) + insn(0xBF, 6, 0) + call(number) + insn(0x1F, 0, 6)
                + insn(0x18, 1, 0, 0, 86400 * 10**9 & 0xFFFFFFFF)
                + insn(0, 0, 0, 0, 86400 * 10**9 >> 32) + insn(0xBD, 0, 1, 1) + ret(1) + ret(0))
        code = code.replace(insn(0xBD, 0, 1, 1) + ret(1), insn(0xBD, 0, 1, 2) + ret(1))
        say(f"clock {number}", run(load(XDP, code), PACKET, None))
    data = ctypes.create_string_buffer(b"user data", 16)
    for kind in (XDP, SYSCALL):
        for address in (at(data), 8, 0):
            code = (insn(0x7A, 10, 0, -8, 5) + insn(0xBF, 1, 10) + insn(0x07, 1, 0, 0, -8)
                    + insn(0xB7, 2, 0, 0, 8) + insn(0x18, 3, 0, 0, address & 0xFFFFFFFF)
                    + insn(0, 0, 0, 0, address >> 32) + call(148) + insn(0x79, 1, 10, -8)
                    + insn(0x0F, 0, 1) + EXIT)
            fd = load(kind, code)
            row = run(fd, None, None) if fd >= 0 else {"ret": fd}
            say(f"type {kind}, copy_from_user, {min(address, 9)}", row)


def timed(fd: int, steps: bytes, body: bytes, after: bytes = b"") -> tuple[bytes, int]:
    """R6 = the value of key 0; steps; bpf_timer_set_callback; after; R0 = R8. And where the
    callback begins, which has R6 = its value."""
    main = (insn(0x62, 10, 0, -4, 0) + insn(0xBF, 2, 10) + insn(0x07, 2, 0, 0, -4)
            + insn(0x18, 1, 1, 0, fd) + insn(0) + call(1) + insn(0x55, 0, 0, 1, 0) + EXIT
            + insn(0xBF, 6, 0) + insn(0xB7, 8, 0, 0, 77) + steps + TIMER)
    rest = call(170) + (after or insn(0xBF, 8, 0)) + insn(0xBF, 0, 8) + EXIT
    entry = len(main) // 8 + 2 + len(rest) // 8
    func = insn(0x18, 2, 4, 0, entry - len(main) // 8 - 1) + insn(0)
    return main + func + rest + insn(0xBF, 6, 3) + body + ON + EXIT, entry


TIMER = insn(0xBF, 1, 6) + insn(0x07, 1, 0, 0, 8)


def init(fd: int, flags: int = 1) -> bytes:
    return TIMER + insn(0x18, 2, 1, 0, fd) + insn(0) + insn(0xB7, 3, 0, 0, flags) + call(169)


def start(ns: int, flags: int = 0) -> bytes:
    return TIMER + insn(0xB7, 2, 0, 0, ns) + insn(0xB7, 3, 0, 0, flags) + call(171)


HIT = insn(0x79, 1, 6, 24) + insn(0x07, 1, 0, 0, 1) + insn(0x7B, 6, 1, 24)
RESULT = insn(0xBF, 8, 0)


def timers() -> None:
    """bpf_timer: results of its calls, and callbacks that run."""
    import time

    btf_fd = load_btf()

    def hits(fd: int, wanted: int) -> int:
        """The count in the value, once it is `wanted` or three seconds are over."""
        end = time.monotonic() + 3
        while True:
            got = struct.unpack_from("<Q", element(1, fd, bytes(4))[1], 24)[0]
            if got >= wanted or time.monotonic() > end:
                return int(got)
            time.sleep(0.001)

    again = HIT + insn(0x35, 1, 0, 5, 3) + start(1000)
    def by_clock(number: int) -> Callable[[int], bytes]:
        return lambda fd: init(fd, number) + RESULT

    cases: tuple[tuple[str, Callable[[int], bytes], bytes, bytes, int], ...] = (
        ("init", lambda fd: init(fd) + RESULT, HIT, RESULT, 0),
        ("init twice", lambda fd: init(fd) + init(fd) + RESULT, HIT, insn(0xBF, 0, 0), 0),
        *((f"init with clock {n}", by_clock(n), HIT, insn(0xBF, 0, 0), 0)
          for n in (0, 2, 7, 8, 16, 17)),
        ("set without init", lambda fd: b"", HIT, b"", 0),
        ("start without init", lambda fd: start(0) + RESULT, HIT, insn(0xBF, 0, 0), 0),
        ("start without set", lambda fd: init(fd) + start(0) + RESULT, HIT, insn(0xBF, 0, 0), 0),
        ("cancel without init", lambda fd: TIMER + call(172) + RESULT, HIT, insn(0xBF, 0, 0), 0),
        ("once", init, HIT, start(0) + RESULT, 1),
        ("in a while", init, HIT, start(2000000) + RESULT, 1),
        ("wrong flags", init, HIT, start(0, 4) + RESULT, 0),
        ("at a time that is over", init, HIT, start(1, 1) + RESULT, 1),
        ("three times", init, again, start(0) + RESULT, 3),
        ("cancelled", init, HIT, start(1 << 30) + TIMER + call(172) + RESULT, 0),
        ("cancelled, not started", init, HIT, TIMER + call(172) + RESULT, 0),
        ("started after a cancel", init, HIT, TIMER + call(172) + start(0) + RESULT, 0),
        ("cancelled by itself", init, TIMER + call(172) + insn(0x7B, 6, 0, 24),
         start(0) + RESULT, 1),
        ("its key", init, insn(0x61, 1, 2, 0) + insn(0x07, 1, 0, 0, 5) + insn(0x7B, 6, 1, 24),
         start(0) + RESULT, 5),
    )  # fmt: skip
    for kind in (1, 2, 9):
        for name, steps, body, after, wanted in cases:
            for prog_kind in (CLS, SYSCALL):
                if prog_kind == SYSCALL and (kind != 2 or name != "once"):
                    continue
                fd = create(kind, 4, 32, 4, 0, btf_fd, 11)
                element(2, fd, bytes(4), bytes(32))
                code, entry = timed(fd, steps(fd), body, after)
                prog = load(prog_kind, code, 0, None, entry, btf_fd)
                row = run(prog, None if prog_kind == SYSCALL else PACKET, None)
                count = hits(fd, wanted)
                say(f"map {kind}, type {prog_kind}, {name}", {**row, "hits": count})
    # an element that is gone has no timer
    fd = create(1, 4, 32, 4, 0, btf_fd, 11)
    element(2, fd, bytes(4), bytes(32))
    code, entry = timed(fd, init(fd), HIT, start(30000000) + RESULT)
    row = run(load(CLS, code, 0, None, entry, btf_fd), PACKET, None)
    element(3, fd, bytes(4))
    element(2, fd, bytes(4), bytes(32))
    time.sleep(0.06)  # until it would have come
    say("of an element that was deleted", {**row, "hits": hits(fd, 0)})


def interrupted() -> None:
    """A signal with a handler ends a long run; one that is ignored does not."""
    import signal

    seen: list[int] = []
    fd = load(XDP, ret(2))
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    say("a handler", {**run(fd, PACKET, None, repeat=1 << 31), "handled": list(seen)})
    os.kill(os.getpid(), signal.SIGUSR1)
    say("ignored", run(fd, PACKET, None, repeat=200000))


def threads() -> None:
    """Eight threads run one program, whose counter is exact."""
    import threading

    fd = create(2, 4, 8, 1)
    code = (insn(0x18, 1, 2, 0, fd) + insn(0) + insn(0xB7, 2, 0, 0, 1) + insn(0xDB, 1, 2)
            + ret(2))
    prog = load(XDP, code)
    rows: list[int] = []

    def go() -> None:
        rows.extend(run(prog, PACKET, None, repeat=1000)["ret"] for _ in range(10))

    workers = [threading.Thread(target=go) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    count = struct.unpack_from("<Q", element(1, fd, bytes(4))[1])[0]
    say("threads", {"ret": rows, "count": count})


def contend() -> None:
    """Processes run one program under one lock; some are killed at it. The lock of the dead is
    taken over, and what it protects is behind by at most one for each of them."""
    import signal
    import time

    fd = create(2, 4, 16, 1, 0, load_btf())
    element(2, fd, bytes(4), bytes(16))
    code = (insn(0x62, 10, 0, -4, 0) + insn(0xBF, 2, 10) + insn(0x07, 2, 0, 0, -4)
            + insn(0x18, 1, 1, 0, fd) + insn(0) + call(1) + insn(0x55, 0, 0, 1, 0) + EXIT
            + insn(0xBF, 7, 0) + insn(0xBF, 1, 7) + insn(0x07, 1, 0, 0, 4) + call(93)
            + insn(0x61, 1, 7, 0) + insn(0x07, 1, 0, 0, 1) + insn(0x63, 7, 1, 0)
            + insn(0x79, 1, 7, 8) + insn(0x07, 1, 0, 0, 1) + insn(0x7B, 7, 1, 8)
            + insn(0xBF, 1, 7) + insn(0x07, 1, 0, 0, 4) + call(94) + ret(2))
    prog = load(XDP, code)
    run(prog, PACKET, None)
    killed = 0
    for round_ in range(12):
        children = []
        for _ in range(3):
            pid = os.fork()
            if not pid:
                while True:
                    run(prog, PACKET, None, repeat=1000)
            children.append(pid)
        time.sleep(0.02 + 0.003 * round_)  # long enough to be at it
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
    row = run(prog, PACKET, None, repeat=1000)
    first, _, second = struct.unpack_from("<IIQ", element(1, fd, bytes(4))[1])
    say("contend", {**row, "behind": not 0 <= (first - second) & 0xFFFFFFFF <= killed,
                    "some": first > 1000})


def differences() -> None:
    """What is not there in userspace (docs/parity.md): not compared."""
    vlan = insn(0xB7, 2, 0, 0, 8) + insn(0xB7, 3, 0, 0, 1) + call(18) + EXIT
    say("a helper that is not there", run(load(CLS, vlan), PACKET, None))
    say("live frames", run(load(XDP, ret(2)), PACKET, None, flags=2))
    say("a checksum over the packet", run(load(CLS, ret(2)), PACKET, None, flags=4))


PARTS = {f.__name__: f for f in (sizes, fields, skb_contexts, xdp_contexts, xdp_helpers, packets,
                                 skb_helpers, csum_diff, ld_abs, memory, callbacks,
                                 locks, strings, tasks, timers, interrupted,
                                 threads, contend)}  # fmt: skip

if __name__ == "__main__":
    assert errno.ENOSYS
    for part in sys.argv[1:] or PARTS:
        PARTS.get(part, differences)()
