"""Task storages: threads that end, and writers that are killed. What calls answer is
test_plain.py's."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.runtime.test_maps import ENOENT, Control, Map, in_children, u32, u64

TASK_STORAGE, NO_PREALLOC, ENOMEM = 29, 1, 12
GET, DELETE, CURRENT = 156, 157, 158
SLOTS_AT, SLOT = 64, struct.Struct("<IIQII")  # tid, live, started, owner


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def storage(control: Control) -> Map:
    return Map(control, TASK_STORAGE, 4, 8, 0, NO_PREALLOC)


def call(number: int, run: Any, *args: int) -> int:
    return int(lib.shim_helper(number)(*args, *[0] * (5 - len(args)), run))


def get(storage: Map, flags: int = 1) -> Any:
    """The running thread's value, as a pointer to u64."""
    desc = int(ffi.cast("uintptr_t", storage.desc))
    return ffi.cast("u64 *", call(GET, storage.run, desc, call(CURRENT, storage.run), 0, flags))


def delete(storage: Map) -> int:
    desc = int(ffi.cast("uintptr_t", storage.desc))
    return call(DELETE, storage.run, desc, call(CURRENT, storage.run)) & 0xFFFFFFFF


def slots(storage: Map) -> list[tuple[int, tuple[int, int, int, int, int]]]:
    """Those that were used, and where each lies."""
    at = range(SLOTS_AT, SLOTS_AT + 8192 * SLOT.size, SLOT.size)
    rows = [(where, SLOT.unpack_from(storage.memory, where)) for where in at]
    return [(where, row) for where, row in rows if row[0]]


def in_thread(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_each_thread_has_its_own(storage: Map) -> None:
    get(storage)[0] = 7
    assert in_thread(lambda: (get(storage, 0) == ffi.NULL, get(storage)[0])) == (True, 0)
    assert get(storage, 0)[0] == 7
    assert delete(storage) == 0 and get(storage, 0) == ffi.NULL


def test_a_thread_is_known_by_its_owner_word_or_by_when_it_started(storage: Map) -> None:
    thread = ffi.new("struct shim_thread *")
    thread.tid = os.getpid()
    storage.run.thread = int(ffi.cast("uintptr_t", thread))
    get(storage)[0] = 7
    [(where, (tid, live, started, owner, _))] = slots(storage)
    assert (tid, live, owner) == (os.getpid(), 1, storage.run.owner) and started
    SLOT.pack_into(storage.memory, where, tid, 1, started + 1, owner, 0)
    assert get(storage, 0)[0] == 7
    SLOT.pack_into(storage.memory, where, tid, 1, started, owner ^ 1, 0)  # after an exec
    assert get(storage, 0)[0] == 7
    SLOT.pack_into(storage.memory, where, tid, 1, started + 1, owner ^ 1, 0)  # of an earlier one
    assert get(storage, 0) == ffi.NULL
    assert get(storage)[0] == 0 and len(slots(storage)) == 1


def test_what_ended_threads_left_is_used_again(storage: Map) -> None:
    me = os.pidfd_open(os.getpid())
    assert storage.update(u32(me), u64(5)) == 0
    [(first, _)] = slots(storage)
    assert storage.delete(u32(me)) == 0 and storage.lookup(u32(me)) == ENOENT
    window = [SLOTS_AT + ((first - SLOTS_AT) // SLOT.size + n) % 8192 * SLOT.size
              for n in range(64)]
    for at in window:  # full of threads that are no more
        SLOT.pack_into(storage.memory, at, 4194304 + at, 1, 1, 0, 0)
    assert storage.update(u32(me), u64(6)) == 0 and storage.lookup(u32(me)) == u64(6)
    assert storage.delete(u32(me)) == 0
    started = int(Path("/proc/1/stat").read_text().rsplit(")")[-1].split()[19])
    for at in window:  # of one that lives
        SLOT.pack_into(storage.memory, at, 1, 1, started, 0, 0)
    assert storage.update(u32(me), u64(6)) == ENOMEM
    os.close(me)


def test_kill_of_writers_leaves_whole_values(control: Control, storage: Map) -> None:
    def work(index: int) -> None:
        storage.run = control.run()
        while True:
            get(storage)[0] += 1
            delete(storage)

    for n in range(10):
        pids = in_children(2, work)
        fds = [os.pidfd_open(pid) for pid in pids]
        time.sleep(0.002 + n % 5 * 0.003)  # how long they live
        for pid, fd in zip(pids, fds, strict=True):
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            assert storage.lookup(u32(fd)) in (ENOENT, u64(0), u64(1))
            os.waitpid(pid, 0)
            assert storage.lookup(u32(fd)) == ENOENT
            os.close(fd)
    assert get(storage)[0] == 0 and delete(storage) == 0
