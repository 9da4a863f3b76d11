"""Pointers in map values (__kptr, __kptr_untrusted), bpf_kptr_xchg(): the kernel is asked too.

Source: kernel selftests progs/map_kptr.c, map_kptr_fail.c, task_kfunc_*.c; 6.18
kernel/bpf/verifier.c, check_map_kptr_access, map_kptr_match_type, process_kptr_func.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.test_btf_pointers import at, ident
from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.object.btf import MACHINE, VMLINUX
from libbpf_shim.object.map_btf import MapTypes
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

pytestmark = pytest.mark.skipif(not os.access(VMLINUX, os.R_OK), reason=f"no {VMLINUX}")

TRACING, RAW_TP, ARRAY = 26, 23, 2
LDX, LDXW, ST, STX, ADD, MOV, MOVX, CALL = 0x79, 0x61, 0x7A, 0x7B, 0x07, 0xB7, 0xBF, 0x85
NULL, NOT_NULL = 0x15, 0x55
REF, UNREF, NUMBER, SIZE = 0, 8, 16, 24  # offsets in the value
R0, EXIT = Insn(MOV, 0, 0, 0, 0), Insn(0x95, 0, 0, 0, 0)
TASK, XCHG = Insn(CALL, 0, 0, 0, 158), Insn(CALL, 0, 0, 0, 194)
# r6 = the value
VALUE = [
    Insn(0x62, 10, 0, -4, 0), Insn(MOVX, 2, 10, 0, 0), Insn(ADD, 2, 0, 0, -4),
    Insn(0x18, 1, 1, 0, 0), Insn(0, 0, 0, 0, 0), Insn(CALL, 0, 0, 0, 1),
    Insn(NOT_NULL, 0, 0, 2, 0), R0, EXIT, Insn(MOVX, 6, 0, 0, 0),
]  # fmt: skip


def load(dst: int, src: int, off: int, code: int = LDX) -> Insn:
    return Insn(code, dst, src, off, 0)


def kfunc(name: str) -> Insn:
    return Insn(CALL, 0, 2, 0, ident(name, kinds.FUNC))


def swap(off: int, *second: Insn) -> list[Insn]:
    """r0 = bpf_kptr_xchg(value + off, r2); r2 = 0 if nothing else is said."""
    return [*(second or (Insn(MOV, 2, 0, 0, 0),)), Insn(MOVX, 1, 6, 0, 0),
            Insn(ADD, 1, 0, 0, off), XCHG]  # fmt: skip


def release() -> list[Insn]:
    """bpf_task_release(r0), if there is one."""
    return [Insn(NULL, 0, 0, 2, 0), Insn(MOVX, 1, 0, 0, 0), kfunc("bpf_task_release")]


def pid(dst: int, src: int) -> Insn:
    return load(dst, src, at("task_struct", "pid"), LDXW)


def own() -> list[Insn]:
    """r2 = bpf_task_acquire(current), not NULL."""
    return [TASK, Insn(MOVX, 1, 0, 0, 0), kfunc("bpf_task_acquire"), Insn(NOT_NULL, 0, 0, 2, 0),
            R0, EXIT, Insn(MOVX, 2, 0, 0, 0)]  # fmt: skip


CASES: dict[str, tuple[Callable[[], list[Insn]], int, str]] = {
    "an untrusted pointer after its check": (
        lambda: [load(1, 6, UNREF), Insn(NULL, 1, 0, 1, 0), pid(2, 1)], 0, ""),
    "an untrusted pointer without one": (
        lambda: [load(1, 6, UNREF), pid(2, 1)], 13,
        "R1 invalid mem access 'untrusted_ptr_or_null_'"),
    "a reference is looked at": (
        lambda: [load(1, 6, REF), Insn(NULL, 1, 0, 1, 0), pid(2, 1)], 0, ""),
    "a reference that may be NULL": (
        lambda: [load(1, 6, REF), pid(2, 1)], 13, "R1 invalid mem access 'rcu_ptr_or_null_'"),
    "NULL is stored": (lambda: [Insn(ST, 6, 0, UNREF, 0)], 0, ""),
    "a number is stored": (lambda: [Insn(ST, 6, 0, UNREF, 1)], 13,
                           "BPF_ST imm must be 0 when storing to kptr at off=8"),
    "a task is stored": (lambda: [TASK, Insn(STX, 6, 0, UNREF, 0)], 0, ""),
    "the stack's address is stored": (
        lambda: [Insn(STX, 6, 10, UNREF, 0)], 13,
        "invalid kptr access, R10 type=fp expected=ptr_task_struct or untrusted_ptr_task_struct"),
    "another structure is stored": (
        lambda: [TASK, load(1, 0, at("task_struct", "mm")), Insn(STX, 6, 1, UNREF, 0)], 13,
        "expected=ptr_task_struct or untrusted_ptr_task_struct"),
    "into a reference nothing is stored": (
        lambda: [Insn(ST, 6, 0, REF, 0)], 13, "store to referenced kptr disallowed"),
    "half of a pointer": (lambda: [load(1, 6, UNREF, LDXW)], 13,
                          "kptr access size must be BPF_DW"),
    "between two pointers": (lambda: [load(1, 6, 4)], 13, "kptr access misaligned expected=0"),
    "a number beside them": (lambda: [load(1, 6, NUMBER)], 0, ""),
    "at a variable offset": (
        lambda: [load(1, 6, NUMBER), Insn(0x57, 1, 0, 0, 8), Insn(0x0F, 6, 1, 0, 0),
                 load(1, 6, 0)], 13, "kptr access cannot have variable offset"),
    "a helper looks at them": (
        lambda: [Insn(MOVX, 1, 6, 0, 0), Insn(MOV, 2, 0, 0, 16), Insn(CALL, 0, 0, 0, 16)], 13,
        "kptr cannot be accessed indirectly by helper"),
    "a helper looks at the number": (
        lambda: [Insn(MOVX, 1, 6, 0, 0), Insn(ADD, 1, 0, 0, NUMBER), Insn(MOV, 2, 0, 0, 8),
                 Insn(CALL, 0, 0, 0, 16)], 0, ""),
    "a reference is taken out and given back": (lambda: [*swap(REF), *release()], 0, ""),
    "a reference is taken out and lost": (lambda: swap(REF), 22, "Unreleased reference"),
    "an own reference is put in": (lambda: [*own(), *swap(REF, Insn(MOVX, 2, 2, 0, 0)),
                                            *release()], 0, ""),
    "a pointer that is not owned is put in": (
        lambda: swap(REF, TASK, Insn(MOVX, 2, 0, 0, 0)), 22,
        "R2 must be referenced when passed to release function"),
    "a reference is put in and used": (
        lambda: [*own(), Insn(MOVX, 7, 2, 0, 0), *swap(REF, Insn(MOVX, 2, 7, 0, 0)), *release(),
                 pid(2, 7)], 13, "R7 invalid mem access 'scalar'"),
    "an untrusted pointer is not exchanged": (lambda: swap(UNREF), 13,
                                              "off=8 kptr isn't referenced kptr"),
    "a number is not exchanged": (lambda: swap(NUMBER), 13, "off=16 doesn't point to kptr"),
    "one load for a task or the value": (
        lambda: [TASK, load(7, 6, NUMBER), Insn(NOT_NULL, 7, 0, 2, 0), Insn(MOVX, 0, 6, 0, 0),
                 Insn(ADD, 0, 0, 0, NUMBER), load(1, 0, 0)], 22,
        "same insn cannot be used with different pointers"),
    "one load for one of two tasks": (
        lambda: [TASK, load(7, 6, NUMBER), Insn(NOT_NULL, 7, 0, 2, 0), load(0, 6, REF),
                 Insn(NULL, 0, 0, 1, 0), load(1, 0, 0)], 0, ""),
    "the stack is not exchanged": (
        lambda: [Insn(MOV, 2, 0, 0, 0), Insn(MOVX, 1, 10, 0, 0), Insn(ADD, 1, 0, 0, -8), XCHG], 13,
        "R1 type=fp expected=map_value, ptr_"),
}  # fmt: skip


def types() -> tuple[bytes, int, int]:
    """BTF with the value, and the ids of the key and of the value."""
    out = Writer()
    long = out.integer("long", 8)
    key = out.integer("int", 4)
    task = out.struct("task_struct", 0, [])
    ref = out.ref(kinds.PTR, out.ref(kinds.TYPE_TAG, task, "kptr"))
    unref = out.ref(kinds.PTR, out.ref(kinds.TYPE_TAG, task, "kptr_untrusted"))
    value = out.struct("value", SIZE, [("ref", ref, REF), ("unref", unref, UNREF),
                                       ("number", long, NUMBER)])  # fmt: skip
    return out.blob(), key, value


def ours(insns: list[Insn]) -> tuple[int, str]:
    blob, _, value = types()
    special = MapTypes(Btf(blob), ARRAY, 0, 1, 4, SIZE, 0, value).fields
    desc = MapDesc(ARRAY, 4, SIZE, 1, btf=blob, btf_value_type_id=value,
                   fields=tuple((f.name, f.offset) for f in special))  # fmt: skip
    verdict = verify(Program(
        encode(insns), TRACING, expected_attach_type=RAW_TP,
        attach_btf_id=ident("btf_trace_sched_switch"), license="GPL", maps=(desc,), log_level=1,
        btf=blob, kernel_btf=MACHINE))  # fmt: skip
    return verdict.errno, verdict.log


def theirs(insns: list[Insn]) -> tuple[int, str]:
    blob, key, value = types()
    maps = [{"type": "array", "key_size": 4, "value_size": SIZE, "max_entries": 1,
             "btf_key_type_id": key, "btf_value_type_id": value}]  # fmt: skip
    found = kernel.driver().kernel_verdict(
        encode(insns), TRACING, maps=maps, btf=blob, expected_attach_type=RAW_TP,
        attach_btf_id=ident("btf_trace_sched_switch"))  # fmt: skip
    return found.errno, found.log


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    make, errno, words = CASES[name]
    code, log = ours([*VALUE, *make(), R0, EXIT])
    assert code == errno, log
    assert words in log


@pytest.mark.kernel
@pytest.mark.parametrize("name", CASES)
def test_kernel_agrees(name: str) -> None:
    make, errno, words = CASES[name]
    code, log = theirs([*VALUE, *make(), R0, EXIT])
    assert code == errno, log
    assert words in log
