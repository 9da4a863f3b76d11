"""What is LLVM's alone: which objects become images, who compiles what, no vector code."""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import replace
from typing import Any

import pytest

from compat_tests.jit import native, random_programs
from compat_tests.jit.test_differential import generate
from libbpf_shim.errors import ShimError
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.jit import tier1, tier2, tiers
from libbpf_shim.jit.tier2 import elf
from libbpf_shim.verifier.program import MapDesc, Program

pytestmark = pytest.mark.skipif(not tier2.available(), reason="llvmlite is not installed")
HEAD = 'target triple = "x86_64-unknown-linux-gnu"\n'
LOOP = encode([Insn(0xB7, 0, 0, 0, 9), Insn(0x07, 0, 0, 0, -1), Insn(0x55, 0, 0, -2, 0),
               Insn(0x95, 0, 0, 0, 0)])  # fmt: skip
STRAIGHT = encode([Insn(0xB7, 0, 0, 0, 9), Insn(0x95, 0, 0, 0, 0)])


def parsed(text: str) -> elf.Object:
    from libbpf_shim.jit.tier2.emit import emitted

    return elf.parse(emitted(HEAD + text, False))


@pytest.mark.parametrize(("text", "why"), [
    ("@table = constant [4 x i64] [i64 1, i64 7, i64 3, i64 9]\n"
     "define i64 @f0(i64 %i) { %p = getelementptr i64, ptr @table, i64 %i\n"
     "%v = load i64, ptr %p\nret i64 %v }", "sections .text, .rodata"),
    ("declare i64 @strlen(ptr)\ndefine i64 @f0(ptr %p) { %n = call i64 @strlen(ptr %p)\n"
     "%m = add i64 %n, 1\nret i64 %m }", "relocation 4 against strlen"),
    ("@near = external dso_local global i64\n"
     "define i64 @f0() { %v = load i64, ptr @near\nret i64 %v }", "relocation"),
], ids=["a table", "a library call", "an address of 32 bits"])  # fmt: skip
def test_an_object_with_more_in_it_is_refused(text: str, why: str) -> None:
    with pytest.raises(ShimError) as refused:
        parsed(text)
    assert refused.value.errno == errno.EOPNOTSUPP
    assert why in refused.value.message


def test_calls_among_its_functions_are_resolved() -> None:
    made = parsed("define i64 @f0(i64 %n) { %a = call i64 @f9(i64 %n)\n%b = add i64 %a, 1\n"
                  "ret i64 %b }\ndefine i64 @f9(i64 %n) noinline { ret i64 %n }")  # fmt: skip
    assert set(made.functions) == {"f0", "f9"} and made.symbols == []


def test_what_llvm_refuses_is_compiled_by_tier_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from libbpf_shim.jit.tier2 import machine

    def refuse(*_: Any, **__: Any) -> Any:
        raise elf.refused("for the test")

    program, facts = Program(LOOP, 1), native.all_seen(LOOP, (0,), 0)
    whole = tiers.compile_by(2, program, facts)
    assert whole.text != tier1.compile_program(program, facts).text
    monkeypatch.setattr(machine, "compile_program", refuse)
    assert tiers.compile_by(2, program, facts).text == tier1.compile_program(program, facts).text


