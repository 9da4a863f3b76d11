"""Everything that can be said of a program without running it: shape, jumps, reachability.

Fills env.subprogs, env.sub_of and env.prune_point. Messages and their order are the kernel's
(kernel/bpf/verifier.c: check_subprogs, resolve_pseudo_ldimm64, check_cfg).
"""

from __future__ import annotations

import struct

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier import infos
from libbpf_shim.verifier.call import functions
from libbpf_shim.verifier.env import EBUSY, EINVAL, ENOTSUPP, ERANGE, Env, Reject
from libbpf_shim.verifier.kernel import ksym, tracing
from libbpf_shim.verifier.kfuncs import exceptions, kfunc, kfunc_proto
from libbpf_shim.verifier.log import trace
from libbpf_shim.verifier.memory import fields
from libbpf_shim.verifier.program import MapDesc
from libbpf_shim.verifier.state import CALLBACK, MAY_GOTO, PRUNE

MAX_SUBPROGS = 256
ARENA_MAP = 33  # BPF_MAP_TYPE_ARENA
_GLOBAL = 1  # BTF_FUNC_GLOBAL
_SLEEPABLE = 1 << 4  # BPF_F_SLEEPABLE
# whose maps sleepable programs may use: array, hash, ring buffer and local storage maps
_SLEEPABLE_MAPS = frozenset((1, 2, 5, 6, 9, 10, 12, 13, 22, 23, 24, 27, 28, 29, 31, 32, 33))
_SYSCALL = 31  # BPF_PROG_TYPE_SYSCALL
_SLEEPERS = frozenset((2, 27, 29, _SYSCALL))  # KPROBE, STRUCT_OPS, LSM
MAX_MAPS = 64
# helpers that call a function of the program before they return: for_each_map_elem, loop,
# user_ringbuf_drain
CALLS_BACK = frozenset((164, 180, 181, 209))
_SET_CALLBACK = 170  # BPF_FUNC_timer_set_callback
# map types with direct value access: array, per-CPU arrays have none, insn_array is not modelled
_DIRECT_VALUE = {2}


def check(env: Env) -> None:
    """All structural rules. Raises Reject."""
    infos.check_early(env)
    _find_subprogs(env)
    if env.log_level & 2:
        trace.functions(env)
    _check_jumps(env)
    infos.check(env)
    _check_pairs(env)
    _check_reachable(env)
    _check_sleepable(env)
    tracing.attach(env)
    _check_globals(env)


def _check_sleepable(env: Env) -> None:
    """Which programs may sleep, and which must."""
    sleeps = bool(env.program.prog_flags & _SLEEPABLE)
    if env.prog_type == _SYSCALL and not sleeps:
        raise Reject(EINVAL, "Syscall programs can only be sleepable")
    if sleeps and env.prog_type not in _SLEEPERS and not tracing.may_sleep(env):
        raise Reject(EINVAL, "Only fentry/fexit/fmod_ret, lsm, iter, uprobe, and struct_ops "
                             "programs can be sleepable")


def target(i: Insn, at: int) -> int:
    """Slot that a jump goes to when taken."""
    far = i.code == op.JMP32 | op.JA
    return at + 1 + (i.imm if far else i.off)


def is_jump(i: Insn) -> bool:
    """A conditional or unconditional jump: neither call nor exit."""
    return i.klass in (op.JMP, op.JMP32) and i.code & 0xF0 not in (op.CALL, op.EXIT)


def _find_subprogs(env: Env) -> None:
    starts = {0}
    n = len(env.insns)
    for at, i in enumerate(env.insns):
        call = i.code == op.JMP | op.CALL and i.src == op.PSEUDO_CALL
        func = i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC
        if i.code == op.JMP | op.CALL and i.src == op.PSEUDO_KFUNC_CALL:
            kfunc_proto.add(env, i)
        if not call and not func:
            continue
        start = at + i.imm + 1
        if not 0 <= start < n:
            raise Reject(EINVAL, "call to invalid destination")
        starts.add(start)
    if thrown := exceptions.callback(env):
        starts.add(thrown)
    if len(starts) > MAX_SUBPROGS:
        raise Reject(7, "too many subprograms")
    env.subprogs = sorted(starts)
    if thrown:
        env.exception = env.subprogs.index(thrown)
    env.sub_of = [0] * n
    bounds = [*env.subprogs[1:], n]
    for number, (start, end) in enumerate(zip(env.subprogs, bounds, strict=True)):
        for at in range(start, end):
            env.sub_of[at] = number
    env.sub_depth = [0] * len(env.subprogs)
    env.tail_call = [infos.has_tail_call(env, n) for n in range(len(env.subprogs))]


