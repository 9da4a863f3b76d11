"""Helper prototypes: one row a helper. Source: linux/bpf.h (the comments of enum bpf_func_id)
and, for argument kinds, what Linux 6.18 accepts and refuses.

Argument kinds, a letter each:
a anything  c context  m map  k map key  v map value  V map value to fill
r memory read  n memory read, or NULL  w memory filled  W memory filled, or NULL
s size of the memory before, > 0  z size, 0 allowed  A constant size, 0 allowed
R record to release  D dynptr  d b where one is made, of memory or a ring buffer's record
B dynptr of a record, to release  L 8 bytes filled, aligned  S constant string  f function
x callback's context  t task, or NULL  u map value, or NULL
l lock in a map value  e timer in a map value
Results: i number  v nothing  M map value or NULL  A record of the size given, or NULL
P memory of the size given, or NULL  T the running task
"""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.uapi.bpf import bpf_func_id


@final
class Proto:
    """args: kinds of r1.. in order; ret: kind of r0. gpl: needs a GPL-compatible license.
    moves: packet pointers are void after the call. packet: packet memory may be an argument.
    sleeps: for sleepable programs only."""

    __slots__ = ("args", "ret", "gpl", "moves", "packet", "percpu", "sleeps")

    def __init__(self, args: str, ret: str, flags: str) -> None:
        self.args: str = args
        self.ret: str = ret
        self.gpl: bool = "g" in flags
        self.moves: bool = "d" in flags
        self.packet: bool = "p" in flags
        self.percpu: bool = "c" in flags
        self.sleeps: bool = "s" in flags


# flags: g GPL only, d moves packet data, p takes packet pointers, c asks for the CPU's number,
# s may sleep
_ROWS: Final = (
    (1, "mk", "M", "p"),
    (2, "mkva", "i", "p"),
    (3, "mk", "i", "p"),
    (4, "wza", "i", "g"),
    (5, "", "i", ""),
    (6, "rs", "i", "g"),
    (7, "", "i", ""),
    (8, "", "i", "c"),
    (9, "carsa", "i", "d"),
    (10, "caaaa", "i", "d"),
    (11, "caaaa", "i", "d"),
    (12, "cma", "v", ""),
    (13, "caa", "i", "d"),
    (14, "", "i", ""),
    (15, "", "i", ""),
    (16, "ws", "i", ""),
    (17, "", "i", ""),
    (18, "caa", "i", "d"),
    (19, "c", "i", "d"),
    (20, "cwsa", "i", ""),
    (21, "crsa", "i", ""),
    (22, "ma", "i", "g"),
    (23, "aa", "i", ""),
    (24, "c", "i", ""),
    (25, "cmarz", "i", "gc"),
    (26, "caws", "i", ""),
    (27, "cma", "i", "g"),
    (28, "nznza", "i", "p"),
    (29, "cws", "i", ""),
    (30, "crs", "i", ""),
    (31, "caa", "i", "d"),
    (32, "ca", "i", ""),
    (33, "cma", "i", ""),
    (34, "c", "i", ""),
    (35, "", "i", "g"),
    (37, "ma", "i", ""),
    (38, "caa", "i", "d"),
    (39, "ca", "i", "d"),
    (40, "ca", "i", ""),
    (41, "c", "i", ""),
    (42, "", "i", "c"),
    (43, "caa", "i", "d"),
    (44, "ca", "i", "d"),
    (45, "wza", "i", "g"),
    (46, "c", "i", ""),
    (47, "c", "i", ""),
    (48, "ca", "i", ""),
    (50, "caaa", "i", "d"),
    (51, "maa", "i", ""),
    (54, "ca", "i", "d"),
    (55, "maws", "i", "gc"),
    (56, "cws", "i", "g"),
    (65, "ca", "i", "d"),
    (66, "cawsa", "i", ""),
    (67, "cwza", "i", "g"),
    (68, "cawsa", "i", ""),
    (80, "", "i", ""),
    (87, "mva", "i", "p"),
    (88, "mV", "i", ""),
    (89, "mV", "i", ""),
    (93, "l", "v", ""),
    (94, "l", "v", ""),
    (105, "rsaL", "i", ""),
    (106, "rsaL", "i", ""),
    (109, "a", "i", ""),
    (112, "wza", "i", "g"),
    (113, "wza", "i", "g"),
    (114, "wza", "i", "g"),
    (115, "wza", "i", "g"),
    (117, "a", "i", ""),
    (118, "", "i", ""),
    (119, "cWza", "i", "g"),
    (120, "aaws", "i", ""),
    (123, "a", "i", ""),
    (125, "", "i", ""),
    (130, "mrza", "i", ""),
    (131, "mAa", "A", ""),
    (132, "Ra", "v", ""),
    (133, "Ra", "v", ""),
    (134, "ma", "i", ""),
    (148, "wza", "i", "s"),
    (156, "mtua", "M", ""),
    (157, "mt", "i", ""),
    (158, "", "T", "g"),
    (160, "", "i", ""),
    (164, "mfxa", "i", ""),
    (169, "ema", "i", ""),
    (170, "ef", "i", ""),
    (171, "eaa", "i", ""),
    (172, "e", "i", ""),
    (173, "c", "i", "g"),
    (174, "c", "i", ""),
    (176, "wza", "i", "g"),
    (181, "afxa", "i", ""),
    (182, "rsS", "i", ""),
    (188, "c", "i", ""),
    (189, "caws", "i", ""),
    (190, "cars", "i", ""),
    (195, "mka", "M", "pc"),
    (197, "wzad", "i", ""),
    (198, "maab", "i", ""),
    (199, "Ba", "v", ""),
    (200, "Ba", "v", ""),
    (201, "wzDaa", "i", ""),
    (202, "Darza", "i", ""),
    (203, "DaA", "P", ""),
    (208, "", "i", ""),
    (209, "mfxa", "i", ""),
)
PROTOS: Final[dict[int, Proto]] = {n: Proto(args, ret, flags) for n, args, ret, flags in _ROWS}
# Where a program type has a prototype of its own: (type, helper).
OF_TYPE: Final[dict[tuple[int, int], Proto]] = {
    (3, 17): Proto("c", "i", ""),
    (4, 17): Proto("c", "i", ""),
    (7, 27): Proto("cma", "i", ""),
}
FUNC_IP_TYPES: Final = frozenset((2,))  # kprobes; tracing programs are not modelled


