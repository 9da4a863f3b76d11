"""Objects by id, and what is known of them: *_GET_NEXT_ID, *_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD.

Source: kernel/bpf/syscall.c.
"""

from __future__ import annotations

import errno

from libbpf_shim.attach.link import EventObject, LinkObject
from libbpf_shim.backend.command import Family, Function, Table, file_mode
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object
from libbpf_shim.uapi.bpf import BPF_F_RDONLY, BPF_F_WRONLY, bpf_cmd

_MAX_ID = 0x7FFFFFFF
_TOKEN_FD = 1 << 16  # BPF_F_TOKEN_FD
# open_flags that are known
_OPEN_FLAGS: dict[type[Object], int] = {
    MapObject: BPF_F_RDONLY | BPF_F_WRONLY, BtfObject: _TOKEN_FD,
}


class IdCommands(Family):
    """Ids and information."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_PROG_GET_NEXT_ID: ("by_id", "next_id", self.next_id(ProgObject)),
            c.BPF_MAP_GET_NEXT_ID: ("by_id", "next_id", self.next_id(MapObject)),
            c.BPF_BTF_GET_NEXT_ID: ("by_id", "next_id", self.next_id(BtfObject)),
            c.BPF_LINK_GET_NEXT_ID: ("by_id", "next_id", self.next_id(LinkObject)),
            c.BPF_PROG_GET_FD_BY_ID: ("by_id", "prog_id", self.fd_by_id(ProgObject)),
            c.BPF_MAP_GET_FD_BY_ID: ("by_id", "open_flags", self.fd_by_id(MapObject)),
            c.BPF_BTF_GET_FD_BY_ID: ("by_id", "fd_by_id_token_fd", self.fd_by_id(BtfObject)),
            c.BPF_LINK_GET_FD_BY_ID: ("by_id", "link_id", self.fd_by_id(LinkObject)),
            c.BPF_OBJ_GET_INFO_BY_FD: ("info", "info", self.get_info),
        }

    def next_id(self, cls: type[Object]) -> Function:
        """BPF_*_GET_NEXT_ID: written over start_id's neighbour, next_id (offset 4)."""

        def function(request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
            start = attr["start_id"]
            if start >= _MAX_ID:
                raise ShimError("BC0019", errno.EINVAL, f"ids: after {start}")
            self._look(cls)
            found = self.store.next_id(start, cls)
            return BpfReply(attr=(attr.offset("next_id"), found.to_bytes(4, "little")))

        return function

    def fd_by_id(self, cls: type[Object]) -> Function:
        """BPF_*_GET_FD_BY_ID."""

        def function(request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
            flags = attr["open_flags"]
            if flags & ~_OPEN_FLAGS.get(cls, 0):
                raise ShimError("BC0019", errno.EINVAL, f"ids: flags {flags:#x}")
            if cls is MapObject:
                file_mode(flags)
            elif flags & _TOKEN_FD:
                self.token(request, attr.signed("fd_by_id_token_fd"))
            self._look(cls)
            self.store.collect(self.store.with_id(attr["start_id"], cls))  # what was closed is
            return self.give(self.store.with_id(attr["start_id"], cls), flags)

        return function

    def _look(self, cls: type[Object]) -> None:
        """Modules come and go with the policy's interface."""
        if cls is BtfObject and self.session.modules:
            self.session.modules.look()

    def get_info(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_OBJ_GET_INFO_BY_FD."""
        from libbpf_shim.backend import info
        from libbpf_shim.backend.info_out import Given

        key = request.key(attr.signed("bpf_fd"))
        if key == (0, 0):
            raise ShimError("BC0014", errno.EBADFD, "information: descriptor not open")
        obj = self.store.at(key, Object)
        return info.fill(obj, Given(request, attr), self._missed(obj))

    def _missed(self, obj: Object) -> int:
        """Runs of a program that its links left out."""
        control, events = self.session.control, self.store.of_kind(EventObject).values()
        return sum(control.missed(e.attached.index) for e in events
                   if e.attached and e.attached.prog is obj)
