"""One path once more, with what every instruction found: the states that an explanation quotes.

Paths are not compared with others here, so that nothing of this one is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from libbpf_shim.isa.insn import decode
from libbpf_shim.verifier import check
from libbpf_shim.verifier.call import functions
from libbpf_shim.verifier.diagnose.errors import recover
from libbpf_shim.verifier.env import Env, Reject
from libbpf_shim.verifier.program import Program
from libbpf_shim.verifier.state import Reg, Slot
from libbpf_shim.verifier.verify import prepare

LONGEST = 50_000  # slots of a path that is walked again


@dataclass(frozen=True, slots=True)
class Moment:
    """Before the instruction at slot `at`: the frame that runs it (0 is the outermost), its
    registers and stack."""

    at: int
    frame: int
    regs: tuple[Reg, ...]
    stack: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """moments: one for each slot of the path, as far as it could be followed. env: as it was at
    the last of them."""

    env: Env
    moments: tuple[Moment, ...]


def replay(program: Program, path: tuple[int, ...]) -> Replay:
    """The path of an error (errors.py). A path that is too long has no moments."""
    env = Env(program, decode(program.insns))
    try:
        prepare(env)
    except Reject:
        return Replay(env, ())
    if not path or len(path) > LONGEST:
        return Replay(env, ())
    env.prune_point = bytearray(len(env.prune_point))
    check.begin(env)
    if path[0] and path[0] in env.globals:
        functions.start(env, env.globals[path[0]])
    check.start(env)
    moments = []
    for at in path:
        if env.insn_idx != at and not _switch(env, at):
            break
        frame = env.cur.frames[-1]
        moments.append(Moment(at, len(env.cur.frames) - 1, tuple(frame.regs), tuple(frame.stack)))
        if len(moments) == len(path):
            break
        try:
            check.advance(env)
        except Reject as reject:
            recover(env, reject)
    return Replay(env, tuple(moments))


def _switch(env: Env, to: int) -> bool:
    """The path goes on where another one was left for later."""
    while check.resume(env):
        if env.insn_idx == to:
            return True
    return False
