"""Global functions: verified once by themselves, for any arguments that their BTF allows, and at a
call only for what they are given; what they do to it, and what they return, is then unknown.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, do_check_common,
btf_check_func_arg_match, check_func_call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier import infos
from libbpf_shim.verifier.call import global_args, helpers, params
from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Global, Reject, tnum, type_name
from libbpf_shim.verifier.kfuncs import dynptr, kfunc, kfunc_table
from libbpf_shim.verifier.memory import access, context
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.state import (
    ARENA,
    BTF_PTR,
    BUF,
    CTX,
    DYNPTR,
    MAP_KEY,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NO_REG,
    NOT_INIT,
    PKT,
    PKT_META,
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

_MEMORY: Final = (SCALAR, STACK, PKT, PKT_META, MAP_KEY, MAP_VALUE, MEM, BUF)
# Program types whose context is not translated: the kernel's own is what they see.
_AS_IT_IS: Final = (2, 5, 15, 17, 20, 24, 26, 27, 29, 31, 32)


def prepared(env: Env, btf: Btf, entry: int, function: Type) -> Global:
    """The function with its arguments, or with the reason why it cannot be called."""
    found = Global(entry, function.name, [])
    try:
        found.args = params.prepare(env, btf, function)
    except Reject as reject:
        found.refused, found.errno = reject.message, reject.errno
    return found


def start(env: Env, function: Global) -> None:
    """env.cur is at its entry."""
    sub = env.sub_of[function.entry]
    frame = Frame(-1, sub)
    for n, reg in enumerate(function.args):
        frame.regs[n + 1] = UNKNOWN if reg.type == ARENA else reg
        if reg.type & MAYBE_NULL:
            frame.regs[n + 1] = reg = reg.copy()
            reg.id = env.new_id()
    frame.regs[10] = pointer(STACK)
    env.cur = State([frame])
    env.insn_idx = function.entry
    if env.log_level:
        env.lines.append(f"Validating {function.name}() func#{sub}...")


def called(env: Env, function: Global) -> None:
    """A call of it, from the current frame: arguments checked, R0 unknown."""
    sub = env.sub_of[function.entry]
    try:
        if function.refused:
            raise Reject(function.errno, function.refused)
        for n, wanted in enumerate(function.args):
            _given(env, n, wanted)
    except Reject as reject:
        why = f"Caller passes invalid args into func#{sub} ('{function.name}')"
        raise Reject(reject.errno, f"{reject.message}\n{why}") from None
    if env.log_level:
        env.lines.append(f"Func#{sub} ('{function.name}') is global and assumed valid.")
    env.called.add(function.entry)
    regs = env.regs()
    for r in range(6):
        regs[r] = NO_REG
    regs[0] = UNKNOWN


def _given(env: Env, n: int, wanted: Reg) -> None:
    """Argument n of a call is what the function wants."""
    regno = n + 1
    reg = env.regs()[regno]
    if wanted.type == SCALAR:
        if reg.type != SCALAR:
            raise Reject(EINVAL, f"R{regno} is not a scalar")
        return
    if wanted.type & TYPE_MASK == BTF_PTR or wanted.type & UNTRUSTED:
        global_args.given(env, regno, reg, wanted)
        return
    if wanted.type == CTX:
        _unmoved(regno, reg)
        if reg.type != CTX:
            raise Reject(EINVAL, f"arg#{n} expects pointer to ctx")
        env.ctx_escapes = True
        return
    if wanted.type == ARENA:
        if reg.type != ARENA and reg.type != SCALAR:
            raise Reject(EINVAL, f"R{regno} is not a pointer to arena or scalar.")
        return
    if wanted.type == DYNPTR:
        dynptr.unmoved(regno, reg)
        if not dynptr.is_pointer(reg):
            text = f"arg#{n} expected pointer to stack or const struct bpf_dynptr"
            raise Reject(EINVAL, text)
        dynptr.existing(env, regno, reg, 0, False)
        return
    _unmoved(regno, reg)
    if reg.type == SCALAR and reg.tm == 0 and reg.tv == 0:
        if not wanted.type & MAYBE_NULL:  # 6.18 lets it through, to a function that reads it
            raise Reject(EINVAL, f"arg#{n} is expected to be non-NULL")
        precision.mark_reg(env, regno)
        return
    _memory(env, regno, reg, wanted.mem_size)
    if reg.type & MAYBE_NULL and not wanted.type & MAYBE_NULL:
        raise Reject(EINVAL, f"arg#{n} is expected to be non-NULL")


def _unmoved(regno: int, reg: Reg) -> None:
    """Pointers to anything but memory have no offset (check_func_arg_reg_off())."""
    base = reg.type & TYPE_MASK
    if base in _MEMORY:
        return
    what = type_name(reg.type)
    if reg.off < 0:
        text = f"negative offset {what} ptr R{regno} off={reg.off} disallowed"
        raise Reject(EACCES, text)
    if reg.off and base != BTF_PTR:
        text = f"dereference of modified {what} ptr R{regno} off={reg.off} disallowed"
        raise Reject(EACCES, text)
    if reg.tm or reg.tv:
        text = f"variable {what} access var_off={tnum(reg)} disallowed"
        raise Reject(EACCES, text)


def _context(env: Env, size: int) -> None:
    """The context for memory, where it is given to programs as it is."""
    for write in (False, True):
        attach_type = env.program.expected_attach_type
        if size and not context.access(env.prog_type, attach_type, size - 1, 1, write):
            raise Reject(EINVAL, f"invalid bpf_context access off={size - 1} size=1")


def _memory(env: Env, regno: int, reg: Reg, size: int) -> None:
    """Memory that the function may read and write; perhaps NULL, which it looks at itself."""
    regs = env.regs()
    if reg.type == CTX and env.prog_type in _AS_IT_IS:
        env.ctx_escapes = env.ctx_written = True
        _context(env, size)
        return
    if reg.type & TYPE_MASK in (NOT_INIT, CTX, SCALAR):
        raise Reject(EINVAL, f"R{regno} type={type_name(reg.type)} expected=fp")
    if reg.type & MAYBE_NULL:
        there = reg.copy()
        there.type &= ~MAYBE_NULL
        regs[regno] = there
    try:
        for kind in (access.READ, access.WRITE):
            access.indirect(env, regno, size, kind, True, True, "fp")
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
