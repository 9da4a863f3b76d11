"""What programs are given: packets of all sizes, and contexts whose fields are set."""

import struct

from compat_tests.clients.testrun.bpf import (
    CGROUP_SKB,
    CLS,
    EXIT,
    IPV4,
    KPROBE,
    LWT_IN,
    LWT_XMIT,
    OUT,
    PACKET,
    PERF,
    RAW_TP,
    SOCKET,
    SYSCALL,
    TP,
    XDP,
    call,
    insn,
    load,
    ret,
    run,
    say,
    skb,
)


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
