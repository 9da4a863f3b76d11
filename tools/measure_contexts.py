"""Measures which accesses of a context Linux allows: one program an access, loaded as root.

    python tools/measure_contexts.py > libbpf_shim/verifier/memory/context_table.py

Each program is `r2 = *(SIZE *)(r1 + OFF); r0 = 1; exit`, or the store of a zero there, for every
size at every aligned offset; the state that the log prints says what was loaded. Needs bpf(2) as
root, and shared/tools/oracle.py, which calls it.
"""

from __future__ import annotations

import importlib.util
import re
import struct
from pathlib import Path
from types import ModuleType

ORACLE = Path(__file__).parents[2] / "shared" / "tools" / "oracle.py"
EXIT = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0)  # r0 = 1; exit
SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}  # BPF_B, BPF_H, BPF_W, BPF_DW
LDX, STX = 0x61, 0x63
END = 288  # bytes to look at: more than any context has
# what the log calls it, and verifier/state.py
KINDS = {
    "scalar": "SCALAR", "pkt": "PKT", "pkt_end": "PKT_END", "pkt_meta": "PKT_META",
    "sock": "SOCK", "sock_or_null": "SOCK | MAYBE_NULL",
    "sock_common_or_null": "SOCK_COMMON | MAYBE_NULL", "flow_keys": "FLOW_KEYS",
    "tp_buffer": "TP_BUFFER",
}  # fmt: skip
Row = tuple[int, int, int, int, str]  # first and last byte, sizes to read, sizes to write, kind
# program types, the attach types that tell them apart, and what the context is
SUBJECTS: tuple[tuple[int, tuple[int, ...], str], ...] = (
    (1, (0,), "socket filter: struct __sk_buff"),
    (2, (0,), "kprobe: struct pt_regs, x86-64"),
    (3, (0,), "sched_cls: struct __sk_buff"),
    (4, (0,), "sched_act: struct __sk_buff"),
    (6, (0, 33, 35, 37), "XDP; 33: of a device map: struct xdp_md"),
    (7, (0,), "perf event: struct bpf_perf_event_data"),
    (8, (0, 1), "cgroup skb, ingress and egress: struct __sk_buff"),
    (9, (2, 34, 12, 13), "cgroup sock: create, release, IPv4, IPv6 bound: struct bpf_sock"),
    (10, (0,), "lwt in: struct __sk_buff"),
    (11, (0,), "lwt out: struct __sk_buff"),
    (12, (0,), "lwt xmit: struct __sk_buff"),
    (13, (3,), "sock_ops: struct bpf_sock_ops"),
    (14, (4, 5, 38), "sk_skb: struct __sk_buff"),
    (15, (6,), "cgroup device: struct bpf_cgroup_dev_ctx"),
    (16, (7,), "sk_msg: struct sk_msg_md"),
    (17, (0,), "raw tracepoint: its arguments"),
    (18, (8, 9, 10, 11, 14, 15, 19, 20, 29, 30, 31, 32, 49, 50, 51, 52, 53),
     "cgroup sock_addr: struct bpf_sock_addr"),
    (19, (0,), "lwt seg6local: struct __sk_buff"),
    (21, (39, 40), "sk_reuseport: struct sk_reuseport_md"),
    (22, (17,), "flow dissector: struct __sk_buff"),
    (23, (18,), "cgroup sysctl: struct bpf_sysctl"),
    (24, (0,), "raw tracepoint, writable: its arguments"),
    (25, (21, 22), "cgroup sockopt: struct bpf_sockopt"),
    (30, (36,), "sk_lookup: struct bpf_sk_lookup"),
)  # fmt: skip


