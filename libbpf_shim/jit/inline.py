"""Helpers that need no call, and how many arguments each takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.jit.control import Control
from libbpf_shim.verifier.program import MapDesc

_VARIADIC: Final = (6,)  # trace_printk


def arguments(prog_type: int) -> Callable[[int], int]:
    """By number of a helper: how many arguments it reads."""
    from libbpf_shim.verifier.call import helpers

    def count(number: int) -> int:
        proto = helpers.proto(prog_type, number)
        return 5 if proto is None or number in _VARIADIC else len(proto.args)

    return count


class Inline(Control):
    """maps: of the program."""

    maps: tuple[MapDesc, ...] = ()

    def needs_run(self, at: int) -> bool:
        """Whether the slot's code reads r12."""
        i = self.flow.insns[at]
        if i.code == op.JMP | op.CALL or at in self.facts.typed:
            return i.src != op.PSEUDO_CALL
        return i.klass == op.LD and i.code != op.LD_IMM64

    def calls_c(self, at: int) -> bool:
        """Whether the slot's code calls something."""
        i = self.flow.insns[at]
        return i.code == op.JMP | op.CALL or at in self.facts.typed or (
            i.klass == op.LD and i.code not in (op.LD_IMM64, 0))
