"""LINK_CREATE and what is done with links; RAW_TRACEPOINT_OPEN, ITER_CREATE, TASK_FD_QUERY.

Source: kernel/bpf/syscall.c, link_create() and what it calls; kernel/trace/bpf_trace.c.
"""

from __future__ import annotations

import errno
import os
import struct

from libbpf_shim.attach import tracepoint
from libbpf_shim.attach.event import Tracepoint, Uprobe, raw_tracepoint
from libbpf_shim.attach.function import KERNEL_TYPE, Function
from libbpf_shim.attach.link import EventObject, LinkObject, PerfLink, RawLinkObject, RingObject
from libbpf_shim.attach.multi import MultiLink
from libbpf_shim.backend.command import Family, RefusedError, Table
from libbpf_shim.backend.commands_attach import device
from libbpf_shim.backend.events import timer_action
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.btf.kinds import TYPEDEF
from libbpf_shim.errors import ShimError
from libbpf_shim.object import attach_type
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd, bpf_prog_type, bpf_task_fd_type

_A, _P = bpf_attach_type, bpf_prog_type
ENOTSUPP = 524
_REPLACE = 1 << 2  # BPF_F_REPLACE
_SESSIONS = (_A.BPF_TRACE_KPROBE_MULTI, _A.BPF_TRACE_KPROBE_SESSION)
_UPROBES = (_A.BPF_TRACE_UPROBE_MULTI, _A.BPF_TRACE_UPROBE_SESSION)
_NETKIT = (_A.BPF_NETKIT_PRIMARY, _A.BPF_NETKIT_PEER)
_RAW = (_P.BPF_PROG_TYPE_RAW_TRACEPOINT, _P.BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE)
_TRACING_RAW = (_P.BPF_PROG_TYPE_TRACING, _A.BPF_TRACE_RAW_TP)
# verifier/kernel/target.py's, without which the verifier need not be loaded
_OF_BTF = (_P.BPF_PROG_TYPE_TRACING, _P.BPF_PROG_TYPE_STRUCT_OPS, _P.BPF_PROG_TYPE_EXT,
           _P.BPF_PROG_TYPE_LSM)
_FD_QUERY = struct.Struct("<IQIIQQ")  # buf_len, buf, prog_id, fd_type, probe_offset, probe_addr


def _refused(what: str, code: int = errno.EINVAL) -> ShimError:
    return ShimError("BC0012", code, f"link: {what}")


