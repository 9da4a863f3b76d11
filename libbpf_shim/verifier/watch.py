"""What tests see of a verification: every abstract state, and with which precision it was kept.

Nobody watches a program that is loaded: Env.watch is None then, and costs one test an
instruction. A pruned state leaves no trace here: what it stands for must be covered by the states
that are. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.verifier.state import State

PLAIN: Final = 0  # nothing is pruned, but at calls that call back
USUAL: Final = 1  # as always
EVERYWHERE: Final = 2  # states are kept and compared at every instruction


@final
class Watch:
    """mode: PLAIN, USUAL or EVERYWHERE. limit: states, then the program is refused.

    met: the state before each instruction that was carried out, in order, its insn set. kept: for
    each of them the recorded state whose marks tell what is precise, None if it was not recorded.
    pruned: paths that ended at a recorded state. globals: entries of functions verified alone."""

    __slots__ = ("mode", "limit", "met", "kept", "last", "pruned", "globals")

    def __init__(self, mode: int, limit: int) -> None:
        self.mode: int = mode
        self.limit: int = limit
        self.met: list[State] = []
        self.kept: list[State | None] = []
        self.last: State | None = None
        self.pruned: int = 0
        self.globals: list[int] = []

    def step(self, state: State, at: int) -> bool:
        """The instruction at slot `at` is next. False: enough seen."""
        copy = state.copy()
        copy.history = []
        copy.parent = None
        copy.insn = at
        self.met.append(copy)
        self.kept.append(self.last)
        self.last = None
        return len(self.met) <= self.limit
