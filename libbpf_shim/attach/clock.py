"""Clocks: software events of CPU time (PERF_COUNT_SW_CPU_CLOCK, _TASK_CLOCK) that run programs.

On the kernel such an event of a CPU fires every so many nanoseconds, whoever runs there. A loader
uses it in two ways. An interval is one event on CPU 0: something that happens so often. A profile
is an event on each CPU: what the CPUs are found doing. Here the former is a timer of the loader's
process, and the latter ticks of the CPU time of threads of instrumented processes
(csrc/agent/clock.c). Which of the two CPU 0's event is shows when the same program comes to
another CPU.
Source: kernel/events/core.c (cpu_clock_event_init, perf_swevent_init_hrtimer).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libbpf_shim.errors import ShimError
from libbpf_shim.object.prog import ProgObject

if TYPE_CHECKING:
    from libbpf_shim.attach.link import EventObject
    from libbpf_shim.elf.module import Module

_NS = 1_000_000_000
_LEAST = 10_000  # ns: no clock is faster, perf_swevent_start_hrtimer()
_MOST_HZ = 100_000  # kernel.perf_event_max_sample_rate as it is set at boot
_INHERIT = 1 << 1  # perf_event_attr.inherit
_BEGINNINGS = ("__ctype_init", "runtime.mstart.abi0", "runtime.mstart")  # glibc, Go
# helpers that ask who runs: pid_tgid, uid_gid, comm, stackid, get_stack
_WHO = tuple(f"helper:{n}" for n in (14, 15, 16, 27, 67))


@dataclass(frozen=True, slots=True)
class Timer:
    """Every period_ns, on one CPU."""

    period_ns: int


@dataclass(frozen=True, slots=True)
class Clock:
    """Every `period` ns of a thread's CPU time, or so many page faults of its process. cpu: while
    it is on this CPU of the machine, -1: on any; pid 0: of every process; tid 0: of every thread.
    kind: SHIM_CLOCK_*."""

    period: int
    cpu: int
    pid: int = 0
    tid: int = 0
    kind: int = 0


# PERF_COUNT_SW_PAGE_FAULTS, _MIN, _MAJ
FAULTS = {2: 1, 5: 2, 6: 3}


def faults(config: int, period: int, freq: bool, cpu: int, pid: int) -> Clock:
    """Page faults, which a process counts. ShimError EINVAL, EOPNOTSUPP."""
    if freq:
        raise ShimError("AC0001", errno.EOPNOTSUPP,
                        "perf_event_open: page faults at a frequency are not there")
    if not period or period >> 63:
        raise ShimError("AC0001", errno.EINVAL, f"perf_event_open: period {period}")
    return Clock(period, cpu, max(pid, 0), 0, FAULTS[config])


def parse(period: int, freq: bool, bits: int, cpu: int, pid: int, tid: int) -> Timer | Clock:
    """The clock of an attr; pid -1: of a CPU, else the process, tid the thread of it that was
    named. ShimError EINVAL."""
    if freq and period > _MOST_HZ or period >> 63:
        raise ShimError("AC0001", errno.EINVAL, f"perf_event_open: frequency or period {period}")
    if not period:
        raise ShimError("AC0001", errno.EINVAL, "perf_event_open: a clock without a period")
    every = max(_NS // period if freq else period, _LEAST)
    if pid > 0:
        return Clock(every, cpu, pid, 0 if bits & _INHERIT else tid)
    return Clock(every, cpu) if cpu else Timer(every)


class Intervals:
    """Events of CPU 0 that run as intervals, by their program."""

    def __init__(self) -> None:
        self._events: dict[int, list[EventObject]] = {}

    def begun(self, event: EventObject, prog: ProgObject) -> None:
        self._events.setdefault(prog.id, []).append(event)

    def ended(self, event: EventObject, prog: ProgObject) -> None:
        events = self._events.get(prog.id, [])
        if event in events:
            events.remove(event)
        if not events:
            self._events.pop(prog.id, None)

    def of(self, prog: ProgObject, period_ns: int) -> list[EventObject]:
        """Those of that period that turn out to be part of a profile."""
        return [e for e in self._events.get(prog.id, [])
                if isinstance(e.spec, Timer) and e.spec.period_ns == period_ns]


def profiles(prog: ProgObject) -> bool:
    """On a machine with one CPU there is no other event to tell by: a program that asks who runs
    is a profile's."""
    return os.cpu_count() == 1 and any(r.symbol in _WHO for r in prog.image.relocs)


def beginning(module: Module) -> int:
    """Where each new thread of the C library, or of Go, begins; 0: that is not known."""
    found = [symbol for name in _BEGINNINGS if (symbol := module.find(name))]
    return found[0].vaddr if found else 0
