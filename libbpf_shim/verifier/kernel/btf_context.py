"""The context of programs that are attached by BTF: the arguments of what they are attached to, 8
bytes each, typed as the kernel's BTF says.

Source of rules and messages: Linux 6.18, kernel/bpf/btf.c, btf_ctx_access, btf_ctx_arg_idx.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier.env import EACCES, Env, Reject
from libbpf_shim.verifier.kernel import btf_walk, lsm, raw_tp, struct_ops, target
from libbpf_shim.verifier.kernel.target import Target
from libbpf_shim.verifier.scalar.bounds import sync
from libbpf_shim.verifier.state import (
    BTF_PTR,
    BUF,
    MAYBE_NULL,
    TRUSTED,
    TYPE_MASK,
    UNKNOWN,
    Reg,
    pointer,
)

_MOST: Final = 8 * 12  # bytes: MAX_BPF_FUNC_ARGS
_NAMES: Final = (
    "UNKNOWN", "INT", "PTR", "ARRAY", "STRUCT", "UNION", "ENUM", "FWD", "TYPEDEF", "VOLATILE",
    "CONST", "RESTRICT", "FUNC", "FUNC_PROTO", "VAR", "DATASEC", "FLOAT", "DECL_TAG", "TYPE_TAG",
    "ENUM64",
)  # fmt: skip
_RETURNING: Final = (target.FEXIT, target.LSM_MAC, target.LSM_CGROUP, target.MODIFY_RETURN)


def access(env: Env, to: Target, off: int, size: int, write: bool) -> Reg:
    """What a load of size bytes at off yields. Raises Reject."""
    text = f"invalid bpf_context access off={off} size={size}"
    if not 0 <= off < _MOST or write or off % size:
        raise Reject(EACCES, text)
    lines: list[str] = []
    found = _argument(env, to, off, size, lines)
    if found is None:
        raise Reject(EACCES, "\n".join([*lines, text]))
    if env.log_level:
        env.lines += lines
    env.ctx_loads.add((off, size))
    return found


def kind_name(found: Type | None) -> str:
    """A kind of BTF in the kernel's words."""
    return _NAMES[found.kind if found else 0]


def _size(btf: Btf, type_id: int) -> int:
    """Bytes that an argument takes of the context."""
    found = btf.strip(type_id)
    if found is None:
        return 0
    return 8 if found.kind == kinds.PTR else found.size + 7 & ~7


def index(btf: Btf, proto: Type, off: int) -> int:
    """The number of the argument at off; of the result, the number of arguments; one more: there
    is nothing (btf_ctx_arg_idx)."""
    at = 0
    for n, param in enumerate(proto.members):
        at += _size(btf, param.type)
        if off < at:
            return n
    return len(proto.members) + (0 if off < at + _size(btf, proto.ref) else 1)


def _argument(env: Env, to: Target, off: int, size: int, lines: list[str]) -> Reg | None:
    """None: refused, with the kernel's words in lines."""
    btf, params = env.btf(0), to.params()
    if off % 8:
        lines.append(f"func '{to.name}' offset {off} is not multiple of 8")
        return None
    n = index(btf, to.proto, off)
    if n > len(params) or (n == len(params) and not _returns(env)):
        lines.append(f"func '{to.name}' doesn't have {n + 1}-th argument")
        return None
    result = n == len(params)
    type_id = to.proto.ref if result else params[n].type
    found = btf.strip(type_id)
    if found is not None and _is_number(found):
        return _result(env, to) if result else UNKNOWN
    if result and env.program.expected_attach_type == target.MODIFY_RETURN:
        lines.append(f"ret type {kind_name(found)} not allowed for fmod_ret")
        return None
    if found is None or found.kind != kinds.PTR:
        name = btf_walk.shown(found.name) if found else "void"
        lines.append(f"func '{to.name}' arg{n} '{name}' has type {kind_name(found)}. "
                     "Only pointer access is allowed")
        return None
    if size != 8:
        lines.append(f"func '{to.name}' size {size} must be 8")
        return None
    return _pointer(env, to, n, found, lines)


def _returns(env: Env) -> bool:
    return env.program.expected_attach_type in _RETURNING and env.prog_type != target.STRUCT_OPS


def _is_number(found: Type) -> bool:
    small = found.kind == kinds.INT and found.size <= 8
    return small or found.kind in (kinds.ENUM, kinds.ENUM64, kinds.STRUCT, kinds.UNION)


def _result(env: Env, to: Target) -> Reg:
    """What the function returned: of a hook, within what hooks return."""
    if env.program.expected_attach_type != target.LSM_MAC:
        return UNKNOWN
    lo, hi = lsm.returns(to.name)
    r = UNKNOWN.copy()
    r.smin = r.s32min = lo
    r.smax = r.s32max = hi
    sync(r)
    return r


def _pointer(env: Env, to: Target, n: int, found: Type, lines: list[str]) -> Reg | None:
    btf = env.btf(0)
    given = to.args.get(n)
    if given is not None and given[0] & TYPE_MASK == BUF:
        return _typed(env, given[0], 0)
    behind = btf.strip(found.ref)
    if behind is None or behind.kind == kinds.INT:
        return UNKNOWN
    if given is not None:
        named = btf.find(given[1], kinds.STRUCT)
        return _typed(env, given[0], named.id) if named is not None else None
    flags = BTF_PTR | (TRUSTED if to.trusted else 0)
    params = to.params()
    error = False
    if n < len(params) and params[n].name.endswith("__nullable"):
        flags |= MAYBE_NULL
    if env.program.expected_attach_type == target.RAW_TP and env.prog_type == target.TRACING:
        flags |= MAYBE_NULL if raw_tp.may_be_null(to.name, n) else 0
        error = raw_tp.may_be_error(to.name, n)
    flags |= btf_walk.tag(btf, found.ref)
    kind = kind_name(behind)
    if not btf_walk.is_struct(behind):
        lines.append(f"func '{to.name}' arg{n} type {kind} is not a struct")
        return None
    lines.append(f"func '{to.name}' arg{n} has btf_id {behind.id} type {kind} '{behind.name}'")
    if error:
        lines.append(f"marking pointer arg{n} as scalar as it may encode error")
        return UNKNOWN
    r = _typed(env, flags, behind.id)
    return struct_ops.promoted(env, r) if env.prog_type == target.STRUCT_OPS else r


def _typed(env: Env, type: int, type_id: int) -> Reg:
    r = pointer(type)
    r.type_id = type_id
    if type & MAYBE_NULL:
        r.id = env.new_id()
    return r
