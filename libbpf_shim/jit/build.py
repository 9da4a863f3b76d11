"""From a program to its verdict and its image: what a loader waits for, and what is kept of it.

A pure function of the program (and of this machine's BTF, named in it), so that it can run in
another process and its result can be kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import OF_HOST, Image, absent
from libbpf_shim.verifier.facts import Facts, Stats, Verdict
from libbpf_shim.verifier.program import Program

_TAIL_CALL = 12  # BPF_FUNC_tail_call: to whoever stands there then

@dataclass(frozen=True, slots=True)
class Built:
    """image: None if the program is refused. spent: ns that verification took."""

    verdict: Verdict
    image: Image | None
    spent: int


def build(program: Program, limit: int = 0, tier: int = 1) -> Built:
    """Verifies and compiles. limit: instructions to be processed before Unfinished is raised; 0:
    as many as the kernel does. tier: as tiers.py has it."""
    from libbpf_shim.jit.tiers import compile_by
    from libbpf_shim.verifier import verify

    began = time.monotonic_ns()
    verdict = verify(program, limit)
    spent = time.monotonic_ns() - began
    if verdict.errno or verdict.facts is None:
        return Built(verdict, None, spent)
    try:
        facts = verdict.facts
        image = with_context(compile_by(tier, program, facts), facts)
    except ShimError as error:  # a verdict is a verdict: this is told where the program is to run
        image = absent(len(program.insns) // 8, error.message)
    return Built(verdict, image, spent)


def with_context(image: Image, facts: Facts) -> Image:
    """The image, and whether it looks at its context, or an unwinder in a host function may; and
    whether it changes it."""
    hosts = any(name.startswith(OF_HOST) for name in facts.kfuncs.values())
    return replace(image, context=bool(facts.ctx_loads) or facts.ctx_escapes or hosts,
                   writes=facts.ctx_written or hosts or _TAIL_CALL in facts.helpers)


def improved(program: Program, facts: Facts) -> Built:
    """The image of tier 2 of a program that was verified; None: there is none."""
    from libbpf_shim.jit.tier2.machine import compile_program

    verdict = Verdict(0, "", Stats(0, 0, 0, 0, 0), facts)
    try:
        return Built(verdict, with_context(compile_program(program, facts), facts), 0)
    except ShimError:
        return Built(verdict, None, 0)
