"""Which accesses of its context a program may make, by type and expected attach type.

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

# socket filter: struct __sk_buff
_1: Final[Rows] = (
    (0, 72, 7, 0, SCALAR), (48, 64, 8, 8, SCALAR), (48, 68, 0, 7, SCALAR), (84, 88, 7, 0, SCALAR),
    (164, 168, 7, 0, SCALAR), (168, 176, 8, 0, SOCK_COMMON | MAYBE_NULL), (176, 180, 7, 0, SCALAR),
)
# kprobe: struct pt_regs, x86-64
_2: Final[Rows] = (
    (0, 168, 15, 0, SCALAR),
)
# sched_cls: struct __sk_buff
_3: Final[Rows] = (
    (0, 76, 7, 0, SCALAR), (8, 16, 0, 4, SCALAR), (32, 36, 0, 4, SCALAR), (44, 68, 0, 4, SCALAR),
    (48, 64, 8, 8, SCALAR), (48, 68, 0, 3, SCALAR), (72, 76, 0, 4, SCALAR), (76, 80, 4, 0, PKT),
    (80, 84, 4, 0, PKT_END), (84, 88, 7, 0, SCALAR), (140, 144, 4, 0, PKT_META),
    (152, 160, 8, 8, SCALAR), (160, 168, 7, 0, SCALAR), (168, 176, 8, 0, SOCK_COMMON | MAYBE_NULL),
    (176, 180, 6, 0, SCALAR), (176, 181, 1, 0, SCALAR), (184, 192, 8, 0, SCALAR),
)
# sched_act: struct __sk_buff
# XDP; 33: of a device map: struct xdp_md
_6_0: Final[Rows] = (
    (0, 4, 4, 0, PKT), (4, 8, 4, 0, PKT_END), (8, 12, 4, 0, PKT_META), (12, 20, 4, 0, SCALAR),
)
_6_33: Final[Rows] = (
    (0, 4, 4, 0, PKT), (4, 8, 4, 0, PKT_END), (8, 12, 4, 0, PKT_META), (12, 24, 4, 0, SCALAR),
)
# perf event: struct bpf_perf_event_data
_7: Final[Rows] = (
    (0, 184, 8, 0, SCALAR), (168, 184, 7, 0, SCALAR),
)
# cgroup skb, ingress and egress: struct __sk_buff
_8_0: Final[Rows] = (
    (0, 72, 7, 0, SCALAR), (8, 12, 0, 4, SCALAR), (32, 36, 0, 4, SCALAR), (48, 64, 8, 8, SCALAR),
    (48, 68, 0, 7, SCALAR), (76, 80, 4, 0, PKT), (80, 84, 4, 0, PKT_END), (84, 92, 3, 0, SCALAR),
    (84, 140, 4, 0, SCALAR), (132, 140, 3, 0, SCALAR), (152, 160, 8, 8, SCALAR),
    (164, 168, 7, 0, SCALAR), (168, 176, 8, 0, SOCK_COMMON | MAYBE_NULL), (176, 180, 7, 0, SCALAR),
    (184, 192, 8, 0, SCALAR),
)
# cgroup sock: create, release, IPv4, IPv6 bound: struct bpf_sock
_9_2: Final[Rows] = (
    (0, 4, 0, 4, SCALAR), (0, 24, 4, 0, SCALAR), (4, 5, 1, 0, SCALAR), (4, 6, 2, 0, SCALAR),
    (8, 9, 1, 0, SCALAR), (8, 10, 2, 0, SCALAR), (12, 13, 1, 0, SCALAR), (12, 14, 2, 0, SCALAR),
    (16, 24, 0, 4, SCALAR), (48, 50, 3, 0, SCALAR), (48, 80, 4, 0, SCALAR), (52, 73, 1, 0, SCALAR),
    (52, 74, 2, 0, SCALAR), (76, 77, 1, 0, SCALAR), (76, 78, 2, 0, SCALAR),
)
_9_12: Final[Rows] = (
    (4, 5, 1, 0, SCALAR), (4, 6, 2, 0, SCALAR), (4, 16, 4, 0, SCALAR), (8, 9, 1, 0, SCALAR),
    (8, 10, 2, 0, SCALAR), (12, 13, 1, 0, SCALAR), (12, 14, 2, 0, SCALAR), (24, 28, 7, 0, SCALAR),
    (44, 45, 1, 0, SCALAR), (44, 46, 2, 0, SCALAR), (44, 80, 4, 0, SCALAR), (48, 50, 3, 0, SCALAR),
    (52, 73, 1, 0, SCALAR), (52, 74, 2, 0, SCALAR), (76, 77, 1, 0, SCALAR), (76, 78, 2, 0, SCALAR),
)
_9_13: Final[Rows] = (
    (4, 5, 1, 0, SCALAR), (4, 6, 2, 0, SCALAR), (4, 16, 4, 0, SCALAR), (8, 9, 1, 0, SCALAR),
    (8, 10, 2, 0, SCALAR), (12, 13, 1, 0, SCALAR), (12, 14, 2, 0, SCALAR), (28, 45, 1, 0, SCALAR),
    (28, 46, 2, 0, SCALAR), (28, 80, 4, 0, SCALAR), (48, 50, 3, 0, SCALAR), (52, 73, 1, 0, SCALAR),
    (52, 74, 2, 0, SCALAR), (76, 77, 1, 0, SCALAR), (76, 78, 2, 0, SCALAR),
)
# lwt in: struct __sk_buff
_10: Final[Rows] = (
    (0, 72, 7, 0, SCALAR), (8, 12, 0, 4, SCALAR), (32, 36, 0, 4, SCALAR), (48, 64, 8, 8, SCALAR),
    (48, 68, 0, 7, SCALAR), (76, 80, 4, 0, PKT), (80, 84, 4, 0, PKT_END), (84, 88, 7, 0, SCALAR),
    (164, 168, 7, 0, SCALAR), (168, 176, 8, 0, SOCK_COMMON | MAYBE_NULL), (176, 180, 7, 0, SCALAR),
)
# lwt out: struct __sk_buff
# lwt xmit: struct __sk_buff
# sock_ops: struct bpf_sock_ops
_13: Final[Rows] = (
    (0, 168, 4, 0, SCALAR), (4, 8, 0, 4, SCALAR), (164, 168, 0, 4, SCALAR),
    (168, 184, 8, 0, SCALAR), (184, 192, 8, 0, SOCK | MAYBE_NULL), (192, 200, 8, 0, PKT),
    (200, 208, 8, 0, PKT_END), (208, 216, 4, 0, SCALAR), (212, 213, 1, 0, SCALAR),
    (212, 214, 2, 0, SCALAR), (216, 224, 8, 0, SCALAR),
)
# sk_skb: struct __sk_buff
_14_4: Final[Rows] = (
    (0, 8, 7, 0, SCALAR), (12, 72, 7, 0, SCALAR), (32, 36, 0, 4, SCALAR), (44, 48, 0, 4, SCALAR),
    (48, 64, 8, 0, SCALAR), (76, 80, 4, 0, PKT), (80, 84, 4, 0, PKT_END), (84, 92, 3, 0, SCALAR),
    (84, 140, 4, 0, SCALAR), (132, 140, 3, 0, SCALAR), (164, 168, 7, 0, SCALAR),
    (168, 176, 8, 0, SOCK_COMMON | MAYBE_NULL), (176, 180, 7, 0, SCALAR),
)
# cgroup device: struct bpf_cgroup_dev_ctx
_15: Final[Rows] = (
    (0, 4, 3, 0, SCALAR), (0, 12, 4, 0, SCALAR),
)
# sk_msg: struct sk_msg_md
_16: Final[Rows] = (
    (0, 8, 8, 0, PKT), (8, 16, 8, 0, PKT_END), (16, 72, 4, 0, SCALAR), (72, 80, 8, 0, SOCK),
)
# raw tracepoint: its arguments
_17: Final[Rows] = (
    (0, 96, 15, 0, SCALAR),
)
# cgroup sock_addr: struct bpf_sock_addr
_18_8: Final[Rows] = (
    (0, 8, 4, 0, SCALAR), (4, 8, 3, 4, SCALAR), (24, 28, 3, 4, SCALAR), (24, 40, 4, 0, SCALAR),
    (64, 72, 8, 0, SOCK),
)
_18_9: Final[Rows] = (
    (0, 4, 4, 0, SCALAR), (8, 24, 8, 8, SCALAR), (8, 28, 3, 4, SCALAR), (8, 40, 4, 0, SCALAR),
    (64, 72, 8, 0, SOCK),
)
_18_14: Final[Rows] = (
    (0, 8, 4, 0, SCALAR), (4, 8, 3, 4, SCALAR), (24, 28, 3, 4, SCALAR), (24, 44, 4, 0, SCALAR),
    (40, 44, 3, 4, SCALAR), (64, 72, 8, 0, SOCK),
)
_18_15: Final[Rows] = (
    (0, 4, 4, 0, SCALAR), (8, 24, 8, 8, SCALAR), (8, 28, 3, 4, SCALAR), (8, 40, 4, 0, SCALAR),
    (44, 60, 7, 4, SCALAR), (48, 56, 8, 8, SCALAR), (64, 72, 8, 0, SOCK),
)
_18_49: Final[Rows] = (
    (0, 4, 4, 0, SCALAR), (24, 28, 3, 4, SCALAR), (24, 40, 4, 0, SCALAR), (64, 72, 8, 0, SOCK),
)
# lwt seg6local: struct __sk_buff
# sk_reuseport: struct sk_reuseport_md
_21_39: Final[Rows] = (
    (0, 8, 8, 0, PKT), (8, 16, 8, 0, PKT_END), (16, 20, 1, 0, SCALAR), (16, 32, 2, 0, SCALAR),
    (16, 36, 4, 0, SCALAR), (24, 32, 1, 0, SCALAR), (40, 48, 8, 0, SOCK),
    (48, 56, 8, 0, SOCK_COMMON | MAYBE_NULL),
)
# flow dissector: struct __sk_buff
_22: Final[Rows] = (
    (76, 80, 4, 0, PKT), (80, 84, 4, 0, PKT_END), (144, 152, 8, 0, FLOW_KEYS),
)
# cgroup sysctl: struct bpf_sysctl
_23: Final[Rows] = (
    (0, 8, 7, 0, SCALAR), (4, 8, 0, 4, SCALAR),
)
# raw tracepoint, writable: its arguments
_24: Final[Rows] = (
    (0, 8, 8, 0, TP_BUFFER), (1, 96, 1, 0, SCALAR), (2, 96, 2, 0, SCALAR), (4, 96, 4, 0, SCALAR),
    (8, 96, 8, 0, SCALAR),
)
# cgroup sockopt: struct bpf_sockopt
_25_21: Final[Rows] = (
    (0, 8, 8, 0, SOCK), (8, 16, 8, 0, PKT), (16, 24, 8, 0, PKT_END), (24, 40, 4, 0, SCALAR),
    (32, 40, 0, 4, SCALAR),
)
_25_22: Final[Rows] = (
    (0, 8, 8, 0, SOCK), (8, 16, 8, 0, PKT), (16, 24, 8, 0, PKT_END), (24, 36, 4, 4, SCALAR),
)
# sk_lookup: struct bpf_sk_lookup
_30: Final[Rows] = (
    (0, 8, 8, 0, SOCK | MAYBE_NULL), (8, 68, 7, 0, SCALAR),
)
# struct bpf_sock
SOCK_ROWS: Final[Rows] = (
    (0, 80, 4, 0, SCALAR), (4, 5, 1, 0, SCALAR), (4, 6, 2, 0, SCALAR), (8, 9, 1, 0, SCALAR),
    (8, 10, 2, 0, SCALAR), (12, 13, 1, 0, SCALAR), (12, 14, 2, 0, SCALAR), (24, 45, 1, 0, SCALAR),
    (24, 46, 2, 0, SCALAR), (48, 50, 3, 0, SCALAR), (52, 73, 1, 0, SCALAR), (52, 74, 2, 0, SCALAR),
    (76, 77, 1, 0, SCALAR), (76, 78, 2, 0, SCALAR),
)
# struct bpf_sock of a socket that is perhaps not whole
SOCK_COMMON_ROWS: Final[Rows] = (
    (0, 8, 4, 0, SCALAR), (4, 5, 1, 0, SCALAR), (4, 6, 2, 0, SCALAR), (24, 45, 1, 0, SCALAR),
    (24, 46, 2, 0, SCALAR), (24, 80, 4, 0, SCALAR), (48, 50, 3, 0, SCALAR), (52, 73, 1, 0, SCALAR),
    (52, 74, 2, 0, SCALAR), (76, 77, 1, 0, SCALAR), (76, 78, 2, 0, SCALAR),
)
# struct bpf_tcp_sock
TCP_SOCK_ROWS: Final[Rows] = (
    (0, 80, 4, 0, SCALAR), (80, 96, 8, 0, SCALAR), (96, 112, 4, 0, SCALAR),
)
# by program type: the rows of some expected attach types, then, without any, of all
ACCESSES: Final[dict[int, tuple[tuple[tuple[int, ...], Rows], ...]]] = {
    1: (((), _1),),
    2: (((), _2),),
    3: (((), _3),),
    4: (((), _3),),
    6: (((33,), _6_33), ((), _6_0),),
    7: (((), _7),),
    8: (((), _8_0),),
    9: (((12,), _9_12), ((13,), _9_13), ((), _9_2),),
    10: (((), _10),),
    11: (((), _10),),
    12: (((), _10),),
    13: (((), _13),),
    14: (((), _14_4),),
    15: (((), _15),),
    16: (((), _16),),
    17: (((), _17),),
    18: (((9, 11, 20, 30, 32,), _18_9), ((14,), _18_14), ((15,), _18_15),
        ((49, 50, 51, 52, 53,), _18_49), ((8, 10, 19, 29, 31,), _18_8),),
    19: (((), _10),),
    21: (((), _21_39),),
    22: (((), _22),),
    23: (((), _23),),
    24: (((), _24),),
    25: (((22,), _25_22), ((), _25_21),),
    30: (((), _30),),
}
