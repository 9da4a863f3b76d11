"""Calls of kernel functions: interpreter and tier 1 agree, and what is not there is named."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.jit import native
from compat_tests.verifier.test_iterators import (
    DESTROY,
    END,
    MACHINE,
    TASKS,
    TASKS_END,
    VMLINUX,
    loop,
    new,
    num,
    number_of,
)
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import Insn, encode
from libbpf_shim.jit import kfuncs
from libbpf_shim.jit.interp import Helper, Machine
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.skipif(not VMLINUX.exists(), reason=f"no {VMLINUX}")
ADDX, MOVX, LDXW, JNE, JEQ, OR = 0x0F, 0xBF, 0x61, 0x55, 0x15, 0x47
SUM = [Insn(LDXW, 7, 0, 0, 0), Insn(ADDX, 6, 7, 0, 0)]
EXIT = Insn(0x95, 0, 0, 0, 0)
DEAD = {"sym:UNREACHABLE": 8}  # a crash
RESULT = [Insn(MOVX, 0, 6, 0, 0), EXIT]
STOP = [*SUM, Insn(JNE, 7, 0, 1, 5), Insn(0x05, 0, 0, 1, 0)]  # over the loop's jump back


def program(insns: list[Insn]) -> Program:
    return Program(encode(insns), 17, license="GPL", kernel_btf=MACHINE)


def numbers() -> dict[int, Helper]:
    """bpf_iter_num in the interpreter's memory, by BTF id."""

    def begin(machine: Machine, it: int, start: int, end: int, *_: int) -> int:
        machine.memory.store(it, 4, start - 1 & 0xFFFFFFFF)
        machine.memory.store(it + 4, 4, end)
        return 0

    def follow(machine: Machine, it: int, *_: int) -> int:
        now = machine.memory.load(it, 4) + 1 & 0xFFFFFFFF
        if now >= machine.memory.load(it + 4, 4):
            return 0
        machine.memory.store(it, 4, now)
        return it

    return {number_of("bpf_iter_num_new"): begin, number_of("bpf_iter_num_next"): follow,
            number_of("bpf_iter_num_destroy"): lambda *_: 0}


@pytest.mark.usefixtures("each_tier")
@pytest.mark.parametrize(
    ("body", "result"),
    [(SUM, 45), (STOP, 15)],
    ids=["to its end", "until one says stop"],
)
def test_interpreter_and_compilers_agree(body: list[Insn], result: int) -> None:
    made = program([num(6, 0), *new(), *loop(body), *DESTROY, *RESULT])
    facts = verify(made).facts
    assert facts
    assert set(facts.kfuncs.values()) == {f"bpf_iter_num_{n}" for n in ("new", "next", "destroy")}
    assert Machine(made.insns, kfuncs=numbers()).run() == result
    symbols = {f"helper:{n}": int(ffi.cast("uintptr_t", lib.shim_helper(n)))
               for n in kfuncs.NUMBERS.values()}  # fmt: skip
    assert native.run_all([(native.compile_program(made, facts), b"")], symbols) == [(result, b"")]


@pytest.mark.usefixtures("each_tier")
def test_one_that_userspace_has_not_is_named() -> None:
    made = program([*TASKS, *TASKS_END, *END])
    facts = verify(made).facts
    assert facts
    with pytest.raises(ShimError) as refused:
        native.compile_program(made, facts)
    assert refused.value.errno == errno.EOPNOTSUPP
    assert "kernel function bpf_iter_task_new" in refused.value.message


def asked(name: str) -> list[Insn]:
    """bpf_ksym_exists(): what is jumped over where it says no comes behind."""
    return [Insn(0x18, 1, 3, 0, number_of(name)), Insn(0, 0, 0, 0, 0)]


@pytest.mark.usefixtures("each_tier")
@pytest.mark.parametrize(("there", "result"), [(None, 3), (kfuncs.THERE, 1)], ids=["all", "ours"])
def test_one_that_userspace_has_not_is_not_there(
    there: tuple[str, ...] | None, result: int
) -> None:
    made = program([
        num(0, 0), *asked("bpf_iter_num_new"), Insn(JEQ, 1, 0, 1, 0), Insn(OR, 0, 0, 0, 1),
        *asked("bpf_iter_task_new"), Insn(JEQ, 1, 0, 1, 0), Insn(OR, 0, 0, 0, 2), EXIT,
    ])  # fmt: skip
    made = replace(made, kfuncs=there)
    facts = verify(made).facts
    assert facts
    assert native.run_all([(native.compile_program(made, facts), b"")], DEAD) == [(result, b"")]


@pytest.mark.usefixtures("each_tier")
def test_a_program_goes_its_other_way() -> None:
    way = [*TASKS, *TASKS_END]
    made = program([*asked("bpf_iter_task_new"), Insn(JEQ, 1, 0, len(way), 0), *way, *END])
    assert "bpf_iter_task_new" in verify(made).facts.kfuncs.values()  # type: ignore[union-attr]
    made = replace(made, kfuncs=kfuncs.THERE)
    facts = verify(made).facts
    assert facts and not facts.kfuncs
    assert native.run_all([(native.compile_program(made, facts), b"")], DEAD) == [(0, b"")]


def test_every_number_has_code() -> None:
    assert set(kfuncs.NUMBERS.values()) == set(kfuncs.CODE.values())
    for name, number in kfuncs.CODE.items():
        assert getattr(lib, f"SHIM_KFUNC_{name.removeprefix('bpf_')}") == number
        assert lib.shim_helper(number)


def test_who_may_not_write_packets_gets_a_dynptr_that_may_not() -> None:
    rdonly = kfuncs.NUMBERS["bpf_dynptr_from_skb_rdonly"]
    assert kfuncs.number("bpf_dynptr_from_skb", 3) != rdonly
    assert kfuncs.number("bpf_dynptr_from_skb", 8) == rdonly
