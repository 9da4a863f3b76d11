"""Which helper each program type may name: a measured fact of Linux 6.18.

Found by loading ``call N; exit`` for every N of enum bpf_func_id, every type and every expected
attach type of it as a privileged user, and noting "program of this type cannot use helper".
"""

from __future__ import annotations

from typing import Final

EVERYWHERE: Final = frozenset((
    1, 2, 3, 5, 6, 7, 8, 12, 14, 15, 16, 17, 22, 35, 37, 42, 55, 80, 87, 88, 89, 93, 94, 105,
    106, 109, 112, 113, 114, 115, 117, 118, 120, 123, 125, 130, 131, 132, 133, 134, 141, 148,
    149, 153, 154, 156, 157, 158, 164, 165, 169, 170, 171, 172, 175, 176, 177, 180, 181, 182,
    191, 194, 195, 197, 198, 199, 200, 201, 202, 203, 208, 209, 210, 211,
))

_MORE: Final[dict[int, frozenset[int]]] = {
    1: frozenset((
        25, 26, 46, 47, 68, 122, 136, 137, 138, 139, 140, 160, 178, 196,
    )),
    2: frozenset((
        4, 25, 27, 45, 67, 173, 174,
    )),
    3: frozenset((
        9, 10, 11, 13, 18, 19, 20, 21, 23, 24, 25, 26, 28, 29, 30, 31, 32, 33, 34, 38, 39, 40,
        41, 43, 46, 47, 48, 50, 66, 68, 69, 79, 83, 84, 85, 86, 95, 96, 97, 98, 99, 100, 107,
        108, 110, 122, 124, 135, 136, 137, 138, 139, 140, 151, 152, 155, 160, 163, 178, 192,
        196, 204, 205, 206, 207,
    )),
    4: frozenset((
        9, 10, 11, 13, 18, 19, 20, 21, 23, 24, 25, 26, 28, 29, 30, 31, 32, 33, 34, 38, 39, 40,
        41, 43, 46, 47, 48, 50, 66, 68, 69, 79, 83, 84, 85, 86, 95, 96, 97, 98, 99, 100, 107,
        108, 110, 122, 124, 135, 136, 137, 138, 139, 140, 151, 152, 155, 160, 163, 178, 192,
        196, 204, 205, 206, 207,
    )),
    5: frozenset((
        4, 25, 27, 45, 67, 173, 174,
    )),
    6: frozenset((
        23, 25, 28, 44, 51, 54, 65, 69, 84, 85, 86, 99, 100, 110, 136, 137, 138, 139, 140, 160,
        163, 178, 188, 189, 190, 196, 204, 205, 206, 207,
    )),
    7: frozenset((
        4, 25, 27, 45, 56, 67, 119, 173, 174,
    )),
    8: frozenset((
        25, 26, 46, 47, 68, 79, 81, 83, 84, 85, 86, 95, 96, 97, 98, 99, 107, 108, 122, 128, 129,
        136, 137, 138, 139, 140, 160, 178, 196,
    )),
    9: frozenset((
        25, 46, 81, 107, 122, 160,
    )),
    10: frozenset((
        24, 25, 26, 28, 33, 34, 39, 73, 136, 137, 138, 139, 140, 160, 178, 196,
    )),
    11: frozenset((
        24, 25, 26, 28, 33, 34, 39, 136, 137, 138, 139, 140, 160, 178, 196,
    )),
    12: frozenset((
        9, 10, 11, 13, 20, 21, 23, 24, 25, 26, 28, 29, 30, 33, 34, 38, 39, 40, 41, 43, 73, 135,
        136, 137, 138, 139, 140, 160, 178, 196,
    )),
    13: frozenset((
        25, 46, 49, 53, 57, 59, 70, 81, 96, 107, 108, 122, 136, 137, 138, 139, 140, 142, 143,
        144, 160, 178, 196,
    )),
    14: frozenset((
        9, 25, 26, 38, 39, 43, 46, 47, 50, 52, 72, 84, 85, 86, 99, 136, 137, 138, 139, 140, 160,
        178, 196,
    )),
    15: frozenset((
        25, 81,
    )),
    16: frozenset((
        25, 60, 61, 62, 63, 71, 90, 91, 107, 108, 122, 136, 137, 138, 139, 140, 160, 178, 196,
    )),
    17: frozenset((
        4, 25, 27, 45, 67, 173, 174,
    )),
    18: frozenset((
        25, 46, 49, 57, 81, 84, 85, 86, 99, 107, 108, 122, 136, 137, 138, 139, 140, 160, 178,
        196,
    )),
    19: frozenset((
        24, 25, 26, 28, 33, 34, 39, 74, 75, 76, 136, 137, 138, 139, 140, 160, 178, 196,
    )),
    21: frozenset((
        26, 46, 68, 82, 160,
    )),
    22: frozenset((
        26, 136, 137, 138, 139, 140, 160, 178, 196,
    )),
    23: frozenset((
        25, 81, 101, 102, 103, 104, 160,
    )),
    24: frozenset((
        4, 25, 27, 45, 67, 173, 174,
    )),
    25: frozenset((
        25, 81, 96, 107, 108, 122,
    )),
    30: frozenset((
        25, 86, 124, 136, 137, 138, 139, 140, 160, 178, 196,
    )),
    31: frozenset((
        4, 25, 27, 45, 46, 67, 107, 108, 111, 121, 136, 137, 138, 139, 140, 147, 162, 166, 167,
        168, 173, 178, 179, 188, 196,
    )),
}


