"""A thread of a target, stepped by ptrace until it holds a lock of a shared hash map."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libbpf_shim._native import ffi, lib

from libbpf_shim.attach.target import look

_SEIZE, _INTERRUPT, _SINGLESTEP, _DETACH = 0x4206, 0x4207, 9, 17
_WALL = 0x40000000
_HASH, _PAGE = 1, 4096
_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, tid: int, data: int = 0) -> None:
    if _libc.ptrace(request, tid, None, ctypes.c_void_p(data)) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


class Locks:
    """The words of a process's hash map, in its memory; owner: what they hold where this process
    has them, less the thread's part."""

    def __init__(self, pid: int) -> None:
        self._memory = open(f"/proc/{pid}/mem", "rb", buffering=0)
        self.at, self.number = next(self._hashes(pid))
        found = look(pid)
        assert found
        root = self._cast("struct shim_agent", found.root)
        self.owners = {s.owner for s in root.sessions if s.id}

    def close(self) -> None:
        self._memory.close()

    def _read(self, at: int, size: int) -> bytes:
        return os.pread(self._memory.fileno(), size, at)

    def _cast(self, name: str, at: int) -> Any:
        return ffi.from_buffer(f"{name} *", self._read(at, ffi.sizeof(name)))

    def _hashes(self, pid: int) -> Iterator[tuple[int, int]]:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            lo, hi = (int(part, 16) for part in line.split()[0].split("-"))
            if "memfd:bpf-map" not in line:
                continue
            header = self._cast("struct shim_map_hdr", hi - _PAGE)
            if header.magic == lib.SHIM_MAP_MAGIC and header.type == _HASH:
                yield lo + header.bucket_off, header.nr_buckets

    def held(self) -> bool:
        """One of them by this process."""
        words = struct.unpack(f"<{2 * self.number}I", self._read(self.at, 8 * self.number))[::2]
        mask = (1 << lib.SHIM_OWNER_THREAD_BITS) - 1
        return any(word & ~mask in self.owners for word in words if word)


def stop_inside(pid: int, tid: int, most: int) -> Locks | None:
    """The thread stands still (SIGSTOP, of the whole process) where it holds a lock; None: it has
    come to none within so many instructions."""
    locks = Locks(pid)
    _ptrace(_SEIZE, tid)
    _ptrace(_INTERRUPT, tid)
    os.waitpid(tid, _WALL)
    for _ in range(most):
        if locks.held():
            # of this thread: taken before its next instruction
            _libc.tgkill(pid, tid, signal.SIGSTOP)
            _ptrace(_DETACH, tid)
            return locks
        _ptrace(_SINGLESTEP, tid)
        os.waitpid(tid, _WALL)
    _ptrace(_DETACH, tid)
    locks.close()
    return None
