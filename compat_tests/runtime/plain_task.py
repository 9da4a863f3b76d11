"""Scenarios of what a thread has: stacks, cgroups, storage."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from compat_tests.runtime import calls as c
from compat_tests.runtime.scenario import (
    ARRAY,
    CGROUP_ARRAY,
    STACK_TRACE,
    TASK_STORAGE,
    VALUES,
    Step,
    batches_of,
    flags_of,
    mapped,
    n32,
    sizes_of,
)


def stack_trace() -> Iterator[Step]:
    """BPF_MAP_TYPE_STACK_TRACE without a stack, since a raw tracepoint's is the kernel's there."""
    yield flags_of(STACK_TRACE, 4, 64, 4)
    build_id = 1 << 5
    yield sizes_of(
        STACK_TRACE, (8, 64, 4), (0, 64, 4), (4, 0, 4), (4, 4, 4), (4, 9, 4), (4, 64, 0),
        (4, 127 * 8, 4), (4, 128 * 8, 4), (4, 64, 1, build_id), (4, 32, 1, build_id),
        (4, 40, 1, build_id), (4, 127 * 32, 1, build_id), (4, 128 * 32, 1, build_id),
        (4, 64, 1, 0, 1), (4, 64, 1, 0x18), (4, 8, (1 << 31) + 1))
    for entries in (4, 5):
        fd = c.create(STACK_TRACE, 4, 64, entries)
        ids = [n.to_bytes(4, "little") for n in (0, 3, 4, 7, 8, 9, 2**32 - 1)]
        yield f"of {entries}", [[c.lookup(fd, n, 64) for n in ids],
                                [c.take(fd, n, 64) for n in ids],
                                [c.delete(fd, n) for n in ids],
                                [c.following(fd, n, 4) for n in [None, *ids]],
                                [c.lookup(fd, ids[0], 64, flags) for flags in (1, 4, 8)],
                                [c.take(fd, ids[0], 64, flags) for flags in (1, 4)],
                                [c.update(fd, ids[0], bytes(64), n) for n in (0, 1, 2, 4, 8)],
                                c.lookup(fd, None, 64), c.delete(fd, None)]
        yield batches_of(fd, 4, 64)
        yield "mmap", min(0, mapped(fd, 4096, 1))
        yield "stackid", [c.execute(c.map_fd(2, fd) + c.mov(3, flags) + c.call(27) + c.EXIT)
                          for flags in (200, 255, 1 << 11, 1 << 12)]
    for flags in (8, 16):
        fd = c.create(STACK_TRACE, 4, 64, 4, flags)
        yield f"access {flags}", [c.delete(fd, bytes(4)), c.lookup(fd, bytes(4), 64)]
    for size in (4, 8, 16, 64):
        yield f"stack {size}", [c.execute(
            c.copy(2, 10) + c.add(2, -64) + c.mov(3, size) + c.mov(4, flags) + c.call(67) + c.EXIT)
            for flags in (200, 255, 1 << 11, 1 << 9, 1 << 12)]


def stack_of_the_caller() -> Iterator[Step]:
    """Is there one, of who made the system call that runs a program?"""
    fd = c.create(STACK_TRACE, 4, 64, 64)
    user = 1 << 8
    got = c.execute(c.map_fd(2, fd) + c.mov(3, user) + c.call(27) + c.EXIT)
    yield "stackid", min(got, 0)


def field(name: str) -> int:
    """Offset in bytes, by the BTF of the machine."""
    from libbpf_shim.btf import task
    from libbpf_shim.btf.parse import Btf

    return task.place(Btf(Path("/sys/kernel/btf/vmlinux").read_bytes()), name)[0]


def fields_of_the_task() -> Iterator[Step]:
    """Loads through bpf_get_current_task_btf's pointer, of registers and into each of them."""
    tid, tgid, leader, comm = (field(f"task_struct__{name}") for name in (
        "pid", "tgid", "group_leader", "comm"))
    yield "load", c.execute(c.call(158) + c.insn(0x79, 0, 0) + c.mov(0, 0) + c.EXIT)
    own = os.getpid()
    for to in range(10):
        loaded = c.call(158) + c.copy(6, 0) + c.insn(0x61, to, 6, tid) + c.copy(0, to) + c.EXIT
        yield f"into {to}", c.execute(loaded) == own
    kept = b"".join(c.mov(r, 100 + r) for r in range(1, 6)) + c.insn(0x61, 7, 6, tgid)
    summed = b"".join(c.insn(0x0F, 7, r) for r in range(1, 6))
    yield "others keep", c.execute(
        c.call(158) + c.copy(6, 0) + kept + summed + c.copy(0, 7) + c.EXIT) == own + 515
    walk = c.call(158) + c.insn(0x79, 0, 0, leader) + c.insn(0x79, 0, 0, leader)
    yield "walk", c.execute(walk + c.insn(0x61, 0, 0, tgid) + c.EXIT) == own
    with open("/proc/self/comm", "rb") as file:
        name = file.read().strip()
    for size, code in ((1, 0x71), (2, 0x69), (4, 0x61)):
        got = c.execute(c.call(158) + c.insn(code, 0, 0, comm + 1) + c.EXIT)
        yield f"bytes {size}", got == int.from_bytes(name[1:1 + size], "little")
    signed = c.execute(c.call(158) + c.insn(0x91, 0, 0, comm) + c.EXIT)  # BPF_MEMSX, one byte
    yield "signed", signed == name[0]


