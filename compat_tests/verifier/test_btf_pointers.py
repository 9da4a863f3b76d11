"""Pointers to the kernel's structures: one program a rule, the kernel asked beside us.

Offsets and ids are looked up in this machine's BTF. Source: kernel selftests progs/
test_ksyms_btf*.c, verifier_map_ptr.c, nested_trust_failure.c, bpf_iter_*.c, bpf_tcp_ca.c; 6.18
kernel/bpf/verifier.c, check_ptr_to_btf_access, kernel/bpf/btf.c, btf_ctx_access.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from compat_tests.oracle import kernel
from libbpf_shim.btf import kinds
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.object.btf import MACHINE, VMLINUX
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.facts import Verdict
from libbpf_shim.verifier.program import MapDesc, Program

pytestmark = pytest.mark.skipif(not os.access(VMLINUX, os.R_OK), reason=f"no {VMLINUX}")

KPROBE, TRACING, STRUCT_OPS = 2, 26, 27
RAW_TP, ITER = 23, 28
R0, EXIT = Insn(0xB7, 0, 0, 0, 0), Insn(0x95, 0, 0, 0, 0)
LDX, LDXW, ST, STX, ADD = 0x79, 0x61, 0x7A, 0x7B, 0x07
TASK = Insn(0x85, 0, 0, 0, 158)  # bpf_get_current_task_btf
HASH = MapDesc(1, 4, 8, 16)
MAP = (Insn(0x18, 1, 1, 0, 0), Insn(0, 0, 0, 0, 0))
NULL, NOT_NULL = 0x15, 0x55
KEY = (Insn(ST, 10, 0, -8, 0), Insn(0xBF, 2, 10, 0, 0), Insn(ADD, 2, 0, 0, -8))


def at(struct: str, member: str) -> int:
    """Offset of a member, bytes."""
    found = MACHINE.btf.find(struct, kinds.STRUCT)
    assert found, struct
    for m in found.members:
        if m.name == member:
            return m.offset // 8
        inner = MACHINE.btf.strip(m.type)
        if not m.name and inner is not None:  # an anonymous structure or union
            for n in inner.members:
                if n.name == member:
                    return (m.offset + n.offset) // 8
    raise KeyError(member)


def size(struct: str) -> int:
    found = MACHINE.btf.find(struct, kinds.STRUCT)
    assert found, struct
    return found.size


def load(dst: int, src: int, off: int, code: int = LDX) -> Insn:
    return Insn(code, dst, src, off, 0)


def via(member: str, *rest: Insn) -> list[Insn]:
    """r1 = current->member, then the rest."""
    return [TASK, load(1, 0, at("task_struct", member)), *rest, R0, EXIT]


def tp(name: str) -> tuple[int, int, str]:
    return TRACING, RAW_TP, f"btf_trace_{name}"


def it(name: str) -> tuple[int, int, str]:
    return TRACING, ITER, f"bpf_iter_{name}"


Case = tuple[tuple[int, int, str], Callable[[], list[Insn]], int, str]
PROBE = (KPROBE, 0, "")
SWITCH, FREE = tp("sched_switch"), tp("kfree_skb")

CASES: dict[str, Case] = {
    "a number of the running task": (PROBE, lambda: [
        TASK, load(1, 0, at("task_struct", "pid"), LDXW), R0, EXIT], 0, ""),
    "a pointer of the running task": (PROBE, lambda: via("mm"), 0, ""),
    "half of a pointer": (PROBE, lambda: [
        TASK, load(1, 0, at("task_struct", "mm"), LDXW), R0, EXIT], 13,
        "cannot access ptr member mm with moff"),
    "an element of an array": (PROBE, lambda: [
        TASK, load(1, 0, at("task_struct", "comm") + 3, 0x71), R0, EXIT], 0, ""),
    "beyond an array": (PROBE, lambda: [
        TASK, load(1, 0, at("task_struct", "comm") + 16 - 4, LDX), R0, EXIT], 13,
        "access beyond the end of member comm"),
    "beyond the structure": (PROBE, lambda: [TASK, load(1, 0, size("task_struct")), R0, EXIT], 13,
                             "access beyond struct task_struct at off"),
    "before the structure": (PROBE, lambda: [TASK, load(1, 0, -8), R0, EXIT], 13,
                             "R0 is ptr_task_struct invalid negative access: off=-8"),
    "a store": (PROBE, lambda: [TASK, Insn(ST, 0, 0, at("task_struct", "pid"), 1), R0, EXIT], 13,
                "only read is supported"),
    "at a variable offset": (PROBE, lambda: [
        load(6, 1, 0), Insn(0x57, 6, 0, 0, 7), TASK, Insn(0x0F, 0, 6, 0, 0), load(1, 0, 0), R0,
        EXIT], 13, "invalid variable offset: off=0, var_off=(0x0; 0x7)"),
    "at a known offset": (PROBE, lambda: [
        TASK, Insn(ADD, 0, 0, 0, at("task_struct", "pid")), load(1, 0, 0, LDXW), R0, EXIT], 0, ""),
    "a number that is no pointer": (PROBE, lambda: via("pid", load(2, 1, 0)), 13, ""),
    "through two pointers": (PROBE, lambda: via("mm", load(2, 1, at("mm_struct", "pgd"))), 0, ""),
    "a pointer to no structure is memory to look at": (PROBE, lambda: via(
        "stack", load(2, 1, 4096)), 0, ""),
    "and not to be written": (PROBE, lambda: via("stack", Insn(ST, 1, 0, 0, 0)), 13,
                              "R1 cannot write into rdonly_untrusted_mem"),
    "a field that RCU protects is one that helpers take": (PROBE, lambda: [
        TASK, load(2, 0, at("task_struct", "real_parent")), *MAP,
        Insn(0xB7, 3, 0, 0, 0), Insn(0xB7, 4, 0, 0, 0), Insn(0x85, 0, 0, 0, 156), R0, EXIT],
        0, ""),
    "a field that nobody protects is one that they take too": (PROBE, lambda: [
        TASK, load(2, 0, at("task_struct", "last_wakee")), *MAP,
        Insn(0xB7, 3, 0, 0, 0), Insn(0xB7, 4, 0, 0, 0), Insn(0x85, 0, 0, 0, 156), R0, EXIT],
        0, ""),
    "another structure is not": (PROBE, lambda: [
        TASK, load(2, 0, at("task_struct", "group_leader")),
        load(2, 2, at("task_struct", "signal")), *MAP,
        Insn(0xB7, 3, 0, 0, 0), Insn(0xB7, 4, 0, 0, 0), Insn(0x85, 0, 0, 0, 156), R0, EXIT],
        13, "R2 is of type signal_struct but task_struct is expected"),
    "fields of a map": (PROBE, lambda: [
        *MAP, load(2, 1, at("bpf_map", "max_entries"), LDXW), R0, EXIT], 0, ""),
    "fields of a map cannot be written": (PROBE, lambda: [*MAP, Insn(ST, 1, 0, 0, 0), R0, EXIT],
                                          13, "only read from bpf_htab is supported"),
    "beyond a map": (PROBE, lambda: [*MAP, load(2, 1, 32760), R0, EXIT], 13,
                     "access beyond struct bpf_htab at off 32760 size 8"),
    "before a map": (PROBE, lambda: [*MAP, load(2, 1, -8), R0, EXIT], 13,
                     "R1 is bpf_htab invalid negative access: off=-8"),
    "a tracepoint's number": (SWITCH, lambda: [load(2, 1, 0), R0, EXIT], 0, ""),
    "a tracepoint's task": (SWITCH, lambda: [
        load(2, 1, 8), load(3, 2, at("task_struct", "pid"), LDXW), R0, EXIT], 0, ""),
    "half of a tracepoint's pointer": (SWITCH, lambda: [load(2, 1, 8, LDXW), R0, EXIT], 13,
                                       "func 'sched_switch' size 4 must be 8"),
    "what a tracepoint does not have": (SWITCH, lambda: [load(2, 1, 32), R0, EXIT], 13,
                                        "func 'sched_switch' doesn't have 5-th argument"),
    "a place between arguments": (SWITCH, lambda: [load(2, 1, 4, LDXW), R0, EXIT], 13,
                                  "func 'sched_switch' offset 4 is not multiple of 8"),
    "a tracepoint's argument is not written": (SWITCH, lambda: [Insn(ST, 1, 0, 0, 0), R0, EXIT],
                                               13, "invalid bpf_context access off=0 size=8"),
    "an argument that may be NULL": (FREE, lambda: [
        load(2, 1, 24), load(3, 2, 0, 0x71), R0, EXIT], 13,
        "R2 invalid mem access 'trusted_ptr_or_null_'"),
    "an argument that may be NULL and is not": (FREE, lambda: [
        load(2, 1, 24), Insn(NULL, 2, 0, 1, 0), load(3, 2, 0, 0x71), R0, EXIT], 0, ""),
    "no tracepoint": ((TRACING, RAW_TP, "task_struct"), lambda: [R0, EXIT], 22,
                      "is not a typedef"),
    "another typedef": ((TRACING, RAW_TP, "pid_t"), lambda: [R0, EXIT], 22,
                        "points to wrong type name pid_t"),
    "attached to nothing": ((TRACING, RAW_TP, ""), lambda: [R0, EXIT], 22,
                            "Tracing programs must provide btf_id"),
    "a task of an iterator": (it("task"), lambda: [
        load(2, 1, 8), Insn(NULL, 2, 0, 1, 0), load(3, 2, 0), R0, EXIT], 0, ""),
    "a task of an iterator that may be NULL": (it("task"), lambda: [
        load(2, 1, 8), load(3, 2, 0), R0, EXIT], 13,
        "R2 invalid mem access 'trusted_ptr_or_null_'"),
    "a file of an iterator": (it("task_file"), lambda: [
        load(2, 1, 24), Insn(NULL, 2, 0, 1, 0), load(3, 2, at("file", "f_inode")), R0, EXIT], 0,
        ""),
    "a key of an iterator": (it("bpf_map_elem"), lambda: [
        load(2, 1, 16), Insn(NULL, 2, 0, 1, 0), load(3, 2, 0), R0, EXIT], 0, ""),
    "a key is not written": (it("bpf_map_elem"), lambda: [
        load(2, 1, 16), Insn(NULL, 2, 0, 1, 0), Insn(ST, 2, 0, 0, 0), R0, EXIT], 13,
        "R2 cannot write into rdonly_buf"),
    "a value is written": (it("bpf_map_elem"), lambda: [
        load(2, 1, 24), Insn(NULL, 2, 0, 1, 0), Insn(ST, 2, 0, 0, 0), R0, EXIT], 0, ""),
    "before a value": (it("bpf_map_elem"), lambda: [
        load(2, 1, 24), Insn(NULL, 2, 0, 1, 0), load(3, 2, -8), R0, EXIT], 13,
        "R2 invalid rdwr buffer access: off=-8, size=8"),
    "an iterator returns 0 or 1": (it("task"), lambda: [Insn(0xB7, 0, 0, 0, 2), EXIT], 22,
                                   "should have been in [0, 1]"),
    "a tracepoint's program returns anything": (SWITCH, lambda: [Insn(0xB7, 0, 0, 0, 2), EXIT], 0,
                                                ""),
    "an iterator of nothing": ((TRACING, ITER, "bpf_iter_get_info"), lambda: [R0, EXIT], 22, ""),
    "an iterator writes its output": (it("task"), lambda: [
        load(2, 1, 0), load(1, 2, at("bpf_iter_meta", "seq")), *KEY, Insn(0xB7, 3, 0, 0, 8),
        Insn(0x85, 0, 0, 0, 127), R0, EXIT], 0, ""),
    "a tracepoint's program has none": (SWITCH, lambda: [Insn(0x85, 0, 0, 0, 127), EXIT], 22,
                                        "program of this type cannot use helper"),
    "a congestion control reads its socket": ((STRUCT_OPS, 0, "tcp_congestion_ops"), lambda: [
        load(2, 1, 0), load(3, 2, at("tcp_sock", "snd_cwnd"), LDXW), R0, EXIT], 0, ""),
    "and writes some of it": ((STRUCT_OPS, 0, "tcp_congestion_ops"), lambda: [
        load(2, 1, 0), Insn(0x62, 2, 0, at("tcp_sock", "snd_cwnd"), 1), R0, EXIT], 0, ""),
    "and what acknowledgements are due": ((STRUCT_OPS, 0, "tcp_congestion_ops"), lambda: [
        load(2, 1, 0), Insn(0x72, 2, 0, at("inet_connection_sock", "icsk_ack"), 1), R0, EXIT], 0,
        ""),
    "and nothing behind that": ((STRUCT_OPS, 0, "tcp_congestion_ops"), lambda: [
        load(2, 1, 0), Insn(0x72, 2, 0, at("inet_connection_sock", "icsk_ack") + 1, 1), R0,
        EXIT], 13, "no write support to tcp_sock at off"),
    "and not the rest": ((STRUCT_OPS, 0, "tcp_congestion_ops"), lambda: [
        load(2, 1, 0), Insn(0x62, 2, 0, at("tcp_sock", "rcv_nxt"), 1), R0, EXIT], 13,
        "no write support to tcp_sock at off"),
    "no longer than it is": ((STRUCT_OPS, 0, "tcp_congestion_ops"), lambda: [
        load(2, 1, 0), Insn(ST, 2, 0, at("tcp_sock", "snd_cwnd"), 1), R0, EXIT], 13,
        "beyond the member of tcp_sock ended at"),
    "a member that is no function": ((STRUCT_OPS, 11, "tcp_congestion_ops"), lambda: [R0, EXIT],
                                     22, "attach to invalid member name(@idx 11) of struct"),
    "a member that programs cannot be": ((STRUCT_OPS, 10, "tcp_congestion_ops"), lambda: [
        R0, EXIT], 524, "attach to unsupported member get_info of struct tcp_congestion_ops"),
    "a structure of something else": ((STRUCT_OPS, 0, "task_struct"), lambda: [R0, EXIT], 524,
                                      "is not a supported struct"),
    "a function's address": (PROBE, lambda: [
        Insn(0x18, 1, 3, 0, ident("do_exit", kinds.FUNC)), Insn(0, 0, 0, 0, 0), R0, EXIT], 0, ""),
    "a function's code": (PROBE, lambda: [
        Insn(0x18, 1, 3, 0, ident("do_exit", kinds.FUNC)), Insn(0, 0, 0, 0, 0), load(2, 1, 0), R0,
        EXIT], 13, "invalid access to memory, mem_size=0 off=0 size=8"),
    "an address of a structure": (PROBE, lambda: [
        Insn(0x18, 1, 3, 0, ident("task_struct", kinds.STRUCT)), Insn(0, 0, 0, 0, 0), R0, EXIT],
        22, "in ldimm64 isn't KIND_VAR or KIND_FUNC"),
    "an address of nothing": (PROBE, lambda: [
        Insn(0x18, 1, 3, 0, 0xFFFFF), Insn(0, 0, 0, 0, 0), R0, EXIT], 2,
        "ldimm64 insn specifies invalid btf_id 1048575."),
}  # fmt: skip
STORAGE = MapDesc(29, 4, 8, 0, 1)  # TASK_STORAGE


def ident(name: str, *wanted: int) -> int:
    """A type's id; 0 for no name."""
    found = MACHINE.btf.find(name, *wanted) if name else None
    return found.id if found else 0


