"""The trace pipe: lines of bpf_trace_printk(), from a ring of the perf area into a FIFO.

The session's folder has it as `trace_pipe`, where paths of tracefs lead (csrc/surface/redirect.c).
The FIFO is held open here, so that it keeps what nobody has read yet; when it is full, the oldest
lines go, and a line says how many, as on the kernel.
Source: Documentation/trace/ftrace.rst (trace_pipe).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
from collections import deque
from pathlib import Path

from libbpf_shim.backend.beside import Beside
from libbpf_shim.object.control import Control
from libbpf_shim.object.file import PAGE

_DATA = 4 << 20  # bytes of the ring: about as many lines as the kernel keeps for a CPU
_RING = 64  # SHIM_PERF_RING
_HEAD, _TAIL, _DATA_OFFSET = 128, 129, 1040  # struct perf_event_mmap_page: words, bytes
_LOST = 2  # PERF_RECORD_LOST
_PIPE = 1 << 20  # bytes in the FIFO
_KEPT = _DATA  # bytes behind it: all that the ring had while this thread had no CPU
_LOST_LINE = b"CPU:0 [LOST %d EVENTS]\n"
_PAUSE = 0.05  # seconds between looks at the ring while the FIFO is full


class TracePipe:
    """One session's. A thread moves what is in the ring, and sleeps while there is nothing."""

    def __init__(self, path: Path, control: Control) -> None:
        self._control = control
        os.mkfifo(path, 0o600)
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread: Beside | None = None
        self._over = False
        self._backlog: deque[bytes] = deque()
        self._waiting = 0  # bytes in the backlog
        self._gone = 0  # lines that were left out where it begins

    def begin(self) -> None:
        """Before the first program that may print. ENOMEM: no room for its ring."""
        if self._thread:
            return
        at = self._control.take_ring(_DATA + PAGE)
        self._page = self._control.ring(at)
        struct.pack_into("<QQ", self._page, _DATA_OFFSET, PAGE, _DATA)
        # read and written at once; by struct it would be byte after byte, beside the writers
        self._words = self._page[:PAGE].cast("Q")
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._fifo, fcntl.F_SETPIPE_SZ, _PIPE)
        self._control.ctl.trace_ring = at | (_DATA.bit_length() - 1) | _RING
        self._thread = Beside(self._move)

    def close(self) -> None:
        """Readers are at the end."""
        self._over = True
        if self._thread:
            self._wake()
            self._thread.join(1.0)
        os.close(self._fifo)

    def _wake(self) -> None:
        from libbpf_shim._native import ffi, lib

        ctl = self._control.ctl
        ctl.trace_seq = int(ctl.trace_seq) + 1 & 0xFFFFFFFF  # others write it too
        lib.shim_native_futex_wake(ffi.addressof(self._control.ctl, "trace_seq"), 1)

    def _move(self) -> None:
        from libbpf_shim._native import lib

        ctl = self._control.ctl
        while not self._over:
            seen = int(ctl.trace_seq)
            for line in self._drain():
                self._backlog.append(line)
                self._waiting += len(line)
            self._write()
            if self._backlog:
                select.select([], [self._fifo], [], _PAUSE)
            else:
                lib.shim_native_trace_sleep(ctl, seen, -1)

    def _drain(self) -> list[bytes]:
        """Lines that the ring has; where some were lost, one that says so."""
        lines = []
        head, tail = self._words[_HEAD], self._words[_TAIL]
        while tail < head:
            kind, _, size = struct.unpack("<IHH", self._bytes(tail, 8))
            if size < 12:  # not what is written there
                tail = head
                break
            record = self._bytes(tail + 8, size - 8)
            if kind == _LOST:
                (lost,) = struct.unpack_from("<Q", record, 8)
                lines.append(_LOST_LINE % lost)
            else:
                lines.append(record[4:].rstrip(b"\0"))
            tail += size
        self._words[_TAIL] = tail
        return lines

    def _bytes(self, at: int, size: int) -> bytes:
        start = at % _DATA
        first = bytes(self._page[PAGE + start : PAGE + min(start + size, _DATA)])
        return first + bytes(self._page[PAGE : PAGE + size - len(first)])

    def _write(self) -> None:
        """What fits; beyond so much the oldest goes, which is told in its place."""
        while self._backlog:
            line = _LOST_LINE % self._gone if self._gone else self._backlog[0]
            try:
                done = os.write(self._fifo, line)
            except BlockingIOError:
                break
            if self._gone:  # less than PIPE_BUF: written whole
                self._gone = 0
                continue
            self._waiting -= done
            if done < len(line):
                self._backlog[0] = line[done:]
                break
            self._backlog.popleft()
        while self._waiting > _KEPT:
            self._waiting -= len(self._backlog.popleft())
            self._gone += 1
