"""Calls of kernel functions: who may call, what is given, what is held meanwhile.

Cases differ by little from one that is right; each is loaded into the kernel as well, whose BTF
has the functions. The map's values are {bpf_spin_lock; bpf_res_spin_lock at 4 or a list's head at
8}; the list is of struct node {bpf_list_node at 0; u64 at 24}. After the kernel's selftests
progs/{preempt_lock,rcu_read_lock,irq,linked_list,linked_list_fail,res_spin_lock,exceptions_fail}.c.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import pytest

from compat_tests.oracle import kernel
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

TYPES = {"socket_filter": 1, "sched_cls": 3, "xdp": 6, "raw_tracepoint": 17, "syscall": 31}
CALL, EXIT = op.JMP | op.CALL, Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV, MOVX, ADD, JNE, JEQ = 0xB7, 0xBF, 0x07, 0x55, 0x15
ZERO = Insn(MOV, 0, 0, 0, 0)
END = [ZERO, EXIT]


@lru_cache(maxsize=1)
def types() -> tuple[bytes, int, int, int, int]:
    """BTF, the key's type, values' with a list and with a resilient lock, the node's."""
    out = Writer()
    u32 = out.integer("unsigned int", 4)
    u64 = out.integer("unsigned long", 8)
    lock = out.struct("bpf_spin_lock", 4, [("val", u32, 0)])
    res = out.struct("bpf_res_spin_lock", 4, [("val", u32, 0)])
    three = out.array(u64, u32, 3)
    two = out.array(u64, u32, 2)
    item = out.struct("bpf_list_node", 24, [("__opaque", three, 0)])
    head = out.struct("bpf_list_head", 16, [("__opaque", two, 0)])
    node = out.struct("node", 32, [("n", item, 0), ("data", u64, 24)])
    listed = out.struct("listed", 24, [("lock", lock, 0), ("head", head, 8)])
    out.decl_tag("contains:node:n", listed, 1)
    locked = out.struct("locked", 24, [("a", u32, 0), ("lock", res, 4), ("b", two, 8)])
    out.func("main", out.proto(u32, [("ctx", u64)]), 1)
    return out.blob(), u32, listed, locked, node


def main() -> bytes:
    """func_info: a program has no BTF without."""
    return struct.pack("<II", 0, types()[4] + 5)


def kfunc(name: str) -> Insn:
    found = MACHINE.btf.find(name, kinds.FUNC)
    return Insn(CALL, 0, 2, 0, found.id if found else 0x7FFFFFFF)


def helper(number: int) -> Insn:
    return Insn(CALL, 0, 0, 0, number)


def stack(reg: int, off: int) -> list[Insn]:
    return [Insn(MOVX, reg, 10, 0, 0), Insn(ADD, reg, 0, 0, off)]


def flag(name: str, off: int) -> list[Insn]:
    return [*stack(1, off), kfunc(name)]


def element(index: int, into: int) -> list[Insn]:
    """R[into] = an element of that map, or the program ends."""
    return [
        Insn(0x62, 10, 0, -4, 0), *stack(2, -4), Insn(op.LD_IMM64, 1, 1, 0, index),
        Insn(0, 0, 0, 0, 0), helper(1), Insn(JNE, 0, 0, 2, 0), *END, Insn(MOVX, into, 0, 0, 0),
    ]  # fmt: skip


def use(call: Insn, reg: int, off: int = 0) -> list[Insn]:
    return [Insn(MOVX, 1, reg, 0, 0), Insn(ADD, 1, 0, 0, off), call]


def new(into: int, type_id: int = 0) -> list[Insn]:
    """R[into] = a new node, or the program ends."""
    return [
        Insn(MOV, 1, 0, 0, type_id or types()[4]), Insn(MOV, 2, 0, 0, 0),
        kfunc("bpf_obj_new_impl"), Insn(JNE, 0, 0, 2, 0), *END, Insn(MOVX, into, 0, 0, 0),
    ]  # fmt: skip


def drop(reg: int, off: int = 0) -> list[Insn]:
    return [*use(kfunc("bpf_obj_drop_impl"), reg, off)]


def push(head: int, item: int, off: int = 8) -> list[Insn]:
    return [
        Insn(MOVX, 1, head, 0, 0), Insn(ADD, 1, 0, 0, off), Insn(MOVX, 2, item, 0, 0),
        Insn(MOV, 3, 0, 0, 0), Insn(MOV, 4, 0, 0, 0), kfunc("bpf_list_push_front_impl"),
    ]  # fmt: skip


