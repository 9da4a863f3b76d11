"""Every helper from programs that are attached by BTF: there or not, and the first argument."""

from __future__ import annotations

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.test_calls import CALL, EXIT, LDX8, MOV, insn, last
from libbpf_shim.btf import kinds
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.call import helpers
from libbpf_shim.verifier.program import Program

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(MACHINE.btf.find("task_struct", kinds.STRUCT) is None,
                       reason="no kernel BTF"),
]
TRACING, RAW_TP, ITER = 26, 23, 28
PLACES = [(RAW_TP, "btf_trace_sched_switch", kinds.TYPEDEF), (ITER, "bpf_iter_task", kinds.FUNC),
          (ITER, "bpf_iter_tcp", kinds.FUNC), (ITER, "bpf_iter_bpf_map_elem", kinds.FUNC)]


@pytest.mark.parametrize("place", PLACES, ids=[place[1] for place in PLACES])
@pytest.mark.parametrize("flags", [0, 16])
def test_every_helper_is_there_where_the_kernel_says(
    place: tuple[int, str, int], flags: int
) -> None:
    """With the context in R1, then with its second word there."""
    attach, name, kind = place
    found = MACHINE.btf.find(name, kind)
    assert found
    real, wrong = kernel.driver(), []
    for number in range(1, len(helpers.PROTOS) + 1):
        for before in (b"", insn(LDX8, 1, 1, 8)):
            code = before + insn(CALL, imm=number) + insn(MOV) + insn(EXIT)
            theirs = real.kernel_verdict(code, TRACING, license="GPL", log_level=1,
                                         expected_attach_type=attach, attach_btf_id=found.id,
                                         prog_flags=flags)
            ours = verify(Program(code, TRACING, expected_attach_type=attach, license="GPL",
                                  log_level=1, kernel_btf=MACHINE, attach_btf_id=found.id,
                                  prog_flags=flags))  # fmt: skip
            same = theirs.ok or last(theirs.log) == last(ours.log)
            if theirs.errno != ours.errno or not same:
                wrong.append((helpers.name(number), last(theirs.log), last(ours.log)))
    assert not wrong, (len(wrong), wrong[:5])