class LinkCommands(Family):
    """Links."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_LINK_CREATE: ("link_create", "uprobe_multi.pid", self.link_create),
            c.BPF_LINK_UPDATE: ("link_update", "old_prog_fd", self.link_update),
            c.BPF_LINK_DETACH: ("link_detach", "link_fd", self.link_detach),
            c.BPF_RAW_TRACEPOINT_OPEN: ("raw_tracepoint", "cookie", self.raw_tracepoint),
            c.BPF_ITER_CREATE: ("iter_create", "flags", self.iter_create),
            c.BPF_TASK_FD_QUERY: ("task_fd_query", "probe_addr", self.task_fd_query),
        }

    def link_create(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_LINK_CREATE of links to perf events, to many uprobes, and of raw tracepoints that a
        program names by its BTF id; others fail as in a kernel without them."""
        kind = attr["attach_type"]
        if kind == _A.BPF_STRUCT_OPS:
            self.store.at(request.key(attr.signed("map_fd")), MapObject)
            raise _refused("not a struct_ops map")
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        gate = self.session.gate
        if gate:
            gate.link(kind)
        if self.session.served:
            self.session.served.event(len(self.store.of_kind(LinkObject)))
        if kind == prog.program.expected_attach_type and (name := self._of_btf(prog)):
            if attr["flags"]:
                raise _refused("flags")
            return self._raw_link(name, prog, attr["tracing.cookie"], loader)
        self._in_userspace(prog)
        if not attach_type.fits(prog.program, kind):
            raise _refused(f"attach type {kind} for a program of type {prog.program.prog_type}")
        attach_type.require(prog.program)
        if kind in _UPROBES and kind == prog.program.expected_attach_type:
            from libbpf_shim.backend import uprobe_multi

            asked = uprobe_multi.asked(request, attr, loader, self.session.served)
            if gate:
                gate.uprobes(asked, prog)
            return self.new(MultiLink(
                self.session.counters.next("link"), asked, prog, self.session.control,
                self.session.delivery))
        if kind != _A.BPF_PERF_EVENT:
            _other(kind, attr)
        if attr["flags"]:
            raise _refused("flags")
        event = self.store.at(request.key(attr.signed("target_fd")), Object, errno.EBADF)
        if isinstance(event, RingObject):
            if prog.program.prog_type != _P.BPF_PROG_TYPE_PERF_EVENT:
                raise _refused("a ring runs programs of perf events")
            raise _refused("programs of rings are not there", errno.EOPNOTSUPP)
        if not isinstance(event, EventObject):
            raise _refused("not a perf event", errno.EBADF)
        if gate:
            gate.event(event.spec, prog)
        obj = PerfLink(self.session.counters.next("link"), event, prog,
                       attr["perf_event.bpf_cookie"], loader)
        reply = self.new(obj)
        reply.action, reply.payload = timer_action(event)
        return reply

    def link_update(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_LINK_UPDATE: perf links have no such operation."""
        flags = attr["flags"]
        if flags & ~_REPLACE:
            raise _refused(f"flags {flags:#x}")
        self.store.at(request.key(attr.signed("link_fd")), LinkObject)
        self.store.at(request.key(attr.signed("new_prog_fd")), ProgObject)
        if flags:
            self.store.at(request.key(attr.signed("old_prog_fd")), ProgObject)
        raise _refused("its program cannot be changed")

    def link_detach(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_LINK_DETACH: perf links have no such operation."""
        self.store.at(request.key(attr.signed("link_fd")), LinkObject)
        raise ShimError("BC0013", errno.EOPNOTSUPP, "link: closed, not detached")

    def raw_tracepoint(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_RAW_TRACEPOINT_OPEN: those that a process can tell of; ENOENT."""
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        name = self._of_btf(prog)
        if name and attr["name"]:
            raise _refused("a program that names its tracepoint by its BTF id, and another name")
        if name:
            return self._raw_link(name, prog, attr["cookie"], loader)
        self._in_userspace(prog)
        if prog.program.prog_type not in _RAW:
            raise _refused("not a program of raw tracepoints")
        name = request.bytes_at(attr.offset("name")).split(b"\0")[0].decode(errors="replace")
        known = self.session.kernel_btf
        if tracepoint.raw_event(name) is None and known().find(f"btf_trace_{name}", TYPEDEF):
            raise ShimError(KERNEL_TYPE, errno.ENOENT,
                            f"raw tracepoint {name}: only the kernel comes by there")
        return self._raw_link(name, prog, attr["cookie"], loader)

    def _of_btf(self, prog: ProgObject) -> str:
        """The raw tracepoint that a tracing program was verified for, if it is here; else ""."""
        program = prog.program
        if (program.prog_type, program.expected_attach_type) != _TRACING_RAW:
            return ""
        name = self.session.kernel_btf().type(program.attach_btf_id).name
        name = name.removeprefix("btf_trace_")
        return name if tracepoint.raw_event(name) is not None else ""

    def _in_userspace(self, prog: ProgObject) -> None:
        """EOPNOTSUPP: what the program is attached to by its BTF id is the kernel's."""
        program = prog.program
        if program.prog_type not in _OF_BTF:
            return
        target = self.session.kernel_btf().type(program.attach_btf_id).name
        why = ("iterators are not there" if program.expected_attach_type == _A.BPF_TRACE_ITER
               else "only the kernel comes by there")
        raise ShimError(
            KERNEL_TYPE, errno.EOPNOTSUPP,
            f"program {prog.name or prog.id}: {target.removeprefix('btf_trace_')}: {why}")

    def _raw_link(self, name: str, prog: ProgObject, cookie: int, loader: int) -> BpfReply:
        spec = raw_tracepoint(name)
        if self.session.gate:
            self.session.gate.event(spec, prog)
        return self.new(RawLinkObject(
            self.session.counters.next("link"), spec, prog, cookie, loader,
            self.session.control, self.session.delivery))

    def iter_create(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_ITER_CREATE: no link is an iterator's."""
        if attr["flags"]:
            raise _refused("flags")
        self.store.at(request.key(attr.signed("link_fd")), LinkObject)
        raise _refused("not an iterator's")

    def task_fd_query(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_TASK_FD_QUERY: what program a descriptor of some process runs, and where."""
        if attr["flags"]:
            raise _refused("flags")
        pid, fd = attr.signed("pid"), attr["fd"]
        if pid <= 0 or not os.path.isdir(f"/proc/{pid}"):
            raise _refused(f"process {pid} is not there", errno.ENOENT)
        try:
            stat = os.stat(f"/proc/{pid}/fd/{fd}")
        except PermissionError as err:
            raise _refused(f"process {pid}: not for this user", errno.EPERM) from err
        except OSError as err:
            raise _refused(f"process {pid} has no descriptor {fd}", errno.EBADF) from err
        event = self.store.by_file.get((stat.st_dev, stat.st_ino))
        if isinstance(event, RawLinkObject):
            event = event.event
        if not isinstance(event, EventObject | RingObject):
            raise _refused("not an event", ENOTSUPP)
        if isinstance(event, RingObject) or event.attached is None:
            raise _refused("no program runs there", errno.ENOENT)
        if not isinstance(event.spec, Uprobe | Tracepoint | Function):
            raise _refused("a clock says nothing of itself", errno.EOPNOTSUPP)
        return _event(request, attr, event.attached.prog.id, event.spec)


def _other(kind: int, attr: Attr) -> None:
    """Links that are not there. EINVAL, ENODEV, EOPNOTSUPP."""
    if kind == _A.BPF_XDP:
        try:
            device(attr["target_ifindex"])
        except ShimError as error:
            raise _refused(error.message) from error
        raise _refused("network devices take no programs here", errno.EOPNOTSUPP)
    if kind in (_A.BPF_TCX_INGRESS, _A.BPF_TCX_EGRESS):
        device(attr["target_ifindex"])
        raise _refused("network devices take no programs here")
    if kind in _NETKIT:
        raise _refused(f"attach type {kind} is not there")
    if kind in _SESSIONS:
        raise _refused("kprobe multi links are not there", errno.EOPNOTSUPP)
    raise _refused(f"attach type {kind}")


def _said(spec: Uprobe | Tracepoint | Function) -> tuple[bytes, int, int, int]:
    """bpf_get_perf_event_info(): name, kind, offset, and what stands for the address."""
    if isinstance(spec, Tracepoint):
        kind = (bpf_task_fd_type.BPF_FD_TYPE_RAW_TRACEPOINT if spec.raw
                else bpf_task_fd_type.BPF_FD_TYPE_TRACEPOINT)
        return spec.name.encode(), kind, 0, 0
    if isinstance(spec, Function):
        kind = (bpf_task_fd_type.BPF_FD_TYPE_KRETPROBE if spec.ret
                else bpf_task_fd_type.BPF_FD_TYPE_KPROBE)
        return spec.name.encode(), kind, 0, 0
    kind = (bpf_task_fd_type.BPF_FD_TYPE_URETPROBE if spec.ret
            else bpf_task_fd_type.BPF_FD_TYPE_UPROBE)
    return os.fsencode(spec.name or spec.path), kind, spec.offset, spec.given_ref


def _event(
    request: BpfRequest, attr: Attr, prog_id: int, spec: Uprobe | Tracepoint | Function
) -> BpfReply:
    """bpf_task_fd_query_copy(): the name, cut to its buffer (ENOSPC), and the numbers."""
    name, kind, offset, address = _said(spec)
    at, room = attr.offset("buf"), request.room(attr.offset("buf"))
    text = name + b"\0" if len(name) < room else name[: max(room - 1, 0)] + b"\0"
    numbers = _FD_QUERY.pack(len(name), attr["buf"], prog_id, kind, offset, address)
    reply = BpfReply(attr=(attr.offset("buf_len"), numbers))
    if room:
        reply.out = [(at, 0, text)]
        if len(name) >= room:
            raise RefusedError(_refused("the path does not fit", errno.ENOSPC), reply)
    return reply
