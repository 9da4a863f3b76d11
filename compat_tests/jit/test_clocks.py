"""bpf_ktime_get_ns() without a call: which programs have it. What it says: test_clock_runs.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.jit import native
from compat_tests.runtime.test_maps import ARRAY
from compat_tests.verifier import test_callbacks
from compat_tests.verifier.test_callbacks import EXIT, LDX, MOV, MOVX, ST, STX, loop
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import clocks, features, isolated, places
from libbpf_shim.jit.image import Image
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.policy import SFI, Policy
from libbpf_shim.verifier.program import MapDesc, Program

KPROBE, HASH, RING = 2, 1, 27
ADD, JEQ, ATOMIC = 0x07, 0x15, 0xDB
RDONLY_PROG = 128
MAPS = (MapDesc(ARRAY, 4, 8, 1), MapDesc(HASH, 4, 8, 8), MapDesc(RING, 0, 0, 4096),
        MapDesc(ARRAY, 4, 8, 1, RDONLY_PROG, contents=bytes(8)),
        MapDesc(ARRAY, 4, 8, 1, RDONLY_PROG))
TABLE, HASHED, RECORDS, FROZEN, NOT_FROZEN = range(5)
ZERO = Insn(MOV, 0, 0, 0, 0)


def call(number: int) -> Insn:
    return Insn(op.JMP | op.CALL, 0, 0, 0, number)


def given(index: int, to: int = 1, kind: int = op.PSEUDO_MAP_FD) -> list[Insn]:
    return [Insn(op.LD_IMM64, to, kind, 0, index), Insn(0, 0, 0, 0, 0)]


def on_stack(regno: int, off: int) -> list[Insn]:
    return [Insn(MOVX, regno, 10, 0, 0), Insn(ADD, regno, 0, 0, off)]


TIME = [call(5)]
STORED = [*TIME, Insn(STX, 10, 0, -8, 0)]  # and so that there is something on the stack
KEY = [Insn(ST, 10, 0, -16, 0), *on_stack(2, -16)]
FOUND = [*given(TABLE), *KEY, call(1)]
VALUE = [*FOUND, Insn(JEQ, 0, 0, 2, 0)]  # and two instructions of a value in R0
UPDATE = [*given(HASHED), *KEY, *on_stack(3, -8), Insn(MOV, 4, 0, 0, 0), call(2)]
RESERVED = [*given(RECORDS), Insn(MOV, 2, 0, 0, 16), Insn(MOV, 3, 0, 0, 0), call(131),
            Insn(JEQ, 0, 0, 6, 0), Insn(MOVX, 6, 0, 0, 0)]  # fmt: skip
SENT = [Insn(MOVX, 1, 6, 0, 0), Insn(MOV, 2, 0, 0, 0), call(132), ZERO]
OUTPUT = [Insn(MOV, 3, 0, 0, 8), Insn(MOV, 4, 0, 0, 0), call(130)]


def atomic(dst: int, off: int, kind: int) -> list[Insn]:
    return [Insn(MOV, 1, 0, 0, 1), Insn(ATOMIC, dst, 1, off, kind)]


# what the program does; whether it takes the time its own way
RULE = {
    "the time alone": (TIME, True),
    "a word of the stack": ([*STORED, Insn(LDX, 1, 10, -8, 0)], True),
    "a word of the context": ([Insn(LDX, 6, 1, 112, 0), *TIME], False),
    "a word of the context, behind it": (
        [Insn(MOVX, 6, 1, 0, 0), *TIME, Insn(LDX, 6, 6, 112, 0)], False),
    "who runs": ([call(14), *TIME], True),
    "a name": ([*on_stack(1, -16), Insn(MOV, 2, 0, 0, 16), call(16), *TIME], True),
    "a task": ([call(35), *TIME], False),
    "another clock": ([call(125), *TIME], False),
    "what a lookup has found": ([*FOUND, *TIME], False),
    "what one finds behind it": ([*TIME, *FOUND], False),
    "a lookup's value": ([*VALUE, Insn(LDX, 1, 0, 0, 0), *TIME], False),
    "an update": ([*STORED, *UPDATE], True),
    "an update of what a variable holds": (
        [*STORED, *given(HASHED), *KEY, *given(TABLE, 3, op.PSEUDO_MAP_VALUE),
         Insn(MOV, 4, 0, 0, 0), call(2)], False),
    "a variable written": ([*TIME, *given(TABLE, 1, op.PSEUDO_MAP_VALUE), Insn(STX, 1, 0, 0, 0)],
                           True),
    "a variable read": ([*given(TABLE, 1, op.PSEUDO_MAP_VALUE), Insn(LDX, 6, 1, 0, 0), *TIME],
                        False),
    "a constant read": ([*given(FROZEN, 1, op.PSEUDO_MAP_VALUE), Insn(LDX, 6, 1, 0, 0), *TIME],
                        True),
    "a constant read, before its map is frozen": (
        [*given(NOT_FROZEN, 1, op.PSEUDO_MAP_VALUE), Insn(LDX, 6, 1, 0, 0), *TIME], False),
    "a constant or a variable read": (
        [call(7), *given(FROZEN, 1, op.PSEUDO_MAP_VALUE), Insn(JEQ, 0, 0, 2, 0),
         *given(TABLE, 1, op.PSEUDO_MAP_VALUE), Insn(LDX, 6, 1, 0, 0), *TIME], False),
    "a constant put out": (
        [*TIME, *given(RECORDS), *given(FROZEN, 2, op.PSEUDO_MAP_VALUE), *OUTPUT], True),
    "a variable counted up": (
        [*TIME, *given(TABLE, 2, op.PSEUDO_MAP_VALUE), *atomic(2, 0, op.ADD)], True),
    "a variable counted up, that tells": (
        [*TIME, *given(TABLE, 2, op.PSEUDO_MAP_VALUE), *atomic(2, 0, op.ADD | op.FETCH)], False),
    "a variable exchanged": (
        [*TIME, *given(TABLE, 2, op.PSEUDO_MAP_VALUE), *atomic(2, 0, op.XCHG)], False),
    "the stack exchanged": ([*STORED, *atomic(10, -8, op.XCHG)], True),
    "a record": ([*RESERVED, *TIME, Insn(STX, 6, 0, 0, 0), *SENT], True),
    "a record read": ([*RESERVED, *TIME, Insn(LDX, 7, 6, 0, 0), *SENT], False),
    "an output": ([*STORED, *given(RECORDS), *on_stack(2, -8), *OUTPUT], True),
    "an output of a variable": (
        [*TIME, *given(RECORDS), *given(TABLE, 2, op.PSEUDO_MAP_VALUE), *OUTPUT], False),
    "a read of memory": ([*on_stack(1, -8), Insn(MOV, 2, 0, 0, 8), Insn(MOV, 3, 0, 0, 0),
                          call(113), *TIME], False),
}  # fmt: skip


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor whose counter runs at one rate."""
    has = frozenset({"constant_tsc", "nonstop_tsc", "cx16"})
    monkeypatch.setattr(features, "_flags", lambda: has)


