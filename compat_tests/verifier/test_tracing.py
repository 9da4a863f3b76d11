"""Programs on functions of the kernel: fentry, fexit, fmod_ret, hooks of security modules. The
machine's policy keeps these from its kernel, so 6.18's source alone was asked: verifier.c
(bpf_check_attach_target, check_return_code), bpf_lsm.c; selftests progs/
verifier_lsm.c, lsm.c, fentry_test.c, fexit_test.c, modify_return.c.
"""

from __future__ import annotations

import os

import pytest

from libbpf_shim.btf import kinds
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.object.btf import MACHINE, VMLINUX
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.skipif(not os.access(VMLINUX, os.R_OK), reason=f"no {VMLINUX}")

TRACING, LSM, EXT = 26, 29, 28
FENTRY, FEXIT, MODIFY_RETURN, MAC = 24, 25, 26, 27
SLEEPABLE = 16
LDX, LDXW = 0x79, 0x61
EXIT = Insn(0x95, 0, 0, 0, 0)


def returns(value: int) -> list[Insn]:
    return [Insn(0xB7, 0, 0, 0, value), EXIT]


def load(off: int, code: int = LDX) -> Insn:
    return Insn(code, 2, 1, off, 0)


TEST1 = (TRACING, FENTRY, "bpf_fentry_test1", 0)  # int bpf_fentry_test1(int a)
LEFT1 = (TRACING, FEXIT, "bpf_fentry_test1", 0)
OPEN = (LSM, MAC, "bpf_lsm_file_open", 0)  # int file_open(struct file *file)
FREE = (LSM, MAC, "bpf_lsm_task_free", 0)  # void task_free(struct task_struct *task)
CASES = {
    "an argument": (TEST1, [load(0), *returns(0)], 0, ""),
    "a result, before it is there": (TEST1, [load(8), *returns(0)], 13,
                                     "func 'bpf_fentry_test1' doesn't have 2-th argument"),
    "a result": (LEFT1, [load(8), *returns(0)], 0, ""),
    "beyond a result": (LEFT1, [load(16), *returns(0)], 13, "doesn't have 3-th argument"),
    "a result of fentry's program": (TEST1, returns(1), 22, "should have been in [0, 0]"),
    "a changed result": ((TRACING, MODIFY_RETURN, "bpf_modify_return_test", 0), returns(7), 0, ""),
    "a result that nobody may change": ((TRACING, MODIFY_RETURN, "do_exit", 0), returns(0), 22,
                                        "do_exit() is not modifiable"),
    "what never returns": ((TRACING, FEXIT, "do_exit", 0), returns(0), 22,
                           "Attaching fexit/fmod_ret to __noreturn function 'do_exit' is"),
    "what never returns is entered": ((TRACING, FENTRY, "do_exit", 0), returns(0), 0, ""),
    "what tracing itself needs": ((TRACING, FENTRY, "migrate_disable", 0), returns(0), 22,
                                  "Attaching tracing programs to function 'migrate_disable' is"),
    "a structure": ((TRACING, FENTRY, "task_struct", 0), returns(0), 22, "is not a function"),
    "a system call may sleep": ((TRACING, FENTRY, "__x64_sys_nanosleep", SLEEPABLE), returns(0), 0,
                                ""),
    "another function may not": ((TRACING, FENTRY, "do_exit", SLEEPABLE), returns(0), 22,
                                 "do_exit is not sleepable"),
    "a hook's file": (OPEN, [load(0), Insn(LDXW, 3, 2, 0, 0), *returns(0)], 0, ""),
    "a hook's error": (OPEN, returns(-13), 0, ""),
    "a hook's result that is no error": (OPEN, returns(1), 22, "should have been in [-4095, 0]"),
    "a hook's error, its upper half empty": (OPEN, [Insn(0x18, 0, 0, 0, -13), Insn(0, 0, 0, 0, 0),
                                                    EXIT], 0, ""),
    "a hook's result of 32 bits that is no error": (OPEN, [Insn(0x18, 0, 0, 0, 1),
                                                           Insn(0, 0, 0, 0, -1), EXIT], 22,
                                                    "should have been in [-4095, 0]"),
    "what came of the hook before is its result": (OPEN, [Insn(LDX, 0, 1, 8, 0), EXIT], 0, ""),
    "what came of the hook before": (OPEN, [load(8), *returns(0)], 0, ""),
    "a hook without a result": (FREE, [EXIT], 0, ""),
    "a hook that may sleep": ((*OPEN[:3], SLEEPABLE), returns(0), 0, ""),
    "a hook that may not": ((*FREE[:3], SLEEPABLE), [EXIT], 22,
                            "bpf_lsm_task_free is not sleepable"),
    "a hook that is closed": ((LSM, MAC, "bpf_lsm_getprocattr", 0), returns(0), 22,
                              "points to disabled hook bpf_lsm_getprocattr"),
    "a function that is no hook": ((LSM, MAC, "do_exit", 0), returns(0), 22,
                                   "points to wrong type name do_exit"),
    "a replaced function of the kernel": ((EXT, 0, "do_exit", 0), returns(0), 22, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    (kind, attach, function, flags), insns, errno, words = CASES[name]
    found = MACHINE.btf.find(function, kinds.FUNC) or MACHINE.btf.find(function)
    if found is None:
        pytest.skip(f"this kernel has no {function}")
    verdict = verify(Program(
        encode(insns), kind, expected_attach_type=attach, attach_btf_id=found.id,
        prog_flags=flags, license="GPL", log_level=1, kernel_btf=MACHINE))  # fmt: skip
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


def test_hooks_are_for_programs_of_that_licence() -> None:
    found = MACHINE.btf.find("bpf_lsm_file_open", kinds.FUNC)
    assert found
    for licence, errno in (("GPL", 0), ("MIT", 22)):
        verdict = verify(Program(encode(returns(0)), LSM, expected_attach_type=MAC,
                                 attach_btf_id=found.id, license=licence,
                                 kernel_btf=MACHINE))  # fmt: skip
        assert verdict.errno == errno
