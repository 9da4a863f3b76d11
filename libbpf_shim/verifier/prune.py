"""Is this state covered by one explored before? Comparison, recording, loop detection.

A recorded state covers the current one if every run from the current one is a run from it:
live registers and slots are in range, imprecise scalars may differ. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier import precision, slots
from libbpf_shim.verifier.domains import t_in
from libbpf_shim.verifier.env import EINVAL, Env, Reject
from libbpf_shim.verifier.state import (
    ADD_CONST,
    CALLBACK,
    DYNPTR,
    EMPTY_SLOT,
    INVALID,
    MAY_GOTO,
    MISC,
    NO_REG,
    NOT_INIT,
    PKT,
    PKT_META,
    PRUNE,
    SCALAR,
    SPILL,
    STACK,
    TYPE_MASK,
    UNKNOWN,
    ZERO,
    Frame,
    Reg,
    Slot,
    State,
)

ALL: Final = bytes([SPILL] * 8)


class IdMap:
    """Ids of the recorded state matched one to one with ids of the current one."""

    __slots__ = ("forward", "backward")

    def __init__(self) -> None:
        self.forward: dict[int, int] = {}
        self.backward: dict[int, int] = {}

    def match(self, old: int, new: int) -> bool:
        if (old == 0) != (new == 0):
            return False
        if old == 0:
            return True
        have = self.forward.get(old, 0)
        if have:
            return have == new
        if new in self.backward:
            return False
        self.forward[old] = new
        self.backward[new] = old
        return True

    def match_scalar(self, old: int, new: int) -> bool:
        """An id only the current one has tells more than needed; the other way is not covered."""
        if old == 0:
            return True
        return new != 0 and self.match(old, new)


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


def _reg_safe(old: Reg, new: Reg, precise: bool, ids: IdMap, exact: bool) -> bool:
    if exact:
        return (
            old is new
            and old.id == 0
            or (
                old.same(new)
                and ids.match(old.id & ~ADD_CONST, new.id & ~ADD_CONST)
                and old.id & ADD_CONST == new.id & ADD_CONST
                and ids.match(old.ref, new.ref)
            )
        )
    if old.type == NOT_INIT:
        return True
    if old.type == SCALAR:
        if new.type != SCALAR:
            return False  # an imprecise scalar is still a number, not an address
        if not precise:
            return True
        if old.id & ADD_CONST != new.id & ADD_CONST and old.id:
            return False
        if old.id & ADD_CONST and old.off != new.off:
            return False
        return within(old, new) and ids.match_scalar(old.id & ~ADD_CONST, new.id & ~ADD_CONST)
    if old.type != new.type or old.map != new.map or old.mem_size != new.mem_size:
        return False
    if old.kind != new.kind or old.depth != new.depth:
        return False
    if old.btf != new.btf or old.type_id != new.type_id:
        return False
    base = old.type & TYPE_MASK
    if base == PKT or base == PKT_META:
        if old.off != new.off or old.range > new.range:
            return False
        if (old.range < 0 or new.range < 0) and old.range != new.range:
            return False
    elif old.off != new.off or old.range != new.range:
        return False
    if base == STACK and old.frame != new.frame:
        return False
    return within(old, new) and ids.match(old.id, new.id) and ids.match(old.ref, new.ref)


def _slot_scalar(slot: Slot) -> Reg | None:
    """The slot as one 8-byte scalar, if it is nothing else."""
    types = slot.types
    if types == ALL and slot.reg is not None and slot.reg.type == SCALAR:
        return slot.reg
    for b in types:
        if b != MISC and b != INVALID:
            return None
    return UNKNOWN


def _slot_safe(old: Slot, new: Slot, precise: bool, ids: IdMap, exact: bool) -> bool:
    if old is new and (old.reg is None or (old.reg.id == 0 and old.reg.ref == 0)):
        return True
    if old is EMPTY_SLOT:
        return not exact or new is EMPTY_SLOT
    if not exact:
        a = _slot_scalar(old)
        if a is not None:
            b = _slot_scalar(new)
            if b is not None:
                return _reg_safe(a, b, precise and old.types == ALL, ids, False)
    for i in range(8):
        ot = old.types[i]
        nt = new.types[i]
        if ot == INVALID and not exact:
            continue
        if ot == MISC and nt == ZERO and not exact:
            continue
        if ot == MISC and (nt == INVALID or nt == SPILL and _is_scalar(new)) and not exact:
            continue
        if ot != nt:
            return False
    if old.types[0] == SPILL or new.types[0] == SPILL:
        if old.types[0] != new.types[0]:
            return not exact
        if old.reg is None or new.reg is None:
            return False
        return _reg_safe(old.reg, new.reg, precise, ids, exact)
    if slots.special(old.types):
        return _object_safe(old.reg, new.reg, ids)
    return True


def _object_safe(old: Reg | None, new: Reg | None, ids: IdMap) -> bool:
    """Parts of the same kind of object, with a reference if the other has one. An iterator's
    depth counts rounds, which do not matter."""
    if old is None or new is None:
        return old is new
    if old.type != new.type or old.kind != new.kind or not ids.match(old.ref, new.ref):
        return False
    if old.btf != new.btf or old.type_id != new.type_id:
        return False
    return old.type != DYNPTR or old.depth == new.depth


def _is_scalar(slot: Slot) -> bool:
    return slot.reg is not None and slot.reg.type == SCALAR


def _frame_safe(old: Frame, new: Frame, ids: IdMap, how: int) -> bool:
    if old.callsite != new.callsite or old.subprog != new.subprog:
        return False
    if old.callback != new.callback or old.depth > new.depth:
        return False
    exact = how == SAME
    within = how == WITHIN
    for i in range(11):
        a = old.regs[i]
        b = new.regs[i]
        if a is b and a.id == 0 and a.ref == 0:
            continue
        if not _reg_safe(a, b, within or old.precise & (1 << i) != 0, ids, exact):
            return False
    nold = len(old.stack)
    nnew = len(new.stack)
    if exact and nold != nnew:
        return False
    for i in range(nold):
        b2 = new.stack[i] if i < nnew else EMPTY_SLOT
        precise = within or old.precise_stack & (1 << i) != 0
        if not _slot_safe(old.stack[i], b2, precise, ids, exact):
            return False
    return True


def states_equal(old: State, new: State, how: int) -> bool:
    """old covers new, compared as COVERED, WITHIN or SAME."""
    if len(old.frames) != len(new.frames) or len(old.refs) != len(new.refs):
        return False
    ids = IdMap()
    if old.rcu != new.rcu or old.preempt != new.preempt or not _sections_match(old, new, ids):
        return False
    for i in range(len(old.refs)):
        if old.refs[i][1] != new.refs[i][1] or not ids.match(old.refs[i][0], new.refs[i][0]):
            return False
    for i in range(len(old.frames)):
        if not _frame_safe(old.frames[i], new.frames[i], ids, how):
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
    a = old.frames[-1]
    b = new.frames[-1]
    if len(old.frames) != len(new.frames):
        return False
    for i in range(10):
        if a.regs[i] is not b.regs[i] and not a.regs[i].same(b.regs[i]):
            return False
    return True


def _clean(env: Env, state: State) -> None:
    """Forget what no run from here reads. Only for states whose paths are all explored, since
    loop detection compares everything."""
    state.cleaned = True
    top = len(state.frames) - 1
    for n in range(top + 1):
        frame = state.frames[n]
        if n == top:
            at = state.insn
            regs = env.live[at]
            slots = env.live_stack[at]
        else:
            at = state.frames[n + 1].callsite
            # a callback's exit leads to the call itself
            regs = env.live[at] if state.frames[n + 1].callback else env.live[at + 1] & ~1
            slots = env.live_stack[at]
        for r in range(10):
            if not regs & (1 << r) and frame.regs[r] is not NO_REG:
                frame.regs[r] = NO_REG
        for s in range(len(frame.stack)):
            if not slots & (1 << s):
                frame.stack[s] = EMPTY_SLOT


def _carry_precision(env: Env, old: State) -> None:
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
    if some:
        precision.mark_masks(env, regs, slots)


def visited(env: Env) -> bool:
    """At a prune point: True if the path may end here. Else the state may be recorded.

    Raises Reject when the same state comes again on its own path (an infinite loop)."""
    cur = env.cur
    at = env.insn_idx
    force = (
        (env.program.prog_flags & 8) != 0
        or len(cur.history) > 200
        or env.prune_point[at] >= CALLBACK
    )
    add = force or (env.jumps - env.prev_jumps >= 2 and env.processed - env.prev_processed >= 8)
    known = env.explored.get(at)
    if known is None:
        known = []
        env.explored[at] = known
    count = 0
    index = 0
    while index < len(known):
        old = known[index]
        count += 1
        if old.branches:
            if _goes_round(env, old):
                old.hits += 1
                _close_loop(env, old, old)
                return True
            if (
                env.prune_point[at] in (PRUNE, MAY_GOTO)
                and old.rounds == cur.rounds
                and old.frames[-1].round == cur.frames[-1].round
                and _maybe_looping(old, cur)
                and old.unroll == cur.unroll
                and states_equal(old, cur, SAME)
            ):
                raise Reject(EINVAL, f"infinite loop detected at insn {at}")
            if (
                not force
                and env.jumps - env.prev_jumps < 20
                and env.processed - env.prev_processed < 100
            ):
                add = False
        else:
            if not old.cleaned:
                _clean(env, old)
            loop = _open_loop(old)
            if states_equal(old, cur, COVERED if loop is None else WITHIN):
                old.hits += 1
                if loop is None:
                    _carry_precision(env, old)
                else:
                    _close_loop(env, old, loop)
                return True
        if add:
            old.misses += 1
        if old.misses > old.hits * 3 + 3:
            known.pop(index)
            continue
        index += 1
    if count > env.max_states:
        env.max_states = count
    if add:
        _record(env, known)
    return False


def _goes_round(env: Env, old: State) -> bool:
    """The current path came round a loop that ends by a callback's helper, or may_goto, and found
    nothing new."""
    why = env.prune_point[env.insn_idx]
    if why == PRUNE or (why == MAY_GOTO and old.rounds == env.cur.rounds):
        return False
    return states_equal(old, env.cur, WITHIN)


def _record(env: Env, known: list[State]) -> None:
    cur = env.cur
    env.total_states += 1
    env.peak_states = env.total_states
    env.prev_jumps = env.jumps
    env.prev_processed = env.processed
    kept = cur.copy()
    kept.insn = env.insn_idx
    kept.branches = 1
    known.append(kept)
    cur.parent = kept
    cur.depth += 1
    cur.history = []


def _open_loop(state: State) -> State | None:
    """The state, not explored to its end, that some path out of this one ended at: what this one
    needs precisely is not all known yet."""
    at = state.loop
    while at is not None and not at.branches:
        at = at.loop
    return at


def _close_loop(env: Env, old: State, head: State) -> None:
    """The current path ends at old, before all of old, or of the loop that old is in and that
    begins at head, is explored. What old will turn out to need precisely, this path needs."""
    env.edges.append((old, env.cur.copy()))
    head.heads = True
    _carry_precision(env, old)
    state = env.cur.parent
    while state is not None and state is not head:
        other = _open_loop(state)
        if other is None or other.depth > head.depth:
            state.loop = head
        state = state.parent


def _settle(env: Env) -> None:
    """A loop is explored: marks go round until there are no new ones."""
    cur = env.cur
    before = -1
    while env.marks != before:
        before = env.marks
        for old, end in env.edges:
            env.cur = end
            _carry_precision(env, old)
    env.cur = cur


def path_ended(env: Env) -> None:
    """The current path is done: its ancestors without another one are complete."""
    parent = env.cur.parent
    while parent is not None:
        parent.branches -= 1
        if parent.branches:
            return
        if parent.heads:
            _settle(env)
        parent = parent.parent
