"""Context access by program type: a row an interval of fields. Measured on Linux 6.18 by loading
one access of every size at every offset as a privileged user.

A program type that is absent from TYPES is refused: its context is not modelled.
"""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.verifier.state import PKT, PKT_END, PKT_META, SCALAR, SOCK


@final
class Field:
    """Offsets lo..hi (exclusive) may be accessed with sizes (a sum of 1, 2, 4, 8), each aligned to
    itself. write: the sizes that may be stored. type: what an access yields."""

    __slots__ = ("lo", "hi", "read", "write", "type")

    def __init__(self, lo: int, hi: int, read: int, write: int = 0, type: int = SCALAR) -> None:
        self.lo: int = lo
        self.hi: int = hi
        self.read: int = read
        self.write: int = write
        self.type: int = type


_ANY: Final = 15
_NARROW: Final = 7
# struct __sk_buff: data 76, data_end 80, data_meta 140, tstamp 152, hwtstamp 184
_SKB: Final = (
    Field(48, 68, _NARROW | 8, 15),  # cb[5]: 8 bytes at 48 and 56 only
    Field(0, 48, _NARROW), Field(68, 72, _NARROW), Field(164, 168, _NARROW),
    Field(176, 180, _NARROW), Field(168, 176, 8, 0, SOCK),
)
TYPES: Final[dict[int, tuple[Field, ...]]] = {
    1: (*_SKB, Field(84, 88, _NARROW)),
    3: (
        Field(8, 16, _NARROW, 4), Field(32, 36, _NARROW, 4), Field(44, 48, _NARROW, 4),
        Field(72, 76, _NARROW, 4), Field(76, 80, 4, 0, PKT), Field(80, 84, 4, 0, PKT_END),
        Field(84, 88, _NARROW), Field(140, 144, 4, 0, PKT_META), Field(152, 160, 8, 8),
        Field(160, 164, _NARROW), Field(180, 181, 1), Field(184, 192, 8), *_SKB,
    ),
    2: (Field(0, 168, _ANY),),  # struct pt_regs, x86-64
    5: (Field(8, 8192, _ANY),),  # PERF_MAX_TRACE_SIZE; below 8 is the common header
    6: (
        Field(0, 4, 4, 0, PKT), Field(4, 8, 4, 0, PKT_END), Field(8, 12, 4, 0, PKT_META),
        Field(12, 20, 4),
    ),
    7: (Field(0, 168, 8), Field(168, 184, _ANY)),  # struct bpf_perf_event_data
    17: (Field(0, 96, _ANY),),  # twelve arguments of the tracepoint
}
TYPES[4] = TYPES[3]
# programs on packets that see less of __sk_buff: mark and priority are theirs to write
_L3: Final = (
    Field(8, 12, _NARROW, 4), Field(32, 36, _NARROW, 4), Field(76, 80, 4, 0, PKT),
    Field(80, 84, 4, 0, PKT_END), Field(84, 88, _NARROW), *_SKB,
)
TYPES[8] = (
    Field(88, 92, _NARROW), Field(92, 132, 4), Field(132, 140, _NARROW), Field(152, 160, 8, 8),
    Field(184, 192, 8), *_L3,
)
TYPES[10] = TYPES[11] = TYPES[12] = _L3
TYPES[31] = (Field(0, 65535, _ANY, _ANY),)  # whatever the caller of a syscall program gives


_ANY_RESULT: Final = frozenset((1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 17, 31))


def access(prog_type: int, off: int, size: int, write: bool) -> int:
    """The type that the access yields, or 0 if it is not allowed."""
    if off < 0 or off % size:
        return 0
    for field in TYPES[prog_type]:
        if field.lo <= off and off + size <= field.hi:
            allowed = field.write if write else field.read
            if allowed & size and not (size == 8 and field.hi == 68 and off > 56):
                if field.type == SCALAR or size == 4 or field.type == SOCK:
                    return field.type
    return 0


def return_range(prog_type: int, expected_attach_type: int) -> tuple[int, int] | None:
    """What r0 must be within at exit, or None: anything."""
    if prog_type == 2 and expected_attach_type in (56, 57):  # BPF_TRACE_{K,U}PROBE_SESSION
        return (0, 1)
    if prog_type == 8 and expected_attach_type == 1:  # BPF_CGROUP_INET_EGRESS
        return (0, 3)
    if prog_type in _ANY_RESULT:
        return None
    return (0, 1)
