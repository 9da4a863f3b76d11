"""Memory that contexts lead to and that is neither a packet nor a map's: sockets, flow keys, a
tracepoint's buffer. Ready for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_sock_access,
check_flow_keys_access, check_tp_buffer_access.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, Env, Reject, type_name
from libbpf_shim.verifier.memory.context_table import (
    SOCK_COMMON_ROWS,
    SOCK_ROWS,
    TCP_SOCK_ROWS,
    Rows,
)
from libbpf_shim.verifier.scalar.bounds import truncated
from libbpf_shim.verifier.state import (
    FLOW_KEYS,
    SCALAR,
    SOCK,
    SOCK_COMMON,
    TCP_SOCK,
    TP_BUFFER,
    UNKNOWN,
    XDP_SOCK,
    Reg,
)

_ROWS: Final[dict[int, Rows]] = {
    SOCK: SOCK_ROWS, SOCK_COMMON: SOCK_COMMON_ROWS, TCP_SOCK: TCP_SOCK_ROWS,
    XDP_SOCK: ((0, 4, 4, 0, SCALAR),),  # struct bpf_xdp_sock: queue_id
}  # fmt: skip
KINDS: Final = frozenset((SOCK, SOCK_COMMON, TCP_SOCK, XDP_SOCK))
TYPES: Final = KINDS | {FLOW_KEYS, TP_BUFFER}
_FLOW_KEYS_SIZE: Final = 56  # struct bpf_flow_keys
SOCKMAPS: Final = frozenset((15, 18))  # SOCKMAP, SOCKHASH
XSKMAP: Final = 17


def access(env: Env, reg: Reg, regno: int, off: int, size: int, write: bool) -> Reg:
    """A load or a store through a pointer of one of TYPES; what is loaded."""
    off += reg.off
    if reg.type == FLOW_KEYS:
        if off < 0 or off + size > _FLOW_KEYS_SIZE:
            raise Reject(EACCES, f"invalid access to flow keys off={off} size={size}")
    elif reg.type == TP_BUFFER:
        _buffer(reg, regno, off, size)
    else:
        _socket(reg, regno, off, size, write)
    return truncated(UNKNOWN, size) if size < 8 else UNKNOWN


def _buffer(reg: Reg, regno: int, off: int, size: int) -> None:
    if off < 0:
        text = f"R{regno} invalid tracepoint buffer access: off={off}, size={size}"
        raise Reject(EACCES, text)
    if reg.tm or reg.tv:
        var = f"0x{reg.tv:x}" if not reg.tm else f"(0x{reg.tv:x}; 0x{reg.tm:x})"
        raise Reject(EACCES, f"R{regno} invalid variable buffer offset: off={off}, var_off={var}")


def _socket(reg: Reg, regno: int, off: int, size: int, write: bool) -> None:
    name = type_name(reg.type)
    if write:
        raise Reject(EACCES, f"R{regno} cannot write into {name}")
    if off % size == 0:
        for lo, hi, read, _, _ in _ROWS[reg.type]:
            if lo <= off and off + size <= hi and read & size:
                return
    raise Reject(EACCES, f"R{regno} invalid {name} access off={off} size={size}")


def found(map_type: int) -> int:
    """What a lookup in a map of that type gives, once it is known not to be NULL; 0: a value."""
    if map_type in SOCKMAPS:
        return SOCK
    return XDP_SOCK if map_type == XSKMAP else 0