def other_fields_of_the_task() -> Iterator[Step]:
    """One that userspace cannot know."""
    stack = field("task_struct__stack")
    yield "load", c.execute(
        c.call(158) + c.insn(0x79, 0, 0, stack) + c.insn(0x77, 0, 0, 0, 63) + c.EXIT)


def cgroup_array() -> Iterator[Step]:
    """BPF_MAP_TYPE_CGROUP_ARRAY; sys.argv[2] is a cgroup below the root."""
    yield flags_of(CGROUP_ARRAY, 4, 4, 4)
    yield sizes_of(CGROUP_ARRAY, (8, 4, 4), (4, 8, 4), (4, 0, 4), (0, 4, 4), (4, 4, 0),
                   (4, 4, 1, 0, 1), (4, 4, 1, 0x18))
    fd, size = c.create(CGROUP_ARRAY, 4, 4, 4), 4
    below = sys.argv[2]

    def n(number: int) -> bytes:
        return (number & 0xFFFFFFFF).to_bytes(4, "little")

    yield "empty", [c.lookup(fd, n(0), 4), c.lookup(fd, n(9), 4), c.lookup(fd, n(0), 4, 4),
                    c.lookup(fd, None, 4), c.take(fd, n(0), 4), c.delete(fd, n(0)),
                    c.delete(fd, n(4)), c.delete(fd, None), c.keys(fd, 4),
                    c.following(fd, n(9), 4)]
    opened = [os.open(path, flags) for path, flags in (
        (str(Path(below).parent), os.O_RDONLY), (below, os.O_RDONLY), (below, os.O_PATH),
        ("/sys/fs/cgroup", os.O_RDONLY), (below + "/cgroup.procs", os.O_RDONLY),
        ("/tmp", os.O_RDONLY))]
    for number, value in enumerate([*opened, 999, -1, fd]):
        yield f"put {number}", [c.update(fd, n(1), n(value)), c.delete(fd, n(1))]
    root, sub = opened[:2]
    yield "put", [[c.update(fd, n(1), n(sub), flags) for flags in (0, 1, 2, 3, 4, 8)],
                  [c.update(fd, n(i), n(sub)) for i in (0, 3, 4, -1)],
                  c.update(fd, None, n(sub)), c.update(fd, n(1), None),
                  c.update(fd, n(4), n(999)), c.update(fd, n(1), n(999), 1)]
    yield "full", [c.lookup(fd, n(1), 4), c.take(fd, n(1), 4), c.delete(fd, n(1)),
                   c.delete(fd, n(1)), mapped(fd, 4096, 1)]
    yield batches_of(fd, 4, size)
    c.update(fd, n(0), n(root))
    yield "under", [c.execute(c.map_fd(1, fd) + c.mov(2, i) + c.call(37) + c.EXIT)
                    for i in (0, 1, 2, 3, 4, -1)]
    yield "own id", c.execute(c.call(80) + c.EXIT)
    yield "ancestors", [c.execute(c.mov(1, n) + c.call(123) + c.EXIT) for n in range(-1, 4)]
    signals: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: signals.append(number))
    yield "signals", [c.execute(c.mov(1, n) + c.call(helper) + c.EXIT)
                      for helper in (109, 117) for n in (signal.SIGUSR1, 0, 65, -1)]
    yield "came", signals
    for flags in (8, 16):
        fd = c.create(CGROUP_ARRAY, 4, 4, 4, flags)
        yield f"access {flags}", [c.update(fd, n(0), n(root)), c.delete(fd, n(0)),
                                  c.lookup(fd, n(0), 4), c.following(fd, None, 4)]
    fd = c.create(CGROUP_ARRAY, 4, 4, 4)
    yield "frozen", [c.bpf(c.FREEZE, n(fd)), c.update(fd, n(0), n(root))]


