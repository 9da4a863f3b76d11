"""Where the instructions of a run are counted (Facts.counted), the same in all tiers.

The run (struct shim_run) holds how many are left. Where a straight piece of the program begins, as
many as it has are taken; if there were not so many, the run ends there, before the piece: so a run
of as many as are granted goes through, one of one more does not, and none ever runs over. Pieces
begin where functions do, where jumps lead, behind jumps, and behind calls that may have ended or
not come back.

Where a run may hold something (Facts.held) it goes on, with less than nothing left, until it has
given that back, where a piece begins too: at the latest before its exit. The verifier has bounded
such a section (verifier/granted/budget.py).

A function that is called, by the program or by a helper, ends by returning 1, which stops helpers
that call back, with ENDED left; whoever called it looks at that behind the call. So everything on
the way is left in good order. A tail call goes on with what is left; so every program of a class
that may make any is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit.flow import Flow, ends, is_call, target
from libbpf_shim.jit.places import RUN
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import Policy

TELL: Final = 213  # SHIM_FUNC_BUDGET_ENDED
OVERRIDE: Final = 58  # BPF_FUNC_override_return
TAIL_CALL: Final = 12  # BPF_FUNC_tail_call
LEFT, TAIL_CALLS = RUN["left"], RUN["tail_calls"]  # of struct shim_run
ENDED: Final = -(1 << 31)  # of what is left: the run is over
OVER: Final = -(1 << 30)  # what is left of a run that is over is less, of any other more
_MOST: Final = 1 << 62
_CALLS_BACK: Final = frozenset((164, 180, 181, 209))  # verifier/structure.py, CALLS_BACK


@dataclass(frozen=True, slots=True)
class Charge:
    """At the beginning of a piece. count: its instructions. ends: the run ends there if too few
    are left. called: it stands behind a call, in which the run may have ended."""

    count: int
    ends: bool
    called: bool


def start(facts: Facts) -> int:
    """What is left as a run begins."""
    return min(facts.counted, _MOST)


def goes_on(policy: Policy | None) -> bool:
    """Programs of the class are entered by tail calls: what is left then stays."""
    return policy is not None and (policy.helpers is None or TAIL_CALL in policy.helpers)


def always(facts: Facts, policy: Policy) -> Facts:
    """Of a program that is isolated: it is counted whatever was proved."""
    return replace(facts, counted=policy.instructions) if policy.counter else facts


def answer(policy: Policy | None) -> tuple[int, bool]:
    """What a run comes to that is over, and whether that is what the host's function is skipped
    with."""
    if policy is None or policy.default is None:
        return 0, False
    return policy.default, policy.override is not None


def charges(flow: Flow, facts: Facts) -> dict[int, Charge]:
    """By slot; none where the program is not counted."""
    if facts.counted < 0:
        return {}
    called, begins = set[int](), set(flow.starts)
    slots, before = list(flow.slots()), -1
    for at in slots:
        i = flow.insns[at]
        to = target(at, i)
        if to >= 0:
            begins |= {to, at + 1}
        if _may_end(i):
            called.add(at + 1)
        if ends(i) or (i.code, i.src, i.imm) == (op.JMP | op.CALL, 0, TAIL_CALL):
            begins.add(at + 1)
        if at not in facts.held and before in facts.held:
            begins.add(at)
        before = at
    begins |= called
    found, begin = dict[int, int](), -1
    for at in slots:
        if at in begins:
            begin = at
        found[begin] = found.get(begin, 0) + 1
    return {at: Charge(count, at not in facts.held, at in called) for at, count in found.items()}


def _may_end(i: Insn) -> bool:
    """A call in which the run may end."""
    helper = i.code == op.JMP | op.CALL and i.src == 0 and i.imm in _CALLS_BACK
    return is_call(i) or helper
