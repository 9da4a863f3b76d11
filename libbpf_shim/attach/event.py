"""perf_event_open(2) as loaders of BPF use it: what an attr asks for.

Rings (SW_BPF_OUTPUT), uprobes and kprobes by their PMUs (attach/function.py), tracepoints that a
process can tell of (attach/tracepoint.py), and clocks (attach/clock.py). All else is refused with
the errno of a machine that lacks it, or EOPNOTSUPP and a reason.
Source: perf_event_open(2), kernel/events/core.c, kernel/trace/trace_uprobe.c,
kernel/trace/trace_event_perf.c.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from libbpf_shim.attach import clock, function, tracepoint, uprobe
from libbpf_shim.attach.clock import Clock, Timer
from libbpf_shim.attach.function import Function
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.structs import PERF_EVENT_ATTR

TYPE_HARDWARE, TYPE_SOFTWARE, TYPE_TRACEPOINT = 0, 1, 2
TYPE_HW_CACHE, TYPE_RAW, TYPE_BREAKPOINT = 3, 4, 5
SW_CPU_CLOCK, SW_TASK_CLOCK, SW_BPF_OUTPUT = 0, 1, 10
# of struct perf_event_attr: disabled, freq, write_backward
_DISABLED, _FREQ, _BACKWARD = 1 << 0, 1 << 10, 1 << 27
_FLAGS_AT = 40
_REF_CTR_SHIFT = 32  # where attr.config has a uprobe's reference counter


@dataclass(frozen=True, slots=True)
class Ring:
    """A perf ring that programs write by bpf_perf_event_output."""

    cpu: int


@dataclass(frozen=True, slots=True)
class Uprobe:
    """path, file offset in bytes; ret: at the function's return; pid 0: every process, else one
    that started then (clock ticks). ref: offset of a reference counter, 0: none. key: of the
    file."""

    path: str
    offset: int
    ret: bool
    pid: int
    name: str = field(default="", compare=False)  # the path as it was given
    given_ref: int = field(default=0, compare=False)  # the counter as it was given
    ref: int = 0
    start: int = field(default=0, compare=False)
    key: uprobe.Key = field(default=(0, 0), compare=False)


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """event: SHIM_EVENT_*. number: its id, 0 of a raw one. size: bytes of its record (of a raw
    one: of its arguments), which programs must not read beyond. Programs run wherever it is come
    to: the kernel asks neither for the event's process nor for its CPU before it runs them."""

    event: int
    category: str
    name: str
    number: int
    size: int

    @property
    def raw(self) -> bool:
        """BPF_RAW_TRACEPOINT_OPEN's, not perf_event_open's."""
        return not self.number


@dataclass(frozen=True, slots=True)
class Request:
    """One perf_event_open: attr bytes, pid, cpu and the strings its pointers lead to. client: the
    process that asks; its working directory counts."""

    client: int
    attr: bytes
    pid: int
    cpu: int
    group: int
    flags: int
    strings: tuple[bytes, ...]

    @property
    def bits(self) -> int:
        """The flag bits of perf_event_attr."""
        return int.from_bytes(self.attr[_FLAGS_AT : _FLAGS_AT + 8].ljust(8, b"\0"), "little")

    @property
    def disabled(self) -> bool:
        """The event starts silent."""
        return bool(self.bits & _DISABLED)

    def field(self, name: str) -> int:
        at, size = PERF_EVENT_ATTR[name]
        return int.from_bytes(self.attr[at : at + size].ljust(size, b"\0"), "little")


@dataclass(frozen=True, slots=True)
class Pmus:
    """Numbers of the PMUs that loaders are shown."""

    uprobe: int
    kprobe: int

    @classmethod
    def shown(cls, library: Path) -> Pmus:
        return cls(uprobe.pmu_type("uprobe", library), function.kprobe_type(library))


def _refused(code: int, what: str) -> ShimError:
    return ShimError("AE0001", code, f"perf_event_open: {what}")


