"""Kernel functions on dynptrs: of packets, slices, clones. What the kernel says, we say too.

Map 0 is a ring buffer, map 1 an array with values of 16 bytes. Each case differs by little from
one that is right and is loaded into the kernel as well. Source of the rules' list: Linux
tools/testing/selftests/bpf, progs/dynptr_fail.c, dynptr_success.c.
"""

from __future__ import annotations

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.test_dynptr import (
    DISCARD,
    KERNEL_MAPS,
    MAPS,
    SUBMIT,
    call,
    data,
    fp,
    from_value,
    give,
    read,
    reserve,
    write,
)
from compat_tests.verifier.test_iterators import END, MACHINE, VMLINUX, kfunc, num
from libbpf_shim.isa import Insn, encode
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.skipif(not VMLINUX.exists(), reason=f"no {VMLINUX}")

TYPES = {"socket_filter": 1, "sched_cls": 3, "xdp": 6, "cgroup_skb": 8, "raw_tracepoint": 17}
MOV, MOVX, ADD, AND, JEQ, JNE, LDX, LDXB, ST, STX = (
    0xB7, 0xBF, 0x07, 0x57, 0x15, 0x55, 0x79, 0x71, 0x7A, 0x7B)  # fmt: skip


def packet(at: int = -16, how: str = "skb", flags: int = 0) -> list[Insn]:
    """The packet's dynptr; the program's context is in R9."""
    return [Insn(MOVX, 9, 1, 0, 0), *again(at, how, flags)]


def again(at: int, how: str = "skb", flags: int = 0) -> list[Insn]:
    return [Insn(MOVX, 1, 9, 0, 0), num(2, flags), *fp(3, at), kfunc(f"bpf_dynptr_from_{how}")]


def slice_(rdwr: bool = False, size: int = 8, buffer: int = -32, at: int = -16) -> list[Insn]:
    """R0 = 8 bytes of it, or NULL; R8 too. buffer 0: none."""
    return [*fp(1, at), num(2, 0), *(fp(3, buffer) if buffer else [num(3, 0)]), num(4, size),
            kfunc("bpf_dynptr_slice" + "_rdwr" * rdwr), Insn(MOVX, 8, 0, 0, 0)]  # fmt: skip


def on(what: str, *numbers: int, at: int = -16) -> list[Insn]:
    args = [num(n + 2, value) for n, value in enumerate(numbers)]
    return [*fp(1, at), *args, kfunc(f"bpf_dynptr_{what}")]


CLONE = [*fp(1, -16), *fp(2, -48), kfunc("bpf_dynptr_clone")]
CHECKED = [Insn(JNE, 8, 0, 2, 0), *END]
LOOK = [Insn(LDX, 7, 8, 0, 0)]
POKE = [Insn(ST, 8, 0, 0, 1)]
PULL = [Insn(MOVX, 1, 9, 0, 0), num(2, 0), call(39)]
STACK = [Insn(ST, 10, 0, -32, 0), Insn(ST, 10, 0, -24, 0)]



def summed(off: int) -> list[Insn]:
    """bpf_csum_diff() of four bytes of R8."""
    return [num(1, 0), num(2, 0), Insn(MOVX, 3, 8, 0, 0), Insn(ADD, 3, 0, 0, off), num(4, 4),
            num(5, 0), call(28)]  # fmt: skip