def has_storage(insns: list[Insn]) -> bool:
    return any(i.code == 0x85 and i.imm == 156 for i in insns)


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    (kind, attach, target), make, errno, words = CASES[name]
    found = judge(kind, attach, target, make())
    assert found.errno == errno, found.log
    assert words in found.log


def judge(kind: int, attach: int, target: str, insns: list[Insn]) -> Verdict:
    maps = (STORAGE,) if has_storage(insns) else (HASH,)
    return verify(Program(
        encode(insns), kind, expected_attach_type=attach, attach_btf_id=attached(attach, target),
        license="GPL", maps=maps, log_level=1, kernel_btf=MACHINE))  # fmt: skip


def attached(attach: int, target: str) -> int:
    return ident(target, kinds.FUNC) if attach == ITER else ident(target)


@pytest.mark.kernel
@pytest.mark.parametrize("name", CASES)
def test_kernel_agrees(name: str) -> None:
    (kind, attach, target), make, errno, words = CASES[name]
    insns = make()
    if has_storage(insns):
        pytest.skip("task storage needs BTF: asked by the corpus")
    maps = [{"type": "hash", "key_size": 4, "value_size": 8, "max_entries": 16}]
    theirs = kernel.driver().kernel_verdict(
        encode(insns), kind, maps=maps, expected_attach_type=attach,
        attach_btf_id=attached(attach, target))  # fmt: skip
    assert theirs.errno == errno, theirs.log
    assert words in theirs.log


