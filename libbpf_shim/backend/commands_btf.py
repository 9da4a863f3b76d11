"""BTF_LOAD.

Source: kernel/bpf/btf.c, btf_new_fd().
"""

from __future__ import annotations

import errno

from libbpf_shim.backend.command import Family, RefusedError, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.btf import kinds
from libbpf_shim.errors import ShimError
from libbpf_shim.object import prog as progs
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.uapi.bpf import bpf_cmd

_TOKEN_FD = 1 << 16  # BPF_F_TOKEN_FD


class BtfCommands(Family):
    """Type information."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_BTF_LOAD: ("btf_load", "btf_token_fd", self.btf_load),
        }

    def btf_load(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_BTF_LOAD."""
        from libbpf_shim.btf.check import check

        if attr["btf_flags"] & ~_TOKEN_FD:
            raise ShimError("BC0011", errno.EINVAL, f"BTF: flags {attr['btf_flags']:#x}")
        if attr["btf_flags"]:
            self.token(request, attr.signed("btf_token_fd"))
        if attr["btf_size"] > kinds.MAX_SIZE:
            raise ShimError("BC0011", errno.E2BIG, f"BTF: {attr['btf_size']} bytes")
        progs.check_log(attr["btf_log_level"], attr["btf_log_size"], attr["btf_log_buf"])
        blob = request.bytes_at(attr.offset("btf")) if attr["btf_size"] else b""
        try:
            check(blob)
        except ShimError as error:
            reply = self._btf_log(request, attr, error.message + "\n")
            raise RefusedError(error, reply) from error
        reply = self._btf_log(request, attr, "")
        reply.fd = self.new(BtfObject(self.session.counters.next("btf"), blob)).fd
        return reply

    @staticmethod
    def _btf_log(request: BpfRequest, attr: Attr, text: str) -> BpfReply:
        where = attr.offset("btf_log_buf")
        if not attr["btf_log_level"] or not request.room(where):
            return BpfReply()
        data, _ = progs.cut_log(text, request.room(where), attr["btf_log_level"])
        return BpfReply(out=[(where, 0, data)])
