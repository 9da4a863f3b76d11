"""Runs that processes were in the middle of when a link went. Closing it waits for them, as the
kernel's does: what programs have written does not change any more then."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libbpf_shim.attach.agent import Conversation

PATIENCE = 0.25  # seconds; a run may wait for a lock for longer, or its process stand still
_LOOKS = 4  # at once, some 10 us: a run that has its CPU is over by then
_NAP = 0.00005  # else it has none: who sleeps is back then, who yields after a turn


def wait(pid: int, root: int, seconds: float = PATIENCE) -> bool:
    """Until every run has ended that was in progress in the process, whose agent's root lies
    there, by what is read from outside. All its threads have stood still since the link went.
    False: one goes on."""
    with contextlib.suppress(OSError):  # gone, or not to be read
        mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _wait(mem, root, time.monotonic() + seconds)
        finally:
            os.close(mem)
    return True


def ask(talk: Conversation) -> None:
    """The same, of a process that is not stopped and may not be read: the link went in this
    conversation."""
    end, grace = time.monotonic() + PATIENCE, talk.grace()
    wanted = grace.begun + (not grace.fresh)
    while grace.over < wanted and time.monotonic() < end:
        time.sleep(_NAP)
        grace = talk.grace()


def _wait(mem: int, root: int, end: float) -> bool:
    running, tries = _running(mem, root), 0
    while running:
        running = {at: runs for at, runs in running.items() if _state(mem, at) == runs}
        if running and time.monotonic() >= end:
            return False
        tries += 1
        if running and tries > _LOOKS:
            time.sleep(_NAP)
    return True


def _running(mem: int, root: int) -> dict[int, int]:
    """Threads in the middle of a run: where its block lies, and the run's number."""
    from libbpf_shim._native import ffi, lib

    word = os.pread(mem, 8, root + ffi.offsetof("struct shim_agent", "threads"))
    (table,) = struct.unpack("<Q", word or bytes(8))  # nothing: it is ending
    size = ffi.sizeof("struct shim_thread")
    blocks = os.pread(mem, size << lib.SHIM_OWNER_THREAD_BITS, table) if table else b""
    guard = ffi.offsetof("struct shim_thread", "guard_sp") // 8
    words = memoryview(blocks[: len(blocks) // 8 * 8]).cast("Q")[guard :: size // 8].tolist()
    if not any(words):
        return {}
    found = {table + index * size: _state(mem, table + index * size)
             for index, word in enumerate(words) if word and index}
    return {at: runs for at, runs in found.items() if runs}


def _state(mem: int, at: int) -> int:
    """The number of the run that the thread of the block is in, and more than 0; 0: none."""
    from libbpf_shim._native import ffi

    block = ffi.new("struct shim_thread *")
    data = os.pread(mem, ffi.sizeof(block[0]), at)
    ffi.memmove(block, data, len(data))
    return int(block.runs) + 1 if block.guard_sp and block.fs_base else 0
