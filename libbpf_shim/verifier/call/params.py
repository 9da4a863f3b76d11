"""Parameters of a global function, as its BTF and the tags of its arguments tell.

Source of rules and messages: Linux 6.18, kernel/bpf/btf.c, btf_prepare_func_args,
btf_is_prog_ctx_type, btf_validate_prog_ctx_type; include/linux/bpf_types.h for the contexts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier.call import global_args
from libbpf_shim.verifier.env import EINVAL, Env, Reject
from libbpf_shim.verifier.kernel import btf_context, btf_walk
from libbpf_shim.verifier.kfuncs import dynptr
from libbpf_shim.verifier.state import ARENA, CTX, MAYBE_NULL, MEM, UNKNOWN, Reg, pointer

EOPNOTSUPP: Final = 95
MOST: Final = 5
_SKB: Final = "__sk_buff"
_RAW: Final = "bpf_raw_tracepoint_args"
# The structure that a program type's context is, to programs. Others have none of that name.
CONTEXT: Final = {
    1: _SKB, 2: "pt_regs", 3: _SKB, 4: _SKB, 6: "xdp_md", 7: "bpf_perf_event_data", 8: _SKB,
    9: "bpf_sock", 10: _SKB, 11: _SKB, 12: _SKB, 13: "bpf_sock_ops", 14: _SKB,
    15: "bpf_cgroup_dev_ctx", 16: "sk_msg_md", 17: _RAW, 18: "bpf_sock_addr", 19: _SKB,
    21: "sk_reuseport_md", 22: _SKB, 23: "bpf_sysctl", 24: _RAW, 25: "bpf_sockopt",
    30: "bpf_sk_lookup", 32: "bpf_nf_ctx",
}  # fmt: skip
_ALIAS: Final = {"__sk_buff": "sk_buff", "xdp_md": "xdp_buff"}  # the kernel's own names of them
_KPROBE, _PERF_EVENT, _TRACING, _LSM, _STRUCT_OPS = 2, 7, 26, 29, 27
_ANYTHING: Final = (5, 28, 31)  # TRACEPOINT, EXT, SYSCALL
_RAW_TYPES: Final = (17, 24)
_TRACE_RAW, _TRACE_ITER = 23, 28  # expected attach types
_TRACE_CALLS: Final = (24, 25, 26)  # fentry, fexit, fmod_ret
_NUMBERS: Final = (kinds.INT, kinds.ENUM, kinds.ENUM64)
_TAG: Final = "arg:"
_TAGS: Final = frozenset(("ctx", "trusted", "untrusted", "nonnull", "nullable", "arena"))


def prepare(env: Env, btf: Btf, function: Type) -> list[Reg]:
    """Registers of the arguments as the function sees them (a Reg of type ARENA: any number).
    Raises Reject where there can be no such global function."""
    proto = btf.type(function.ref)
    name = function.name
    count = len(proto.members)
    if count > MOST:
        text = f"Global function {name}() with {count} > {MOST} args. Buggy compiler."
        raise Reject(EINVAL, text)
    result = btf.strip(proto.ref)
    if result is None or result.kind not in _NUMBERS:
        text = "doesn't return scalar. Only those are supported."
        raise Reject(EINVAL, f"Global function {name}() {text}")
    tags = _tagged(btf).get(function.id, {})
    return [_argument(env, btf, name, n, param.type, tags.get(n, []))
            for n, param in enumerate(proto.members)]


@lru_cache(maxsize=4)
def _tagged(btf: Btf) -> dict[int, dict[int, list[str]]]:
    """What is said of arguments (__arg_ctx and the like): by function's type, by number, words."""
    tags: dict[int, dict[int, list[str]]] = {}
    for found in btf:
        if found.kind == kinds.DECL_TAG and found.name.startswith(_TAG) and found.extra >= 0:
            of = tags.setdefault(found.ref, {}).setdefault(found.extra, [])
            tag = found.name.removeprefix(_TAG)
            if tag not in of:
                of.append(tag)
    return tags


