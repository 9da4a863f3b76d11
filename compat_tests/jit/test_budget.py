"""Instructions that are counted at run time: a run of as many as are granted goes through, one of
one more is ended, whatever tier made the code, and it leaves the same behind by each.

How long a run is the reference interpreter says, and of generated programs (with maps, callbacks,
functions, locks, records) a run that has more than enough.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from compat_tests.jit import native, stage
from compat_tests.verifier import generate
from compat_tests.verifier.asm import assemble
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import charge, tiers
from libbpf_shim.jit.flow import Flow
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.interp import Machine
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import MapDesc, Program

PLENTY, DEFAULT = 1 << 40, 7
ANYTHING = Policy("any", "grants.yaml", b"", helpers=None, kfuncs=None, registers=True,
                  untyped_reads=True, untyped_writes=True, instructions=1, counter=True,
                  default=DEFAULT)
MAPS = (MapDesc(2, 4, 8, 4),)
# name, program: of 64-bit constants, loops, functions, branches over one move, callbacks
CASES = {
    "a loop": "r0 = 0; again: r0 += 1; if r0 < 9 goto again; exit",
    "a long constant": "r0 = 5 ll; r1 = 7 ll; r0 += r1; exit",
    "a move that is skipped": "r6 = 3; r0 = 1; if r6 > 2 goto on; r0 = 2; on: r0 += 1; exit",
    "a move that is not": "r6 = 2; r0 = 1; if r6 > 2 goto on; r0 = 2; on: r0 += 1; exit",
    "a loop closed by a jump": "r0 = 0; again: if r0 > 6 goto out; r0 += 1; goto again; out: exit",
    "a loop to the first instruction": "r1 = 0; go: r0 = 1; r1 += 1; if r1 < 4 goto go; exit",
    "functions": """r6 = 0; r1 = 3; call twice; r6 += r0; r1 = 5; call twice; r6 += r0; r0 = r6;
                 exit; twice: call one; r0 += 1; exit; one: r0 = r1; exit""",
    "a function with a loop": "call f; r0 += 1; exit; f: r0 = 0; l: r0 += 3; "
                              "if r0 < 20 goto l; exit",
    "one piece of many": "r0 = 0; " + "r0 += 1; " * 200 + "exit",
}
LOOP = "r6 = 2; r1 = 6; r2 = func body; r3 = 0; r4 = 0; call 181; r0 += r6; exit; "
CALLBACKS = {
    "callbacks": LOOP + "body: r0 = 0; r1 += 1; if r1 > 99 goto o; r1 += 1; o: exit",
    "a callback that stops": LOOP + "body: r0 = 0; if r1 != 3 goto o; r0 = 1; o: exit",
    "a function in a callback": LOOP + "body: call f; r0 = 0; exit; f: r0 = r1; exit",
}


def bpf_loop(machine: Machine, n: int, fn: int, ctx: int, flags: int, _unused: int) -> int:
    for at in range(n):
        if machine.call(fn, at, ctx):
            return at + 1
    return n


def made(text: str) -> tuple[Program, Facts]:
    """With all slots seen, as of no verifier."""
    insns = assemble(text)
    starts = sorted({0, *(at + 1 + i.imm for at, i in enumerate(insns)
                          if i.src and (i.code == op.JMP | op.CALL or
                                        (i.code, i.src) == (op.LD_IMM64, op.PSEUDO_FUNC)))})
    code = op.encode(insns)
    program = Program(code, stage.KPROBE, license="GPL", maps=MAPS, policy=ANYTHING)
    return program, native.all_seen(code, tuple(starts), 64)


Run = tuple[stage.Outcome, int, int]  # and what is left, how many runs were ended
RINGBUF, PAGE, BUSY, DISCARD = 27, 4096, 1 << 31, 1 << 30


def held(one: stage.Stage) -> str:
    """What a run has not given back; "": nothing."""
    if one.thread.locks_held:
        return f"{one.thread.locks_held} locks"
    for ring in (m for m in one.maps if m.desc.type == RINGBUF):
        base, at = int(ring.desc.base), 0
        end, = struct.unpack("<Q", ctypes.string_at(base + PAGE, 8))
        while at < end:
            size, = struct.unpack("<I", ctypes.string_at(base + 2 * PAGE + at, 4))
            if size & BUSY:
                return f"a record at {at}"
            at += ((size & ~DISCARD) + 15) & ~7
    return ""


def runs(given: Sequence[tuple[Program, int, Image]]) -> list[Run]:
    """In a child: program, seed, image."""
    def run(row: tuple[Program, int, Image]) -> Run:
        program, seed, image = row
        one = stage.Stage(program, seed)
        ended = one.control.ctl.stat[0].ended
        outcome = one.go(image)
        assert not (what := held(one)), what
        return outcome, int(one.run.left), int(one.control.ctl.stat[0].ended - ended)

    done = stage.apart(run, given)
    assert len(done) == len(given), "one crashed or hung"
    return done


@pytest.mark.usefixtures("each_tier")
@pytest.mark.parametrize("text", [*CASES.values(), *CALLBACKS.values()],
                         ids=[*CASES, *CALLBACKS])
def test_runs_are_as_long_as_the_interpreter_says(text: str) -> None:
    program, facts = made(text)
    machine = Machine(program.insns, helpers={181: bpf_loop})
    result, length = machine.run(), machine._steps
    images = [native.compile_program(program, replace(facts, counted=n))
              for n in (length - 1, length, length + 1)]
    short, exact, more = runs([(program, 1, image) for image in images])
    assert (exact[0].r0, exact[1:], more[0].r0, more[1:]) == (result, (0, 0), result, (1, 0))
    assert short[0].r0 == DEFAULT and short[1] < 0 and short[2] == 1


def made_by(tier: int) -> Callable[[Program, Facts], Image]:
    def compiled(program: Program, facts: Facts) -> Image:
        return tiers.compile_by(tier, program, facts)

    return compiled


def wrong_in(seeds: range) -> tuple[list[str], int]:
    """Of generated programs where tiers differ, or ends are not where they should be; how many
    there were."""
    compilers = [made_by(tier) for tier in native.TIERS if native.has(tier)]
    wrong, compared = [], 0
    for seed in seeds:
        program = generate.generate(seed)
        if program.prog_type != stage.KPROBE:
            continue
        program = replace(program, policy=ANYTHING)
        facts = verify(program).facts
        if facts is None or facts.counted < 0:
            continue
        image = compilers[0](program, replace(facts, counted=PLENTY))
        (whole, left, ended), = runs([(program, seed, image)])
        assert not ended
        (here, elsewhere), = stage.run_all([(program, seed, [image])])
        if here.unlike(elsewhere):
            continue  # it depends on where things lie
        length, compared = PLENTY - left, compared + 1
        for n in sorted({1, length // 2, length - 1, length}):
            if n < 1:
                continue
            found = runs([(program, seed, one(program, replace(facts, counted=n)))
                          for one in compilers])
            if len({row[1:] for row in found}) > 1 or found[0][2] != (n < length):
                wrong.append(f"seed {seed}, {n} of {length}: {[row[1:] for row in found]}")
            if n == length and found[0][0].unlike(whole):
                wrong.append(f"seed {seed}: {found[0][0].unlike(whole)}")
            wrong += [f"seed {seed}, {n} of {length}: {found[0][0].unlike(row[0])}"
                      for row in found[1:] if found[0][0].unlike(row[0])]
    return wrong, compared


def test_what_ended_runs_leave_is_the_same_by_each_tier() -> None:
    wrong, compared = wrong_in(range(16))
    assert not wrong, wrong[0]
    assert compared > 2


@pytest.mark.long
def test_what_many_ended_runs_leave_is_the_same_by_each_tier() -> None:
    wrong, compared = wrong_in(range(16, 500))
    assert not wrong, wrong[0]
    assert compared > 60


RECORDS = """
    r1 = map 1; r2 = 64; r3 = 0; call 131; if r0 == 0 goto out; r6 = r0; r7 = 0;
    fill: *(u64 *)(r6 + 8) = r7; r7 += 1; if r7 < 5 goto fill; if r7 == 99 goto drop;
    r1 = r6; r2 = 0; call 132; goto out; drop: r1 = r6; r2 = 0; call 133;
    out: r8 = 0; more: r8 += 1; if r8 < 4 goto more; r9 += 1; if r9 < 3 goto again; r0 = 0; exit"""


@pytest.mark.usefixtures("each_tier")
def test_a_record_is_given_back_wherever_a_run_ends() -> None:
    """At every number of instructions: records that were begun are told of (runs() looks)."""
    text = f"r9 = 0; again: {RECORDS}"
    maps = (*MAPS, MapDesc(RINGBUF, 0, 0, 4096))
    program = Program(op.encode(assemble(text)), stage.KPROBE, license="GPL", maps=maps,
                      policy=ANYTHING)
    facts = verify(program).facts
    assert facts and len(facts.held) == 10
    (_, left, _), = runs([(program, 1, native.compile_program(
        program, replace(facts, counted=PLENTY)))])
    length = PLENTY - left
    step = 1 if native.Compiler.tier < 2 else 9
    found = runs([(program, 1, native.compile_program(program, replace(facts, counted=n)))
                  for n in range(1, length + 1, step)])
    assert [ended for _, _, ended in found] == [int(n < length)
                                                for n in range(1, length + 1, step)]


def test_pieces_are_all_of_the_program_and_begin_where_something_was_given_back() -> None:
    program, facts = made("r0 = 0; call 5; r0 += 1; r0 += 2; again: r0 += 1; "
                          "if r0 < 9 goto again; exit")
    facts = replace(facts, counted=100, held=frozenset({2}))
    flow = Flow(op.decode(program.insns), facts, lambda _: 0)
    found = charge.charges(flow, facts)
    assert sum(row.count for row in found.values()) == 7
    assert {at: (row.count, row.ends) for at, row in found.items()} == {
        0: (3, True), 3: (1, True), 4: (2, True), 6: (1, True)}
    inside = replace(facts, held=frozenset({4, 5}))
    assert [row.ends for row in charge.charges(flow, inside).values()] == [True, False, True]