def pop(head: int) -> list[Insn]:
    return use(kfunc("bpf_list_pop_front"), head, 8)


LOCK, UNLOCK = use(helper(93), 6), use(helper(94), 6)
RCU, RCU_END = [kfunc("bpf_rcu_read_lock")], [kfunc("bpf_rcu_read_unlock")]
OFF, ON = [kfunc("bpf_preempt_disable")], [kfunc("bpf_preempt_enable")]
SAVE, RESTORE = "bpf_local_irq_save", "bpf_local_irq_restore"
SLEEP = [*stack(1, -8), Insn(MOV, 2, 0, 0, 8), Insn(MOV, 3, 0, 0, 0), helper(148)]
SLEEPY = [*stack(1, -8), Insn(MOV, 2, 0, 0, 8), Insn(MOV, 3, 0, 0, 0), Insn(MOV, 4, 0, 0, 0),
          kfunc("bpf_copy_from_user_str")]  # fmt: skip
TASK = [Insn(MOV, 1, 0, 0, 1), kfunc("bpf_task_from_pid")]
FREE = [Insn(MOVX, 1, 0, 0, 0), kfunc("bpf_task_release")]
TAKE, GIVE = kfunc("bpf_res_spin_lock"), kfunc("bpf_res_spin_unlock")
HAVE = [Insn(JEQ, 0, 0, 2, 0), *END]  # the lock, or the program ends
BOTH = [*element(1, 6), *element(1, 7)]
LIST = [*element(0, 6), *new(7)]

