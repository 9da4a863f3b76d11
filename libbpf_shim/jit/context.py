"""Where the fields of a packet's context really lie.

Programs see struct __sk_buff or xdp_md, whose packet addresses are 32 bits wide; addresses in a
process are not. The context that they are given is a struct shim_packet (csrc/include): what they
see, at its offsets, and behind it the addresses. So only accesses of a few fields change, as the
kernel rewrites every one (net/core/filter.c, convert_ctx_access).
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

_DATA, _DATA_END, _DATA_META = 192, 200, 208  # in struct shim_packet
_SKB_ADDRESSES: Final = {76: _DATA, 80: _DATA_END, 140: _DATA_META}
_XDP_ADDRESSES: Final = {0: _DATA, 4: _DATA_END, 8: _DATA_META}
_SKB_TYPES: Final = frozenset((1, 3, 4, 8, 10, 11, 12, 14))
_XDP: Final = 6
# fields of __sk_buff that are 16 bits wide in an skb: tc_index, tc_classid
_SKB_SHORT: Final = frozenset((44, 72))
QUEUE_MAPPING: Final = 12  # __sk_buff: 16 bits too, and a store of 0xffff or more is none
NO_QUEUE_MAPPING: Final = 0xFFFF


def accesses(program: Program, insns: list[Insn], facts: Facts) -> dict[int, tuple[int, int]]:
    """By slot: (offset, bytes) of the access to make, where that is not the one written there."""
    found: dict[int, tuple[int, int]] = {}
    if program.prog_type != _XDP and program.prog_type not in _SKB_TYPES:
        return found
    skb = program.prog_type != _XDP
    addresses = _SKB_ADDRESSES if skb else _XDP_ADDRESSES
    for at in facts.ctx_at:
        i = insns[at]
        if i.klass == op.LDX and i.off in addresses and i.size == 4:
            found[at] = (addresses[i.off], 8)
        elif i.klass in (op.ST, op.STX) and skb and i.size == 4:
            if i.off in _SKB_SHORT or i.off == QUEUE_MAPPING:
                found[at] = (i.off, 2)
    return found
