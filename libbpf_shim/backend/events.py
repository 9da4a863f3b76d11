"""perf_event_open(2), its ioctls and its mmap, for one session."""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from libbpf_shim.attach.clock import Timer
from libbpf_shim.attach.event import (
    SW_BPF_OUTPUT,
    TYPE_SOFTWARE,
    Request,
    Ring,
    Tracepoint,
    parse,
)
from libbpf_shim.attach.function import Function
from libbpf_shim.attach.link import EventObject, RingObject
from libbpf_shim.backend.session import Session
from libbpf_shim.errors import ShimError
from libbpf_shim.object.prog import ProgObject

_OPEN = struct.Struct("<iiiIQ")  # struct shim_perf_open
_IOCTL = struct.Struct("<iIQQiIQQQQ")  # struct shim_perf_ioctl
_MMAP = struct.Struct("<iIQQQ")  # struct shim_perf_mmap
_ACT_TIMER = struct.Struct("<IIQQ")  # struct shim_act_timer
ACT_TIMER_START, ACT_TIMER_STOP = 2, 3
_ENABLE, _DISABLE, _SET_BPF = 0x2400, 0x2401, 0x40042408  # PERF_EVENT_IOC_*
_ID = 0x80082407
# what means nothing to an event that only runs a program: REFRESH, RESET, PERIOD, SET_OUTPUT,
# SET_FILTER, PAUSE_OUTPUT, QUERY_BPF, MODIFY_ATTRIBUTES (perf_ioctl())
_OF_SAMPLES = {0x2402: errno.EINVAL, 0x2403: 0, 0x40082404: errno.EINVAL, 0x2405: 0,
               0x40082406: errno.EINVAL, 0x40042409: errno.EINVAL, 0xC008240A: errno.EINVAL,
               0x4008240B: errno.EINVAL}


@dataclass(frozen=True, slots=True)
class Answer:
    """ret with what travels beside it. fd: closed once it is sent; shared: descriptors that stay
    open here."""

    ret: int = 0
    payload: bytes = b""
    action: int = 0
    fd: int = -1
    shared: tuple[int, ...] = ()


def timer_action(event: EventObject) -> tuple[int, bytes]:
    """What the loader does about a timer whose program or state has changed: SHIM_ACT_*."""
    attached = event.attached
    if not isinstance(event.spec, Timer) or attached is None:
        return 0, b""
    action = ACT_TIMER_START if event.enabled else ACT_TIMER_STOP
    return action, _ACT_TIMER.pack(
        attached.prog.id, attached.index, event.spec.period_ns, event.socket.key[1])


class Events:
    """The events of one session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.store = session.store

    def open(self, payload: bytes, client: int) -> Answer:
        """SHIM_OP_PERF_OPEN."""
        pid, cpu, group, size, flags = _OPEN.unpack_from(payload)
        attr = payload[_OPEN.size : _OPEN.size + size]
        strings = tuple(payload[_OPEN.size + size :].split(b"\0")[:-1])
        request = Request(client, attr, pid, cpu, group, flags, strings)
        control, served = self.session.control, self.session.served
        if served:
            kind = request.field("type")
            if kind == self.session.pmus.uprobe:
                served.place(strings[0] if strings else b"")
            elif (kind, request.field("config")) != (TYPE_SOFTWARE, SW_BPF_OUTPUT):
                from libbpf_shim.backend.served import refused

                raise refused("events but uprobes: not for other users' loaders")
            served.event(sum(len(self.store.of_kind(c)) for c in (EventObject, RingObject)))
        spec = parse(request, self.session.pmus, control.nr_vcpus)
        if self.session.gate and not isinstance(spec, Ring):
            self.session.gate.event(spec)
        number = self.session.unnamed()
        obj: RingObject | EventObject
        if isinstance(spec, Ring):
            obj = RingObject(number, spec, control)
        else:
            obj = EventObject(number, spec, control, self.session.delivery)
            obj.enabled = not request.disabled or isinstance(spec, Tracepoint | Function)
        self.store.add(obj)
        obj.open = True
        return Answer(fd=obj.socket.hand_out())

    def ioctl(self, payload: bytes, client: int) -> Answer:
        """SHIM_OP_PERF_IOCTL; ENOTTY for those that are not there."""
        _, _, dev, ino, _, _, prog_dev, prog_ino, request, _ = _IOCTL.unpack_from(payload)
        obj = self.store.by_file.get((dev, ino))
        if isinstance(obj, RingObject) and request in (_ENABLE, _DISABLE):
            return Answer()
        if isinstance(obj, EventObject) and request in _OF_SAMPLES:
            if code := _OF_SAMPLES[request]:
                raise ShimError("BE0001", code, f"event: ioctl {request:#x}")
            return Answer()
        if isinstance(obj, EventObject | RingObject) and request == _ID:
            return Answer(payload=struct.pack("<Q", obj.id))
        if not isinstance(obj, EventObject):
            code = errno.EINVAL if request == _SET_BPF else errno.ENOTTY
            raise ShimError("BE0001", code, f"event: ioctl {request:#x}")
        if request == _SET_BPF:
            prog = self.store.at((prog_dev, prog_ino), ProgObject)
            if self.session.gate:
                self.session.gate.event(obj.spec, prog)
            obj.attach(prog, 0, self.session.counters.next("link"), client)
            obj.hold(prog)
        elif request in (_ENABLE, _DISABLE):
            obj.enable(request == _ENABLE)
        else:
            raise ShimError("BE0001", errno.ENOTTY, f"event: ioctl {request:#x}")
        action, data = timer_action(obj)
        return Answer(payload=data, action=action)

    def mmap(self, payload: bytes) -> Answer:
        """SHIM_OP_PERF_MMAP: where in the perf area."""
        _, _, dev, ino, length = _MMAP.unpack_from(payload)
        ring = self.store.at((dev, ino), RingObject)
        return Answer(payload=struct.pack("<Q", ring.map(length)))
