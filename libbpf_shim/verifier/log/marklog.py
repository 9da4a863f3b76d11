"""What level 2 tells of precision: which instructions a decision's scalars are followed back over,
and what is marked in the states recorded on the way.

Source: Linux 6.18, kernel/bpf/verifier.c, __mark_chain_precision, backtrack_insn,
propagate_precision; observed logs.
"""

from __future__ import annotations

from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.log import statelog, trace
from libbpf_shim.verifier.state import SCALAR, SPILL, Frame, State


def _regs(mask: int) -> str:
    return ",".join(f"r{r}" for r in range(10) if mask & 1 << r)


def _slots(mask: int) -> str:
    return ",".join(f"-{8 * (s + 1)}" for s in range(64) if mask & 1 << s)


def begins(env: Env, frame: int, last: int, first: int, after: int) -> None:
    """A stretch between recorded states: its last slot, its first, the first of the one after."""
    env.lines.append(f"mark_precise: frame{frame}: last_idx {last} first_idx {first} "
                     f"subseq_idx {after} ")


def steps(env: Env, frame: int, regs: int, slots: int, at: int) -> None:
    """Before the instruction at slot at is undone."""
    if env.insns[at].code:  # no second half
        env.lines.append(f"mark_precise: frame{frame}: regs={_regs(regs)} stack={_slots(slots)} "
                         f"before {at}: {trace.text(env, at)}")


def marked(env: Env, state: State, frame: int, regs: int, slots: int) -> None:
    """One frame of a recorded state, and what is looked for before it."""
    env.lines.append(f"mark_precise: frame{frame}: parent state regs={_regs(regs)} "
                     f"stack={_slots(slots)}: {statelog.of(env, state, frame)}")


def gives_up(env: Env, state: State) -> None:
    """Every scalar of the states before this one is marked."""
    env.lines.append(f"mark_precise: frame{len(state.frames) - 1}: falling back to forcing all "
                     f"scalars precise")
    before = state.parent
    while before is not None:
        for number, frame in enumerate(before.frames):
            _forced(env, number, frame)
        before = before.parent


def _forced(env: Env, number: int, frame: Frame) -> None:
    start = f"force_precise: frame{number}: forcing"
    for r in range(10):
        if frame.regs[r].type == SCALAR and not frame.precise & 1 << r:
            env.lines.append(f"{start} r{r} to be precise")
    for s, slot in enumerate(frame.stack):
        spilled = slot.reg if slot.types[0] == SPILL else None
        if spilled is not None and spilled.type == SCALAR and not frame.precise_stack & 1 << s:
            env.lines.append(f"{start} fp-{8 * (s + 1)} to be precise")


def propagated(env: Env, frame: int, regs: int, slots: int) -> None:
    """A path ends at a state that needs these precisely."""
    names = [f"r{r}" for r in range(10) if regs & 1 << r]
    names += [f"fp-{8 * (s + 1)}" for s in range(64) if slots & 1 << s]
    if names:
        env.lines.append(f"frame {frame}: propagating {','.join(names)}")
