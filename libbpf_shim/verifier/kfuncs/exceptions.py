"""bpf_throw(): the program ends wherever it is. Its result is what was thrown, or that of a
callback which the main function's tag "exception_callback:NAME" names; the callback is a global
function, always verified.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, do_check_common,
bpf_find_exception_callback_insn_off, process_bpf_exit_full, check_max_stack_depth_subprog. Ready
for mypyc.
"""

from __future__ import annotations

import struct
from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.env import EINVAL, Env, Reject
from libbpf_shim.verifier.kfuncs import kfunc, sections
from libbpf_shim.verifier.state import SCALAR

_TAG: Final = "exception_callback:"
_GLOBAL: Final = 1  # BTF_FUNC_GLOBAL
_ENOENT: Final = 2
_EEXIST: Final = 17


def callback(env: Env) -> int:
    """The first slot of the callback that the program names; 0: it names none. Raises Reject."""
    size = env.program.func_info_rec_size
    rows = env.program.func_info
    if not env.program.func_count or env.program.btf is None or size < 8:
        return 0
    btf = env.btf(1)
    infos: list[tuple[int, int]] = []
    for at in range(0, len(rows) - 7, size):
        insn, type_id = struct.unpack_from("<II", rows, at)
        infos.append((int(insn), int(type_id)))
    names = []
    for tag in btf:
        if tag.kind == kinds.DECL_TAG and tag.ref == infos[0][1] and tag.extra == -1:
            if tag.name.startswith(_TAG):
                names.append(tag.name.removeprefix(_TAG))
    if not names:
        return 0
    if len(names) > 1:
        raise Reject(_EEXIST, "multiple exception callback tags for main subprog")
    function = btf.find(names[0], kinds.FUNC)
    if function is None:
        text = f"exception callback '{names[0]}' could not be found in BTF"
        raise Reject(_ENOENT, text)
    if function.extra != _GLOBAL:
        text = f"exception callback '{names[0]}' must have global linkage"
        raise Reject(EINVAL, text)
    found = -1
    for insn, type_id in infos:
        if type_id == function.id:
            found = insn
    if found == 0:
        text = "invalid exception callback insn_off in func_info: 0"
        raise Reject(EINVAL, text)
    if found < 0:
        raise Reject(EINVAL, "exception callback type id not found in func_info")
    return found


def check_callback(env: Env) -> None:
    """The callback is given a number, and is counted as called. Raises Reject."""
    if env.exception < 0:
        return
    entry = env.subprogs[env.exception]
    env.called.add(entry)
    function = env.globals.get(entry)
    if function is not None and function.refused:
        raise Reject(EINVAL, function.refused)
    if function is None or len(function.args) != 1 or function.args[0].type != SCALAR:
        raise Reject(EINVAL, "exception cb only supports single integer argument")


def thrown(env: Env) -> None:
    """Nothing may be held, in no frame."""
    env.throws = True
    sections.check_left(env, "bpf_throw", True)


def check_calls(env: Env) -> None:
    """No callback throws, nor what it calls; nobody calls the callback of exceptions. Raises
    Reject."""
    roots = {0, *env.later}
    if env.exception >= 0:
        roots.add(env.exception)
        env.called_back.add(env.exception)
    for first in sorted(roots):
        _walk(env, first, first in env.called_back, [])


def _walk(env: Env, sub: int, back: bool, above: list[int]) -> None:
    end = env.subprogs[sub + 1] if sub + 1 < len(env.subprogs) else len(env.insns)
    for at in range(env.subprogs[sub], end):
        i = env.insns[at]
        k = kfunc.of(env, i)
        if k is not None and k.name == kfunc.THROW and back:
            text = f"bpf_throw kfunc (insn {at}) cannot be called from callback subprog {sub}"
            raise Reject(EINVAL, text)
        call = i.code == op.JMP | op.CALL and i.src == op.PSEUDO_CALL
        if not call and not (i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC):
            continue
        callee = env.sub_of[at + 1 + i.imm]
        if callee == env.exception and call:
            raise Reject(EINVAL, f"insn {at} cannot call exception cb directly")
        if callee in above or callee == sub or (callee in env.later and not call):
            continue
        _walk(env, callee, back or callee in env.called_back, [*above, sub])
