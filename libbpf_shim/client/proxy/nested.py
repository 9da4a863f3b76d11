"""What programs of a test run do in the name of the loader that is served: bpf(2), close(2), names
and reads, in the place of the surface's own (csrc/surface/calls.c).

They run here, so what an attr of theirs leads to is memory of this process; descriptors are the
loader's, as is what the kernel takes for its memory even so. Nobody can close a descriptor of
another process: such a number leads to an empty file from then on, until the next one is wanted.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

from libbpf_shim.client import inprocess
from libbpf_shim.client.proxy import seccomp, surface
from libbpf_shim.client.proxy.attr import LocalAttr
from libbpf_shim.client.proxy.process import Here, Waiting
from libbpf_shim.client.proxy.seccomp import Call, Listener

log = logging.getLogger("libbpf_shim.client")
_SYMBOL: Final = 32  # SHIM_FIND_SYMBOL: no BTF_KIND_*
_BPF = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_uint32)
_CLOSE = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_int)
_FIND = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_uint32, ctypes.c_void_p,
                         ctypes.POINTER(ctypes.c_uint64))
_READ = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32)


class _Caller(ctypes.Structure):
    """struct shim_caller."""

    _fields_ = (("bpf", _BPF), ("close", _CLOSE), ("find", _FIND), ("read", _READ))


class Nested:
    """own: a descriptor of ours for a number of the process, or -1; cpus: possible ones."""

    def __init__(
        self, listener: Listener, own: Callable[[Waiting, int], int], cpus: Callable[[], int]
    ) -> None:
        self._listener, self._own, self._cpus = listener, own, cpus
        self._left: dict[int, set[int]] = {}  # numbers that lead to the empty file, by process
        written = os.memfd_create("closed")
        self._empty = os.open(f"/proc/self/fd/{written}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(written)
        self._lock, self._now = threading.Lock(), threading.local()
        place = ctypes.POINTER(_Caller).in_dll(inprocess.library(), "shim_run_caller")
        self._surface = place.contents
        self._caller = _Caller(_BPF(self._bpf), _CLOSE(self._close), _FIND(self._find),
                               _READ(self._read))
        place.contents = self._caller

    @contextlib.contextmanager
    def of(self, call: Call, waiting: Waiting) -> Iterator[None]:
        """Meanwhile runs on this thread are in the name of that one."""
        self._now.of = call, waiting
        try:
            yield
        finally:
            self._now.of = None

    def _do(self, work: Callable[[Call, Waiting], int]) -> int:
        """Negative errno where it fails."""
        try:
            now = getattr(self._now, "of", None)
            return work(*now) if now else -errno.EOPNOTSUPP  # a timer's
        except OSError as error:
            return -(error.errno or errno.EIO)
        except Exception:
            log.exception("a program's call")
            return -errno.EIO

    def _bpf(self, cmd: int, uattr: int, size: int) -> int:
        def work(call: Call, waiting: Waiting) -> int:
            with contextlib.closing(Here()) as here:
                local = LocalAttr(here, cmd, uattr, size, lambda n: self._own(waiting, n),
                                  self._cpus, waiting)
                try:
                    local.prepare()
                    ret = surface.syscall(seccomp.SYS_BPF, cmd, local.address, size)
                    local.finish(ret)
                finally:
                    local.close()
            return self._theirs(call, waiting, ret) if local.gives(ret) else ret

        return self._do(work)

    def _theirs(self, call: Call, waiting: Waiting, fd: int) -> int:
        try:
            return self._listener.add(call, fd, self._free(waiting))
        finally:
            surface.close(fd)

    def _free(self, waiting: Waiting) -> int:
        """A number that still leads to the empty file, nobody's from now on; -1: none."""
        found = os.fstat(self._empty)
        with self._lock:
            left = self._left.get(waiting.pid, set())
            while left:
                number = min(left)
                left.discard(number)
                if waiting.identity(number) == (found.st_dev, found.st_ino):
                    return number
        return -1

    def _close(self, number: int) -> int:
        def work(call: Call, waiting: Waiting) -> int:
            if number < 0 or not waiting.name(number):
                return -errno.EBADF
            self._listener.add(call, self._empty, number)
            with self._lock:
                self._left.setdefault(waiting.pid, set()).add(number)
            return 0

        return self._do(work)

    def _find(self, kind: int, name: int, found: ctypes._Pointer[ctypes.c_uint64]) -> int:
        def work(call: Call, waiting: Waiting) -> int:
            ret = int(self._surface.find(kind, name, found))
            fd, number = divmod(found[0], 1 << 32)
            if not ret and kind < _SYMBOL and fd:
                found[0] = self._theirs(call, waiting, fd) << 32 | number
            return ret

        return self._do(work)

    def _read(self, to: int, start: int, size: int) -> int:
        def work(call: Call, waiting: Waiting) -> int:
            ctypes.memmove(to, waiting.read(start, size), size)
            return 0

        return self._do(work)
