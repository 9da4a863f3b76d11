"""Global functions: verified once by themselves, for any arguments that their BTF allows, and at a
call only for what they are given; what they do to it, and what they return, is then unknown.

A function with arguments that are not modelled (trusted pointers, void) is simulated at its calls
instead, like a static one: that is as safe, and accepts more.

Source of rules and messages: Linux 6.18, kernel/bpf/btf.c, btf_prepare_func_args;
kernel/bpf/verifier.c, do_check_common, btf_check_func_arg_match, check_func_call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier import (
    dynptr,
    global_args,
    helpers,
    infos,
    kfunc,
    kfunc_table,
    memory,
    precision,
)
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Global, Reject, type_name
from libbpf_shim.verifier.state import (
    BTF_PTR,
    CTX,
    DYNPTR,
    MAYBE_NULL,
    MEM,
    NO_REG,
    SCALAR,
    STACK,
    TYPE_MASK,
    UNKNOWN,
    UNTRUSTED,
    Frame,
    Reg,
    State,
    pointer,
)

_SKB: Final = "__sk_buff"
_NONE: Final = "-"  # no structure: the context is known by BTF
# The context by program type; where it is absent, functions with pointers are only simulated.
_CONTEXT: Final = {
    1: _SKB, 2: "pt_regs", 3: _SKB, 4: _SKB, 6: "xdp_md", 7: "bpf_perf_event_data", 8: _SKB,
    9: "bpf_sock", 10: _SKB, 11: _SKB, 12: _SKB, 13: "bpf_sock_ops", 14: _SKB,
    15: "bpf_cgroup_dev_ctx", 16: "sk_msg_md", 17: "bpf_raw_tracepoint_args",
    18: "bpf_sock_addr", 19: _SKB, 21: "sk_reuseport_md", 22: _SKB, 23: "bpf_sysctl",
    24: "bpf_raw_tracepoint_args", 25: "bpf_sockopt", 26: _NONE, 27: _NONE,
    29: _NONE, 30: "bpf_sk_lookup", 31: "(void)",
}  # fmt: skip
_SCALARS: Final = (kinds.INT, kinds.ENUM, kinds.ENUM64)
_TAG: Final = "arg:"


def prepared(env: Env, btf: Btf, entry: int, function: Type) -> Global | None:
    """The function with its arguments, or None if it is only simulated."""
    tags = _tags(btf).get(function.id, {})
    args: list[Reg] = []
    proto = btf.type(function.ref)
    result = btf.strip(proto.ref)
    if result is None or result.kind not in _SCALARS:
        found = Global(entry, function.name, args)
        text = "doesn't return scalar. Only those are supported."
        found.refused = f"Global function {function.name}() {text}"
        return found
    for n, param in enumerate(proto.members):
        reg = _argument(env, btf, n, param.type, tags.get(n, ""))
        if reg is None:
            return None
        args.append(reg)
    return Global(entry, function.name, args)


@lru_cache(maxsize=4)
def _tags(btf: Btf) -> dict[int, dict[int, str]]:
    """What is said of arguments (__arg_ctx and the like): by function's type, by number, words."""
    tags: dict[int, dict[int, str]] = {}
    for found in btf:
        if found.kind == kinds.DECL_TAG and found.name.startswith(_TAG) and found.extra >= 0:
            of = tags.setdefault(found.ref, {})
            tag = found.name.removeprefix(_TAG)
            of[found.extra] = f"{of[found.extra]} {tag}" if found.extra in of else tag
    return tags


def _argument(env: Env, btf: Btf, n: int, type_id: int, tag: str) -> Reg | None:
    if tag == "ctx":
        return pointer(CTX)
    found = btf.strip(type_id)
    tags = tag.split()
    if found is not None and found.kind == kinds.PTR and global_args.TAGS & set(tags):
        return global_args.typed(env, btf, n, found, tags)
    if found is None or tag not in ("", "nonnull"):
        return None
    if found.kind in _SCALARS:
        return UNKNOWN
    if is_dynptr(btf, found):
        return dynptr.constant(env)
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
    return reg


def is_dynptr(btf: Btf, found: Type) -> bool:
    target = btf.strip(found.ref) if found.kind == kinds.PTR else None
    return target is not None and target.kind == kinds.STRUCT and target.name == "bpf_dynptr"


def start(env: Env, function: Global) -> None:
    """env.cur is at its entry."""
    sub = env.sub_of[function.entry]
    frame = Frame(-1, sub)
    for n, reg in enumerate(function.args):
        frame.regs[n + 1] = reg
        if reg.type & MAYBE_NULL:
            frame.regs[n + 1] = reg = reg.copy()
            reg.id = env.new_id()
    frame.regs[10] = pointer(STACK)
    env.cur = State([frame])
    env.insn_idx = function.entry
    if env.log_level & 3:
        env.lines.append(f"Validating {function.name}() func#{sub}...")


