"""All errors of a program that can be told apart, each with the path that led to it.

The kernel stops at the first. Here the path goes on as if what was refused had been proven, so
that a second mistake behind the first is found too; what follows from the first alone is left out.
The verdict does not come from here: it is verify()'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import decode
from libbpf_shim.verifier import check
from libbpf_shim.verifier.call import functions
from libbpf_shim.verifier.diagnose import codes
from libbpf_shim.verifier.env import E2BIG, Env, Reject
from libbpf_shim.verifier.granted import budget
from libbpf_shim.verifier.kfuncs import exceptions
from libbpf_shim.verifier.memory import context, pointers
from libbpf_shim.verifier.path import prune
from libbpf_shim.verifier.program import Program
from libbpf_shim.verifier.state import CTX, MAYBE_NULL, NO_REG, NOT_INIT, UNKNOWN
from libbpf_shim.verifier.verify import finish, prepare, unknown_type

_MOST_STEPS = 200_000  # instructions that are looked at after the first error
_ENOUGH = 100  # errors, where they do not matter

Path = tuple[int, "Path"] | None  # the last slot, and what came before


@dataclass(frozen=True, slots=True)
class Error:
    """at: the slot, -1 where the program as a whole is meant. path: slots from the start of the
    function that was being verified to the refused one, both included."""

    at: int
    errno: int
    message: str
    path: tuple[int, ...]


class _Walk:
    def __init__(self, env: Env, most: int) -> None:
        self.env, self.most = env, most
        self.errors: list[Error] = []
        self._told: set[tuple[int, str]] = set()
        self._path: Path = None
        self._pushed: list[Path] = []
        self._first = 0

    def run(self) -> None:
        env = self.env
        check.begin(env)
        self._paths()
        try:
            exceptions.check_callback(env)
        except Reject as reject:
            self.errors.append(_whole(reject))
        done: set[int] = set()
        while not self._enough() and (
            ready := [f for n, f in env.globals.items() if n in env.called and n not in done]
        ):
            done.add(ready[0].entry)
            functions.start(env, ready[0])
            self._paths()

    def _enough(self) -> bool:
        over = self._first and self.env.processed > self._first + _MOST_STEPS
        return len(self.errors) >= self.most or bool(over)

    def _paths(self) -> None:
        env, self._path, self._pushed = self.env, None, []
        check.start(env)
        while not self._enough():
            self._path = (env.insn_idx, self._path)
            try:
                goes_on = check.advance(env)
            except Reject as reject:
                self._note(reject)
                goes_on = reject.errno != E2BIG and recover(env, reject)
            while len(self._pushed) < len(env.stack):
                self._pushed.append(self._path)
            if goes_on:
                continue
            if env.policy is not None:
                budget.ended(env)
            prune.path_ended(env)
            if not check.resume(env):
                return
            self._path = self._pushed.pop()
            del self._pushed[len(env.stack) :]

    def _note(self, reject: Reject) -> None:
        at, row = self.env.insn_idx, codes.find(reject.message)[0]
        self._first = self._first or self.env.processed
        if (at, row.code) in self._told:
            return
        self._told.add((at, row.code))
        self.errors.append(Error(at, reject.errno, reject.message, _slots(self._path)))


def _slots(path: Path) -> tuple[int, ...]:
    slots = []
    while path is not None:
        slots.append(path[0])
        path = path[1]
    return tuple(reversed(slots))


def errors(program: Program, most: int = 5) -> list[Error]:
    """At most so many; none: the program is accepted."""
    if program.prog_type not in context.TYPES:
        return [_whole(unknown_type(program))]
    env = Env(program, decode(program.insns))
    try:
        prepare(env)
    except Reject as reject:
        return [_whole(reject)]
    walk = _Walk(env, most)
    walk.run()
    if not walk.errors:
        try:
            finish(env)
        except Reject as reject:
            return [_whole(reject)]
    return walk.errors


def context_accesses(program: Program) -> frozenset[int]:
    """Slots of loads from and stores to the context, as far as paths were looked at."""
    env = Env(program, decode(program.insns))
    try:
        prepare(env)
        _Walk(env, _ENOUGH).run()
    except Reject:
        return frozenset()
    return frozenset(at for at, kind in env.insn_kind.items() if kind == CTX)


def _whole(reject: Reject) -> Error:
    groups = codes.find(reject.message)[1]
    at = groups.get("at", "")
    return Error(int(at) if at else -1, reject.errno, reject.message, ())


def recover(env: Env, reject: Reject) -> bool:
    """The state after the refused instruction, as if it had been proven; False: the path ends."""
    i, regs = env.insns[env.insn_idx], env.regs()
    klass, kind = i.code & 7, i.code & 0xF0
    row, groups = codes.find(reject.message)
    if row.code in ("BV0701", "BV0702"):
        return False
    if groups.get("r", "").isdigit() and int(groups["r"]) <= 10:
        number = int(groups["r"])
        reg = regs[number]
        if reg.type == NOT_INIT:
            regs[number] = UNKNOWN
            return True  # the same instruction once more
        if reg.type & MAYBE_NULL and row.code in ("BV0301", "BV0401") and reg.id:
            pointers.null_branch(env, env.cur, reg.id, False)
            return True
    if klass in (op.JMP, op.JMP32):
        if kind != op.CALL:
            return False
        for r in range(6):
            regs[r] = NO_REG
        regs[0] = UNKNOWN
    elif klass == op.LD and i.code == op.LD_IMM64:
        return False
    elif klass in (op.LDX, op.ALU, op.ALU64) and i.dst < 10:
        regs[i.dst] = UNKNOWN
    env.insn_idx += 1
    return True
