"""Loops of the program, and what is known of a loop while it is explored. Compiled by mypyc.

A state inside a loop may be found explored while another path through the loop is not: marks of
precision are then not all known. So a path that ends at such a state is kept (Visit.ends); once
the loop is left, marks go round from its end to its beginning until there are no new ones.

A loop is a strongly connected component of one function's jumps; a call that calls back is one by
itself. The same loop at another chain of calls is another visit.
Model: Linux 6.18, kernel/bpf/verifier.c, compute_scc, maybe_enter_scc, propagate_backedges.
"""

from __future__ import annotations

from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.path.chain import Flow
from libbpf_shim.verifier.state import CALLBACK, PRUNE, State, Visit


def components(flow: Flow, prune_point: bytearray) -> list[int]:
    """The loop that each slot is in, counted from 1; 0: none."""
    n = len(flow.next)
    found = [0] * n
    order = [0] * n  # in which it was met, from 1
    low = [0] * n  # the first met that it leads to and that is open
    open_: list[int] = []
    count = 0
    met = 0
    for root in range(n):
        if order[root]:
            continue
        todo = [root]
        while todo:
            at = todo[-1]
            if not order[at]:
                met += 1
                order[at] = low[at] = met
                open_.append(at)
            deeper = False
            for to in (flow.next[at], flow.other[at]):
                if 0 <= to < n and not order[to]:
                    todo.append(to)
                    deeper = True
                    break
                if 0 <= to < n and low[to] < low[at]:
                    low[at] = low[to]
            if deeper:
                continue
            todo.pop()
            if low[at] < order[at]:
                continue
            alone = open_[-1] == at and at not in (flow.next[at], flow.other[at])
            if not alone or prune_point[at] > PRUNE:
                count += 1
            while True:
                member = open_.pop()
                low[member] = n + 1
                if not alone or prune_point[at] > PRUNE:
                    found[member] = count
                if member == at:
                    break
    return found


def enter(env: Env, state: State) -> None:
    """A state is recorded: what loop it is in."""
    key: list[int] = []
    top = len(state.frames) - 1
    for n in range(top + 1):
        insn = state.insn if n == top else state.frames[n + 1].callsite
        loop = env.loop_of[insn] if insn >= 0 else 0
        key.append(loop if loop else ~insn)
        if loop:
            visit = env.visits.get(tuple(key))
            if visit is None:
                visit = Visit(_alone(env, insn))
                env.visits[tuple(key)] = visit
            state.visit = visit
            if visit.entry is None:
                visit.entry = state
                if env.log_level & 2 and env.prune_point[insn] != CALLBACK:
                    calls = [str(k if k > 0 else ~k) for k in key]
                    env.lines.append(f"SCC enter ({','.join(calls)})")
            return


def _alone(env: Env, insn: int) -> bool:
    """The loop is that of a call that calls back, and in no other."""
    if env.prune_point[insn] != CALLBACK:
        return False
    return env.loop_of.count(env.loop_of[insn]) == 1


def unknown(state: State) -> bool:
    """What the state needs precisely is not all known yet."""
    return state.visit is not None and len(state.visit.ends) > 0


def release(state: State) -> None:
    """Forget how a state came about that is explored to its end."""
    state.parent = None
    state.history = []