def called(env: Env, function: Global) -> None:
    """A call of it, from the current frame: arguments checked, R0 unknown."""
    sub = env.sub_of[function.entry]
    try:
        if function.refused:
            raise Reject(EINVAL, function.refused)
        for n, wanted in enumerate(function.args):
            _given(env, n, wanted)
    except Reject as reject:
        why = f"Caller passes invalid args into func#{sub} ('{function.name}')"
        raise Reject(reject.errno, f"{reject.message}\n{why}") from None
    if env.log_level & 3:
        env.lines.append(f"Func#{sub} ('{function.name}') is global and assumed valid.")
    env.called.add(function.entry)
    regs = env.regs()
    for r in range(6):
        regs[r] = NO_REG
    regs[0] = UNKNOWN


def _given(env: Env, n: int, wanted: Reg) -> None:
    """Argument n of a call is what the function wants."""
    regno = n + 1
    reg = env.read_reg(regno)
    if wanted.type == SCALAR:
        if reg.type != SCALAR:
            raise Reject(EINVAL, f"R{regno} is not a scalar")
        return
    if wanted.type == DYNPTR:
        dynptr.unmoved(regno, reg)
        if not dynptr.is_pointer(reg):
            text = f"arg#{n} expected pointer to stack or const struct bpf_dynptr"
            raise Reject(EINVAL, text)
        dynptr.existing(env, regno, reg, 0, False)
        return
    null = reg.type == SCALAR and reg.tm == 0 and reg.tv == 0
    if wanted.type & TYPE_MASK == BTF_PTR or wanted.type & UNTRUSTED:
        global_args.given(env, regno, reg, wanted)
        return
    if wanted.type == CTX:
        if reg.type != CTX:
            raise Reject(EINVAL, f"arg#{n} expects pointer to ctx")
        if reg.off or reg.tm or reg.tv:
            text = f"dereference of modified ctx ptr R{regno} off={reg.off} disallowed"
            raise Reject(EACCES, text)
        env.ctx_escapes = True
        return
    if not wanted.type & MAYBE_NULL and (null or reg.type & MAYBE_NULL):
        raise Reject(EINVAL, f"arg#{n} is expected to be non-NULL")
    if null:
        precision.mark_reg(env, regno)
        return
    _memory(env, regno, reg, wanted.mem_size)


def _memory(env: Env, regno: int, reg: Reg, size: int) -> None:
    """Memory that the function may read and write; perhaps NULL, which it looks at itself."""
    regs = env.regs()
    if reg.type & TYPE_MASK in (CTX, SCALAR):
        raise Reject(EINVAL, f"R{regno} type={type_name(reg.type)} expected=fp")
    if reg.type & MAYBE_NULL:
        there = reg.copy()
        there.type &= ~MAYBE_NULL
        regs[regno] = there
    try:
        for kind in (memory.READ, memory.WRITE):
            memory.indirect(env, regno, size, kind, True, True, "fp")
    except Reject as reject:
        raise Reject(EINVAL, reject.message) from None
    regs[regno] = reg


def moves_packets(env: Env, entry: int) -> bool:
    """The function, or one that it may call, may move the packet: known without running it."""
    return _any(env, entry, _moves)


def may_sleep(env: Env, entry: int) -> bool:
    """The function, or one that it may call, has a call that may sleep."""
    return _any(env, entry, _sleeps)


def _moves(env: Env, i: Insn) -> bool:
    k = kfunc.of(env, i)
    if k is not None:
        return k.name == kfunc.PULLS
    proto = helpers.proto(env.prog_type, i.imm) if i.src == 0 else None
    return i.src == 0 and i.imm == infos.TAIL_CALL or (proto is not None and proto.moves)


def _sleeps(env: Env, i: Insn) -> bool:
    k = kfunc.of(env, i)
    if k is not None:
        return k.allowed and k.flags & kfunc_table.SLEEPABLE != 0
    proto = helpers.proto(env.prog_type, i.imm) if i.src == 0 else None
    return proto is not None and proto.sleeps


def _any(env: Env, entry: int, says: Callable[[Env, Insn], bool]) -> bool:
    """A call in the function, or in one that it may call, is as said."""
    todo, done = [env.sub_of[entry]], set()
    while todo:
        sub = todo.pop()
        if sub in done:
            continue
        done.add(sub)
        end = env.subprogs[sub + 1] if sub + 1 < len(env.subprogs) else len(env.insns)
        for at in range(env.subprogs[sub], end):
            i = env.insns[at]
            if i.code == op.JMP | op.CALL and i.src != op.PSEUDO_CALL:
                if says(env, i):
                    return True
            elif i.code == op.JMP | op.CALL or (
                i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC
            ):
                todo.append(env.sub_of[at + 1 + i.imm])
    return False