# name, instructions, type, errno, words of the log
CASES = [
    ("no function", [Insn(CALL, 0, 2, 0, 0x7FFFFFFF), *END], "sched_cls", 22,
     "kernel btf_id 2147483647 is not a function"),
    ("none at all, never reached", [ZERO, Insn(JEQ, 0, 0, 1, 0), Insn(CALL, 0, 2, 0, 0), EXIT],
     "sched_cls", 0, ""),
    ("none at all", [Insn(CALL, 0, 2, 0, 0), *END], "sched_cls", 22,
     "invalid kernel function call not eliminated in verifier pass"),
    ("no module's", [Insn(CALL, 0, 2, 1, 1), *END], "sched_cls", 71,
     "kfunc offset > 0 without fd_array is invalid"),
    ("one that no program may call", [kfunc("schedule"), *END], "sched_cls", 13,
     "calling kernel function schedule is not allowed"),
    ("in an RCU section", [*RCU, *RCU_END, *END], "sched_cls", 0, ""),
    ("an RCU section left open", [*RCU, *END], "sched_cls", 22,
     "BPF_EXIT instruction in main prog cannot be used inside bpf_rcu_read_lock-ed region"),
    ("an RCU section never opened", [*RCU_END, *END], "sched_cls", 22,
     "unmatched rcu read unlock (kernel function bpf_rcu_read_unlock)"),
    ("an RCU section in one", [*RCU, *RCU, *RCU_END, *RCU_END, *END], "sched_cls", 22,
     "nested rcu read lock (kernel function bpf_rcu_read_lock)"),
    ("sleeping", [*SLEEP, *END], "syscall", 0, ""),
    ("sleeping in RCU", [*RCU, *SLEEP, *RCU_END, *END], "syscall", 22,
     "sleepable helper bpf_copy_from_user#148 in rcu_read_lock region"),
    ("sleeping in a function in RCU", [*RCU, *SLEEPY, *RCU_END, *END], "syscall", 13,
     "kernel func bpf_copy_from_user_str is sleepable within rcu_read_lock region"),
    ("sleeping after RCU", [*RCU, *RCU_END, *SLEEPY, *END], "syscall", 0, ""),
    ("sleeping in a program that may not", [*SLEEPY, *END], "sched_cls", 13,
     "program must be sleepable to call sleepable kfunc bpf_copy_from_user_str"),
    ("preemption off twice", [*OFF, *OFF, *ON, *ON, *END], "xdp", 0, ""),
    ("preemption off twice, on once", [*OFF, *OFF, *ON, *END], "xdp", 22,
     "BPF_EXIT instruction in main prog cannot be used inside bpf_preempt_disable-ed region"),
    ("preemption on", [*ON, *END], "xdp", 22,
     "unmatched attempt to enable preemption (kernel function bpf_preempt_enable)"),
    ("sleeping without preemption", [*OFF, *SLEEP, *ON, *END], "syscall", 22,
     "sleepable helper bpf_copy_from_user#148 in non-preemptible region"),
    ("interrupts saved", [*flag(SAVE, -8), *flag(RESTORE, -8), *END], "sched_cls", 0, ""),
    ("interrupts saved, never restored", [*flag(SAVE, -8), *END], "sched_cls", 22,
     "BPF_EXIT instruction in main prog cannot be used inside bpf_local_irq_save-ed region"),
    ("interrupts restored", [*flag(RESTORE, -8), *END], "sched_cls", 22,
     "expected an initialized irq flag as arg#0"),
    ("interrupts saved twice",
     [*flag(SAVE, -8), *flag(SAVE, -16), *flag(RESTORE, -16), *flag(RESTORE, -8), *END],
     "sched_cls", 0, ""),
    ("interrupts restored out of order",
     [*flag(SAVE, -8), *flag(SAVE, -16), *flag(RESTORE, -8), *flag(RESTORE, -16), *END],
     "sched_cls", 13,
     "cannot restore irq state out of order, expected id=2 acquired at insn_idx=5"),
    ("interrupts saved where they are", [*flag(SAVE, -8), *flag(SAVE, -8), *END],
     "sched_cls", 22,
     "expected uninitialized irq flag as arg#0"),
    ("interrupts' state overwritten",
     [*flag(SAVE, -8), Insn(0x7A, 10, 0, -8, 0), *flag(RESTORE, -8), *END], "sched_cls", 22,
     "expected an initialized irq flag as arg#0"),
    ("interrupts' state looked at",
     [*flag(SAVE, -8), Insn(0x79, 1, 10, -8, 0), *flag(RESTORE, -8), *END], "sched_cls", 13,
     "invalid read from stack off -8+0 size 8"),
    ("sleeping without interrupts", [*flag(SAVE, -16), *SLEEP, *flag(RESTORE, -16), *END],
     "syscall", 22, "sleepable helper bpf_copy_from_user#148 in IRQ-disabled region"),
    ("a task", [*TASK, Insn(JEQ, 0, 0, 2, 0), *FREE, *END], "sched_cls", 0, ""),
    ("a task in a type that may not ask", [*TASK, Insn(JEQ, 0, 0, 2, 0), *FREE, *END],
     "socket_filter", 13, "calling kernel function bpf_task_from_pid is not allowed"),
    ("a task that may be none", [*TASK, *FREE, *END], "sched_cls", 13,
     "Possibly NULL pointer passed to trusted arg0"),
    ("a task never given back", [*TASK, *END], "sched_cls", 22,
     "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("a task's inside given back",
     [*TASK, Insn(JEQ, 0, 0, 3, 0), Insn(MOVX, 1, 0, 0, 0), Insn(ADD, 1, 0, 0, 8), FREE[1], *END],
     "sched_cls", 22,
     "R1 must have zero offset when passed to release func or trusted arg to kfunc"),
    ("what is no task given back", [*stack(1, -8), FREE[1], *END], "sched_cls", 22,
     "arg#0 pointer type STRUCT task_struct must point to scalar, or struct with scalar"),
    ("a number for a pointer",
     [Insn(MOV, 1, 0, 0, 7), FREE[1], *END], "sched_cls", 22,
     "arg#0 pointer type STRUCT task_struct must point to scalar, or struct with scalar"),
    ("a pointer for a number", [*stack(1, -8), TASK[1], *END], "sched_cls", 22,
     "R1 is not a scalar"),
    ("a constant that is none",
     [Insn(0x61, 2, 1, 0, 0), Insn(MOV, 1, 0, 0, 0), kfunc("bpf_rdonly_cast"), *END], "sched_cls",
     22, "R2 must be a known constant"),
    ("bytes to be read", [Insn(MOV, 1, 0, 0, 0), Insn(MOV, 2, 0, 0, 0), kfunc("bpf_rdonly_cast"),
                          Insn(0x61, 1, 0, 400, 0), *END], "sched_cls", 0, ""),
    ("bytes to be read written",
     [Insn(MOV, 1, 0, 0, 0), Insn(MOV, 2, 0, 0, 0), kfunc("bpf_rdonly_cast"),
      Insn(0x62, 0, 0, 4, 0), *END], "sched_cls", 13, "R0 cannot write into rdonly_untrusted_mem"),
    ("the context of another type", [*stack(1, -8), kfunc("bpf_cast_to_kern_ctx"), *END],
     "sched_cls", 22, "arg#0 expected pointer to ctx, but got fp"),
    ("an object", [*new(7), Insn(0x7A, 7, 0, 24, 1), *drop(7), *END], "sched_cls", 0, ""),
    ("an object's node written", [*new(7), Insn(0x7A, 7, 0, 16, 1), *drop(7), *END], "sched_cls",
     13, "direct access to bpf_list_node is disallowed"),
    ("behind an object", [*new(7), Insn(0x7A, 7, 0, 32, 1), *drop(7), *END], "sched_cls", 13,
     "access beyond struct node at off 32 size 8"),
    ("an object never dropped", [*new(7), *END], "sched_cls", 22,
     "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("an object dropped twice", [*new(7), *drop(7), *drop(7), *END], "sched_cls", 22,
     "R1 must be referenced or trusted"),
    ("an object used after it", [*new(7), *drop(7), Insn(0x79, 1, 7, 24, 0), *END], "sched_cls",
     13, "R7 invalid mem access 'scalar'"),
    ("an object of a number's type", [*new(7, 1), *drop(7), *END], "sched_cls", 22,
     "bpf_obj_new/bpf_percpu_obj_new type ID argument must be of a struct"),
    ("an object under a lock", [*LIST, *LOCK, *drop(7), *UNLOCK, *END], "sched_cls", 22,
     "function calls are not allowed while holding a lock"),
    ("an object at a number",
     [*LIST, Insn(0x79, 1, 7, 24, 0), Insn(0x57, 1, 0, 0, 7), Insn(ADD, 7, 0, 0, 16),
      Insn(0x0F, 7, 1, 0, 0), Insn(0x79, 1, 7, 8, 0), *END], "sched_cls", 13,
     "R7 is ptr_node invalid variable offset: off=24, var_off=(0x0; 0x7)"),
    ("into a list", [*LIST, *LOCK, *push(6, 7), *UNLOCK, *END], "sched_cls", 0, ""),
    ("into a list in a tracing program", [*LIST, *LOCK, *push(6, 7), *UNLOCK, *END],
     "raw_tracepoint", 22, "tracing progs cannot use bpf_{list_head,rb_root} yet"),
    ("into a list that is not locked", [*LIST, *push(6, 7), *drop(7), *END], "sched_cls", 22,
     "bpf_spin_lock at off=0 must be held for bpf_list_head"),
    ("into what is no list", [*LIST, *LOCK, *push(6, 7, 0), *UNLOCK, *END], "sched_cls", 22,
     "bpf_list_head not found at offset=0"),
    ("into a list, then used", [*LIST, *LOCK, *push(6, 7), Insn(0x79, 1, 7, 24, 0), *UNLOCK, *END],
     "sched_cls", 0, ""),
    ("into a list, then used unlocked",
     [*LIST, *LOCK, *push(6, 7), *UNLOCK, Insn(0x79, 1, 7, 24, 0), *END], "sched_cls", 13,
     "R7 invalid mem access 'scalar'"),
    ("into a list twice", [*LIST, *LOCK, *push(6, 7), *push(6, 7), *UNLOCK, *END], "sched_cls", 22,
     "arg#1 expected pointer to allocated object"),
    ("into another element's list",
     [*element(0, 6), *element(0, 8), *new(7), *LOCK, *push(8, 7), *UNLOCK, *END], "sched_cls", 22,
     "bpf_spin_lock at off=0 must be held for bpf_list_head"),
    ("out of a list", [*element(0, 6), *LOCK, *pop(6), *UNLOCK, *END], "sched_cls", 22,
     "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("out of a list and dropped",
     [*element(0, 6), *LOCK, *pop(6), Insn(MOVX, 8, 0, 0, 0), *UNLOCK, Insn(JEQ, 8, 0, 3, 0),
      *drop(8), *END], "sched_cls", 0, ""),
    ("the first of a list",
     [*element(0, 6), *LOCK, *use(kfunc("bpf_list_front"), 6, 8), Insn(JEQ, 0, 0, 1, 0),
      Insn(0x79, 8, 0, 24, 0), *UNLOCK, *END], "sched_cls", 0, ""),
    ("the first of a list, unlocked",
     [*element(0, 6), *LOCK, *use(kfunc("bpf_list_front"), 6, 8), Insn(MOVX, 8, 0, 0, 0), *UNLOCK,
      Insn(JEQ, 8, 0, 1, 0), Insn(0x79, 8, 8, 24, 0), *END], "sched_cls", 13,
     "R8 invalid mem access 'scalar'"),
    ("a resilient lock", [*BOTH, *use(TAKE, 6, 4), *HAVE, *use(GIVE, 6, 4), *END], "sched_cls", 0,
     ""),
    ("a resilient lock that was not had", [*BOTH, *use(TAKE, 6, 4), *use(GIVE, 6, 4), *END],
     "sched_cls", 22, "bpf_res_spin_unlock without taking a lock"),
    ("two resilient locks",
     [*BOTH, *use(TAKE, 6, 4), *HAVE, *use(TAKE, 7, 4), Insn(JNE, 0, 0, 3, 0), *use(GIVE, 7, 4),
      *use(GIVE, 6, 4), *END], "sched_cls", 0, ""),
    ("two resilient locks out of order",
     [*BOTH, *use(TAKE, 6, 4), *HAVE, *use(TAKE, 7, 4), Insn(JNE, 0, 0, 3, 0), *use(GIVE, 6, 4),
      *use(GIVE, 7, 4), *END], "sched_cls", 22, "bpf_res_spin_unlock cannot be out of order"),
    ("a resilient lock twice",
     [*BOTH, *use(TAKE, 6, 4), *HAVE, *use(TAKE, 6, 4), *use(GIVE, 6, 4), *END], "sched_cls", 22,
     "Acquiring the same lock again, AA deadlock detected"),
    ("a resilient lock left taken", [*BOTH, *use(TAKE, 6, 4), *HAVE, *END], "sched_cls", 22,
     "BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region"),
    ("a resilient lock's word read", [*BOTH, Insn(0x61, 1, 6, 4, 0), *END], "sched_cls", 13,
     "bpf_res_spin_lock cannot be accessed directly by load/store"),
    ("thrown", [Insn(MOV, 1, 0, 0, 1), kfunc("bpf_throw")], "sched_cls", 22,
     "last insn is not an exit or jmp"),
    ("thrown, and an exit", [Insn(MOV, 1, 0, 0, 1), kfunc("bpf_throw"), EXIT], "sched_cls", 0, ""),
    ("thrown with a task", [*TASK, Insn(MOV, 1, 0, 0, 1), kfunc("bpf_throw"), EXIT], "sched_cls",
     22, "bpf_throw would lead to reference leak"),
    ("thrown in RCU", [*RCU, Insn(MOV, 1, 0, 0, 1), kfunc("bpf_throw"), EXIT], "sched_cls", 22,
     "bpf_throw cannot be used inside bpf_rcu_read_lock-ed region"),
    ("a trap", [kfunc("__bpf_trap"), *END], "sched_cls", 14,
     "unexpected __bpf_trap() due to uninitialized variable?"),
]  # fmt: skip
NAMES = [case[0] for case in CASES]
pytestmark = pytest.mark.skipif(
    MACHINE.btf.find("bpf_rcu_read_lock", kinds.FUNC) is None, reason="no kernel BTF")


