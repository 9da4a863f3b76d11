"""Loads and stores in the program's own objects: those of bpf_obj_new(), and what lists and trees
hold. Nothing special in them is touched, and a load gives no pointer to a structure. Ready
for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_ptr_to_btf_access;
kernel/bpf/btf.c, btf_struct_access, btf_struct_walk.
"""

from __future__ import annotations

from libbpf_shim.verifier.env import EACCES, Env, Reject, tnum
from libbpf_shim.verifier.kernel import btf_walk
from libbpf_shim.verifier.memory import record, special
from libbpf_shim.verifier.state import MEM, PERCPU, UNKNOWN, UNTRUSTED, Reg, pointer


def access(env: Env, reg: Reg, regno: int, off: int, size: int, write: bool) -> Reg:
    """size bytes at regno + off. Raises Reject."""
    btf = env.btf(reg.btf)
    name = btf.type(reg.type_id).name
    off += reg.off
    if off < 0:
        raise Reject(EACCES, f"R{regno} is ptr_{name} invalid negative access: off={off}")
    if reg.tm or reg.tv:
        raise Reject(EACCES, f"R{regno} is ptr_{name} invalid variable offset: off={off}, "
                             f"var_off={tnum(reg)}")
    if reg.type & PERCPU:
        raise Reject(EACCES, f"R{regno} is ptr_{name} access percpu memory: off={off}")
    if write and reg.type & UNTRUSTED:
        raise Reject(EACCES, "only read is supported")
    for field in record.of_struct(env, reg.btf, reg.type_id):
        if off < field.off + special.SIZES[field.name] and field.off < off + size:
            raise Reject(EACCES, f"direct access to {field.name} is disallowed")
    found = btf_walk.access(btf, reg.type_id, off, size)
    return pointer(MEM | found.flags) if found.kind == MEM and not write else UNKNOWN