def oracle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("oracle", ORACLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def insn(code: int, regs: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, regs, off, imm)


def access(
    real: ModuleType, subject: tuple[int, int], off: int, size: int, write: bool, before: bytes
) -> str:
    """What is loaded from r1, in the log's word; of a store: scalar. Empty: the access is refused.
    before: what leads to that r1."""
    if write:
        code = insn(0xB7, 2) + insn(STX | SIZES[size], 1 | 2 << 4, off)
    else:
        code = insn(LDX | SIZES[size], 2 | 1 << 4, off)
    found = real.kernel_verdict(before + code + EXIT, subject[0], license="GPL", log_level=2,
                                expected_attach_type=subject[1])
    if not found.ok:
        refused = "invalid (bpf_context|sock|tcp_sock)|error during ctx access conversion"
        assert write or re.search(refused, found.log), found.log
        return ""
    word = re.search(r" R2=(\w+)", found.log)
    assert write or word, found.log
    return "scalar" if write or not word else word[1]


def runs(offsets: list[int], size: int) -> list[tuple[int, int]]:
    """Offsets that follow one another, as (first, behind the last)."""
    out: list[tuple[int, int]] = []
    for off in offsets:
        if out and out[-1][1] == off:
            out[-1] = (out[-1][0], off + size)
        else:
            out.append((off, off + size))
    return out


def rows(real: ModuleType, subject: tuple[int, int], before: bytes = b"") -> tuple[Row, ...]:
    table: dict[tuple[int, int, str], list[int]] = {}
    for size in SIZES:
        for write in (False, True):
            by: dict[str, list[int]] = {}
            for off in range(0, END, size):
                if word := access(real, subject, off, size, write, before):
                    by.setdefault(word, []).append(off)
            for word, offsets in by.items():
                for lo, hi in runs(offsets, size):
                    table.setdefault((lo, hi, word), [0, 0])[write] |= size
    return tuple((lo, hi, r, w, KINDS[word]) for (lo, hi, word), (r, w) in sorted(table.items()))


def text(row: Row) -> str:
    lo, hi, read, write, kind = row
    return f"({lo}, {hi}, {read}, {write}, {kind})"


# what r1 is led to from the context: a socket of each kind
_SK = insn(0x79, 1 | 1 << 4, 168) + insn(0x55, 1, 2) + EXIT  # r1 = skb->sk
_TCP = _SK + insn(0x85, imm=96) + insn(0x55, 0, 2) + EXIT + insn(0xBF, 1)  # of bpf_tcp_sock(r1)
SOCKETS = (
    ("SOCK_ROWS", (16, 7), insn(0x79, 1 | 1 << 4, 72), "struct bpf_sock"),
    ("SOCK_COMMON_ROWS", (1, 0), _SK, "struct bpf_sock of a socket that is perhaps not whole"),
    ("TCP_SOCK_ROWS", (3, 0), _TCP, "struct bpf_tcp_sock"),
)


def put(name: str, found: tuple[Row, ...]) -> None:
    print(f"{name}: Final[Rows] = (")
    line = "   "
    for row in found:
        if len(line) + len(text(row)) > 97:
            print(line)
            line = "   "
        line += f" {text(row)},"
    print(f"{line}\n)")


HEAD = '''"""Which accesses of its context a program may make, by type and expected attach type.

Measured on Linux 6.18 by tools/measure_contexts.py, which wrote this file: never edited by hand.
A row: an interval of bytes; the sizes that may be read in it and those that may be written (sums
of 1, 2, 4, 8), each aligned to itself; what a load yields.
"""

# fmt: off
from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.state import (
    FLOW_KEYS,
    MAYBE_NULL,
    PKT,
    PKT_END,
    PKT_META,
    SCALAR,
    SOCK,
    SOCK_COMMON,
    TP_BUFFER,
)

Rows = tuple[tuple[int, int, int, int, int], ...]
'''


def main() -> None:
    real = oracle()
    print(HEAD)
    names: dict[tuple[Row, ...], str] = {}
    entries = []
    for kind, attach_types, title in SUBJECTS:
        groups: dict[str, list[int]] = {}
        print(f"# {title}")
        for attach in attach_types:
            found = rows(real, (kind, attach))
            if found not in names:
                names[found] = f"_{kind}" + (f"_{attach}" if len(attach_types) > 1 else "")
                put(names[found], found)
            groups.setdefault(names[found], []).append(attach)
        entries.append((kind, groups))
    for name, subject, before, title in SOCKETS:
        print(f"# {title}")
        put(name, rows(real, subject, before))
    print("# by program type: the rows of some expected attach types, then, without any, of all")
    print("ACCESSES: Final[dict[int, tuple[tuple[tuple[int, ...], Rows], ...]]] = {")
    for kind, groups in entries:
        last = max(groups, key=lambda name: len(groups[name]))
        parts = [f"(({', '.join(map(str, a))},), {n})" for n, a in groups.items() if n != last]
        if kind == 18:  # the others see no address
            parts.append(f"(({', '.join(map(str, groups[last]))},), {last})")
        else:
            parts.append(f"((), {last})")
        line = f"    {kind}: ("
        for part in parts:
            if len(line) + len(part) > 97:
                print(line)
                line = "       "
            line += f"{' ' if line[-1] != '(' else ''}{part},"
        print(f"{line}),")
    print("}")


if __name__ == "__main__":
    main()