@pytest.mark.parametrize(("name", "insns", "kind", "errno", "words"), CASES, ids=NAMES)
def test_verdict(name: str, insns: list[Insn], kind: str, errno: int, words: str) -> None:
    btf, key, listed, locked, _ = types()
    maps = (
        MapDesc(1, 4, 24, 4, btf=btf, btf_key_type_id=key, btf_value_type_id=listed,
                fields=(("bpf_spin_lock", 0), ("bpf_list_head", 8))),
        MapDesc(1, 4, 24, 4, btf=btf, btf_key_type_id=key, btf_value_type_id=locked,
                fields=(("bpf_res_spin_lock", 4),)),
    )  # fmt: skip
    verdict = verify(Program(
        encode(insns), TYPES[kind], license="GPL", maps=maps, log_level=1, btf=btf,
        prog_flags=16 if kind == "syscall" else 0, kernel_btf=MACHINE,
        func_info=main(), func_info_rec_size=8))  # fmt: skip
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "insns", "kind", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(name: str, insns: list[Insn], kind: str, errno: int, words: str) -> None:
    btf, key, listed, locked, _ = types()
    maps = [{"type": 1, "key_size": 4, "value_size": 24, "max_entries": 4,
             "btf_key_type_id": key, "btf_value_type_id": value}
            for value in (listed, locked)]  # fmt: skip
    found = kernel.driver().kernel_verdict(
        encode(insns), kind, maps=maps, btf=btf, license="GPL",
        prog_flags=16 if kind == "syscall" else 0, func_info=main())  # fmt: skip
    assert found.errno == errno, found.log
    assert words in found.log


def test_only_programs_under_the_gpl_call() -> None:
    verdict = verify(Program(encode([*RCU, *RCU_END, *END]), 3, license="x", log_level=1,
                             kernel_btf=MACHINE))  # fmt: skip
    assert verdict.errno == 22
    assert "cannot call kernel function from non-GPL compatible program" in verdict.log
