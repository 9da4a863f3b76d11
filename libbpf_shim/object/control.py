"""The shared memory of a session: its control page and its perf area (shim_ctl.h).

Allocates links' state words and rings' places. Who dies is seen elsewhere (backend/deaths.py).
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from typing import Any

from libbpf_shim.btf import task
from libbpf_shim.btf.parse import Btf
from libbpf_shim.errors import ShimError
from libbpf_shim.object.file import sealed_memfd
from libbpf_shim.object.memory import MapMemory

PERF_SIZE = 256 << 20  # bytes, sparse
SPARE_VCPUS = 6  # so that a preempted owner of one seldom makes another run wait


class Control:
    """ctl: struct shim_ctl, mapped. owner: this process's owner word. run: a struct shim_run for
    map operations of the backend itself."""

    def __init__(self, session_id: int) -> None:
        from libbpf_shim._native import ffi, lib

        self._ffi, self._lib = ffi, lib
        self.size = ffi.sizeof("struct shim_ctl")
        self.fd = sealed_memfd("bpf-ctl", self.size)
        self._memory = mmap.mmap(self.fd, self.size)
        self.ctl: Any = ffi.cast("struct shim_ctl *", ffi.from_buffer(self._memory))
        self.perf_fd = sealed_memfd("bpf-perf", PERF_SIZE, front=0)
        self._perf = mmap.mmap(self.perf_fd, PERF_SIZE)
        self.perf_size = PERF_SIZE
        stat = os.fstat(self.fd)
        self.dev, self.ino = stat.st_dev, stat.st_ino
        self.guarded = False  # other users have this memory too: nothing in it is believed
        self._fill(session_id)
        self.memory = MapMemory(self.ctl)
        self._free_links = list(range(lib.SHIM_MAX_LINKS - 1, -1, -1))
        self._rings: dict[int, int] = {}  # offset to bytes
        self._counting = 0  # open descriptors of ENABLE_STATS
        self._shows_tasks = False

    def _fill(self, session_id: int) -> None:
        ctl, lib = self.ctl, self._lib
        ctl.magic, ctl.version, ctl.size = lib.SHIM_CTL_MAGIC, lib.SHIM_CTL_VERSION, self.size
        ctl.session_id, ctl.backend_pid = session_id, os.getpid()
        ctl.nr_real_cpus = min(os.sysconf("SC_NPROCESSORS_CONF"), lib.SHIM_MAX_VCPUS)
        self.nr_cpus = int(ctl.nr_real_cpus)  # possible ones of the machine
        most = int(lib.SHIM_MAX_VCPUS)
        self.nr_vcpus = min((os.cpu_count() or 1) + SPARE_VCPUS, most)
        ctl.nr_vcpus = self.nr_vcpus  # as loaders are shown them
        ctl.perf_size = PERF_SIZE
        lib.shim_native_slots(ctl)
        if (err := lib.shim_native_hold(self._ffi.addressof(ctl, "backend_lock"))) < 0:
            raise ShimError("OB0005", -err, "control page: lock not made")
        self.owner = self.claim_slot(os.getpid(), start_time(os.getpid()))
        self.run: Any = self._ffi.new("struct shim_run *")
        self.run.ctl = int(self._ffi.cast("uintptr_t", ctl))
        self.run.perf = int(self._ffi.cast("uintptr_t", self._ffi.from_buffer(self._perf)))
        self.run.perf_size = PERF_SIZE
        self.run.owner = self.owner | 1
        self.run.vcpu = lib.SHIM_NO_VCPU

    @property
    def seen_cpus(self) -> int:
        """Programs see no number of a CPU as great: a virtual one's, or the machine's where a run
        needs none."""
        return max(self.nr_vcpus, os.sysconf("SC_NPROCESSORS_CONF"))

    def show_tasks(self, btf: Callable[[], Btf]) -> None:
        """From now on programs find the fields of tasks, at the places that the BTF says."""
        if self._shows_tasks:
            return
        prefix = "SHIM_FIELD_"
        for name in dir(self._lib):
            if name.startswith(prefix):
                field = self.ctl.task[getattr(self._lib, name)]
                field.off, field.len = task.place(btf(), name.removeprefix(prefix))
        self._shows_tasks = True

    def claim_slot(self, pid: int, start: int) -> int:
        """An owner word for a process; EAGAIN: none is free."""
        owner = int(self._lib.shim_slot_claim(self.ctl, pid, start))
        if not owner:
            raise ShimError("OB0006", errno.EAGAIN, "session: no process slot is free")
        return owner

    def take_link(self, tgid: int) -> int:
        """A silent entry of shim_ctl.link[]; ENOSPC."""
        if not self._free_links:
            raise ShimError("OB0007", errno.ENOSPC, "session: no link is free")
        index = self._free_links.pop()
        state = self.ctl.link[index]
        state.enabled, state.tgid, state.missed = 0, tgid, 0
        return index

    def enable(self, index: int, on: bool) -> None:
        """Lets a link's program run, or silences it, in every process at once."""
        self.ctl.link[index].enabled = int(on)

    def missed(self, index: int) -> int:
        """Runs that were left out."""
        return int(self.ctl.link[index].missed)

    def count_runs(self, more: int) -> None:
        """One descriptor of ENABLE_STATS more (1) or less (-1)."""
        self._counting += more
        self.ctl.stats = int(self._counting > 0)

    def take_stat(self, prog_id: int) -> None:
        """Lets a program's runs be counted, unless another has its place."""
        stat = self.ctl.stat[prog_id % self._lib.SHIM_MAX_STATS]
        if not stat.prog_id:
            stat.run_cnt = stat.run_time_ns = stat.ended = 0
            stat.prog_id = prog_id

    def runs(self, prog_id: int) -> tuple[int, int]:
        """Runs of a program and nanoseconds they took, as far as they were counted."""
        stat = self.ctl.stat[prog_id % self._lib.SHIM_MAX_STATS]
        return (int(stat.run_cnt), int(stat.run_time_ns)) if stat.prog_id == prog_id else (0, 0)

    def ended(self, prog_id: int) -> int:
        """Runs of a program that had used up the instructions that its class grants."""
        stat = self.ctl.stat[prog_id % self._lib.SHIM_MAX_STATS]
        return int(stat.ended) if stat.prog_id == prog_id else 0

    def put_stat(self, prog_id: int) -> None:
        """The program is gone."""
        stat = self.ctl.stat[prog_id % self._lib.SHIM_MAX_STATS]
        if stat.prog_id == prog_id:
            stat.prog_id = 0

    def put_link(self, index: int) -> None:
        """After every process has forgotten it."""
        self.enable(index, False)
        self._free_links.insert(0, index)

    def take_ring(self, length: int) -> int:
        """Room in the perf area, zeroed; its offset. ENOMEM. A place that was given back is used
        again only when nothing else is left: a run under way may still write there."""
        at = max((start + size for start, size in self._rings.items()), default=0)
        if at + length > PERF_SIZE:
            at = 0
            for start, size in sorted(self._rings.items()):
                if start - at >= length:
                    break
                at = start + size
        if at + length > PERF_SIZE:
            raise ShimError("OB0008", errno.ENOMEM, f"session: no {length} bytes for a ring")
        try:
            os.posix_fallocate(self.perf_fd, at, length)
        except OSError as err:
            raise ShimError("OB0008", errno.ENOMEM, f"ring: {err.strerror}") from err
        self._rings[at] = length
        return at

    def put_ring(self, at: int) -> None:
        """Gives the room back, and its memory."""
        length = self._rings.pop(at)
        self._perf[at : at + length] = bytes(length)

    def ring(self, at: int) -> Any:
        """The bytes of the perf area from `at`, writable."""
        return memoryview(self._perf)[at:]

    def say_dead(self) -> None:
        """Tells every run that this backend ends."""
        self.ctl.backend_lock[0] |= self._lib.SHIM_BACKEND_DEAD


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat, clock ticks; 0: there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", 0) as file:
            return int(file.read(4096).rsplit(b")", 1)[1].split()[19])
    except (OSError, IndexError):
        return 0
