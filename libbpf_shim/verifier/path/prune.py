"""Is this state covered by one explored before (compare.py)? Recording, loop detection.

When states are recorded, compared and forgotten is what Linux 6.18 does (kernel/bpf/verifier.c,
is_state_visited), so that a program takes as many steps here as there. Compiled by mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EINVAL, Env, Reject
from libbpf_shim.verifier.kfuncs import iterators
from libbpf_shim.verifier.log import marklog, trace
from libbpf_shim.verifier.path import chain, compare, precision, visits
from libbpf_shim.verifier.path.compare import COVERED, SAME, WITHIN
from libbpf_shim.verifier.state import (
    CALLBACK,
    EMPTY_SLOT,
    INVALID,
    ITER_NEXT,
    MAY_GOTO,
    NO_REG,
    PRUNE,
    SCALAR,
    SPILL,
    Slot,
    State,
    Visit,
)
from libbpf_shim.verifier.watch import EVERYWHERE, PLAIN

_TEST_STATE_FREQ: Final = 8  # BPF_F_TEST_STATE_FREQ
_HISTORY: Final = 40  # steps kept of one state
_SETTLE: Final = 64  # rounds before every scalar is taken for precise


def _clean(env: Env, state: State) -> None:
    """Forget what no run from here reads. Only for states whose paths are all explored."""
    state.cleaned = True
    chain.settle(env.flow, env.chains)
    top = len(state.frames) - 1
    for n in range(top + 1):
        frame = state.frames[n]
        regs = env.live[state.insn if n == top else state.frames[n + 1].callsite]
        for r in range(10):
            if not regs & (1 << r):
                frame.regs[r] = NO_REG
        if frame.stack:
            slots = _live_slots(env, state, n)
            for s in range(len(frame.stack)):
                if not slots & (1 << s):
                    frame.stack[s] = EMPTY_SLOT


def _cleaned(env: Env, state: State) -> State:
    """The same without what no run from here reads; the state itself may still need it."""
    copy = state.copy()
    copy.insn = state.insn
    for n in range(len(state.frames)):
        copy.frames[n].precise = state.frames[n].precise
        copy.frames[n].precise_stack = state.frames[n].precise_stack
    _clean(env, copy)
    return copy


def _live_slots(env: Env, state: State, n: int) -> int:
    """Slots of the n-th frame that may be read: by the function that runs or, once it is done, by
    those that called it."""
    top = len(state.frames) - 1
    found = env.chain(state, top).live(n, state.insn)
    for f in range(n, top):
        at = state.frames[f + 1].callsite
        if env.prune_point[at] != CALLBACK:  # after a callback the call itself comes again
            at += 1
        found |= env.chain(state, f).live(n, at)
    return found


def _note_unset(env: Env, old: State) -> None:
    """A run from the current state may find bytes never written that runs from old find set."""
    if env.reads_unset:
        return
    for f in range(len(old.frames)):
        before = old.frames[f].stack
        now = env.cur.frames[f].stack
        for i in range(len(before)):
            a = before[i]
            b = now[i] if i < len(now) else EMPTY_SLOT
            if a is b:
                continue
            for n in range(8):
                if b.types[n] == INVALID and a.types[n] != INVALID:
                    env.reads_unset = True
                    return


def _carry_precision(env: Env, old: State, cur: State) -> None:
    """What old's continuation needs precisely, the current path needs too."""
    regs = [0] * 9
    slots = [0] * 9
    some = False
    for f in range(len(old.frames)):
        frame = old.frames[f]
        if frame.precise:
            mask = 0
            for r in range(10):
                if frame.precise & (1 << r) and frame.regs[r].type == SCALAR:
                    mask |= 1 << r
            regs[f] = mask
            some = some or mask != 0
        if frame.precise_stack:
            mask = 0
            for s in range(len(frame.stack)):
                slot = frame.stack[s]
                if frame.precise_stack & (1 << s) and slot.types[0] == SPILL and _is_scalar(slot):
                    mask |= 1 << s
            slots[f] = mask
            some = some or mask != 0
    if some and env.log_level & 2:
        for f in range(len(old.frames) - 1, -1, -1):
            marklog.propagated(env, f, regs[f], slots[f])
    if some:
        precision.mark_masks(env, cur, regs, slots)


def _is_scalar(slot: Slot) -> bool:
    return slot.reg is not None and slot.reg.type == SCALAR


