"""bpf(2) by ctypes: maps, programs and their test runs, each of which is a line of JSON."""

import ctypes
import json
import struct
import sys
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
