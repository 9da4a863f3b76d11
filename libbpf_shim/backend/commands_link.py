"""LINK_CREATE and what else attaches programs.

Source: kernel/bpf/syscall.c, link_create() and what it calls.
"""

from __future__ import annotations

import errno

from libbpf_shim.attach.link import EventObject, LinkObject
from libbpf_shim.backend.command import Family, Table
from libbpf_shim.backend.events import timer_action
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd


class LinkCommands(Family):
    """Links."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_LINK_CREATE: ("link_create", "uprobe_multi.pid", self.link_create),
            c.BPF_LINK_DETACH: ("link_detach", "link_fd", self.link_detach),
            c.BPF_RAW_TRACEPOINT_OPEN: ("raw_tracepoint", "cookie", self.raw_tracepoint),
        }

    def link_create(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_LINK_CREATE of PERF_EVENT links; others fail as in a kernel without them."""
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        kind = attr["attach_type"]
        if kind in (bpf_attach_type.BPF_TRACE_KPROBE_MULTI,
                    bpf_attach_type.BPF_TRACE_UPROBE_MULTI):
            raise ShimError("BC0012", errno.EOPNOTSUPP, "link: multi links are not there")
        if kind == bpf_attach_type.BPF_TRACE_RAW_TP:
            raise ShimError("BC0012", errno.EOPNOTSUPP, "link: raw tracepoints are not there")
        if kind != bpf_attach_type.BPF_PERF_EVENT:
            raise ShimError("BC0012", errno.EINVAL, f"link of attach type {kind}")
        if attr["flags"]:
            raise ShimError("BC0012", errno.EINVAL, "link: flags")
        event = self.store.at(request.key(attr.signed("target_fd")), EventObject)
        obj = LinkObject(self.session.counters.next("link"), event, prog,
                         attr["perf_event.bpf_cookie"], loader)
        reply = self.new(obj)
        reply.action, reply.payload = timer_action(event)
        return reply

    def link_detach(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_LINK_DETACH: perf links have no such operation."""
        self.store.at(request.key(attr.signed("link_fd")), LinkObject)
        raise ShimError("BC0013", errno.EOPNOTSUPP, "link: closed, not detached")

    def raw_tracepoint(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_RAW_TRACEPOINT_OPEN."""
        self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        raise ShimError("BC0012", errno.EOPNOTSUPP, "link: raw tracepoints are not there")
