"""Loads and stores in the program's own objects: those of bpf_obj_new(), and what lists and trees
hold. Nothing special in them is touched, and a load never gives a pointer. Ready for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_ptr_to_btf_access;
kernel/bpf/btf.c, btf_struct_access, btf_struct_walk.
"""

from __future__ import annotations

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier import memory, record, special
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject
from libbpf_shim.verifier.state import PERCPU, UNTRUSTED, Reg


def access(env: Env, reg: Reg, regno: int, off: int, size: int, write: bool) -> None:
    """size bytes at regno + off. Raises Reject."""
    btf = env.btf(reg.btf)
    name = btf.type(reg.type_id).name
    if reg.off + off < 0:
        text = f"R{regno} is ptr_{name} invalid negative access: off={reg.off + off}"
        raise Reject(EACCES, text)
    if reg.tm or reg.tv:
        raise Reject(EACCES, f"R{regno} is ptr_{name} invalid variable offset: off={off}, "
                             f"var_off={memory.tnum(reg)}")
    if reg.type & PERCPU:
        raise Reject(EACCES, f"R{regno} is ptr_{name} access percpu memory: off={off}")
    if write and reg.type & UNTRUSTED:
        raise Reject(EACCES, "only read is supported")
    off += reg.off
    for field in record.of_struct(env, reg.btf, reg.type_id):
        if off < field.off + special.SIZES[field.name] and field.off < off + size:
            raise Reject(EACCES, f"direct access to {field.name} is disallowed")
    walk(btf, btf.type(reg.type_id), off, size)


def walk(btf: Btf, here: Type, off: int, size: int) -> None:
    """The bytes lie in one member. Raises Reject."""
    while True:
        if off + size > here.size:
            text = f"access beyond struct {here.name} at off {off} size {size}"
            raise Reject(EACCES, text)
        inner: Type | None = None
        for row in here.members:
            at = row.offset // 8
            if off + size <= at:
                break
            if row.bits:
                if off <= at and (row.offset + row.bits + 7) // 8 <= off + size:
                    return
                continue
            if off < at:
                break
            found = btf.strip(row.type)
            end = at + btf.sizeof(row.type)
            if off >= end or found is None:
                continue
            while found is not None and found.kind == kinds.ARRAY:
                element = btf.strip(found.ref)
                each = btf.sizeof(found.ref)
                if element is None or not each:
                    break
                at += (off - at) // each * each
                found = element
            if found is not None and found.kind in kinds.COMPOSITE:
                inner, off = found, off - at
                break
            if found is not None and found.kind == kinds.PTR and (off != at or size != 8):
                raise Reject(EACCES, f"cannot access ptr member {row.name} with moff {at} in "
                                     f"struct {here.name} with off {off} size {size}")
            if off + size > end:
                raise Reject(EACCES, f"access beyond the end of member {row.name} (mend:{end}) in "
                                     f"struct {here.name} with off {off} size {size}")
            return
        if inner is None:
            raise Reject(EINVAL, f"struct {here.name} doesn't have field at offset {off}")
        here = inner
