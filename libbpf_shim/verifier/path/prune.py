"""Is this state covered by one explored before? Comparison, recording, loop detection.

A recorded state covers the current one if every run from the current one is a run from it: live
registers and slots are in range, imprecise scalars may differ. When states are recorded, compared
and forgotten is what Linux 6.18 does (kernel/bpf/verifier.c, is_state_visited), so that a program
takes as many steps here as there. Compiled by mypyc. Over 500 lines: registers, slots and frames
are compared by functions that call one another for each recorded state, so they are one module.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EINVAL, Env, Reject
from libbpf_shim.verifier.kfuncs import iterators
from libbpf_shim.verifier.log import marklog, trace
from libbpf_shim.verifier.path import chain, precision, visits
from libbpf_shim.verifier.path.ids import IdMap
from libbpf_shim.verifier.scalar.domains import t_in
from libbpf_shim.verifier.state import (
    ADD_CONST,
    ARENA,
    CALLBACK,
    DYNPTR_SLOT,
    EMPTY_SLOT,
    INVALID,
    ITER_NEXT,
    MAP_KEY,
    MAP_VALUE,
    MAY_GOTO,
    MEM,
    MISC,
    MISC_SLOT,
    NO_REG,
    NOT_INIT,
    PKT,
    PKT_META,
    PRUNE,
    SCALAR,
    SPILL,
    TP_BUFFER,
    TYPE_MASK,
    UNKNOWN,
    ZERO,
    Frame,
    Reg,
    Slot,
    State,
    Visit,
)
from libbpf_shim.verifier.watch import EVERYWHERE, PLAIN

ALL: Final = bytes([SPILL] * 8)
_MISC: Final = MISC_SLOT.types
_TEST_STATE_FREQ: Final = 8  # BPF_F_TEST_STATE_FREQ
_HISTORY: Final = 40  # steps kept of one state
_SETTLE: Final = 64  # rounds before every scalar is taken for precise


def within(old: Reg, new: Reg) -> bool:
    """Every number that new may be, old may be."""
    return (
        old.umin <= new.umin
        and old.umax >= new.umax
        and old.smin <= new.smin
        and old.smax >= new.smax
        and old.u32min <= new.u32min
        and old.u32max >= new.u32max
        and old.s32min <= new.s32min
        and old.s32max >= new.s32max
        and t_in(old.tv, old.tm, new.tv, new.tm)
    )


# How states are compared. COVERED: scalars that decided nothing may differ. WITHIN: every scalar
# is in range, since it is not known yet which ones decide. SAME: equal but for the names of ids.
COVERED: Final = 0
WITHIN: Final = 1
SAME: Final = 2


def _same(old: Reg, new: Reg, ids: IdMap) -> bool:
    return old.same(new) and ids.match(old.id, new.id) and ids.match(old.ref, new.ref)


def _reg_safe(old: Reg, new: Reg, precise: bool, ids: IdMap, how: int) -> bool:
    """old covers new; precise: as a scalar, old decided something."""
    if old is new and old.id == 0 and old.ref == 0:
        return True
    if how == SAME:
        return _same(old, new, ids)
    type = old.type
    if type == NOT_INIT and how == COVERED:
        return True
    if type != new.type:
        return False
    if type == SCALAR:
        if how == COVERED and not precise:
            return True
        if old.id:
            if (old.id ^ new.id) & ADD_CONST or (old.id & ADD_CONST and old.off != new.off):
                return False
            if not ids.match_scalar(old.id, new.id):
                return False
        return old is new or within(old, new)
    base = type & TYPE_MASK
    if base == MAP_VALUE or base == MEM or base == MAP_KEY or base == TP_BUFFER:
        return (
            old.off == new.off
            and old.map == new.map
            and old.mem_size == new.mem_size
            and old.kind == new.kind
            and old.depth == new.depth
            and within(old, new)
            and ids.match(old.id, new.id)
            and ids.match(old.ref, new.ref)
        )
    if base == PKT or base == PKT_META:
        if old.range < 0 or new.range < 0:
            if old.range != new.range:
                return False
        elif old.range > new.range:
            return False
        if old.off != new.off or old.kind != new.kind or old.depth != new.depth:
            return False
        return ids.match(old.id, new.id) and within(old, new)
    return base == ARENA or _same(old, new, ids)


def _slot_scalar(slot: Slot) -> Reg | None:
    """The slot as one 8-byte scalar, if it is nothing else."""
    types = slot.types
    if types == ALL:
        reg = slot.reg
        return reg if reg is not None and reg.type == SCALAR else None
    if types == _MISC:
        return UNKNOWN
    for b in types:
        if b != MISC and b != INVALID:
            return None
    return UNKNOWN


def _slot_safe(old: Slot, new: Slot, precise: bool, ids: IdMap, how: int) -> bool:
    if old is new and (old.reg is None or (old.reg.id == 0 and old.reg.ref == 0)):
        return True
    ot = old.types
    nt = new.types
    if how == COVERED:
        if old is EMPTY_SLOT or ot == _MISC:
            return True
    elif ot != nt:
        return False
    a = _slot_scalar(old)
    if a is not None:
        b = _slot_scalar(new)
        if b is not None:
            return _reg_safe(a, b, precise and a is not UNKNOWN, ids, how)
    if ot != nt:
        for i in range(8):
            if ot[i] != nt[i] and ot[i] != INVALID and ot[i] != MISC:
                return False
    last = ot[0]
    if last == MISC or last == ZERO or last == INVALID:
        return True
    if old.reg is None or new.reg is None:
        return old.reg is new.reg
    if last == SPILL:
        return _reg_safe(old.reg, new.reg, precise, ids, how)
    return _object_safe(last, old.reg, new.reg, ids)


def _object_safe(type: int, old: Reg, new: Reg, ids: IdMap) -> bool:
    """What slots of special types hold: how often an iterator went round does not matter, nor (in
    6.18) whether a dynptr is the one that some slice is of: that slice is compared as it is."""
    return (
        old.type == new.type
        and old.kind == new.kind
        and old.btf == new.btf
        and old.type_id == new.type_id
        and (old.depth == new.depth or type != DYNPTR_SLOT)
        and (type == DYNPTR_SLOT or ids.match(old.id, new.id))
        and ids.match(old.ref, new.ref)
    )


def _frame_safe(old: Frame, new: Frame, live: int, ids: IdMap, how: int) -> bool:
    if old.callsite != new.callsite or old.callback != new.callback or old.depth > new.depth:
        return False
    olds = old.regs
    news = new.regs
    for i in range(10):
        if live & (1 << i):
            precise = old.precise & (1 << i) != 0
            if not _reg_safe(olds[i], news[i], precise, ids, how):
                return False
    nold = len(old.stack)
    nnew = len(new.stack)
    if how != COVERED and nold > nnew:
        return False
    for i in range(nold):
        slot = old.stack[i]
        now = new.stack[i] if i < nnew else EMPTY_SLOT
        if slot is now and slot.reg is None:
            continue
        precise = old.precise_stack & (1 << i) != 0
        if not _slot_safe(slot, now, precise, ids, how):
            return False
    return True


def states_equal(env: Env, old: State, new: State, how: int) -> bool:
    """old covers new, compared as COVERED, WITHIN or SAME."""
    if len(old.frames) != len(new.frames) or len(old.refs) != len(new.refs):
        return False
    ids = env.ids
    ids.clear()
    if old.rcu != new.rcu or old.preempt != new.preempt or not _sections_match(old, new, ids):
        return False
    for i in range(len(old.refs)):
        if old.refs[i][1] != new.refs[i][1] or not ids.match(old.refs[i][0], new.refs[i][0]):
            return False
    top = len(old.frames) - 1
    for i in range(top + 1):
        at = old.insn if i == top else old.frames[i + 1].callsite
        if not _frame_safe(old.frames[i], new.frames[i], env.live[at], ids, how):
            return False
    return True


def _sections_match(old: State, new: State, ids: IdMap) -> bool:
    """The same locks are held, and as many interrupt states saved."""
    if len(old.locks) != len(new.locks) or len(old.irqs) != len(new.irqs):
        return False
    for i in range(len(old.locks)):
        a = old.locks[i]
        b = new.locks[i]
        if a[0] != b[0] or a[1] != b[1] or not ids.match(a[2], b[2]):
            return False
    for i in range(len(old.irqs)):
        if not ids.match(old.irqs[i][0], new.irqs[i][0]):
            return False
    return True


def _maybe_looping(old: State, new: State) -> bool:
    if len(old.frames) != len(new.frames):
        return False
    a = old.frames[-1].regs
    b = new.frames[-1].regs
    for i in range(10):
        if a[i] is not b[i] and not a[i].same(b[i]):
            return False
    return True


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
                if states_equal(env, _cleaned(env, old), cur, COVERED):
                    old.visit.guessed.append((old, cur))
                    _covered(env, old, True)
                    return True
            elif states_equal(env, old, cur, WITHIN if unknown or plain else COVERED):
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
    return old.frames[-1].round == env.cur.frames[-1].round and states_equal(
        env, old, env.cur, WITHIN
    )


def _no_endless_loop(env: Env, old: State) -> None:
    cur = env.cur
    if env.prune_point[env.insn_idx] not in (PRUNE, MAY_GOTO):
        return
    if old.frames[-1].round != cur.frames[-1].round:
        return  # another call of a timer's callback
    if (
        _maybe_looping(old, cur)
        and old.rounds == cur.rounds
        and old.unroll == cur.unroll
        and states_equal(env, old, cur, SAME)
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
        if states_equal(env, _cleaned(env, pair[0]), pair[1], COVERED):
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
