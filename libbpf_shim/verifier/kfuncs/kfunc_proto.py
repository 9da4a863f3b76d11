"""Prototypes of kernel functions: what the kernel's BTF says of one, read once for a program.

An argument's kind follows from its type and from the end of its name, as the kernel reads them;
where it depends on what the register holds, it is OTHER (kfunc_args.py decides).

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, add_kfunc_call,
get_kfunc_ptr_arg_type; Documentation/bpf/kfuncs.rst. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Member, Type
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.env import E2BIG, EINVAL, Env, Reject
from libbpf_shim.verifier.kfuncs import kfunc_table
from libbpf_shim.verifier.kfuncs.kfunc_types import (
    ALLOC_ARG,
    CONSTANT,
    CTX_ARG,
    DYNPTR_ARG,
    IGNORED,
    INTEGER,
    IRQ_FLAG,
    ITER_ARG,
    LIST_HEAD_ARG,
    LIST_NODE_ARG,
    MAP_ARG,
    NUMBER,
    OTHER,
    POINTER,
    PROG,
    RB_NODE_ARG,
    RB_ROOT_ARG,
    REFCOUNTED,
    RES_LOCK,
    STRING,
    TASK_WORK_ARG,
    UNKNOWN_ARG,
    WORKQUEUE_ARG,
    Kfunc,
    Param,
)

EPROTO: Final = 71
MAX_KFUNCS: Final = 256
_STRUCT_ARGS: Final = {
    "bpf_dynptr": DYNPTR_ARG, "bpf_list_head": LIST_HEAD_ARG, "bpf_list_node": LIST_NODE_ARG,
    "bpf_rb_root": RB_ROOT_ARG, "bpf_rb_node": RB_NODE_ARG,
}  # fmt: skip
_LATER_STRUCT_ARGS: Final = {
    "bpf_wq": WORKQUEUE_ARG, "bpf_task_work": TASK_WORK_ARG, "bpf_res_spin_lock": RES_LOCK,
}
_OF_CTX: Final = frozenset((
    "bpf_cast_to_kern_ctx", "bpf_session_is_return", "bpf_session_cookie",
))  # fmt: skip
_OFFERED: Final = frozenset((  # by a device, to programs bound to it
    "bpf_xdp_metadata_rx_hash", "bpf_xdp_metadata_rx_timestamp", "bpf_xdp_metadata_rx_vlan_tag",
))  # fmt: skip
_NUMBERS: Final = frozenset((kinds.INT, kinds.ENUM, kinds.ENUM64))
# A kernel's type that stands for a program's.
_SEEN_AS: Final = {"sk_buff": "__sk_buff", "xdp_buff": "xdp_md"}


def add(env: Env, i: Insn) -> None:
    """A call of a kernel function is met while the program's shape is looked at."""
    if env.policy is not None and i.off > 0 and _of_host(env, i.imm):
        return
    if not env.program.gpl_compatible:
        text = "cannot call kernel function from non-GPL compatible program"
        raise Reject(EINVAL, text)
    key = (i.imm, i.off)
    if key == (0, 0) or key in env.kfuncs:
        return
    if i.off < 0:
        text = "negative offset disallowed for kernel module function call"
        raise Reject(EINVAL, f"{text}\nfailed to find BTF for kernel function")
    if i.off:
        text = "kfunc offset > 0 without fd_array is invalid"
        raise Reject(EPROTO, f"{text}\nfailed to find BTF for kernel function")
    if len(env.kfuncs) == MAX_KFUNCS:
        raise Reject(E2BIG, "too many different kernel function calls")
    btf = env.btf(0)
    number = i.imm & 0xFFFFFFFF
    try:
        found = btf.type(number)
    except KeyError:
        found = None
    if found is None or found.kind != kinds.FUNC:
        raise Reject(EINVAL, f"kernel btf_id {number} is not a function")
    if found.name in _OFFERED:
        raise Reject(EINVAL, "metadata kfuncs require device-bound program")
    env.kfuncs[key] = _read(env, btf, found)


def _of_host(env: Env, type_id: int) -> bool:
    """A function of the application's, not of the kernel's (granted/hostcalls.py)."""
    p = env.policy
    return p is not None and any(f.id == type_id for f in p.functions)


def _read(env: Env, btf: Btf, function: Type) -> Kfunc:
    k = Kfunc(function.id, function.name)
    k.allowed = kfunc_table.allowed(
        env.prog_type, env.program.expected_attach_type, function.name)  # fmt: skip
    k.flags = kfunc_table.FLAGS.get(function.name, 0)
    proto = btf.type(function.ref)
    members = proto.members
    for n in range(len(members)):
        k.params.append(_param(env, btf, k, members[n], n))
    for n in range(len(members) - 1):
        after = k.params[n + 1]
        if after.kind in (NUMBER, CONSTANT):
            k.params[n].constant_size = after.name.endswith("__szk")
            k.params[n].sized = after.name.endswith("__sz") or k.params[n].constant_size
    result = btf.strip(proto.ref)
    if result is None:
        return k
    if result.kind == kinds.PTR:
        k.result = POINTER
        target = btf.strip(result.ref)
        if target is not None:
            k.target, k.target_kind = target.id, target.kind
            k.target_name, k.size = target.name, _size(btf, target)
    else:
        k.result = INTEGER
        k.size = result.size
    return k


def _size(btf: Btf, target: Type) -> int:
    try:
        return btf.sizeof(target.id)
    except KeyError:
        return -1


