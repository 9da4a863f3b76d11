"""Context access and results by program type. The accesses are measured: context_table.py.

A program type that is absent from TYPES is refused: its context is not modelled.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.memory.context_table import ACCESSES, Rows
from libbpf_shim.verifier.state import BTF_PTR, SCALAR, TRUSTED

# contexts that are memory: of tracepoints, below 8 the common header (PERF_MAX_TRACE_SIZE); of
# syscall programs, whatever the caller gives
_PLAIN: Final[dict[int, Rows]] = {
    5: ((8, 8192, 15, 0, SCALAR),),
    31: ((0, 65535, 15, 15, SCALAR),),
}
BY_BTF: Final = frozenset((26, 27, 29))  # typed by what they are attached to (btf_context.py)
# whose context points to structures of the kernel's, by offset (struct bpf_nf_ctx)
NETFILTER: Final = 32
NETFILTER_STRUCTS: Final = {0: "nf_hook_state", 8: "sk_buff"}
_PLAIN[NETFILTER] = ((0, 16, 8, 0, BTF_PTR | TRUSTED),)
TYPES: Final = frozenset((*ACCESSES, *_PLAIN, *BY_BTF))
_NONE: Final[Rows] = ()


def rows(prog_type: int, attach_type: int) -> Rows:
    """What programs of this type, made for that attach type, may access."""
    for attach_types, found in ACCESSES.get(prog_type, ()):
        if not attach_types or attach_type in attach_types:
            return found
    return _PLAIN.get(prog_type, _NONE)


def access(prog_type: int, attach_type: int, off: int, size: int, write: bool) -> int:
    """The type that the access yields, or 0 if it is not allowed."""
    if off % size:
        return 0
    for lo, hi, read, written, type in rows(prog_type, attach_type):
        if lo <= off and off + size <= hi and (written if write else read) & size:
            return type
    return 0


# Types whose programs return 0 or 1, but for _RANGES.
_YES_NO: Final = frozenset((8, 9, 13, 15, 18, 23, 25, 30, NETFILTER))
# Where the result depends on the attach type: (type, attach type).
_RANGES: Final[dict[tuple[int, int], tuple[int, int]]] = {
    (2, 56): (0, 1), (2, 57): (0, 1),  # BPF_TRACE_{K,U}PROBE_SESSION
    (8, 1): (0, 3),  # BPF_CGROUP_INET_EGRESS
    (18, 8): (0, 3), (18, 9): (0, 3),  # BPF_CGROUP_INET{4,6}_BIND
    # BPF_CGROUP_{UDP4,UDP6,UNIX}_RECVMSG, {INET4,INET6,UNIX}_GET{PEER,SOCK}NAME
    (18, 19): (1, 1), (18, 20): (1, 1), (18, 51): (1, 1), (18, 29): (1, 1), (18, 30): (1, 1),
    (18, 52): (1, 1), (18, 31): (1, 1), (18, 32): (1, 1), (18, 53): (1, 1),
}  # fmt: skip


def return_range(prog_type: int, attach_type: int) -> tuple[int, int] | None:
    """What r0 must be within at exit, or None: anything."""
    found = _RANGES.get((prog_type, attach_type))
    if found is None and prog_type in _YES_NO:
        return (0, 1)
    return found