def parse(
    request: Request, pmus: Pmus, nr_cpus: int
) -> Ring | Uprobe | Timer | Clock | Tracepoint | Function:
    """The event, or ShimError: EINVAL, ENOENT, ESRCH, EOPNOTSUPP (a reason in the message)."""
    kind, config = request.field("type"), request.field("config")
    if request.group != -1 or request.flags & 4:
        raise _refused(errno.EOPNOTSUPP, "groups of events are not there")
    named = request.pid or request.client
    if request.pid != -1:
        # of one process, whichever of its threads is named; 0 is the caller's
        request = replace(request, pid=uprobe.group_of(request.pid or request.client))
    if not -(request.pid > 0) <= request.cpu < nr_cpus:
        raise _refused(errno.EINVAL, f"CPU {request.cpu} of {nr_cpus}")
    if kind == pmus.uprobe:
        return _uprobe(request, config)
    if kind == pmus.kprobe:
        symbol = request.strings[0] if request.strings else b""
        return function.parse(symbol, request.field("config2"), bool(config & 1))
    if kind == TYPE_SOFTWARE and config == SW_BPF_OUTPUT:
        if request.bits & _BACKWARD:
            raise _refused(errno.EOPNOTSUPP, "rings are not written backwards")
        return Ring(request.cpu)
    if kind == TYPE_SOFTWARE and config in (SW_CPU_CLOCK, SW_TASK_CLOCK):
        return clock.parse(request.field("sample_period"), bool(request.bits & _FREQ),
                           request.bits, request.cpu, request.pid, named)
    if kind == TYPE_SOFTWARE and config in clock.FAULTS:
        return clock.faults(config, request.field("sample_period"),
                            bool(request.bits & _FREQ), request.cpu, request.pid)
    if kind == TYPE_TRACEPOINT:
        return _tracepoint(config)
    if kind in (TYPE_HARDWARE, TYPE_HW_CACHE, TYPE_RAW):
        raise _refused(errno.ENOENT, "no counters of the processor")
    if kind == TYPE_SOFTWARE:
        raise _refused(errno.EOPNOTSUPP, f"software event {config}: only the kernel counts it")
    if kind == TYPE_BREAKPOINT:
        raise _refused(errno.EOPNOTSUPP, "watchpoints are not there")
    raise _refused(errno.ENOENT, f"no event of type {kind}")


def _uprobe(request: Request, config: int) -> Uprobe:
    """perf_uprobe_init(), create_local_trace_uprobe(). The CPU is not looked at: programs run
    before it would be."""
    if not request.strings or not request.strings[0]:
        raise _refused(errno.EINVAL, "uprobe without a path")
    file = uprobe.find(request.client, request.strings[0], errno.EINVAL)
    offset, ref, pid = request.field("config2"), config >> _REF_CTR_SHIFT, max(request.pid, 0)
    return Uprobe(
        file.path, offset, bool(config & 1), pid, os.fsdecode(request.strings[0]), ref,
        uprobe.place(file, offset, ref), uprobe.start_of(pid) if pid else 0, file.key)


def _tracepoint(number: int) -> Tracepoint:
    """perf_trace_init(): EINVAL for an id that is none."""
    known = tracepoint.by_id(number, tracepoint.tracefs())
    if known is None:
        raise _refused(errno.EINVAL, f"no tracepoint has the id {number}")
    event = tracepoint.event(known.category, known.name)
    if event is None:
        raise _refused(errno.EOPNOTSUPP, f"tracepoint {known}: only the kernel comes by there")
    return Tracepoint(event, known.category, known.name, number, known.size)


def raw_tracepoint(name: str) -> Tracepoint:
    """bpf_get_raw_tracepoint(): ENOENT. Both have two arguments."""
    event = tracepoint.raw_event(name)
    if event is None:
        raise ShimError("AE0002", errno.ENOENT, f"raw tracepoint {name} is not there")
    return Tracepoint(event, "", name, 0, 16)
