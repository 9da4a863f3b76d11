"""Random walks through the kernel's structures: our verdict, errno and words beside the kernel's.

A program starts at an argument of a random tracepoint or iterator, or at the running task, goes on
through pointers at random members, and hands what it holds to helpers and kernel functions.
"""

from __future__ import annotations

import functools
import os
import random

import pytest

from compat_tests.oracle import kernel
from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Type
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.object.btf import MACHINE, VMLINUX
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.skipif(not os.access(VMLINUX, os.R_OK), reason=f"no {VMLINUX}")

TRACING, RAW_TP, ITER, SLEEPABLE = 26, 23, 28, 16
R0, EXIT = Insn(0xB7, 0, 0, 0, 0), Insn(0x95, 0, 0, 0, 0)
LDX, MOVX, ADD, MOV, CALL, NOT_NULL = 0x79, 0xBF, 0x07, 0xB7, 0x85, 0x55
LOADS = (0x71, 0x69, 0x61, 0x79, 0x81, 0x91, 0x89)
ITERATORS = (
    "task", "task_file", "task_vma", "bpf_map", "bpf_prog", "bpf_link", "cgroup", "ksym",
    "kmem_cache", "dmabuf", "tcp", "udp", "unix", "netlink", "ipv6_route", "bpf_map_elem",
    "sockmap", "bpf_sk_storage_map",
)  # fmt: skip
HELPERS = (4, 16, 46, 127, 136, 137, 141, 147, 154, 162, 175, 178, 196)
KFUNCS = (
    "bpf_task_acquire", "bpf_cgroup_acquire", "bpf_task_release", "bpf_get_task_exe_file",
    "bpf_path_d_path", "bpf_task_under_cgroup", "bpf_cpumask_weight", "bpf_rcu_read_lock",
    "bpf_rcu_read_unlock", "bpf_put_file", "bpf_cast_to_kern_ctx", "bpf_sock_destroy",
)  # fmt: skip
FAR = 1 << 15  # an offset that no instruction has


@functools.cache
def tracepoints() -> list[int]:
    return [found.id for found in MACHINE.btf
            if found.kind == kinds.TYPEDEF and found.name.startswith("btf_trace_")]  # fmt: skip


def target(found: Type | None) -> int:
    """The structure that a pointer is to; 0: none."""
    behind = MACHINE.btf.strip(found.ref) if found and found.kind == kinds.PTR else None
    return behind.id if behind and behind.kind in kinds.COMPOSITE else 0


@functools.cache
def members(type_id: int, base: int = 0, depth: int = 0) -> list[tuple[int, Type | None]]:
    """Offsets and types of a structure's members, and of theirs."""
    found = MACHINE.btf.strip(type_id) if type_id else None
    rows: list[tuple[int, Type | None]] = []
    for m in found.members if found and found.kind in kinds.COMPOSITE else ():
        inner, off = MACHINE.btf.strip(m.type), base + m.offset // 8
        if m.bits or off >= FAR - 8:
            continue
        rows.append((off, inner))
        if inner and inner.kind in kinds.COMPOSITE and depth < 3:
            rows += members(m.type, off, depth + 1)
    return rows


def start(rnd: random.Random) -> tuple[list[Insn], int, int, int, int]:
    """r9 = context, r6 = a pointer: instructions, attach type and id, flags, structure."""
    btf = MACHINE.btf
    kind = rnd.random()
    if kind < 0.3:
        task = btf.find("task_struct", kinds.STRUCT)
        assert task
        insns = [Insn(MOVX, 9, 1, 0, 0), Insn(CALL, 0, 0, 0, 158), Insn(MOVX, 6, 0, 0, 0)]
        return insns, RAW_TP, rnd.choice(tracepoints()), 0, task.id
    if kind < 0.7:
        attach, flags, number = RAW_TP, 0, rnd.choice(tracepoints())
        params = btf.type(btf.type(btf.type(number).ref).ref).members[1:]
    else:
        attach, flags = ITER, rnd.choice((0, SLEEPABLE))
        function = btf.find(f"bpf_iter_{rnd.choice(ITERATORS)}", kinds.FUNC)
        assert function
        number, params = function.id, btf.type(function.ref).members
    n = rnd.randrange(len(params) or 1)
    struct = target(btf.strip(params[n].type)) if params else 0
    return ([Insn(MOVX, 9, 1, 0, 0), Insn(LDX, 6, 1, 8 * n, 0)], attach, number, flags, struct)