def _check_jumps(env: Env) -> None:
    n = len(env.insns)
    bounds = [*env.subprogs[1:], n]
    for start, end in zip(env.subprogs, bounds, strict=True):
        for at in range(start, end):
            i = env.insns[at]
            if is_jump(i):
                to = target(i, at)
                if not start <= to < end:
                    raise Reject(EINVAL, f"jump out of range from insn {at} to {to}")
        last = env.insns[end - 1]
        jump = last.code in (op.JMP | op.EXIT, op.JMP | op.JA, op.JMP32 | op.JA)
        if not jump:
            raise Reject(EINVAL, "last insn is not an exit or jmp")


def _check_pairs(env: Env) -> None:
    """ld_imm64 halves and the maps they name; modes of loads and stores; opcodes."""
    n = len(env.insns)
    at = 0
    while at < n:
        i = env.insns[at]
        if i.klass == op.LDX and (i.code & 0xE0 not in (op.MODE_MEM, op.MODE_MEMSX) or i.imm):
            raise Reject(EINVAL, "BPF_LDX uses reserved fields")
        if i.code == op.LD_IMM64:
            _check_ld_imm64(env, at)
            at += 2
            continue
        if not _known_opcode(i):
            raise Reject(EINVAL, f"unknown opcode {i.code:02x}")
        at += 1
    if len(env.used_maps) > MAX_MAPS:
        raise Reject(7, "The total number of maps per program has reached the limit of 64")


def _check_ld_imm64(env: Env, at: int) -> None:
    i = env.insns[at]
    if at + 1 >= len(env.insns):
        raise Reject(EINVAL, "invalid bpf_ld_imm64 insn")
    high = env.insns[at + 1]
    if high.code or high.dst or high.src or high.off:
        raise Reject(EINVAL, "invalid bpf_ld_imm64 insn")
    if i.src in (0, op.PSEUDO_FUNC):
        return
    if i.src == op.PSEUDO_BTF_ID:
        ksym.check(env, at)
        return
    value = i.src in (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE)
    plain = i.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_IDX)
    if not value and (not plain or high.imm):
        raise Reject(EINVAL, "unrecognized bpf_ld_imm64 insn")
    if at in env.program.bad_maps:
        raise Reject(*env.program.bad_maps[at])
    if not 0 <= i.imm < len(env.program.maps):
        raise Reject(EINVAL, f"fd {i.imm} is not pointing to valid bpf_map")
    desc = env.program.maps[i.imm]
    check_map(env, desc)
    if env.program.prog_flags & _SLEEPABLE and desc.type not in _SLEEPABLE_MAPS:
        raise Reject(
            EINVAL, "Sleepable programs can only use array, hash, ringbuf and local storage maps"
        )
    env.used_maps.add(i.imm)
    if desc.type == ARENA_MAP:
        _check_arena(env, i.imm, desc)
    if value:
        off = high.imm & 0xFFFFFFFF
        if off >= 1 << 29:
            raise Reject(EINVAL, f"direct value offset of {off} is not allowed")
        if desc.type == ARENA_MAP and off <= desc.arena[1] - desc.arena[0]:
            return
        if desc.type == ARENA_MAP:
            raise Reject(
                ERANGE, f"invalid access to map value pointer, value_size=0 off={off}")
        if desc.type not in _DIRECT_VALUE:
            raise Reject(EINVAL, "no direct value access support for this map type")
        if desc.max_entries != 1 or off >= desc.value_size:
            raise Reject(
                ENOTSUPP if desc.max_entries != 1 else EINVAL,
                f"invalid access to map value pointer, value_size={desc.value_size} off={off}",
            )


def _check_arena(env: Env, index: int, desc: MapDesc) -> None:
    if env.arena not in (-1, index):
        raise Reject(EBUSY, "Only one arena per program")
    if not desc.arena[0]:
        raise Reject(EINVAL, "arena's user address must be set via map_extra or mmap()")
    env.arena = index


def check_map(env: Env, desc: MapDesc) -> None:
    """Whether programs of this type may use the map. Raises Reject."""
    if desc.type == 26:
        raise Reject(EINVAL, "bpf_struct_ops map cannot be used in progs")
    fields.check_map(env.prog_type, desc)