class Storage:
    """Task storages of 8 bytes, and programs on them. BTF: 1 int, 2 u64, 3 an array of 1000."""

    def __init__(self) -> None:
        from libbpf_shim.btf.write import Writer

        out = Writer()
        self.key, self.value = out.integer("int", 4), out.integer("u64", 8)
        self.large = out.array(self.value, self.key, 1000)
        self.btf = c.btf_load(out.blob())

    def create(self, key: int = 4, value: int = 8, entries: int = 0, flags: int = 1,
               extra: int = 0, btf: tuple[int, int, int] | None = None) -> int:
        """MAP_CREATE."""
        types = (self.btf, self.key, self.value) if btf is None else btf
        return c.create(TASK_STORAGE, key, value, entries, flags, extra, btf=types)

    def refusal(self, **fields: Any) -> int:
        """Its errno, or 0."""
        fd = self.create(**fields)
        if fd > 0:
            os.close(fd)
        return min(fd, 0)


def get(fd: int, flags: int, value: int | None = None, task: bytes = c.call(158)) -> int:
    """bpf_task_storage_get of `task`, then one more in it: what it is then; -77: there is none."""
    first = b"" if value is None else c.mov(1, value) + c.insn(0x7B, 10, 1, -8)
    given = c.mov(3, 0) if value is None else c.copy(3, 10) + c.add(3, -8)
    return c.execute(
        task + c.copy(2, 0) + first + c.map_fd(1, fd) + given + c.mov(4, flags) + c.call(156)
        + c.insn(0x55, 0, off=2) + c.mov(0, -77) + c.EXIT + c.insn(0x79, 1, 0) + c.add(1, 1)
        + c.insn(0x7B, 0, 1) + c.copy(0, 1) + c.EXIT)