_RETVAL: Final = frozenset((186, 187))  # get_retval, set_retval: of programs on cgroups
_RETVAL_TYPES: Final = frozenset((9, 15, 18, 23, 25))
# BPF_CGROUP_INET_{IN,E}GRESS, _SOCK_OPS, _{UDP4,UDP6,UNIX}_RECVMSG,
# _{INET4,INET6,UNIX}_GET{PEER,SOCK}NAME
_NO_RETVAL: Final = frozenset((0, 1, 3, 19, 20, 51, 29, 30, 52, 31, 32, 53))
_CGROUP_SOCK: Final = 9  # whose attach type of 0 is made another
_OPTIONS: Final = frozenset((49, 57))  # setsockopt, getsockopt
_BIND: Final = frozenset((64,))
# What else the expected attach type adds.
_BY_ATTACH: Final[dict[tuple[int, int], frozenset[int]]] = {
    (18, 10): _BIND, (18, 11): _BIND, (25, 22): _OPTIONS,
}  # fmt: skip
_LOCKED: Final = frozenset((36,))  # probe_write_user
_LOCKED_TYPES: Final = frozenset((2, 5, 7, 17, 24, 26))
_OVERRIDE, _KPROBE = 58, 2  # override_return, under CONFIG_BPF_KPROBE_OVERRIDE
_NONE: Final[frozenset[int]] = frozenset()


def allowed(prog_type: int, attach_type: int, helper: int) -> bool:
    """A program of this type, made for that attach type, may call this helper."""
    if helper in EVERYWHERE or helper in _MORE.get(prog_type, _NONE):
        return True
    if helper in _RETVAL and prog_type in _RETVAL_TYPES:
        made = attach_type == 0 and prog_type == _CGROUP_SOCK
        return made or attach_type not in _NO_RETVAL
    return helper in _BY_ATTACH.get((prog_type, attach_type), _NONE)


def unlocked(prog_type: int, helper: int) -> bool:
    """What the measured machine refuses only because it is locked down (kernel_lockdown(7),
    integrity) or built without kprobes: bpf_tracing_func_proto(), kprobe_prog_func_proto() in
    kernel/trace/bpf_trace.c."""
    if helper == _OVERRIDE:
        return prog_type == _KPROBE
    return helper in _LOCKED and prog_type in _LOCKED_TYPES
