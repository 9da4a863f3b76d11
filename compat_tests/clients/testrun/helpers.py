"""Helpers of packet programs, packets by BPF_LD_ABS and BPF_LD_IND, contexts that are memory."""

import struct
from typing import Any

from compat_tests.clients.testrun.bpf import (
    CGROUP_SKB,
    CLS,
    EXIT,
    IPV4,
    LWT_XMIT,
    OUT,
    PACKET,
    RAW_TP,
    SLEEPABLE,
    SOCKET,
    SYSCALL,
    XDP,
    call,
    insn,
    load,
    ret,
    run,
    say,
    skb,
)


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


def csum_replace() -> None:
    """bpf_l3_csum_replace and bpf_l4_csum_replace, whose arguments are cb[0..3]."""
    for number in (10, 11):
        code = insn(0xBF, 6, 1) + b"".join(insn(0x61, n + 2, 6, 48 + 4 * n) for n in range(4))
        code += insn(0xBF, 1, 6) + call(number) + EXIT
        for kind in (CLS, LWT_XMIT):
            fd = load(kind, code)
            for flags in (0, 2, 4, 1, 3, 5, 16, 32, 33, 34, 36, 52, 64, 98, 128, 130, 256):
                for off in (24, 25, 62, 63, 0x10000):
                    for old, new in ((0, 0), (0, 0x1234), (0x1234, 0x4321), (0xFFFF, 0),
                                     (0x12345678, 0x7EDCBA98)):
                        ctx = bytes(48) + struct.pack("<4I", off, old, new, flags) + bytes(128)
                        say(f"type {kind}: {number} {off} {old:#x} {new:#x} {flags}",
                            run(fd, IPV4[:64], OUT, ctx, 192))


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


OFFSETS = (0, 1, 10, 12, 45, 46, 47, 48, 49, 50, 60, 61, 62, 63, 64, 0x7FFFFFFF, -0x100000,
           -0x100000 + 4, -0x100000 + 46, -0x100000 + 50, -0x200000, -0x200000 + 12,
           -0x200000 + 64, -0x1000, -1, -0x200001, -0x100001)


def ld_abs() -> None:
    """BPF_LD_ABS and BPF_LD_IND, headers and ends."""
    for kind in (SOCKET, CLS):
        for code in (0x20, 0x28, 0x30):
            for off in OFFSETS:
                body = insn(0xBF, 6, 1) + insn(code, 0, 0, 0, off) + EXIT
                say(f"type {kind}, abs {code:#x} {off}", run(load(kind, body), IPV4[:64]))
            for reg in (0, 1, 3, 8):  # the offset is cb[0], with its sign
                body = (insn(0xBF, 6, 1) + insn(0x61, reg, 6, 48) + insn(0x67, reg, 0, 0, 32)
                        + insn(0xC7, reg, 0, 0, 32) + insn(code + 0x20, 0, reg, 0, 2) + EXIT)
                fd = load(kind, body)
                for off in OFFSETS:
                    ctx = bytes(48) + struct.pack("<I", off & 0xFFFFFFFF) + bytes(140)
                    say(f"type {kind}, ind {code:#x} {off} r{reg}", run(fd, IPV4[:64], OUT, ctx))


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
