"""What looks at stack slots tells so (Env.reads_stack): else they are dead, pruning is unsound.

Programs in which one path has in a slot what the next statement may use, and the other, explored
later, has not: where the use does not say that it reads the slot, the second path is taken to be
like the first. Each is loaded into the kernel as well. And a list of all functions that touch
Frame.stack, each with the reason why it need not tell: one that is not listed has to.

Source of rules: Linux 6.18, kernel/bpf/liveness.c and its callers (bpf_mark_stack_read).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.asm import assemble
from compat_tests.verifier.test_iterators import MACHINE, VMLINUX, number_of
from libbpf_shim.isa import encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

pytestmark = pytest.mark.skipif(not VMLINUX.exists(), reason=f"no {VMLINUX}")

PACKAGE = Path(verify.__code__.co_filename).parent
CLS, EVERY_STATE = 3, 1 << 3  # a state is kept wherever paths may meet
MAPS = (MapDesc(2, 4, 64, 1), MapDesc(27, 0, 0, 4096))
ROWS = [{"type": 2, "key_size": 4, "value_size": 64, "max_entries": 1},
        {"type": 27, "key_size": 0, "value_size": 0, "max_entries": 4096}]  # fmt: skip
ONE_OF_TWO = "r6 = r10; r6 += {0}; if r0 != 0 goto two; goto both; two: r6 = r10; r6 += {1}; both:"

# name; behind the branch on a random number (zero is explored first); errno; words
CASES = [
    ("fill",
     "*(u64 *)(r10 - 8) = 0; if r0 == 0 goto both; *(u64 *)(r10 - 8) = r6; both: "
     "r1 = *(u64 *)(r10 - 8); r0 = *(u32 *)(r1 + 0)", 13, "R1 invalid mem access 'scalar'"),
    ("callee's fill",
     "*(u64 *)(r10 - 8) = 0; r1 = r10; r1 += -8; if r0 == 0 goto both; *(u64 *)(r10 - 8) = r6; "
     "both: call inner; r0 = 0; exit; "
     "inner: r1 = *(u64 *)(r1 + 0); r0 = *(u32 *)(r1 + 0)", 13, "R1 invalid mem access 'scalar'"),
    ("load somewhere",
     "r7 = r0; r7 &= 1; call 7; *(u16 *)(r10 - 6) = 7; if r0 == 0 goto both; "
     "*(u16 *)(r10 - 6) = 0; both: r1 = r10; r1 += -6; r1 += r7; r1 = *(u8 *)(r1 + 0); "
     "if r1 == 0 goto out; r0 = *(u64 *)(r1 + 0); out:", 13, "R1 invalid mem access 'scalar'"),
    ("key of an array",
     "*(u32 *)(r10 - 4) = 1; if r0 == 0 goto both; *(u32 *)(r10 - 4) = 0; both: r1 = map 0; "
     "r2 = r10; r2 += -4; call 1; r0 = *(u64 *)(r0 + 0)", 13, "R0 invalid mem access"),
    ("iterator",
     f"{ONE_OF_TWO.format(-8, -16)} r1 = r6; r2 = 0; r3 = 1; kfunc bpf_iter_num_new; r1 = r10; "
     "r1 += -8; kfunc bpf_iter_num_destroy", 22,
     "expected an initialized iter_num as arg #0"),
    ("saved interrupts",
     f"{ONE_OF_TWO.format(-8, -16)} r1 = r6; kfunc bpf_local_irq_save; r1 = r10; "
     "r1 += -8; kfunc bpf_local_irq_restore", 22, "expected an initialized irq flag as arg#0"),
    ("dynptr",
     f"{ONE_OF_TWO.format(-16, -32)} r1 = value 0; r2 = 64; r3 = 0; r4 = r6; call 197; r1 = r10; "
     "r1 += -16; r2 = 0; r3 = 8; call 203", 22, "Expected an initialized dynptr as arg #0"),
    ("reserved dynptr",
     f"{ONE_OF_TWO.format(-16, -32)} r1 = map 1; r2 = 64; r3 = 0; r4 = r6; call 198; r1 = r10; "
     "r1 += -16; r2 = 0; call 200", 22, "arg 1 is an unacquired reference"),
]  # fmt: skip
NAMES = [case[0] for case in CASES]

WRITES, FORGETS, LEARNS, STATES, SHOWS, TOLD = (
    "only writes", "forgets what may not be used any more", "carries what is known of a register",
    "compares, cleans or makes states", "shows or measures", "its caller has told")
REFS = "what it is refused for holds a reference, and states with others differ"
DEAD = "where a dynptr is found the program is refused; so does 6.18, which does not tell either"
SILENT = {
    "allowed._copied": WRITES, "host.learn": LEARNS,
    "dynptr.create": WRITES, "dynptr.release": TOLD, "graph.given_away": FORGETS,
    "iterators.create": REFS, "iterators.reference": TOLD, "iterators.destroy": TOLD,
    "iterators.is_rcu": TOLD, "iterators.advance": TOLD, "iterators._set": TOLD,
    "iterators.active": STATES, "iterators.depths_differ": STATES, "keys.constant": TOLD,
    "kptr.release": FORGETS, "linked.collect": LEARNS, "linked.spread": LEARNS,
    "locks.forget_unowned": FORGETS, "loops.widen": STATES, "marklog._forced": SHOWS,
    "stack.grow": WRITES, "stack.note_unset": SHOWS, "stack.clobber": WRITES,
    "stack._write_zero_somewhere": WRITES, "stack._write_fixed": WRITES,
    "stack._spill_scalar": WRITES, "stack._read_fixed": TOLD, "stack._read_bytes": TOLD,
    "pointers.null_branch": LEARNS, "pointers._proven": LEARNS, "precision._mark_state": STATES,
    "compare._frame_safe": STATES, "prune._clean": STATES, "prune._note_unset": STATES,
    "prune._carry_precision": STATES, "replay.replay": SHOWS, "sections._rcu_ends": FORGETS,
    "sections.irq_save": REFS, "slots.place": SHOWS, "slots.destroy_dynptr": DEAD,
    "slots.check_bytes": TOLD, "slots.check_filled": DEAD, "slots._in_all": FORGETS,
    "state.__init__": STATES, "statelog.of": SHOWS, "trace.instruction": SHOWS,
    "trace._slots": SHOWS, "trace._addressed": SHOWS, "trace.tail_called": SHOWS,
}  # fmt: skip
NOT_FRAMES = ("env", "step", "self", "p")  # their attribute of that name is another


def build(text: str) -> bytes:
    names = re.findall(r"kfunc (\w+)", text)
    for n, name in enumerate(names):
        text = text.replace(f"kfunc {name}", f"call {900 + n}", 1)
    insns = assemble(f"r6 = r1; call 7; {text}; r0 = 0; exit")
    for i in insns:
        if i.code == op.JMP | op.CALL and not i.src and i.imm >= 900:
            i.src, i.imm = op.PSEUDO_KFUNC_CALL, number_of(names[i.imm - 900])
    return encode(insns)


def touched(function: ast.AST) -> bool:
    """It names the stack of a frame."""
    return any(
        isinstance(n, ast.Attribute) and n.attr == "stack"
        and not (isinstance(n.value, ast.Name) and n.value.id in NOT_FRAMES)
        for n in ast.walk(function)
    )  # fmt: skip


def tells(function: ast.AST) -> bool:
    nodes = ast.walk(function)
    return any(isinstance(n, ast.Attribute) and n.attr == "reads_stack" for n in nodes)


def test_whatever_touches_the_stack_tells_or_has_a_reason() -> None:
    silent = set()
    for path in PACKAGE.rglob("*.py"):
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.FunctionDef) and touched(part) and not tells(part):
                silent.add(f"{path.stem}.{part.name}")
    assert silent == set(SILENT), "call Env.reads_stack there, or say why not"


@pytest.mark.parametrize(("name", "text", "errno", "words"), CASES, ids=NAMES)
def test_a_slot_that_is_read_is_not_dead(name: str, text: str, errno: int, words: str) -> None:
    verdict = verify(Program(build(text), CLS, prog_flags=EVERY_STATE, license="GPL", maps=MAPS,
                             kernel_btf=MACHINE, log_level=1))  # fmt: skip
    assert verdict.errno == errno, verdict.log[-3000:]
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "text", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(name: str, text: str, errno: int, words: str) -> None:
    found = kernel.driver().kernel_verdict(build(text), "sched_cls", maps=ROWS, license="GPL",
                                           prog_flags=EVERY_STATE)  # fmt: skip
    assert found.errno == errno, found.log[-3000:]
    assert words in found.log
