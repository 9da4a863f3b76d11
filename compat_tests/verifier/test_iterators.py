"""Iterators that programs hold on their stack: what the kernel says of them, we say too.

Each case differs by little from one that is right and is loaded into the kernel as well. Source of
the rules' list: Linux tools/testing/selftests/bpf, progs/iters.c, iters_state_safety.c,
iters_looping.c, iters_num.c, verifier_bits_iter.c, iters_task_failure.c.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from compat_tests.oracle import kernel
from libbpf_shim.btf import kinds
from libbpf_shim.btf.lazy import LazyBtf
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

VMLINUX = Path("/sys/kernel/btf/vmlinux")
MACHINE = LazyBtf(VMLINUX.read_bytes)
pytestmark = pytest.mark.skipif(not VMLINUX.exists(), reason=f"no {VMLINUX}")

TYPES = {"socket_filter": 1, "sched_cls": 3, "raw_tracepoint": 17, "syscall": 31}
SLEEPS = {"syscall": 1 << 4}  # prog_flags
CALL, EXIT = op.JMP | op.CALL, Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV, MOVX, ADD, ADDX, AND, JEQ, JNE, JA, JGE = 0xB7, 0xBF, 0x07, 0x0F, 0x57, 0x15, 0x55, 0x05, 0x35
LDX, LDXW, STX, ST = 0x79, 0x61, 0x7B, 0x7A
MAPS = (MapDesc(2, 4, 16, 1),)
KERNEL_MAPS = [{"type": 2, "key_size": 4, "value_size": 16, "max_entries": 1}]
END = [Insn(MOV, 0, 0, 0, 0), EXIT]


@functools.cache
def number_of(name: str) -> int:
    """Of a kernel function; 0: this kernel has none of that name."""
    found = MACHINE.btf.find(name, kinds.FUNC) if VMLINUX.exists() else None
    return found.id if found else 0


def kfunc(name: str) -> Insn:
    return Insn(CALL, 0, op.PSEUDO_KFUNC_CALL, 0, number_of(name))


def helper(number: int) -> Insn:
    return Insn(CALL, 0, 0, 0, number)


def fp(reg: int, off: int) -> list[Insn]:
    return [Insn(MOVX, reg, 10, 0, 0), Insn(ADD, reg, 0, 0, off)]


def num(reg: int, value: int) -> Insn:
    return Insn(MOV, reg, 0, 0, value)


def new(at: int = -8, start: int = 0, end: int = 10) -> list[Insn]:
    return [*fp(1, at), num(2, start), num(3, end), kfunc("bpf_iter_num_new")]


def use(what: str, at: int = -8) -> list[Insn]:
    return [*fp(1, at), kfunc(f"bpf_iter_{what}")]


NEXT, DESTROY = use("num_next"), use("num_destroy")
BITS_DESTROY = use("bits_destroy", -16)


def loop(body: list[Insn], at: int = -8) -> list[Insn]:
    """while (next()) body: the body has the element's address in R0."""
    head = use("num_next", at)
    return [*head, Insn(JEQ, 0, 0, len(body) + 1, 0), *body,
            Insn(JA, 0, 0, -len(body) - len(head) - 2, 0)]  # fmt: skip


def branches(count: int) -> list[Insn]:
    """So many comparisons that tell nothing of what is compared."""
    return [helper(7), Insn(MOVX, 7, 0, 0, 0), helper(7), Insn(MOVX, 8, 0, 0, 0),
            *[Insn(0x1D, 7, 8, 0, 0)] * count]  # fmt: skip


def whole(body: list[Insn], before: list[Insn], after: list[Insn]) -> list[Insn]:
    return [*before, *new(), *loop(body), *DESTROY, *after]