def proto(prog_type: int, number: int) -> Proto | None:
    """What the helper is for programs of this type; None: not modelled."""
    return OF_TYPE.get((prog_type, number)) or PROTOS.get(number)

# Which helpers a map type takes, where it does not take the general ones (1, 2, 3, ...).
MAP_ONLY: Final[dict[int, frozenset[int]]] = {
    3: frozenset((12,)),
    4: frozenset((22, 25, 55, 111, 121)),
    7: frozenset((27,)),
    8: frozenset((33, 37)),
    12: frozenset((1,)),
    13: frozenset((1,)),
    14: frozenset((51, 1)),
    15: frozenset((52, 53, 60, 70, 71, 82, 1)),
    16: frozenset((51,)),
    17: frozenset((51, 1)),
    18: frozenset((60, 69, 70, 71, 72, 82, 1)),
    19: frozenset((81,)),
    20: frozenset((82,)),
    21: frozenset((81,)),
    22: frozenset((87, 88, 89)),
    23: frozenset((87, 88, 89)),
    24: frozenset((107, 108)),
    25: frozenset((51, 1)),
    26: frozenset(),
    27: frozenset((130, 131, 132, 133, 134, 198)),
    28: frozenset((145, 146)),
    29: frozenset((156, 157)),
    30: frozenset((87, 89)),
    31: frozenset((209,)),
    32: frozenset((210, 211)),
}
# Which map types a helper takes, where it is bound to some.
HELPER_ONLY: Final[dict[int, frozenset[int]]] = {
    12: frozenset((3,)),
    22: frozenset((4,)),
    25: frozenset((4,)),
    55: frozenset((4,)),
    27: frozenset((7,)),
    33: frozenset((8,)),
    37: frozenset((8,)),
    51: frozenset((14, 16, 17, 25)),
    87: frozenset((22, 23, 30)),
    88: frozenset((22, 23)),
    89: frozenset((22, 23, 30)),
    130: frozenset((27,)),
    131: frozenset((27,)),
    134: frozenset((27,)),
    156: frozenset((29,)),
    157: frozenset((29,)),
    164: frozenset((1, 2, 5, 6, 9, 10)),
    195: frozenset((5, 6, 10)),
    209: frozenset((31,)),
}


def name(number: int) -> str:
    """bpf_NAME, or "unknown" as the kernel's log has it."""
    if 0 < number <= len(bpf_func_id) - 1:
        return "bpf_" + bpf_func_id(number).name.removeprefix("BPF_FUNC_")
    return "unknown" if number else "bpf_unspec"


def exists(number: int) -> bool:
    """A helper of enum bpf_func_id."""
    return 0 < number < len(bpf_func_id)