def _param(env: Env, btf: Btf, k: Kfunc, member: Member, number: int) -> Param:
    param = Param(member.name, UNKNOWN_ARG)
    if member.name.endswith("__ign"):
        param.kind = IGNORED
        return param
    if member.name.endswith("__prog"):
        param.kind = PROG
        return param
    found = btf.strip(member.type)
    if found is None:
        return param
    if found.kind in _NUMBERS:
        param.kind = CONSTANT if member.name.endswith("__k") else NUMBER
        return param
    if found.kind != kinds.PTR:
        return param
    target = btf.strip(found.ref)
    if target is not None:
        param.target, param.target_kind = target.id, target.kind
        param.target_name, param.size = target.name, _size(btf, target)
        param.plain = target.kind in _NUMBERS or _of_numbers(btf, target, 0)
        param.function = target.kind == kinds.FUNC_PROTO
    param.kind = _pointer_kind(env, btf, k, param, number)
    return param


def _pointer_kind(env: Env, btf: Btf, k: Kfunc, param: Param, number: int) -> int:
    """In the kernel's order of questions."""
    name = param.name
    is_struct = param.target_kind == kinds.STRUCT
    if k.name in _OF_CTX or (is_struct and is_ctx(env, btf, param.target_name)):
        return CTX_ARG
    if name.endswith("__alloc"):
        return ALLOC_ARG
    if name.endswith("__refcounted_kptr"):
        return REFCOUNTED
    if is_struct and param.target_name == "bpf_dynptr":
        return DYNPTR_ARG
    if k.flags & kfunc_table.ITER and number == 0 or name.endswith("__iter"):
        return ITER_ARG
    if is_struct and param.target_name in _STRUCT_ARGS:
        return _STRUCT_ARGS[param.target_name]
    if name.endswith("__str"):
        return STRING
    if name.endswith("__map"):
        return MAP_ARG
    if is_struct and param.target_name in ("bpf_wq", "bpf_task_work"):
        return _LATER_STRUCT_ARGS[param.target_name]
    if name.endswith("__irq_flag"):
        return IRQ_FLAG
    if is_struct and param.target_name in _LATER_STRUCT_ARGS:
        return _LATER_STRUCT_ARGS[param.target_name]
    return OTHER


def _of_numbers(btf: Btf, found: Type, level: int) -> bool:
    """A structure of numbers, arrays of them and such structures, four deep at most."""
    if found.kind not in kinds.COMPOSITE:
        return False
    for row in found.members:
        inner = btf.strip(row.type)
        if inner is None:
            return False
        if inner.kind in kinds.COMPOSITE:
            if level >= 3 or not _of_numbers(btf, inner, level + 1):
                return False
            continue
        if inner.kind == kinds.ARRAY:
            element = btf.strip(inner.ref)
            if not inner.nelems or element is None or element.kind not in _NUMBERS:
                return False
            continue
        if inner.kind not in _NUMBERS:
            return False
    return True


def of_numbers(btf: Btf, type_id: int) -> bool:
    """The structure has nothing in it but numbers."""
    return _of_numbers(btf, btf.type(type_id), 0)


def context_types(env: Env) -> tuple[int, int]:
    """Types of the program's context: as programs see it, and the kernel's own. 0: void."""
    btf = env.btf(0)
    pairs = btf.find("bpf_ctx_convert", kinds.STRUCT)
    if pairs is None:
        return 0, 0
    from_name = _PROG_TYPE_NAMES.get(env.prog_type, "")
    seen, own = 0, 0
    for row in pairs.members:
        if row.name == f"BPF_PROG_TYPE_{from_name}_prog":
            seen = row.type
        elif row.name == f"BPF_PROG_TYPE_{from_name}_kern":
            own = row.type
    return seen, own


def is_ctx(env: Env, btf: Btf, name: str) -> bool:
    """Arguments of that structure are the program's context."""
    seen, _ = context_types(env)
    found = btf.strip(seen) if seen else None
    if found is None or not found.name:
        return False
    return found.name == name or found.name == _SEEN_AS.get(name, "")


_PROG_TYPE_NAMES: Final = {
    1: "SOCKET_FILTER", 2: "KPROBE", 3: "SCHED_CLS", 4: "SCHED_ACT", 5: "TRACEPOINT", 6: "XDP",
    7: "PERF_EVENT", 8: "CGROUP_SKB", 9: "CGROUP_SOCK", 10: "LWT_IN", 11: "LWT_OUT",
    12: "LWT_XMIT", 13: "SOCK_OPS", 14: "SK_SKB", 15: "CGROUP_DEVICE", 16: "SK_MSG",
    17: "RAW_TRACEPOINT", 18: "CGROUP_SOCK_ADDR", 19: "LWT_SEG6LOCAL", 20: "LIRC_MODE2",
    21: "SK_REUSEPORT", 22: "FLOW_DISSECTOR", 23: "CGROUP_SYSCTL",
    24: "RAW_TRACEPOINT_WRITABLE", 25: "CGROUP_SOCKOPT", 26: "TRACING", 27: "STRUCT_OPS",
    28: "EXT", 29: "LSM", 30: "SK_LOOKUP", 31: "SYSCALL", 32: "NETFILTER",
}  # fmt: skip


def seen_as(name: str) -> str:
    """The name under which programs know a kernel's structure, or ""."""
    return _SEEN_AS.get(name, "")