def test_a_program_that_llvm_dies_of_is_compiled_by_tier_1(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """And the next one by LLVM."""
    from libbpf_shim.jit.tier2 import module

    program, facts = Program(LOOP, 1), native.all_seen(LOOP, (0,), 0)
    whole = tiers.compile_by(2, program, facts)
    text = HEAD + 'define i64 @f0() { call void asm "no instruction", ""()\nret i64 0 }'
    with monkeypatch.context() as patch, caplog.at_level(logging.DEBUG, tiers.__name__):
        patch.setattr(module, "text_of", lambda *_: (text, ()))
        other = tiers.compile_by(2, program, facts)
    assert other.text == tier1.compile_program(program, facts).text
    assert "LLVM ended with status" in caplog.text
    assert tiers.compile_by(2, program, facts) == whole


def test_a_fork_child_compiles_by_a_process_of_its_own() -> None:
    """And leaves its parent's as it is."""
    program, facts = Program(LOOP, 1), native.all_seen(LOOP, (0,), 0)
    whole = tiers.compile_by(2, program, facts)
    child = os.fork()
    if child == 0:
        try:
            os._exit(tiers.compile_by(2, program, facts) != whole)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert tiers.compile_by(2, program, facts) == whole


def test_an_address_is_no_constant_that_is_compared() -> None:
    """NULL is tested of an array value's address, which has 64 bits."""
    from libbpf_shim.jit.tier2 import machine

    code = encode([Insn(0x18, 1, 2, 0, 0), Insn(0, 0, 0, 0, 8), Insn(0xB7, 0, 0, 0, 7),
                   Insn(0x15, 1, 0, 1, 0), Insn(0x7B, 1, 1, 0, 0), Insn(0xBF, 2, 1, 0, 0),
                   Insn(0x1D, 2, 0, 1, 0), Insn(0xB7, 0, 0, 0, 3), Insn(0x95, 0, 0, 0, 0)])
    program = Program(code, 1, maps=(MapDesc(2, 4, 16, 1),))
    image = machine.compile_program(program, native.all_seen(code, (0,), 0))
    assert [(r.symbol, r.addend) for r in image.relocs] == [("mapval:0", 8)]


def test_a_small_function_becomes_part_of_its_callers() -> None:
    """One that calls no other; a caller of it stays a function."""
    from libbpf_shim.isa import insn as op
    from libbpf_shim.jit.tier2 import module

    def call(to: int, at: int) -> Insn:
        return Insn(0x85, 0, op.PSEUDO_CALL, 0, to - at - 1)

    one, leave = Insn(0xB7, 0, 0, 0, 1), Insn(0x95, 0, 0, 0, 0)
    for size, merged in ((1, True), (600, False)):
        inner = 6
        code = encode([call(3, 0), call(inner, 1), leave, call(inner, 3), leave, leave,
                       *[one] * size, leave])
        facts = native.all_seen(code, (0, 3, inner), 0)
        text, _ = module.text_of(Program(code, 1), facts)
        heads = {line.split("(")[0]: line for line in text.splitlines() if "define" in line}
        assert ("alwaysinline" in heads[f"define internal i64 @f{inner}"]) is merged
        assert "alwaysinline" not in heads["define internal i64 @f3"]


def test_it_pays_for_loops_and_for_what_is_large() -> None:
    for code, pays in ((LOOP, True), (STRAIGHT, False), (STRAIGHT[:8] * 300 + STRAIGHT, True)):
        facts = native.all_seen(code, (0,), 0)
        assert tiers.pays(Program(code, 1), facts) is pays
    assert tiers.pays(Program(STRAIGHT, 1), replace(native.all_seen(STRAIGHT, (0,), 0),
                                                    subprogs=(0, 2), stack_depth=(0, 0)))
    called = replace(native.all_seen(STRAIGHT, (0,), 0), helpers=frozenset({181}))
    assert tiers.pays(Program(STRAIGHT, 1), called)
    timed = replace(native.all_seen(LOOP, (0,), 0), helpers=frozenset({170}))
    assert not tiers.pays(Program(LOOP, 1), timed)


def test_no_vector_register_is_used() -> None:
    capstone = pytest.importorskip("capstone")
    from libbpf_shim.jit.tier2 import machine

    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    for seed in range(100, 112):
        insns, functions, _ = generate(seed)
        facts = native.all_seen(insns, functions, random_programs.STACK_DEPTH)
        text = machine.compile_program(Program(insns, 6), facts).text
        rows = list(decoder.disasm_lite(text, 0))
        assert sum(row[1] for row in rows) == len(text)
        assert not any("mm" in row[3] or "st(" in row[3] for row in rows)