BITS = [*fp(1, -16), *fp(2, -24), num(3, 1), kfunc("bpf_iter_bits_new")]
COUNT = [Insn(ADD, 6, 0, 0, 1)]
# a byte at fp - 40 + R6
READ_THERE = [Insn(MOVX, 1, 10, 0, 0), Insn(ADDX, 1, 6, 0, 0), Insn(0x71, 0, 1, -40, 0)]
RCU = kfunc("bpf_rcu_read_lock"), kfunc("bpf_rcu_read_unlock")
TASKS = [*fp(1, -24), num(2, 0), num(3, 1), kfunc("bpf_iter_task_new")]
TASKS_END = use("task_destroy", -24)

# name, instructions, type, errno, words of the log
CASES = [
    ("a loop over numbers", whole([], [], END), "socket_filter", 0, ""),
    ("a loop that reads its number", whole([Insn(LDXW, 7, 0, 0, 0)], [], END), "socket_filter", 0,
     ""),
    ("a loop that reads beyond its number", whole([Insn(LDX, 7, 0, 0, 0)], [], END),
     "socket_filter", 13, "invalid access to memory, mem_size=4 off=0 size=8"),
    ("a loop that writes its number", whole([Insn(0x62, 0, 0, 0, 1)], [], END), "socket_filter",
     13, "R0 cannot write into rdonly_mem"),
    ("an iterator never destroyed", [*new(), *loop([]), *END], "socket_filter", 22,
     "reference leak"),
    ("an iterator destroyed at once", [*new(), *DESTROY, *END], "socket_filter", 0, ""),
    ("an iterator destroyed twice", [*new(), *DESTROY, *DESTROY, *END], "socket_filter", 22,
     "expected an initialized iter_num as arg #0"),
    ("an iterator never made", [*NEXT, *END], "socket_filter", 22,
     "expected an initialized iter_num as arg #0"),
    ("made of stack that was written", [Insn(ST, 10, 0, -8, 0), *NEXT, *END], "socket_filter", 22,
     "expected an initialized iter_num as arg #0"),
    ("made over another", [*new(), *new(), *DESTROY, *END], "socket_filter", 22,
     "expected uninitialized iter_num as arg #0"),
    ("made again after its end", [*new(), *DESTROY, *new(), *DESTROY, *END], "socket_filter", 0,
     ""),
    ("made where nothing is", [num(1, 0), num(2, 0), num(3, 1), kfunc("bpf_iter_num_new"), *END],
     "socket_filter", 22, "arg#0 expected pointer to an iterator on stack"),
    ("made in a map's value",
     [Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_VALUE, 0, 0), Insn(0, 0, 0, 0, 0), num(2, 0), num(3, 1),
      kfunc("bpf_iter_num_new"), *END], "socket_filter", 22,
     "arg#0 expected pointer to an iterator on stack"),
    ("made at no slot", [*new(-12), *END], "socket_filter", 22,
     "cannot pass in iter at an offset=-12"),
    ("made of two slots where one is", [*fp(1, -8), *fp(2, -24), num(3, 1),
                                        kfunc("bpf_iter_bits_new"), *END], "socket_filter", 22,
     "cannot pass in iter at an offset=-8"),
    ("made below the stack", [*new(-520), *END], "socket_filter", 13,
     "invalid write to stack R1 off=-520 size=8"),
    ("made at a place not known",
     [helper(7), Insn(AND, 0, 0, 0, 8), Insn(MOVX, 1, 10, 0, 0), Insn(ADD, 1, 0, 0, -16),
      Insn(ADDX, 1, 0, 0, 0), num(2, 0), num(3, 1), kfunc("bpf_iter_num_new"), *END],
     "socket_filter", 22, "iter has to be at a constant offset"),
    ("made of a pointer for a number",
     [*fp(1, -8), Insn(MOVX, 2, 10, 0, 0), num(3, 1), kfunc("bpf_iter_num_new"), *END],
     "socket_filter", 22, "R2 is not a scalar"),
    ("one of another kind", [Insn(ST, 10, 0, -24, 0), *BITS, *use("num_next", -16), *END],
     "socket_filter", 22, "expected an initialized iter_num as arg #0"),
    ("a look into it", [*new(), Insn(LDX, 7, 10, -8, 0), *DESTROY, *END], "socket_filter", 13,
     "invalid read from stack off -8+0 size 8"),
    ("a look at four bytes of it", [*new(), Insn(LDXW, 7, 10, -4, 0), *DESTROY, *END],
     "socket_filter", 13, "invalid read from stack off -4+0 size 4"),
    ("a look at it after its end", [*new(), *DESTROY, Insn(LDX, 7, 10, -8, 0), *END],
     "socket_filter", 0, ""),
    ("a store into it", [*new(), Insn(ST, 10, 0, -8, 0), *DESTROY, *END], "socket_filter", 22,
     "expected an initialized iter_num as arg #0"),
    ("a byte stored into it", [*new(), Insn(0x72, 10, 0, -1, 0), *DESTROY, *END], "socket_filter",
     22, "expected an initialized iter_num as arg #0"),
    ("its address stored", [*new(), *fp(1, -8), Insn(STX, 10, 1, -16, 0), *DESTROY, *END],
     "socket_filter", 0, ""),
    ("its bytes given to a helper",
     [*new(), *fp(2, -8), Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_FD, 0, 0), Insn(0, 0, 0, 0, 0),
      helper(1), *DESTROY, *END], "socket_filter", 13,
     "invalid read from stack R2 off -8+0 size 4"),
    ("an element without a check", [*new(), *NEXT, Insn(LDXW, 7, 0, 0, 0), *DESTROY, *END],
     "socket_filter", 13, "R0 invalid mem access 'scalar'"),
    ("an element after its iterator's end",
     [*new(), *NEXT, Insn(MOVX, 7, 0, 0, 0), *DESTROY, Insn(JEQ, 7, 0, 1, 0),
      Insn(LDXW, 8, 7, 0, 0), *END], "socket_filter", 13, "R7 invalid mem access 'scalar'"),
    ("an element while its iterator lasts",
     [*new(), *NEXT, Insn(MOVX, 7, 0, 0, 0), Insn(JEQ, 7, 0, 1, 0), Insn(LDXW, 8, 7, 0, 0),
      *DESTROY, *END], "socket_filter", 0, ""),
    ("a count that nothing asks for", whole(COUNT, [num(6, 0)], END), "socket_filter", 0, ""),
    ("a count that is returned", whole(COUNT, [num(6, 0)], [Insn(MOVX, 0, 6, 0, 0), EXIT]),
     "sched_cls", 0, ""),
    ("a count as an offset, checked at each round",
     whole([Insn(JGE, 6, 0, 1, 7), *COUNT], [num(6, 0)], [*READ_THERE, *END]), "socket_filter", 0,
     ""),
    ("a count as an offset, checked too late",
     whole([Insn(JGE, 6, 0, 1, 41), *COUNT], [num(6, 0)], [*READ_THERE, *END]), "socket_filter",
     13, "R1"),
    ("a pointer that the second round has lost",
     whole([Insn(0x72, 6, 0, -16, 0), num(6, 0)], [Insn(MOVX, 6, 10, 0, 0)], END),
     "socket_filter", 13, "R6 invalid mem access 'scalar'"),
    ("a pointer that the second round has again",
     whole([Insn(0x72, 6, 0, -16, 0), num(6, 0), Insn(MOVX, 6, 10, 0, 0)],
           [Insn(MOVX, 6, 10, 0, 0)], END), "socket_filter", 0, ""),
    ("a loop behind 8191 branches", whole([], branches(8191), END), "socket_filter", 0, ""),
    ("a loop behind 8192", whole([], branches(8192), END), "socket_filter", 12,
     "The sequence of 8193 jumps is too complex."),
    ("a loop inside that does not end", whole([Insn(JNE, 10, 0, -1, 0)], [], END),
     "socket_filter", 22, "infinite loop detected"),
    ("a loop in a loop",
     [*new(-8), *loop([*new(-16), *loop([], -16), *use("num_destroy", -16)], -8), *DESTROY, *END],
     "socket_filter", 0, ""),
    ("a loop in a loop that leaves its iterator",
     [*new(-8), *loop([*new(-16), *loop([], -16)], -8), *DESTROY, *END], "socket_filter", 22,
     "reference leak"),
    ("a way out of the loop without destroy",
     [*new(), *loop([Insn(LDXW, 7, 0, 0, 0), Insn(JNE, 7, 0, 2, 5), *END]), *DESTROY, *END],
     "socket_filter", 22, "reference leak"),
    ("bits of a word", [Insn(ST, 10, 0, -24, 5), *BITS, *use("bits_next", -16), *BITS_DESTROY,
                        *END], "socket_filter", 0, ""),
    ("bits half overwritten", [Insn(ST, 10, 0, -24, 5), *BITS, Insn(ST, 10, 0, -8, 0),
                               *BITS_DESTROY, *END], "socket_filter", 22,
     "expected an initialized iter_bits as arg #0"),
    ("tasks in the RCU section",
     [RCU[0], *TASKS, *use("task_next", -24), *TASKS_END, RCU[1], *END], "raw_tracepoint", 0, ""),
    ("tasks where all is in one", [*TASKS, *TASKS_END, *END], "raw_tracepoint", 0, ""),
    ("tasks outside of it", [*TASKS, *TASKS_END, *END], "syscall", 13,
     "kernel func bpf_iter_task_new requires RCU critical section protection"),
    ("tasks after it",
     [RCU[0], *TASKS, RCU[1], *use("task_next", -24), *TASKS_END, *END], "raw_tracepoint", 71,
     "expected an RCU CS when using bpf_iter_task_next"),
    ("tasks after it, in another one",
     [RCU[0], *TASKS, *RCU[::-1], *use("task_next", -24), *TASKS_END, RCU[1], *END],
     "raw_tracepoint", 71, "expected an RCU CS when using bpf_iter_task_next"),
    ("tasks of a cgroup where its lock may be held",
     [*fp(1, -8), num(2, 0), num(3, 0), kfunc("bpf_iter_css_task_new"), *END], "raw_tracepoint",
     22, "css_task_iter is only allowed in bpf_lsm, bpf_iter and sleepable progs"),
    ("tasks of no cgroup",
     [*fp(1, -8), num(2, 0), num(3, 0), kfunc("bpf_iter_css_task_new"), *END], "syscall", 13,
     "Possibly NULL pointer passed to trusted arg1"),
    ("buffers of the machine", [*fp(1, -8), kfunc("bpf_iter_dmabuf_new"),
                                *use("dmabuf_destroy"), *END], "syscall", 0, ""),
    ("buffers where nothing may sleep",
     [*fp(1, -8), kfunc("bpf_iter_dmabuf_new"), *use("dmabuf_destroy"), *END], "raw_tracepoint",
     13, "program must be sleepable to call sleepable kfunc bpf_iter_dmabuf_new"),
]  # fmt: skip
NAMES = [case[0] for case in CASES]


@pytest.mark.parametrize(("name", "insns", "kind", "errno", "words"), CASES, ids=NAMES)
def test_verdict(name: str, insns: list[Insn], kind: str, errno: int, words: str) -> None:
    verdict = verify(Program(encode(insns), TYPES[kind], license="GPL", maps=MAPS, log_level=2,
                             prog_flags=SLEEPS.get(kind, 0), kernel_btf=MACHINE))  # fmt: skip
    assert verdict.errno == errno, verdict.log[-3000:]
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "insns", "kind", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(name: str, insns: list[Insn], kind: str, errno: int, words: str) -> None:
    found = kernel.driver().kernel_verdict(encode(insns), kind, maps=KERNEL_MAPS, license="GPL",
                                           prog_flags=SLEEPS.get(kind, 0))  # fmt: skip
    assert found.errno == errno, found.log[-3000:]
    assert words in found.log
