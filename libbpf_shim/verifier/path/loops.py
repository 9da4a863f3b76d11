"""Loops that no number of rounds bounds: callbacks, may_goto, iterators. Ready for mypyc.

Such a loop is explored until a state at its head is within one recorded there before, every scalar
compared (prune.py). That ends because scalars that changed since the last round, and that decided
nothing so far, are widened to any number at the head.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, find_prev_entry,
widen_imprecise_scalars, check_cond_jmp_op (may_goto).
"""

from __future__ import annotations

from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.env import EINVAL, ENOMEM, Env, Reject
from libbpf_shim.verifier.path.ids import IdMap
from libbpf_shim.verifier.state import SCALAR, SPILL, UNKNOWN, Reg, Slot, State


def may_goto(env: Env, i: Insn) -> None:
    """Whether a run leaves here is for the runtime's budget to say: both ways are taken, and what
    goes on in the loop is a round deeper."""
    if i.src or i.dst or i.imm:
        raise Reject(EINVAL, f"invalid may_goto imm {i.imm}")
    at = env.insn_idx
    stays = env.push(at + 1, ENOMEM)
    stays.rounds += 1
    here = env.cur.parent  # recorded at this instruction
    past = before(env.cur, here.parent, at) if here is not None else None
    if past is not None:
        widen(past, stays)
    env.insn_idx = at + 1 + i.off


def before(cur: State, newest: State | None, at: int) -> State | None:
    """The state recorded at slot at the last time that this path was there, with cur's calls;
    newest: the first to look at, cur's parent or a parent of it."""
    state = newest
    while state is not None:
        if state.insn == at and len(state.frames) == len(cur.frames):
            for f in range(len(cur.frames)):
                if state.frames[f].callsite != cur.frames[f].callsite:
                    break
            else:
                return state
        state = state.parent
    return None


def widen(past: State, cur: State) -> None:
    """Scalars that changed since, and that decided nothing, may be any number; those that are as
    they were, but equal to others now, too. Forgetting bounds is always sound."""
    ids = IdMap()
    for f in range(len(cur.frames) - 1, -1, -1):
        old, new = past.frames[f], cur.frames[f]
        for r in range(10):
            precise = old.precise & 1 << r != 0
            if not precise and _changed(old.regs[r], new.regs[r], ids):
                new.regs[r] = UNKNOWN
        for s in range(min(len(old.stack), len(new.stack))):
            a, b = old.stack[s], new.stack[s]
            if a.reg is None or b.reg is None or a.types[0] != SPILL or b.types[0] != SPILL:
                continue
            precise = old.precise_stack & 1 << s != 0
            if not precise and _changed(a.reg, b.reg, ids):
                new.stack[s] = Slot(b.types, UNKNOWN)


def _changed(old: Reg, new: Reg, ids: IdMap) -> bool:
    if old.type != SCALAR or new.type != SCALAR:
        return False
    return not (old.same(new) and ids.match(old.id, new.id))
