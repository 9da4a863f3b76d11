"""Global functions: verified once by themselves, for any arguments that their BTF allows.

They are simulated at their calls too, like static ones, from the arguments that they really get.
That is as safe; but what is refused here the kernel refuses whatever the calls. A function with
arguments that are not modelled (trusted pointers, void) is only simulated.

Source of rules and messages: Linux 6.18, kernel/bpf/btf.c, btf_prepare_func_args;
kernel/bpf/verifier.c, do_check_common.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier.env import Env, Global
from libbpf_shim.verifier.state import (
    CTX,
    MAYBE_NULL,
    MEM,
    STACK,
    UNKNOWN,
    Frame,
    Reg,
    State,
    pointer,
)

_SKB: Final = "__sk_buff"
# The context by program type; where it is absent, functions with pointers are only simulated.
_CONTEXT: Final = {
    1: _SKB, 2: "pt_regs", 3: _SKB, 4: _SKB, 6: "xdp_md", 7: "bpf_perf_event_data", 8: _SKB,
    10: _SKB, 11: _SKB, 12: _SKB, 17: "bpf_raw_tracepoint_args",
}  # fmt: skip
_SCALARS: Final = (kinds.INT, kinds.ENUM, kinds.ENUM64)
_TAG: Final = "arg:"


def prepared(env: Env, btf: Btf, entry: int, function: Type) -> Global | None:
    """The function with its arguments, or None if it is only simulated."""
    tags = _tags(btf).get(function.id, {})
    args = []
    for n, param in enumerate(btf.type(function.ref).members):
        reg = _argument(env, btf, param.type, tags.get(n, ""))
        if reg is None:
            return None
        args.append(reg)
    return Global(entry, function.name, args)


@lru_cache(maxsize=4)
def _tags(btf: Btf) -> dict[int, dict[int, str]]:
    """What is said of arguments (__arg_ctx and the like): by function's type, by number."""
    tags: dict[int, dict[int, str]] = {}
    for found in btf:
        if found.kind == kinds.DECL_TAG and found.name.startswith(_TAG) and found.extra >= 0:
            tags.setdefault(found.ref, {})[found.extra] = found.name.removeprefix(_TAG)
    return tags


def _argument(env: Env, btf: Btf, type_id: int, tag: str) -> Reg | None:
    if tag == "ctx":
        return pointer(CTX)
    found = btf.strip(type_id)
    if found is None or tag not in ("", "nonnull"):
        return None
    if found.kind in _SCALARS:
        return UNKNOWN
    context = _CONTEXT.get(env.prog_type)
    target = btf.strip(found.ref) if found.kind == kinds.PTR else None
    if target is None or context is None:
        return None
    if target.kind == kinds.STRUCT and target.name == context:
        return pointer(CTX)
    try:
        size = btf.sizeof(target.id)
    except KeyError:
        return None
    reg = pointer(MEM if tag else MEM | MAYBE_NULL)
    reg.mem_size = size
    reg.id = 0 if tag else env.new_id()
    return reg


def start(env: Env, function: Global) -> None:
    """env.cur is at its entry."""
    sub = env.sub_of[function.entry]
    frame = Frame(-1, sub)
    for n, reg in enumerate(function.args):
        frame.regs[n + 1] = reg
    frame.regs[10] = pointer(STACK)
    env.cur = State([frame])
    env.insn_idx = function.entry
    if env.log_level & 3:
        env.lines.append(f"Validating {function.name}() func#{sub}...")
