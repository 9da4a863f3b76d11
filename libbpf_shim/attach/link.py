"""Events and links as objects: what a program is attached to, for how long.

An event is a perf_event_open descriptor; a program reaches it by PERF_EVENT_IOC_SET_BPF (then
the event holds it) or by LINK_CREATE (then the link does).
Source: kernel/events/core.c (perf_event_set_bpf_prog), kernel/bpf/syscall.c
(bpf_perf_link_attach).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from libbpf_shim.attach.attachment import Attachment, Code, Event, Tick
from libbpf_shim.attach.clock import Clock, Timer, profiles
from libbpf_shim.attach.event import Ring, Tracepoint, Uprobe
from libbpf_shim.attach.function import Function
from libbpf_shim.errors import ShimError
from libbpf_shim.object.control import Control
from libbpf_shim.object.file import PAGE, SocketFile
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object
from libbpf_shim.uapi.bpf import bpf_prog_type

if TYPE_CHECKING:
    from libbpf_shim.attach.deliver import Delivery

_DATA_OFFSET, _DATA_SIZE = 1040, 1048  # struct perf_event_mmap_page
_RING, _EVENT = 64, 128  # SHIM_PERF_*


class RingObject(Object):
    """A perf ring. Its place in the perf area is taken by the first mmap."""

    kind = 5

    def __init__(self, number: int, ring: Ring, control: Control) -> None:
        self.socket = SocketFile()
        super().__init__(number, self.socket)
        self.cpu, self.control = ring.cpu, control
        self.at, self.length = -1, 0
        self._places: list[tuple[MapObject, bytes]] = []  # elements of PERF_EVENT_ARRAYs

    def map(self, length: int) -> int:
        """mmap(2) of 1 + 2^n pages: offset into the perf area. EINVAL, ENOMEM."""
        pages, rest = divmod(length, PAGE)
        if rest or pages < 2 or (pages - 1) & (pages - 2):
            raise ShimError("AL0001", errno.EINVAL, f"ring of {length} bytes: not 1 + 2^n pages")
        if self.at >= 0 and length != self.length:
            raise ShimError("AL0001", errno.EINVAL, f"ring: mapped with {self.length} bytes")
        if self.at < 0:
            self.at, self.length = self.control.take_ring(length), length
            page = self.control.ring(self.at)
            struct.pack_into("<QQ", page, _DATA_OFFSET, PAGE, length - PAGE)
            for where, key in self._places:
                where.update(key, self.slot(), 0)
        return self.at

    def slot(self) -> bytes:
        """struct shim_perf_slot: what programs find it by; size 0 before it is mapped."""
        where = self.at | (self.length - PAGE).bit_length() - 1 if self.length else 0
        return (where | _RING).to_bytes(8, "little")

    def placed(self, where: Object, key: bytes) -> None:
        assert isinstance(where, MapObject)
        self._places.append((where, key))

    def taken(self, where: Object, key: bytes) -> None:
        assert isinstance(where, MapObject)
        self._places.remove((where, key))

    def end(self) -> None:
        if self.at >= 0:
            self.control.put_ring(self.at)


class Attached:
    """A program on an event: one entry of shim_ctl.link[] and what was delivered."""

    def __init__(
        self, event: EventObject, prog: ProgObject, cookie: int, link_id: int, loader: int
    ) -> None:
        self.event, self.prog, self.loader = event, prog, loader
        self.cookie, self.link_id = cookie, link_id
        prog.require_runnable()
        spec = event.spec
        self.index = event.control.take_link(spec.pid if isinstance(spec, Uprobe) else 0)
        self.attachment: Attachment | None = None
        try:
            if isinstance(spec, Uprobe):
                place = Code(spec.path, spec.offset, spec.ret, ref=spec.ref)
                self.attachment = Attachment(
                    link_id, self.index, prog, place, cookie, spec.pid, spec.start)
                event.delivery.attach(self.attachment)
            elif isinstance(spec, Tracepoint):
                self.attachment = Attachment(
                    link_id, self.index, prog, Event(spec.event, spec.name, spec.number), cookie,
                    0)
                event.delivery.attach(self.attachment)
            elif isinstance(spec, Function):
                at = Event(spec.event, spec.name, ret=spec.ret)
                self.attachment = Attachment(link_id, self.index, prog, at, cookie, 0)
                event.delivery.attach(self.attachment)
            elif isinstance(spec, Clock):
                tick = Tick(spec.period, spec.cpu, spec.tid, spec.kind)
                self.attachment = Attachment(link_id, self.index, prog, tick, cookie, spec.pid)
                event.delivery.attach(self.attachment)
            else:
                event.delivery.arrivals.want_runnable(loader, prog, self.index)
                event.delivery.intervals.begun(event, prog)
        except BaseException:
            event.control.put_link(self.index)
            raise
        # PERF_EVENT_IOC_DISABLE does not keep a uprobe's program from running
        event.control.enable(self.index, event.enabled or isinstance(spec, Uprobe))

    def end(self) -> None:
        """Silent everywhere at once, then out of every process."""
        control, delivery = self.event.control, self.event.delivery
        control.enable(self.index, False)
        if self.attachment:
            delivery.detach(self.attachment)
        else:
            delivery.intervals.ended(self.event, self.prog)
            delivery.arrivals.drop_runnable(self.loader, self.prog.id)
        control.put_link(self.index)


_TAKES = {
    Timer: bpf_prog_type.BPF_PROG_TYPE_PERF_EVENT,
    Clock: bpf_prog_type.BPF_PROG_TYPE_PERF_EVENT,
    Uprobe: bpf_prog_type.BPF_PROG_TYPE_KPROBE,
    Function: bpf_prog_type.BPF_PROG_TYPE_KPROBE,
    Tracepoint: bpf_prog_type.BPF_PROG_TYPE_TRACEPOINT,
}


def _within(spec: Tracepoint, prog: ProgObject) -> None:
    """The program reads nothing behind the record: EACCES, of a raw tracepoint EINVAL."""
    end = max((at + size for at, size in prog.facts.ctx_loads), default=0)
    if end > spec.size:
        code = errno.EINVAL if spec.raw else errno.EACCES
        raise ShimError("AL0004", code, f"{spec.name}: the program reads {end} bytes of its "
                        f"context, expected {spec.size}")


class EventObject(Object):
    """A uprobe, a kprobe, a tracepoint or a timer. enabled: not PERF_EVENT_IOC_DISABLE'd; a
    tracepoint's and a kprobe's programs run all the same (trace_call_bpf() does not ask)."""

    kind = 6

    def __init__(
        self, number: int, spec: Uprobe | Timer | Clock | Tracepoint | Function,
        control: Control, delivery: Delivery,
    ) -> None:
        if isinstance(spec, Uprobe):
            delivery.uprobes.take(spec.key, spec.offset, spec.ref)
        self.socket = SocketFile()
        super().__init__(number, self.socket)
        self.spec, self.control, self.delivery = spec, control, delivery
        self.enabled = True
        self.attached: Attached | None = None

    def slot(self) -> bytes:
        """struct shim_perf_slot: programs find that it takes no output."""
        return _EVENT.to_bytes(8, "little")

    def check(self, prog: ProgObject) -> None:
        """The program fits and none is there: EINVAL, EEXIST (a clock looks for that first)."""
        timer = isinstance(self.spec, Timer | Clock)
        if timer and self.attached:
            raise ShimError("AL0003", errno.EEXIST, "event: has a program already")
        wanted = _TAKES[type(self.spec)]
        if prog.program.prog_type != wanted and not self.raw:
            raise ShimError("AL0002", errno.EINVAL, f"event: takes {wanted.name} programs")
        if not isinstance(self.spec, Function) and not prog.entries:
            prog.require_no_override()
        if prog.entries and isinstance(self.spec, Uprobe):
            spec = self.spec
            prog.entries.require(spec.path, spec.key, spec.offset, spec.ret, prog.overrides)
        elif prog.entries:
            prog.entries.refuse(type(self.spec).__name__.lower())
        if isinstance(self.spec, Tracepoint):
            _within(self.spec, prog)
        if self.attached:
            raise ShimError("AL0003", errno.EEXIST, "event: has a program already")

    @property
    def raw(self) -> bool:
        """A raw tracepoint's, whose programs are of several types and were looked at before."""
        return isinstance(self.spec, Tracepoint) and self.spec.raw

    def attach(self, prog: ProgObject, cookie: int, link_id: int, loader: int) -> None:
        """Runs the program at this event from now on. EINVAL, EEXIST, or why it cannot be."""
        self.check(prog)
        if isinstance(self.spec, Timer) and profiles(prog):
            self.spec = Clock(self.spec.period_ns, 0)
        self.attached = Attached(self, prog, cookie, link_id, loader)
        if isinstance(self.spec, Clock) and self.spec.cpu > 0 and not self.spec.kind:
            for other in self.delivery.intervals.of(prog, self.spec.period):
                other.profile()

    def profile(self) -> None:
        """An interval that was one of a profile's events all along."""
        assert self.attached and isinstance(self.spec, Timer)
        was = self.attached
        self.attached = None
        was.end()
        self.spec = Clock(self.spec.period_ns, 0)
        self.attached = Attached(self, was.prog, was.cookie, was.link_id, was.loader)

    def detach(self) -> None:
        if self.attached:
            attached, self.attached = self.attached, None
            attached.end()

    def enable(self, on: bool) -> None:
        """PERF_EVENT_IOC_ENABLE, _DISABLE."""
        self.enabled = on or not isinstance(self.spec, Timer | Clock)
        if self.attached:
            self.control.enable(self.attached.index, self.enabled)

    def end(self) -> None:
        self.detach()
        if isinstance(self.spec, Uprobe):
            self.delivery.uprobes.put(self.spec.key, self.spec.offset)


