"""Arguments of global functions that are pointers to the kernel's structures: __arg_trusted,
__arg_untrusted, each a structure of the kernel's of the same name.

Source of rules and messages: Linux 6.18, kernel/bpf/btf.c, btf_prepare_func_args,
btf_get_ptr_to_btf_id; kernel/bpf/verifier.c, btf_check_func_arg_match.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier.env import EINVAL, Env, Reject
from libbpf_shim.verifier.kernel import btf_context, btf_ptr, btf_walk
from libbpf_shim.verifier.state import (
    BTF_PTR,
    MAYBE_NULL,
    MEM,
    RDONLY,
    SCALAR,
    TRUSTED,
    UNTRUSTED,
    Reg,
    pointer,
)

TAGS: Final = frozenset(("trusted", "untrusted", "nullable"))
_ENOENT: Final = 2
_ESRCH: Final = 3
_NUMBERS: Final = (kinds.INT, kinds.ENUM, kinds.ENUM64)


def typed(env: Env, btf: Btf, n: int, found: Type, tags: list[str]) -> Reg:
    """Argument n, a pointer with one of TAGS, as the function sees it. Raises Reject."""
    if "trusted" in tags:
        if "nonnull" in tags:
            raise Reject(EINVAL, f"arg#{n} has invalid combination of tags")
        r = pointer(BTF_PTR | TRUSTED | (MAYBE_NULL if "nullable" in tags else 0))
    elif "untrusted" in tags:
        if len(tags) > 1:
            raise Reject(EINVAL, f"arg#{n} untrusted cannot be combined with any other tags")
        target = btf.strip(found.ref) if found.ref else None
        if target is None or (target.kind in _NUMBERS and target.size <= 8):
            return pointer(MEM | RDONLY | UNTRUSTED)
        r = pointer(BTF_PTR | UNTRUSTED)
    else:
        raise Reject(EINVAL, f"arg#{n} has invalid combination of tags")
    r.type_id = _kernels(env, btf, n, found)
    kernel = env.btf(0).type(r.type_id)
    if "untrusted" in tags and not btf_walk.is_struct(kernel):
        kind = btf_context.kind_name(kernel)
        text = f"arg#{n} has type {kind} '{found.name}', but only struct or primitive types"
        raise Reject(EINVAL, f"{text} are allowed")
    r.id = env.new_id()
    return r


def _kernels(env: Env, btf: Btf, n: int, found: Type) -> int:
    """The kernel's type of the name and kind that the pointer's target has, a flavor (NAME___x)
    left out."""
    target = btf.strip(found.ref) if found.ref else None
    name = target.name.split("___")[0] if target is not None else ""
    kernel = env.btf(0)
    ids = [i for i in kernel.ids(name)
           if target is not None and kernel.type(i).kind == target.kind] if name else []
    if len(ids) != 1:
        kind = btf_context.kind_name(target)
        shown = target.name if target is not None and target.name else "(anon)"
        what = f"arg#{n} reference type('{kind} {shown}')"
        if not name:
            raise Reject(EINVAL, f"{what} candidate matching error: -{EINVAL}")
        if ids:
            raise Reject(_ESRCH, f"{what} is ambiguous")
        raise Reject(_ENOENT, f"{what} has no matches")
    return ids[0]


def given(env: Env, regno: int, reg: Reg, wanted: Reg) -> None:
    """What a call passes is what the function wants."""
    if wanted.type & UNTRUSTED:
        return
    if reg.type == SCALAR and not reg.tm and not reg.tv and wanted.type & MAYBE_NULL:
        return
    name = btf_walk.type_name(env.btf(0), wanted.type_id)
    btf_ptr.argument(env, regno, reg, name, wanted.type & MAYBE_NULL != 0)