@pytest.mark.kernel
@pytest.mark.parametrize("target", ["btf_trace_sched_switch", "btf_trace_kfree_skb"])
def test_the_places_of_a_context_are_the_kernels(target: str) -> None:
    load_one = kernel.driver().kernel_verdict
    for off, code in [*((n, 0x79) for n in range(0, 112, 8)), (0, 0x61), (4, 0x61), (24, 0x71)]:
        insns = [Insn(code, 2, 1, off, 0), R0, EXIT]
        ours = judge(TRACING, RAW_TP, target, insns)
        theirs = load_one(
            encode(insns), TRACING, expected_attach_type=RAW_TP, attach_btf_id=ident(target))
        assert ours.errno == theirs.errno, (off, ours.log, theirs.log)


def places(step: int) -> None:
    """A sample of accesses to the running task: errno and the line before the closing one."""
    load_one = kernel.driver().kernel_verdict
    for n, off in enumerate(range(0, size("task_struct") + 16, step)):
        insns = [TASK, Insn((0x71, 0x69, 0x61, 0x79)[n % 4], 1, 0, off, 0), R0, EXIT]
        ours = judge(KPROBE, 0, "", insns)
        theirs = load_one(encode(insns), KPROBE, log_level=1)
        assert ours.errno == theirs.errno, (off, ours.log, theirs.log)
        if ours.errno:
            assert ours.log.splitlines()[-2] == theirs.log.splitlines()[-2]


@pytest.mark.kernel
def test_places_of_a_structure_are_the_kernels() -> None:
    places(61)


@pytest.mark.long
@pytest.mark.kernel
@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_every_place_of_a_structure_is_the_kernels(step: int) -> None:
    places(step)