class LinkObject(Object):
    """A link of any type: it holds its program."""

    kind = 4

    def __init__(self, number: int, prog: ProgObject, cookie: int) -> None:
        self.socket = SocketFile()
        super().__init__(number, self.socket)
        self.prog, self.cookie = prog, cookie


class PerfLink(LinkObject):
    """A BPF_LINK_TYPE_PERF_EVENT link."""

    def __init__(
        self, number: int, event: EventObject, prog: ProgObject, cookie: int, loader: int
    ) -> None:
        event.check(prog)
        super().__init__(number, prog, cookie)
        self.event = event
        try:
            event.attach(prog, cookie, number, loader)
        except BaseException:
            self.socket.close()
            raise
        self.hold(event)
        self.hold(prog)

    def end(self) -> None:
        self.event.detach()


class RawLinkObject(PerfLink):
    """A BPF_LINK_TYPE_RAW_TRACEPOINT link. Its event is nobody else's."""

    def __init__(
        self, number: int, spec: Tracepoint, prog: ProgObject, cookie: int, loader: int,
        control: Control, delivery: Delivery,
    ) -> None:  # fmt: skip
        event = EventObject(0, spec, control, delivery)
        try:
            super().__init__(number, event, prog, cookie, loader)
        except BaseException:
            event.socket.close()
            raise

    def end(self) -> None:
        super().end()
        self.event.socket.close()
