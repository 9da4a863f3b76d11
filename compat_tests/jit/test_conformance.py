"""The conformance cases as machine code: each compiler's image, run in a child process."""

from __future__ import annotations

import pytest

from compat_tests.jit import conformance, native
from compat_tests.jit.conformance import Case
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, decode, encode
from libbpf_shim.jit.image import Image
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

CALL = op.JMP | op.CALL
SET = op.ALU64 | op.MOV  # r1 = 0 where there is no memory, r2 = its size


def calls_helpers(insns: list[Insn]) -> bool:
    """The cases' helpers are ubpf's test program's: the interpreter's test has them."""
    return any(i.code == CALL and i.src == 0 for i in insns)


def compiled(case: Case) -> Image | None:
    insns = decode(case.insns)
    if calls_helpers(insns):
        return None
    if case.passes_length:
        insns = [Insn(SET, 2, 0, 0, len(case.memory)), *insns]
    if not case.memory:
        insns = [Insn(SET, 1, 0, 0, 0), *insns]
    starts = {0} | {at + 1 + i.imm for at, i in enumerate(insns)
                    if i.code == CALL and i.src == op.PSEUDO_CALL}  # fmt: skip
    subprogs = tuple(sorted(starts))
    facts = Facts(subprogs, (512,) * len(subprogs), b"\1" * len(insns))
    return native.compile_program(Program(encode(insns), 1), facts)


@pytest.mark.skipif(not conformance.cases(), reason=f"no {conformance.CORPUS}")
@pytest.mark.usefixtures("each_tier")
def test_every_conformance_case_has_its_result(request: pytest.FixtureRequest) -> None:
    cases, unsupported = [], []
    all_of_them = native.Compiler.tier == 1 or request.config.getoption("--long")
    for case in conformance.cases()[:: 1 if all_of_them else 12]:
        if case.result is None or case.name in conformance.NOT_EBPF:
            continue
        try:
            image = compiled(case)
        except ShimError as error:
            unsupported.append(f"{case.name}: {error}")
            continue
        if image:
            cases.append((case, image))
    assert not unsupported
    results = native.run_all([(image, case.memory) for case, image in cases])
    assert len(results) == len(cases), f"{cases[len(results)][0].name} crashed"
    wrong = []
    for (case, _), (r0, after) in zip(cases, results, strict=True):
        if r0 & (1 << case.bits) - 1 != case.result:
            wrong.append(f"{case.name}: R0 {r0:#x}, expected {case.result:#x}")
        if case.memory_after is not None and after != case.memory_after:
            wrong.append(f"{case.name}: memory differs")
    assert not wrong
    assert len(cases) > (780 if all_of_them else 60)