def in_thread(function: Callable[[], Any]) -> Any:
    """What function returns, in a thread of its own."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def task_storage() -> Iterator[Step]:
    """BPF_MAP_TYPE_TASK_STORAGE from system calls, by pidfd."""
    s = Storage()
    b, k, v = s.btf, s.key, s.value
    yield "flags", [s.refusal(flags=1 | 1 << bit) for bit in range(32) if bit != 16]
    yield "sizes", [s.refusal(flags=0), *(s.refusal(key=a, value=z, entries=e, extra=x)
                    for a, z, e, x in ((8, 8, 0, 0), (0, 8, 0, 0), (4, 0, 0, 0), (4, 4, 0, 0),
                                       (4, 8, 1, 0), (4, 8, 0, 1), (4, 65407, 0, 0),
                                       (4, 65408, 0, 0)))]
    yield "large", s.refusal(value=8000, btf=(b, k, s.large))
    yield "types", [s.refusal(btf=t) for t in (
        (0, 0, 0), (b, 0, 0), (b, k, 0), (b, 0, v), (b, v, v), (b, v, k), (b, 99, v),
        (999, k, v))]
    fd, me = s.create(), n32(os.pidfd_open(os.getpid()))
    keys = [me, n32(999), n32(-1), n32(fd), n32(0), None]
    yield "empty", [[c.lookup(fd, key, 8) for key in keys], [c.delete(fd, key) for key in keys],
                    [c.lookup(fd, me, 8, flags) for flags in (1, 4)], c.take(fd, me, 8),
                    c.following(fd, None, 4), c.following(fd, me, 4)]
    yield "update", [[c.update(fd, me, VALUES[i], flags) for i, flags in enumerate(
        (2, 3, 4, 8, 0, 1, 2, 5, 6, 0))], c.lookup(fd, me, 8)]
    yield "update of nobody", [c.update(fd, key, VALUES[0], flags)
                               for key in keys[1:] for flags in (0, 9)]
    yield batches_of(fd, 4, 8)
    yield "mmap", min(0, mapped(fd, 4096, 1))
    pid = os.fork()
    if not pid:
        signal.pause()
    child = n32(os.pidfd_open(pid))
    yield "child", [c.lookup(fd, child, 8), c.update(fd, child, VALUES[5]),
                    c.lookup(fd, child, 8), c.update(fd, child, VALUES[6], 1)]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield "zombie", [c.lookup(fd, child, 8), c.update(fd, child, VALUES[7])]
    os.waitpid(pid, 0)
    yield "gone", [c.lookup(fd, child, 8), c.update(fd, child, VALUES[7]), c.delete(fd, child)]
    yield "own", [c.lookup(fd, me, 8), c.delete(fd, me), c.delete(fd, me), c.lookup(fd, me, 8)]

    def by_thread() -> list[Any]:
        thread = n32(c.libc.syscall(434, threading.get_native_id(), 0o200))  # PIDFD_THREAD
        return [c.update(fd, thread, VALUES[8]), c.lookup(fd, thread, 8), c.lookup(fd, me, 8)]

    yield "a thread's", in_thread(by_thread)
    frozen = s.create()
    yield "frozen", [c.bpf(c.FREEZE, n32(frozen)), c.update(frozen, me, VALUES[0])]
    yield from task_programs(s.create(), me)


def task_programs(fd: int, me: bytes) -> Iterator[Step]:
    """Helpers 156 to 158."""
    gone = c.call(158) + c.copy(2, 0) + c.map_fd(1, fd) + c.call(157) + c.EXIT
    yield "get", [get(fd, flags) for flags in (0, 1, 1, 0, 2, 3, 4)]
    yield "delete", [c.execute(gone), c.execute(gone), get(fd, 0)]
    yield "first value", [get(fd, 0, 100), get(fd, 1, 100), get(fd, 1, 200), c.lookup(fd, me, 8)]
    yield "from a system call", [c.update(fd, me, VALUES[0]), get(fd, 0) & 0xFFFF]
    yield "of other threads", [in_thread(lambda: [get(fd, 0), get(fd, 1), get(fd, 1)])
                               for _ in range(3)]
    null = c.mov(0, 0)
    yield "of nobody", [get(fd, 1, None, null), c.execute(
        c.mov(2, 0) + c.map_fd(1, fd) + c.call(157) + c.EXIT)]
    end = c.mov(0, 0) + c.EXIT
    rest = c.copy(2, 0) + c.map_fd(1, fd) + c.mov(3, 0) + c.mov(4, 1) + c.call(156) + end
    yield "refused", [c.execute(code) for code in (
        c.call(5) + rest, c.call(35) + rest, c.call(158) + c.add(0, 8) + rest,
        c.copy(0, 1) + rest, c.call(158) + c.insn(0x27, 0, imm=8) + end,
        c.call(158) + c.insn(0x7A, 0, imm=1) + end,
        c.call(158) + c.copy(2, 0) + c.map_fd(1, fd) + c.mov(3, 7) + c.mov(4, 1) + c.call(156)
        + end,
        c.call(158) + c.copy(2, 0) + c.map_fd(1, c.create(ARRAY, 4, 8, 1)) + c.mov(3, 0)
        + c.mov(4, 1) + c.call(156) + end,
        c.insn(0x7A, 10, off=-8) + c.copy(2, 10) + c.add(2, -8) + c.map_fd(1, fd) + c.call(1)
        + end,
        c.call(158) + c.copy(2, 0) + c.map_fd(1, fd) + c.mov(3, 0) + c.mov(4, 1) + c.call(156)
        + c.insn(0x79, 1, 0) + end)]
    yield "accepted", [c.execute(code) for code in (
        c.call(158) + c.insn(0x55, 0, off=1) + c.EXIT + c.mov(0, 1) + c.EXIT,
        c.call(158) + c.insn(0x7B, 10, 0, -8) + c.insn(0x79, 0, 10, -8) + rest)]
