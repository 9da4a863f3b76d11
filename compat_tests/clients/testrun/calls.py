"""Callbacks for the elements of maps, locks, strings, who runs and when."""

import ctypes
import itertools
import os
import struct

from compat_tests.clients.testrun.bpf import (
    CGROUP_SKB,
    CLS,
    EXIT,
    KPROBE,
    PACKET,
    SOCKET,
    SYSCALL,
    XDP,
    at,
    bpf,
    call,
    create,
    element,
    insn,
    load,
    load_btf,
    ret,
    run,
    say,
)

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


def to_number(number: int, size: int, fd: int) -> bytes:
    """bpf_strtol (105) or bpf_strtoul (106) of so many bytes of the map's text, by its flags, into
    the stack's first word, where 77 was."""
    return (insn(0x18, 6, 2, 0, fd) + insn(0) + insn(0x7A, 10, 0, -8, 77) + insn(0xBF, 1, 6)
            + insn(0x07, 1, 0, 0, 8) + insn(0xB7, 2, 0, 0, size) + insn(0x79, 3, 6, 0)
            + insn(0xBF, 4, 10) + insn(0x07, 4, 0, 0, -8) + call(number))


def strings() -> None:
    """bpf_strtol, bpf_strtoul, bpf_strncmp."""
    texts = (b"0", b"7", b" -12x", b"-0", b"0x1f", b"0X1fg", b"0x", b"0xg", b"08", b"017", b"",
             b"-", b" ", b"\t\n\v\f\r 5", b"+5", b"--5", b"9223372036854775807",
             b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809",
             b"18446744073709551615", b"18446744073709551616", b"ffffffffffffffff",
             b"1" * 70, b"0" * 62 + b"12", b"12\0003", b"\xa07", b"abc", b"0x-1", b"99z")
    fd = create(2, 4, 80, 1)  # flags, 72 bytes of text
    texts_of = {size: [text for text in texts if max(len(text), 1) == size]
                for size in {max(len(text), 1) for text in texts}}
    for number, size in itertools.product((105, 106), sorted(texts_of)):
        progs = [load(XDP, to_number(number, size, fd) + after + EXIT) for after in (
            b"", insn(0x79, 0, 10, -8), insn(0x79, 0, 10, -8) + insn(0x77, 0, 0, 0, 32))]
        for text, flags in itertools.product(texts_of[size], (0, 8, 10, 16, 2, 32, 48)):
            element(2, fd, bytes(4), struct.pack("<Q", flags) + text)
            for part, prog in zip(("result", "value", "high"), progs, strict=True):
                say(f"{number} {text!r} {flags} {part}", run(prog, PACKET, None))
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
