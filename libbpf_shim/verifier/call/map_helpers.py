"""Which helpers take which maps.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_map_func_compatibility and
may_update_sockmap.
"""

from __future__ import annotations

from typing import Final

_XCHG: Final = 194  # kptr_xchg, for the fields of what is stored
# Which helpers a map type takes, where it does not take the general ones (1, 2, 3, ...).
MAP_ONLY: Final[dict[int, frozenset[int]]] = {
    3: frozenset((12,)),
    4: frozenset((22, 25, 55, 111, 121)),
    7: frozenset((27,)),
    8: frozenset((33, 37)),
    12: frozenset((1,)),
    13: frozenset((1,)),
    14: frozenset((51, 1)),
    15: frozenset((52, 53, 60, 82, 1)),
    16: frozenset((51,)),
    17: frozenset((51, 1)),
    18: frozenset((70, 71, 72, 82, 1)),
    19: frozenset((81,)),
    20: frozenset((82,)),
    21: frozenset((81,)),
    22: frozenset((87, 88, 89)),
    23: frozenset((87, 88, 89)),
    24: frozenset((107, 108, _XCHG)),
    25: frozenset((51, 1)),
    26: frozenset(),
    27: frozenset((130, 131, 134, 198, 199, 200)),
    28: frozenset((145, 146, _XCHG)),
    29: frozenset((156, 157, _XCHG)),
    30: frozenset((87, 89)),
    31: frozenset((209,)),
    32: frozenset((210, 211, _XCHG)),
}
_PERF: Final = frozenset((4,))
_REDIRECT: Final = frozenset((14, 16, 17, 25))
_SOCKMAP: Final = frozenset((15,))
_SOCKHASH: Final = frozenset((18,))
_RING: Final = frozenset((27,))
# Which map types a helper takes, where it is bound to some.
HELPER_ONLY: Final[dict[int, frozenset[int]]] = {
    12: frozenset((3,)),
    22: _PERF, 25: _PERF, 55: _PERF, 111: _PERF, 121: _PERF,
    27: frozenset((7,)),
    33: frozenset((8,)),
    37: frozenset((8,)),
    51: _REDIRECT,
    52: _SOCKMAP, 53: _SOCKMAP, 60: _SOCKMAP,
    70: _SOCKHASH, 71: _SOCKHASH, 72: _SOCKHASH,
    81: frozenset((19, 21)),
    82: frozenset((15, 18, 20)),
    87: frozenset((22, 23, 30)),
    88: frozenset((22, 23)),
    89: frozenset((22, 23, 30)),
    107: frozenset((24,)),
    108: frozenset((24,)),
    130: _RING, 131: _RING, 134: _RING, 198: _RING,
    145: frozenset((28,)),
    146: frozenset((28,)),
    156: frozenset((29,)),
    157: frozenset((29,)),
    164: frozenset((1, 2, 5, 6, 9, 10)),
    195: frozenset((5, 6, 10)),
    209: frozenset((31,)),
    210: frozenset((32,)),
    211: frozenset((32,)),
}  # fmt: skip
_SOCKET_MAPS: Final = (15, 18)  # SOCKMAP, SOCKHASH
_UPDATE: Final = 2
_DELETE: Final = 3
_SOCK_OPS: Final = 13
_TRACING: Final = 26
_TRACE_ITER: Final = 28
# Types whose programs may put sockets into maps and take them out.
_UPDATERS: Final = frozenset((1, 3, 4, 6, 21, 22, 30))


def refusal(prog_type: int, attach: int, map_type: int, helper: int, name: str) -> str:
    """Why the helper does not take a map of that type; empty: it does. attach: the program's
    expected_attach_type."""
    only = MAP_ONLY.get(map_type)
    wants = HELPER_ONLY.get(helper)
    fits = (only is None or helper in only) and (wants is None or map_type in wants)
    text = f"cannot pass map_type {map_type} into func {name}#{helper}"
    if map_type in _SOCKET_MAPS and helper in (_UPDATE, _DELETE):
        iterates = prog_type == _TRACING and attach == _TRACE_ITER
        if prog_type in _UPDATERS or iterates or (prog_type == _SOCK_OPS and helper == _DELETE):
            return ""
        return f"cannot update sockmap in this context\n{text}"
    return "" if fits else text
