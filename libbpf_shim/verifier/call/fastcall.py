"""Spills around calls that need none (bpf_fastcall), which the kernel removes.

Compilers keep registers that a helper leaves alone in the lowest stack slots, for kernels that do
not know that it does: stores before the call, loads of the same after it. Where a function uses
those slots for nothing else, 6.18 drops both, and its stack is that much smaller. Here they stay;
only the size that is judged follows.

Source of rules: Linux 6.18, kernel/bpf/verifier.c, mark_fastcall_pattern_for_call,
check_fastcall_stack_contract, remove_fastcall_spills_fills. Compiled by mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.call import availability, helpers
from libbpf_shim.verifier.env import Env

_STX: Final = op.STX | op.MODE_MEM | 0x18
_LDX: Final = op.LDX | op.MODE_MEM | 0x18
_CALL: Final = op.JMP | op.CALL
_SAVED: Final = 0x3F  # R0 to R5
_MOST: Final = 6
_NEVER: Final = -(1 << 15)
_INLINED: Final = 8  # get_smp_processor_id, the only helper that x86's JIT inlines


def find(env: Env) -> None:
    """Marks the patterns of every function."""
    bounds = [*env.subprogs, len(env.insns)]
    env.spills_low = [0] * len(env.subprogs)
    env.spills_kept = [False] * len(env.subprogs)
    for sub in range(len(env.subprogs)):
        lowest = 0
        calls = []
        for at in range(bounds[sub], bounds[sub + 1]):
            i = env.insns[at]
            if i.code == _STX and i.dst == 10:
                lowest = min(lowest, i.off)
            elif i.code == _CALL and i.src != op.PSEUDO_CALL:
                calls.append(at)
        if lowest:
            for at in calls:
                _around(env, sub, at, lowest)


def _clobbered(env: Env, i: Insn) -> int:
    """Registers that the call may change, as bits; -1: not known."""
    attach_type = env.program.expected_attach_type
    if i.src == 0 and availability.allowed(env.prog_type, attach_type, i.imm):
        proto = helpers.proto(env.prog_type, i.imm)
        if proto is not None:
            void = proto.ret & helpers.KIND == helpers.VOID
            return (2 << len(proto.args)) - 1 & ~(1 if void else 0)
    return -1


def _around(env: Env, sub: int, at: int, lowest: int) -> None:
    clobbered = _clobbered(env, env.insns[at])
    if clobbered < 0:
        return
    left = _SAVED & ~clobbered
    pairs = 0
    off = lowest
    while pairs < _MOST and at - pairs - 1 >= 0 and at + pairs + 1 < len(env.insns):
        spill, fill = env.insns[at - pairs - 1], env.insns[at + pairs + 1]
        if spill.code != _STX or fill.code != _LDX or spill.dst != 10 or fill.src != 10:
            break
        if spill.src != fill.dst or not left >> spill.src & 1:
            break
        if spill.off != off or fill.off != off:
            break
        left &= ~(1 << spill.src)
        pairs += 1
        off += 8
        env.spilling[at - pairs] = 1
        env.spilling[at + pairs] = 1
    if not pairs:
        return
    if env.insns[at].src == 0 and env.insns[at].imm == _INLINED:
        env.spill_pairs[at] = pairs
    else:
        env.spills_kept[sub] = True
    env.spills_low[sub] = min(env.spills_low[sub], off)


def touched(env: Env, sub: int, off: int) -> None:
    """The current instruction accesses fp+off of that function's frame."""
    low = env.spills_low[sub]
    if low <= off or env.spilling[env.insn_idx]:
        return
    if low == _NEVER:
        return
    env.spills_low[sub] = _NEVER
    end = env.subprogs[sub + 1] if sub + 1 < len(env.subprogs) else len(env.insns)
    for at in range(env.subprogs[sub], end):
        env.spilling[at] = 0
        env.spill_pairs.pop(at, 0)


def depths(env: Env) -> list[int]:
    """Bytes of stack of each function once its spills are removed."""
    out = env.sub_depth[:]
    for at in env.spill_pairs:
        sub = env.sub_of[at]
        if not env.spills_kept[sub]:
            out[sub] = -env.spills_low[sub]
    return out