def visited(env: Env) -> bool:
    """At a prune point: True if the path may end here. Else the state may be recorded.

    Raises Reject when the same state comes again on its own path (an infinite loop)."""
    cur = env.cur
    at = env.insn_idx
    cur.insn = at
    cur.prev = env.prev_idx
    jumps = env.jumps - env.prev_jumps
    steps = env.processed - env.prev_processed
    always = env.prune_point[at] > PRUNE
    force = env.force or always or len(cur.history) > _HISTORY
    plain = env.watch is not None and env.watch.mode == PLAIN
    if plain and not always:
        return False
    if env.watch is not None and env.watch.mode == EVERYWHERE:
        force = True
    add = force or (jumps >= 2 and steps >= 8)
    known, bucket = env.known_here()
    index = len(known)
    count = env.buckets[bucket]
    while index:
        index -= 1
        old = known[index]
        if old.branches:
            if _goes_round(env, old):
                env.unbounded("a loop that no number of rounds bounds")
                _covered(env, old, True)
                return True
            _no_endless_loop(env, old)
            if not force and jumps < 20 and steps < 100:
                add = False
        else:
            unknown = visits.unknown(old)
            if not old.cleaned and not unknown:
                _clean(env, old)
            if unknown and not plain and old.visit is not None and old.visit.guesses:
                if compare.states_equal(env, _cleaned(env, old), cur, COVERED):
                    old.visit.guessed.append((old, cur))
                    _covered(env, old, True)
                    return True
            elif compare.states_equal(env, old, cur, WITHIN if unknown or plain else COVERED):
                _covered(env, old, unknown)
                return True
        if add:
            old.misses += 1
        keep = 64 if old.branches and always else 3
        if old.misses > old.hits * keep + keep:
            known.pop(index)
            env.buckets[bucket] -= 1
            env.forget(old)
    if count > env.max_states:
        env.max_states = count
    if add:
        _record(env, known)
        env.buckets[bucket] += 1
    return False


def _goes_round(env: Env, old: State) -> bool:
    """The current path came round a loop that ends by a callback's helper, may_goto or an
    iterator, and found nothing new."""
    why = env.prune_point[env.insn_idx]
    if why == PRUNE or (why == MAY_GOTO and old.rounds == env.cur.rounds):
        return False
    if why == ITER_NEXT and not iterators.active(env.cur):
        return False
    return old.frames[-1].round == env.cur.frames[-1].round and compare.states_equal(
        env, old, env.cur, WITHIN
    )


def _no_endless_loop(env: Env, old: State) -> None:
    cur = env.cur
    if env.prune_point[env.insn_idx] not in (PRUNE, MAY_GOTO):
        return
    if old.frames[-1].round != cur.frames[-1].round:
        return  # another call of a timer's callback
    if (
        compare.same_registers(old, cur)
        and old.rounds == cur.rounds
        and old.unroll == cur.unroll
        and compare.states_equal(env, old, cur, SAME)
        and not iterators.depths_differ(old, cur)
    ):
        raise Reject(EINVAL, f"infinite loop detected at insn {env.insn_idx}"
                             + trace.loop(env, old))


def _covered(env: Env, old: State, unknown: bool) -> None:
    """The current path ends at old. unknown: what old needs precisely is not all known yet, so
    the path is kept until it is."""
    old.hits += 1
    env.cover = old
    if env.watch is not None:
        env.watch.pruned += 1
    _note_unset(env, old)
    _carry_precision(env, old, env.cur)
    if unknown and old.visit is not None:
        old.visit.ends.append((old, env.cur))
        env.open_ends += 1
        env.peak()


def _record(env: Env, known: list[State]) -> None:
    cur = env.cur
    env.total_states += 1
    env.known_states += 1
    env.peak()
    env.prev_jumps = env.jumps
    env.prev_processed = env.processed
    history = cur.history
    cur.history = []
    kept = cur.copy()
    kept.history = history
    kept.insn = cur.insn
    kept.prev = cur.prev
    kept.branches = 1
    cur.count = 0
    visits.enter(env, kept)
    known.append(kept)
    if env.watch is not None:
        env.watch.last = kept
    cur.parent = kept
    cur.first = kept.insn


def _settle(env: Env, visit: Visit) -> None:
    """A loop is explored: marks go round until there are no new ones."""
    rounds = 0
    before = -1
    while env.marks != before:
        before = env.marks
        rounds += 1
        for old, end in visit.ends:
            if rounds > _SETTLE:
                precision.mark_everything(env, end.parent)
            else:
                _carry_precision(env, old, end)
        if rounds > _SETTLE:
            break


def _wrongly_guessed(env: Env, visit: Visit) -> bool:
    """Paths that ended at a state which does not cover them, now that marks are known, go on."""
    right: list[tuple[State, State]] = []
    wrong: list[tuple[State, State]] = []
    for pair in visit.guessed:
        if compare.states_equal(env, _cleaned(env, pair[0]), pair[1], COVERED):
            right.append(pair)
        else:
            wrong.append(pair)
    visit.guessed = right
    for pair in wrong:
        end = pair[1]
        visit.ends = [other for other in visit.ends if other[1] is not end]
        env.open_ends -= 1
        env.stack.append((end, end.insn, end.prev, len(env.lines)))
        state = end.parent
        while state is not None:
            state.branches += 1
            if state.branches > 1 or state is visit.entry:
                break
            state = state.parent
    return len(wrong) > 0


def path_ended(env: Env) -> None:
    """The current path is done: its ancestors without another one are complete."""
    state = env.cur.parent
    while state is not None:
        state.branches -= 1
        if state.branches:
            return
        visit = state.visit
        if visit is not None:
            visit.done.append(state)
            if visit.entry is state:
                _settle(env, visit)
                if visit.guessed and _wrongly_guessed(env, visit):
                    return
                visit.entry = None
                env.open_ends -= len(visit.ends)
                visit.ends = []
                visit.guessed = []
        if state.gone and not visits.unknown(state):
            env.gone_states -= 1
        parent = state.parent
        if visit is None:
            visits.release(state)
        elif visit.entry is None:
            for inside in visit.done:
                visits.release(inside)
            visit.done = []
        state = parent