def _check_globals(env: Env) -> None:
    """Finds the global functions."""
    size = env.program.func_info_rec_size
    if len(env.subprogs) < 2 or not env.program.btf or size < 8:
        return  # a callback needs more: callbacks.function()
    from libbpf_shim.btf import kinds
    from libbpf_shim.btf.parse import Btf

    btf = Btf(env.program.btf)
    rows = env.program.func_info
    for at in range(0, len(rows) - 7, size):
        insn, type_id = struct.unpack_from("<II", rows, at)
        try:
            function = btf.type(type_id)
            btf.type(function.ref)
        except KeyError:
            raise Reject(EINVAL, f"invalid type id {type_id} in func info") from None
        env.linkage[insn] = function.extra
        if not insn or function.kind != kinds.FUNC or function.extra != _GLOBAL:
            continue
        env.globals[insn] = functions.prepared(env, btf, insn, function)


_IMMEDIATE = (op.JA, op.CALL, op.EXIT, op.JCOND)  # jumps that have no register form


def _known_opcode(i: Insn) -> bool:
    kind = i.code & 0xF0
    if i.klass in (op.ALU, op.ALU64):
        if kind == op.END:
            return i.klass == op.ALU or not i.code & 8
        return kind < op.END and not (kind == op.NEG and i.code & 8)
    if i.klass == op.JMP:
        return kind <= op.JCOND and not (kind in _IMMEDIATE and i.code & 8)
    if i.klass == op.JMP32:
        return kind not in (op.CALL, op.EXIT) and kind < op.JCOND and i.code != op.JMP32 | 8
    mode = i.code & 0xE0
    if i.klass == op.LD:
        return (mode in (op.MODE_ABS, op.MODE_IND) and i.size != 8) or i.code == op.LD_IMM64
    if i.klass == op.ST:
        return mode == op.MODE_MEM
    if i.klass == op.STX:
        return mode in (op.MODE_MEM, op.MODE_ATOMIC)
    return mode == op.MODE_MEM or (mode == op.MODE_MEMSX and i.size != 8)


def successors(env: Env, at: int) -> tuple[int, ...]:
    """Slots that may run after slot at, inside its subprogram. A call goes on after it."""
    i = env.insns[at]
    if i.code == op.JMP | op.EXIT:
        return ()
    if i.code == op.LD_IMM64:
        return (at + 2,)
    if is_jump(i):
        to = target(i, at)
        return (to,) if i.code & 0xF0 == op.JA else (at + 1, to)
    return (at + 1,)


def _prune_at(env: Env, at: int, why: int) -> None:
    if at < len(env.insns):
        env.prune_point[at] = max(env.prune_point[at], why)


def _jump_to(env: Env, at: int) -> None:
    """Something other than the slot before leads here."""
    _prune_at(env, at, PRUNE)
    if at < len(env.insns):
        env.jump_point[at] = 1


def _check_reachable(env: Env) -> None:
    """Depth-first from every entry; marks prune points on the way."""
    n = len(env.insns)
    reached = bytearray(n)
    todo = [0]
    if env.exception >= 0:
        todo.append(env.subprogs[env.exception])
    for start in todo:
        reached[start] = 1
    halves = {at + 1 for at in range(n) if env.insns[at].code == op.LD_IMM64}
    while todo:
        at = todo.pop()
        i = env.insns[at]
        nexts = list(successors(env, at))
        if is_jump(i):
            _jump_to(env, target(i, at))
            if i.code & 0xF0 != op.JA:
                _prune_at(env, at, MAY_GOTO if i.code & 0xF0 == op.JCOND else PRUNE)
        elif i.code == op.JMP | op.CALL:
            _jump_to(env, at + 1)
            if i.src == op.PSEUDO_CALL:
                _prune_at(env, at, PRUNE)
                _jump_to(env, at + 1 + i.imm)
                nexts.append(at + 1 + i.imm)
            elif at + 1 >= n:
                raise Reject(EINVAL, "last insn is not an exit or jmp")
            elif i.src == 0 and i.imm in CALLS_BACK:
                _jump_to(env, at)
                _prune_at(env, at, CALLBACK)
            elif i.src == 0 and i.imm == _SET_CALLBACK:
                _prune_at(env, at, PRUNE)
            elif i.src == op.PSEUDO_KFUNC_CALL and (kind := kfunc.prune_kind(env, i)):
                _prune_at(env, at, kind)
        elif i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC:
            _prune_at(env, at, PRUNE)
            _jump_to(env, at + 2)
            _jump_to(env, at + 1 + i.imm)
            nexts.append(at + 1 + i.imm)
        for to in nexts:
            if to >= n:
                raise Reject(EINVAL, f"jump out of range from insn {at} to {to}")
            if not reached[to]:
                reached[to] = 1
                todo.append(to)
    for at in range(n):
        if not reached[at] and at not in halves:
            raise Reject(EINVAL, f"unreachable insn {at}")
        if env.insns[at].code == op.LD_IMM64 and reached[at + 1]:
            raise Reject(EINVAL, f"jump into the middle of ldimm64 insn {at}")