def helper(number: int) -> list[Insn]:
    insns = [Insn(MOVX, 1, 6, 0, 0)]
    if number in (141, 147):
        insns += [Insn(MOVX, 2, 10, 0, 0), Insn(ADD, 2, 0, 0, -64), Insn(MOV, 3, 0, 0, 64),
                  Insn(MOV, 4, 0, 0, 0)]  # fmt: skip
    elif number == 127:
        insns = [Insn(MOVX, 2, 6, 0, 0), Insn(LDX, 1, 9, 0, 0), Insn(LDX, 1, 1, 0, 0),
                 Insn(MOV, 3, 0, 0, 8)]  # fmt: skip
    elif number == 4:
        insns = [Insn(MOVX, 3, 6, 0, 0), Insn(MOVX, 1, 10, 0, 0), Insn(ADD, 1, 0, 0, -64),
                 Insn(MOV, 2, 0, 0, 8)]  # fmt: skip
    elif number == 16:
        insns.append(Insn(MOV, 2, 0, 0, 16))
    return [*insns, Insn(CALL, 0, 0, 0, number)]


def made(rnd: random.Random) -> tuple[bytes, int, int, int]:
    """A program, its attach type and id, its flags."""
    insns, attach, number, flags, struct = start(rnd)
    for _ in range(rnd.randrange(1, 6)):
        if rnd.random() < 0.6:
            insns += [Insn(NOT_NULL, 6, 0, 2, 0), R0, EXIT]
        rows = members(struct)
        pointers = [row for row in rows if target(row[1])]
        kind = rnd.random()
        if kind < 0.55 and pointers:
            off, found = rnd.choice(pointers)
            insns.append(Insn(LDX, 6, 6, off, 0))
            struct = target(found)
        elif kind < 0.7 and rows:
            off = rnd.choice(rows)[0] + rnd.choice((0, 0, 1, 4, -8))
            insns.append(Insn(rnd.choice(LOADS), 7, 6, off, 0))
        elif kind < 0.78:
            insns.append(Insn(ADD, 6, 0, 0, rnd.choice((8, 16, -8, 0))))
        elif kind < 0.82:
            insns.append(Insn(0x72, 6, 0, rnd.choice(rows)[0] if rows else 0, 0))
        elif kind < 0.9:
            insns += helper(rnd.choice(HELPERS))
        else:
            function = MACHINE.btf.find(rnd.choice(KFUNCS), kinds.FUNC)
            if function:
                insns += [Insn(MOVX, 1, 6, 0, 0), Insn(MOVX, 2, 6, 0, 0),
                          Insn(CALL, 0, 2, 0, function.id)]  # fmt: skip
        if insns[-1].code == CALL and rnd.random() < 0.5:
            insns.append(Insn(MOVX, 6, 0, 0, 0))
            struct = 0
    return encode([*insns, R0, EXIT]), attach, number, flags


def last(log: str) -> str:
    lines = [line for line in log.strip().split("\n")
             if not line.startswith(("processed", "verification", "stack"))]  # fmt: skip
    return lines[-1] if lines else ""


def walk(seed: int, count: int) -> None:
    rnd, real = random.Random(seed), kernel.driver()
    accepted = 0
    for _ in range(count):
        code, attach, number, flags = made(rnd)
        theirs = real.kernel_verdict(code, TRACING, expected_attach_type=attach, log_level=1,
                                     attach_btf_id=number, prog_flags=flags)  # fmt: skip
        ours = verify(Program(code, TRACING, expected_attach_type=attach, attach_btf_id=number,
                              prog_flags=flags, license="GPL", log_level=1,
                              kernel_btf=MACHINE))  # fmt: skip
        what = (code.hex(), attach, MACHINE.btf.type(number).name, theirs.log, ours.log)
        assert ours.errno == theirs.errno, what
        if ours.errno:
            assert last(ours.log) == last(theirs.log), what
        accepted += not ours.errno
    assert count // 10 < accepted < count


@pytest.mark.kernel
def test_walks_are_judged_as_the_kernel_does() -> None:
    walk(1, 400)


@pytest.mark.long
@pytest.mark.kernel
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_walks_are_judged_as_the_kernel_does(seed: int) -> None:
    walk(seed, 5000)