def compiled(program: Program) -> Image:
    verdict = verify(program)
    assert verdict.facts, verdict.log
    return native.compile_program(program, verdict.facts)


def kprobe(body: list[Insn]) -> Program:
    return Program(encode([*body, ZERO, EXIT]), KPROBE, maps=MAPS, license="GPL", log_level=1)


def way(image: Image) -> tuple[bool, bool]:
    """Whether it reads the counter, unordered, and whether it has the helper read the clock."""
    names = {r.symbol for r in image.relocs}
    assert (f"helper:{clocks.OWN}" in names) == (clocks.RDTSC in image.text)
    assert b"\x0f\xae\xe8" not in image.text  # lfence
    return clocks.RDTSC in image.text, "helper:5" in names


@pytest.mark.usefixtures("each_compiler", "counted")
@pytest.mark.parametrize("name", RULE)
def test_who_can_compare_times_of_threads_has_ordered_ones(name: str) -> None:
    body, own = RULE[name]
    assert way(compiled(kprobe(body))) == (own, not own)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("name", ["the time alone", "a variable read", "a record"])
def test_isolated_programs_go_by_the_same_rule(name: str) -> None:
    body, own = RULE[name]
    program = kprobe(body)
    facts = verify(program).facts
    assert facts
    program = replace(program, policy=Policy("any", "grants.yaml", b"", isolation=SFI))
    assert way(isolated.compile_program(program, facts)) == (own, not own)


@pytest.mark.usefixtures("each_compiler", "counted")
@pytest.mark.parametrize("loads, own", [(False, True), (True, False)])
def test_callbacks_are_part_of_the_program(loads: bool, own: bool) -> None:
    """The time is taken in main, and the callback loads: of main's stack, or of a variable."""
    body = [*given(TABLE, 2, op.PSEUDO_MAP_VALUE)] if loads else []
    insns = loop([*TIME, Insn(MOV, 1, 0, 0, 3)], [*body, Insn(LDX, 0, 2, 0, 0), ZERO], [ZERO])
    btf, rows = test_callbacks.infos(insns, test_callbacks.STATIC)
    program = Program(encode(insns), KPROBE, maps=MAPS, license="GPL", log_level=1, btf=btf,
                      func_info=rows, func_info_rec_size=8)
    assert way(compiled(program)) == (own, not own)


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("flag", ["constant_tsc", "nonstop_tsc", "cx16"])
def test_a_counter_that_cannot_be_relied_on_is_not_read(
    flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = frozenset({"constant_tsc", "nonstop_tsc", "cx16"} - {flag})
    monkeypatch.setattr(features, "_flags", lambda: has)
    assert way(compiled(kprobe(TIME))) == (False, True)


def test_the_interpreter_reads_the_clock() -> None:
    native.Compiler.tier = 0
    try:
        assert clocks.RDTSC not in compiled(kprobe(TIME)).text
    finally:
        native.Compiler.tier = 1


def test_offsets_of_a_scale_are_those_of_the_headers() -> None:
    start = ffi.offsetof("struct shim_thread", "clock")
    for field, off in places.CLOCK.items():
        assert start + ffi.offsetof("struct shim_clock", field) == off
    assert lib.SHIM_CLOCK_CYCLES == places.CLOCK_CYCLES
    assert lib.SHIM_FUNC_CLOCK_OWN == clocks.OWN
