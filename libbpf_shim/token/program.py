"""An eBPF program as a constraint: a pure function of the request that answers 0 for no.

It is a program of type syscall with struct shim_token_request as its context (a copy, which it
may write). It is verified as every other, and moreover has no map, calls no helper and no kernel
function, and is short: whoever narrows a token writes it, and whoever checks the token must not
pay for that. It is run by the interpreter, whose every access is checked and whose steps are
counted: were a verdict wrong, the answer would be no.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from libbpf_shim.errors import ShimError
from libbpf_shim.token.error import refused
from libbpf_shim.token.request import SIZE, Request
from libbpf_shim.uapi.bpf import BPF_F_SLEEPABLE, bpf_prog_type

MAX_PROCESSED: Final = 4096  # instructions that the verifier may look at
MAX_RUN: Final = 8192  # instructions of a run
_KEPT: Final = 256  # verdicts remembered


def why_not(insns: bytes) -> str:
    """Why these instructions are no constraint; "": they are one."""
    from libbpf_shim.verifier import verify
    from libbpf_shim.verifier.env import Unfinished
    from libbpf_shim.verifier.program import Program

    program = Program(insns, bpf_prog_type.BPF_PROG_TYPE_SYSCALL, prog_flags=BPF_F_SLEEPABLE,
                      license="GPL", name="token", log_level=1)
    try:
        verdict = verify(program, MAX_PROCESSED)
    except Unfinished:
        return f"more than {MAX_PROCESSED} instructions to be verified"
    if verdict.errno or verdict.facts is None:
        said = [line for line in verdict.log.splitlines() if not line.startswith("processed ")]
        return said[-1] if said else "the verifier refuses it"
    facts = verdict.facts
    if facts.helpers or facts.kfuncs or facts.maps:
        return "it calls helpers or uses maps"
    if any(at + size > SIZE for at, size in facts.ctx_loads):
        return f"it reads behind the {SIZE} bytes of the request"
    return ""


class Programs:
    """Verdicts on programs, as many as are worth remembering."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, str] = OrderedDict()

    def why_not(self, insns: bytes) -> str:
        """As the function."""
        if insns in self._known:
            self._known.move_to_end(insns)
            return self._known[insns]
        found = self._known[insns] = why_not(insns)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found

    def grants(self, insns: bytes, request: Request, map_used: int) -> bool:
        """The program's answer. ShimError EPERM: it is none."""
        from libbpf_shim.jit import interp

        if why := self.why_not(insns):
            raise refused(f"its program: {why}")
        try:
            return interp.run(insns, request.packed(map_used), step_limit=MAX_RUN) != 0
        except (interp.InterpreterError, ShimError, ValueError):
            return False
