"""Does a member fit into its structure? By the kind that its type leads to.

Offsets in bits, sizes in bytes. Restated from kernel/bpf/btf.c (the check_member and
check_kflag_member of each kind): subtraction is of 32 bits there, and so is it here.
"""

from __future__ import annotations

import errno

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Member, Type
from libbpf_shim.errors import ShimError

_U32 = 0xFFFFFFFF
_BITS_PER_U128 = 128


def refuse(why: str, code: int = errno.EINVAL) -> ShimError:
    return ShimError("BT0001", code, f"BTF: refused: {why}")


def int_bits(found: Type) -> int:
    """BTF_INT_BITS."""
    return found.extra & 0xFF


def int_offset(found: Type) -> int:
    """BTF_INT_OFFSET, bits."""
    return (found.extra >> 16) & 0xFF


def regular(found: Type) -> bool:
    """An integer of whole bytes, 1 to 16 of them and a power of two, that begins at bit 0."""
    bits = int_bits(found)
    return (found.kind == kinds.INT and not bits % 8 and not int_offset(found)
            and bits // 8 in (1, 2, 4, 8, 16))


def _wrong(owner: Type, member: Member, why: str) -> ShimError:
    return refuse(f"type {owner.id}: {member.name}: {why}")


def _inside(owner: Type, member: Member, start: int, bits: int) -> None:
    """Bits from `start` on lie in the structure; at most 128 are copied."""
    copied, at = bits + start % 8, start // 8
    if copied > _BITS_PER_U128:
        raise _wrong(owner, member, "nr_copy_bits exceeds 128")
    if owner.size < at or owner.size - at < (copied + 7) // 8:
        raise _wrong(owner, member, "member exceeds struct_size")


def check(owner: Type, member: Member, target: Type, size: int) -> None:
    """target: what the member's type leads to, `size` bytes of it. EINVAL."""
    if target.kind == kinds.INT:
        (_bit_integer if owner.extra else _integer)(owner, member, target)
    elif target.kind in (kinds.ENUM, kinds.ENUM64) and owner.extra:
        _bit_enum(owner, member)
    elif owner.extra and member.bits:
        raise _wrong(owner, member, "invalid member bitfield_size")
    elif target.kind == kinds.FLOAT:
        _floating(owner, member, target)
    else:
        _bytes(owner, member, size)


def _integer(owner: Type, member: Member, target: Type) -> None:
    if _U32 - member.offset < int_offset(target):
        raise _wrong(owner, member, "bits_offset exceeds U32_MAX")
    _inside(owner, member, member.offset + int_offset(target), int_bits(target))


def _bit_integer(owner: Type, member: Member, target: Type) -> None:
    """Of a structure with bit fields."""
    if not regular(target):
        raise _wrong(owner, member, "invalid member base type")
    bits = member.bits
    if not bits:
        if member.offset % 8:
            raise _wrong(owner, member, "invalid member offset")
        bits = int_bits(target)
    elif bits > int_bits(target):
        raise _wrong(owner, member, "invalid member bitfield_size")
    _inside(owner, member, member.offset, bits)


def _bit_enum(owner: Type, member: Member) -> None:
    bits = member.bits or 32
    if (not member.bits and member.offset % 8) or bits > 32:
        raise _wrong(owner, member, "member is not byte aligned")
    if owner.size < (member.offset + bits + 7) // 8:
        raise _wrong(owner, member, "member exceeds struct_size")


def _floating(owner: Type, member: Member, target: Type) -> None:
    if member.offset % (8 * min(8, target.size)):
        raise _wrong(owner, member, "member is not properly aligned")
    if member.offset // 8 + target.size > owner.size:
        raise _wrong(owner, member, "member exceeds struct_size")


def _bytes(owner: Type, member: Member, size: int) -> None:
    if member.offset % 8:
        raise _wrong(owner, member, "member is not byte aligned")
    if (owner.size - member.offset // 8) & _U32 < size:
        raise _wrong(owner, member, "member exceeds struct_size")