OF_VALUE = [*from_value(), *slice_(True), *CHECKED]
# name, instructions, type, errno, words of the log
CASES = [
    ("a packet's", [*packet(), *END], "sched_cls", 0, ""),
    ("a packet's where it is not to be written", [*packet(), *END], "cgroup_skb", 0, ""),
    ("an XDP packet's", [*packet(how="xdp"), *END], "xdp", 0, ""),
    ("an sk_buff's of an XDP packet", [*packet(), *END], "xdp", 13,
     "calling kernel function bpf_dynptr_from_skb is not allowed"),
    ("a packet's of no context",
     [Insn(MOVX, 1, 10, 0, 0), num(2, 0), *fp(3, -16), kfunc("bpf_dynptr_from_skb"), *END],
     "sched_cls", 22, "arg#0 expected pointer to ctx, but got fp"),
    ("a packet's in a map's value",
     [Insn(0x18, 3, 2, 0, 1), Insn(0, 0, 0, 0, 0), num(2, 0), kfunc("bpf_dynptr_from_skb"), *END],
     "sched_cls", 22, "arg#2 expected pointer to stack or const struct bpf_dynptr"),
    ("a slice", [*packet(), *STACK, *slice_(), *CHECKED, *LOOK, *END], "sched_cls", 0, ""),
    ("a slice without a buffer", [*packet(), *slice_(buffer=0), *CHECKED, *LOOK, *END],
     "sched_cls", 0, ""),
    ("a slice without a check", [*packet(), *STACK, *slice_(), *LOOK, *END], "sched_cls", 13,
     "R8 invalid mem access 'rdonly_mem_or_null'"),
    ("a slice to be written", [*packet(), *STACK, *slice_(True), *CHECKED, *POKE, *END],
     "sched_cls", 0, ""),
    ("a slice that is not", [*packet(), *STACK, *slice_(), *CHECKED, *POKE, *END], "sched_cls", 13,
     "R8 cannot write into rdonly_mem"),
    ("a slice to be written where packets are not",
     [*packet(), *STACK, *slice_(True), *CHECKED, *LOOK, *END], "cgroup_skb", 22,
     "the prog does not allow writes to packet data"),
    ("a slice beyond its size", [*packet(), *STACK, *slice_(size=4), *CHECKED, *LOOK, *END],
     "sched_cls", 13, "invalid access to memory, mem_size=4 off=0 size=8"),
    ("a slice with a buffer too small", [*packet(), *slice_(size=16, buffer=-8), *END],
     "sched_cls", 22, "arg#2 arg#3 memory, len pair leads to invalid memory access"),
    ("a slice of a size not known",
     [*packet(), *STACK, call(7), Insn(AND, 0, 0, 0, 7), Insn(MOVX, 4, 0, 0, 0), *fp(1, -16),
      num(2, 0), *fp(3, -32), kfunc("bpf_dynptr_slice"), *END], "sched_cls", 22,
     "R4 must be a known constant"),
    ("a slice after the packet moved", [*packet(), *STACK, *slice_(), *CHECKED, *PULL, *LOOK,
                                        *END], "sched_cls", 13, "R8 invalid mem access 'scalar'"),
    ("a slice after its dynptr was written",
     [*packet(), *STACK, *slice_(), *CHECKED, *write(), *LOOK, *END], "sched_cls", 13,
     "R8 invalid mem access 'scalar'"),
    ("a slice of XDP after its dynptr was written",
     [*packet(how="xdp"), *STACK, *slice_(), *CHECKED, *write(), *LOOK, *END], "xdp", 0, ""),
    ("a slice of XDP after the packet was cut",
     [*packet(how="xdp"), *STACK, *slice_(), *CHECKED, Insn(MOVX, 1, 9, 0, 0), num(2, 0), call(65),
      *LOOK, *END], "xdp", 13, "R8 invalid mem access 'scalar'"),
    ("a slice of a value while a packet moves",
     [Insn(MOVX, 9, 1, 0, 0), *from_value(), *STACK, *slice_(True), *CHECKED, *PULL, *LOOK, *END],
     "sched_cls", 0, ""),
    ("a slice whose dynptr is overwritten",
     [*from_value(), *STACK, *slice_(True), *CHECKED, Insn(ST, 10, 0, -8, 0), *LOOK, *END],
     "sched_cls", 0, ""),
    ("a packet's slice whose dynptr is overwritten",
     [*packet(), *STACK, *slice_(True), *CHECKED, Insn(ST, 10, 0, -8, 0), *LOOK, *END],
     "sched_cls", 0, ""),
    ("data of a packet's", [*packet(), *data(), Insn(JEQ, 0, 0, 1, 0), Insn(LDX, 7, 0, 0, 0),
                            *END], "sched_cls", 0, ""),
    ("its size", [*from_value(), *on("size"), *END], "raw_tracepoint", 0, ""),
    ("the size of nothing", [*on("size"), *END], "raw_tracepoint", 22,
     "Expected an initialized dynptr as arg #0"),
    ("whether it is null", [*from_value(), *on("is_null"), *END], "raw_tracepoint", 0, ""),
    ("whether nothing is null", [*on("is_null"), *END], "raw_tracepoint", 22,
     "Expected an initialized dynptr as arg #0"),
    ("whether it is read-only", [*from_value(), *on("is_rdonly"), *END], "raw_tracepoint", 0, ""),
    ("adjusted", [*from_value(), *on("adjust", 1, 2), *END], "raw_tracepoint", 0, ""),
    ("adjusted by a pointer",
     [*from_value(), *fp(1, -16), Insn(MOVX, 2, 10, 0, 0), num(3, 1), kfunc("bpf_dynptr_adjust"),
      *END], "raw_tracepoint", 22, "R2 is not a scalar"),
    ("adjusted by its second slot", [*from_value(), *on("adjust", 1, 2, at=-8), *END],
     "raw_tracepoint", 22, "cannot pass in dynptr at an offset=-8"),
    ("filled", [*from_value(), *on("memset", 0, 8, 1), *END], "raw_tracepoint", 0, ""),
    ("copied", [*from_value(), *from_value(-48), *fp(1, -16), num(2, 0), *fp(3, -48), num(4, 0),
                num(5, 4), kfunc("bpf_dynptr_copy"), *END], "raw_tracepoint", 0, ""),
    ("copied to nothing", [*from_value(-48), *fp(1, -16), num(2, 0), *fp(3, -48), num(4, 0),
                           num(5, 4), kfunc("bpf_dynptr_copy"), *END], "raw_tracepoint", 22,
     "Expected an initialized dynptr as arg #0"),
    ("a clone", [*from_value(), *CLONE, *read(-32, at=-48), *END], "raw_tracepoint", 0, ""),
    ("a clone of nothing", [*CLONE, *END], "raw_tracepoint", 22,
     "Expected an initialized dynptr as arg #0"),
    ("a clone over itself", [*from_value(), *fp(1, -16), *fp(2, -16), kfunc("bpf_dynptr_clone"),
                             *END], "raw_tracepoint", 0, ""),
    ("a clone over a record", [*from_value(), *reserve(-48), *CLONE, *END], "raw_tracepoint", 22,
     "cannot overwrite referenced dynptr"),
    ("a clone of a record", [*reserve(), *CLONE, *give(SUBMIT), *END], "raw_tracepoint", 0, ""),
    ("a clone that is given back", [*reserve(), *CLONE, *give(SUBMIT, -48), *END],
     "raw_tracepoint", 0, ""),
    ("a clone and its record given back",
     [*reserve(), *CLONE, *give(SUBMIT, -48), *give(DISCARD), *END], "raw_tracepoint", 22,
     "arg 1 is an unacquired reference"),
    ("a clone of a record that was given back",
     [*reserve(), *CLONE, *give(SUBMIT), *read(-32, at=-48), *END], "raw_tracepoint", 22,
     "Expected an initialized dynptr as arg #2"),
    ("a record whose clone was given back",
     [*reserve(), *CLONE, *give(SUBMIT, -48), *read(-32), *END], "raw_tracepoint", 22,
     "Expected an initialized dynptr as arg #2"),
    ("a clone's slice after its record was given back",
     [*reserve(), *CLONE, *data(-48), Insn(MOVX, 8, 0, 0, 0), Insn(JNE, 8, 0, 6, 0),
      *give(DISCARD), *END, *give(SUBMIT), *LOOK, *END], "raw_tracepoint", 13,
     "R8 invalid mem access 'scalar'"),
    ("a record over a clone", [*reserve(), *CLONE, *reserve(-48), *END], "raw_tracepoint", 22,
     "cannot overwrite referenced dynptr"),
    ("a value over the clone of a value", [*from_value(), *CLONE, *from_value(-48), *END],
     "raw_tracepoint", 0, ""),
    ("a slice of a packet's clone after the packet moved",
     [*packet(), *CLONE, *slice_(buffer=0, at=-48), *CHECKED, *PULL, *LOOK, *END], "sched_cls", 13,
     "R8 invalid mem access 'scalar'"),
    ("a slice given to a helper", [*STACK, *packet(), *slice_(), *CHECKED, *summed(0), *END],
     "sched_cls", 0, ""),
    ("a part of a slice given to a helper",
     [*STACK, *packet(), *slice_(), *CHECKED, *summed(4), *END], "sched_cls", 13,
     "dereference of modified rdonly_mem ptr R3 off=4 disallowed"),
    ("a value's slice given to a helper", [*STACK, *OF_VALUE, *summed(0), *END], "sched_cls", 0,
     ""),
    ("a part of a value's slice given to a helper", [*STACK, *OF_VALUE, *summed(4), *END],
     "sched_cls", 13, "dereference of modified mem ptr R3 off=4 disallowed"),
    ("a value's slice as a buffer",
     [*STACK, *OF_VALUE, *slice_()[:3], Insn(MOVX, 3, 8, 0, 0), *slice_()[5:], *END], "sched_cls",
     0, ""),
    ("a part of a value's slice as a buffer",
     [*STACK, *OF_VALUE, *slice_()[:3], Insn(MOVX, 3, 8, 0, 0), Insn(ADD, 3, 0, 0, 4),
      *slice_(size=4)[5:], *END], "sched_cls", 13,
     "dereference of modified mem ptr R3 off=4 disallowed"),
    ("a value's slice as a key",
     [*STACK, *OF_VALUE, Insn(0x18, 1, 1, 0, 1), Insn(0, 0, 0, 0, 0), Insn(MOVX, 2, 8, 0, 0),
      call(1), *END], "sched_cls", 13, "R2 type=mem expected=fp"),
]  # fmt: skip
# 6.18 takes it: slices of a record outlive it there (docs/parity.md)
OUTLIVED = [*reserve(), *STACK, *slice_(), Insn(JNE, 8, 0, 6, 0), *give(DISCARD), *END,
            *give(SUBMIT), *LOOK, *END]  # fmt: skip