def _argument(env: Env, btf: Btf, name: str, n: int, type_id: int, tags: list[str]) -> Reg:
    if not _TAGS.issuperset(tags):
        raise Reject(EOPNOTSUPP, f"arg#{n} has unsupported set of tags")
    found = btf.strip(type_id)
    if found is not None and found.kind == kinds.PTR:
        return _pointer(env, btf, n, found, tags)
    if tags:
        raise Reject(EINVAL, f"arg#{n} has pointer tag, but is not a pointer type")
    if found is not None and found.kind in _NUMBERS:
        return UNKNOWN
    kind = btf_context.kind_name(found)
    raise Reject(EINVAL, f"Arg#{n} type {kind} in {name}() is not supported yet.")


def _pointer(env: Env, btf: Btf, n: int, found: Type, tags: list[str]) -> Reg:
    others = f"arg#{n} has invalid combination of tags"
    if "ctx" in tags or is_context(env, btf, found.ref):
        if set(tags) - {"ctx"}:
            raise Reject(EINVAL, others)
        if "ctx" in tags:
            _check_context(env, btf, n, found.ref)
        return pointer(CTX)
    target = btf.strip(found.ref) if found.ref else None
    if target is not None and target.kind == kinds.STRUCT and target.name == "bpf_dynptr":
        if tags:
            raise Reject(EINVAL, others)
        return dynptr.constant(env)
    if "trusted" in tags or "untrusted" in tags:
        return global_args.typed(env, btf, n, found, tags)
    if "arena" in tags:
        if len(set(tags)) > 1:
            text = f"arg#{n} arena cannot be combined with any other tags"
            raise Reject(EINVAL, text)
        return Reg(ARENA)
    if "nullable" in tags:
        raise Reject(EINVAL, others)
    sized = btf_walk.resolve(btf, found.ref) if found.ref else None
    if sized is None:
        kind = btf_context.kind_name(target)
        what = f"{kind} {target.name if target is not None else ''}"
        text = f"arg#{n} reference type('{what}') size cannot be determined: -22"
        raise Reject(EINVAL, text)
    reg = pointer(MEM if "nonnull" in tags else MEM | MAYBE_NULL)
    reg.mem_size = sized.size
    return reg


def _user_pt_regs(btf: Btf, type_id: int) -> bool:
    """The type is the typedef bpf_user_pt_regs_t."""
    while type_id:
        found = btf.type(type_id)
        if found.kind == kinds.TYPEDEF:
            return found.name == "bpf_user_pt_regs_t"
        if found.kind not in kinds.MODIFIERS:
            return False
        type_id = found.ref
    return False


def is_context(env: Env, btf: Btf, type_id: int) -> bool:
    """Whether a pointer to the type is one to the program type's context, untagged."""
    if env.prog_type == _KPROBE and _user_pt_regs(btf, type_id):
        return True
    found = btf.strip(type_id) if type_id else None
    wanted = CONTEXT.get(env.prog_type, "")
    if found is None or found.kind != kinds.STRUCT or not wanted:
        return False
    return found.name in (wanted, _ALIAS.get(wanted, wanted))


def _check_context(env: Env, btf: Btf, n: int, type_id: int) -> None:
    """What a tag calls the context may be it. Raises Reject."""
    kind = env.prog_type
    if kind in (_KPROBE, _PERF_EVENT) and _user_pt_regs(btf, type_id):
        return
    found = btf.strip(type_id) if type_id else None
    if found is None:
        return
    if not found.name:
        raise Reject(EINVAL, f"arg#{n} type doesn't have a name")
    if kind in _ANYTHING or _is_own(env, found):
        return
    wanted = CONTEXT.get(kind, "")
    if not wanted:
        raise Reject(EINVAL, f"arg#{n} should be void pointer")
    if found.kind != kinds.STRUCT or found.name != wanted:
        raise Reject(EINVAL, f"arg#{n} should be `struct {wanted} *`")


def _is_own(env: Env, found: Type) -> bool:
    """What some program types take for their context beside the structure, if there is one."""
    kind, attach_type = env.prog_type, env.program.expected_attach_type
    structure = found.kind == kinds.STRUCT
    word = found.kind == kinds.INT and found.size == 8
    if kind in (_KPROBE, _PERF_EVENT):
        return structure and found.name == "pt_regs"
    if kind in _RAW_TYPES or kind in (_LSM, _STRUCT_OPS):
        return word
    if kind != _TRACING:
        return False
    if attach_type == _TRACE_ITER:
        return structure and found.name.startswith("bpf_iter__")
    if attach_type == _TRACE_RAW and structure and found.name == _RAW:
        return True
    return word and (attach_type == _TRACE_RAW or attach_type in _TRACE_CALLS)
