"""What the log says of a main function whose BTF does not fit a global function of one context.

Such a signature is only told, never refused. Source: Linux 6.18, kernel/bpf/btf.c,
btf_prepare_func_args, btf_is_prog_ctx_type; kernel/bpf/verifier.c, do_check_common.
"""

from __future__ import annotations

import struct

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier.env import Env

_GLOBAL = 1  # BTF_FUNC_GLOBAL
_SKB = "__sk_buff"
# struct of the context, by program type
_CONTEXT = {
    1: _SKB, 3: _SKB, 4: _SKB, 6: "xdp_md", 7: "bpf_perf_event_data", 8: _SKB, 9: "bpf_sock",
    10: _SKB, 11: _SKB, 12: _SKB, 13: "bpf_sock_ops", 14: _SKB, 15: "bpf_cgroup_dev_ctx",
    16: "sk_msg_md", 17: "bpf_raw_tracepoint_args", 18: "bpf_sock_addr", 19: _SKB,
    21: "sk_reuseport_md", 22: _SKB, 23: "bpf_sysctl", 24: "bpf_raw_tracepoint_args",
    25: "bpf_sockopt", 30: "bpf_sk_lookup", 32: "bpf_nf_ctx",
}  # fmt: skip
_KPROBE, _PERF_EVENT = 2, 7
_MAX_ARGS = 5
_WORDS = {
    kinds.INT: "INT", kinds.PTR: "PTR", kinds.ARRAY: "ARRAY", kinds.STRUCT: "STRUCT",
    kinds.UNION: "UNION", kinds.ENUM: "ENUM", kinds.FWD: "FWD", kinds.FLOAT: "FLOAT",
    kinds.ENUM64: "ENUM64", kinds.FUNC_PROTO: "FUNC_PROTO", kinds.FUNC: "FUNC",
}  # fmt: skip
_NUMBERS = (kinds.INT, kinds.ENUM, kinds.ENUM64)


def complaint(env: Env) -> str:
    """The line, or "" if main fits, is static, or has no BTF."""
    program = env.program
    if not program.btf or program.func_info_rec_size < 8 or len(program.func_info) < 8:
        return ""
    insn, type_id = struct.unpack_from("<II", program.func_info)
    btf = env.btf(1)
    try:
        function = btf.type(type_id)
        if insn or function.kind != kinds.FUNC or function.extra != _GLOBAL:
            return ""
        return _complaint(env, btf, function)
    except KeyError:
        return ""


def _complaint(env: Env, btf: Btf, function: Type) -> str:
    proto = btf.type(function.ref)
    if len(proto.members) > _MAX_ARGS:
        count = len(proto.members)
        return f"Global function {function.name}() with {count} > 5 args. Buggy compiler."
    result = btf.strip(proto.ref)
    if result is None or result.kind not in _NUMBERS:
        return (f"Global function {function.name}() doesn't return scalar. Only those are "
                f"supported.")
    for n, param in enumerate(proto.members):
        if said := _argument(env, btf, function, n, param.type):
            return said
    return ""


def _argument(env: Env, btf: Btf, function: Type, n: int, type_id: int) -> str:
    found = btf.strip(type_id)
    if found is not None and found.kind in _NUMBERS:
        return ""
    if found is None or found.kind != kinds.PTR:
        word = _WORDS.get(found.kind, "UNKNOWN") if found else "UNKNOWN"
        return f"Arg#{n} type {word} in {function.name}() is not supported yet."
    target = btf.strip(found.ref)
    if _is_context(env, btf, found.ref) or (target is not None and target.name == "bpf_dynptr"):
        return ""
    try:
        if target is None:
            raise KeyError(found.ref)
        btf.sizeof(target.id)
    except KeyError:
        word = _WORDS.get(target.kind, "UNKNOWN") if target else "UNKNOWN"
        name = target.name if target else ""
        return (f"arg#{n} reference type('{word} {name}') size cannot be determined: -22")
    return ""


def _is_context(env: Env, btf: Btf, type_id: int) -> bool:
    """Whether a pointer to the type is one to the program type's context."""
    while type_id:
        found = btf.type(type_id)
        if env.prog_type in (_KPROBE, _PERF_EVENT) and found.name == "bpf_user_pt_regs_t":
            return True
        if found.kind not in (kinds.TYPEDEF, kinds.CONST, kinds.VOLATILE, kinds.RESTRICT,
                              kinds.TYPE_TAG):
            if env.prog_type == _KPROBE:
                return found.kind == kinds.STRUCT and found.name == "pt_regs"
            wanted = _CONTEXT.get(env.prog_type)
            return found.kind == kinds.STRUCT and found.name == wanted
        type_id = found.ref
    return False