NAMES = [case[0] for case in CASES]


@pytest.mark.parametrize(("name", "insns", "kind", "errno", "words"), CASES, ids=NAMES)
def test_verdict(name: str, insns: list[Insn], kind: str, errno: int, words: str) -> None:
    verdict = verify(Program(encode(insns), TYPES[kind], license="GPL", maps=MAPS, log_level=2,
                             kernel_btf=MACHINE))  # fmt: skip
    assert verdict.errno == errno, verdict.log[-3000:]
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "insns", "kind", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(name: str, insns: list[Insn], kind: str, errno: int, words: str) -> None:
    found = kernel.driver().kernel_verdict(encode(insns), kind, maps=KERNEL_MAPS, license="GPL")
    assert found.errno == errno, found.log[-3000:]
    assert words in found.log


def test_a_slice_of_a_record_is_void_with_it() -> None:
    verdict = verify(Program(encode(OUTLIVED), 3, license="GPL", maps=MAPS, log_level=1,
                             kernel_btf=MACHINE))  # fmt: skip
    assert verdict.errno == 13
    assert "R8 invalid mem access 'scalar'" in verdict.log


@pytest.mark.kernel
@pytest.mark.xfail(strict=True, reason="6.18 does not forget slices that a kernel function made")
def test_the_kernel_knows_that_too() -> None:
    found = kernel.driver().kernel_verdict(encode(OUTLIVED), "sched_cls", maps=KERNEL_MAPS,
                                           license="GPL")  # fmt: skip
    assert found.errno == 13, found.log
