"""BTF_LOAD.

Source: kernel/bpf/btf.c, btf_new_fd().
"""

from __future__ import annotations

import errno

from libbpf_shim.backend.command import Family, RefusedError, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
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
        if attr["btf_flags"] & ~_TOKEN_FD:
            raise ShimError("BC0011", errno.EINVAL, f"BTF: flags {attr['btf_flags']:#x}")
        if attr["btf_flags"]:
            self.token(request, attr.signed("btf_token_fd"))
        if attr["btf_size"] > kinds.MAX_SIZE:
            raise ShimError("BC0011", errno.E2BIG, f"BTF: {attr['btf_size']} bytes")
        progs.check_log(attr["btf_log_level"], attr["btf_log_size"], attr["btf_log_buf"])
        blob = request.bytes_at(attr.offset("btf")) if attr["btf_size"] else b""
        if self.session.served:
            have = self.store.of_kind(BtfObject).values()
            self.session.served.btf(len(blob), (len(b.blob) for b in have if not b.kernel))
        refused = None
        try:
            self.session.verdicts.types(blob)
        except ShimError as error:
            refused = error
        told = ""
        if attr["btf_log_level"]:
            from libbpf_shim.btf import log

            told = f"{refused.message}\n" if refused else log.accepted(Btf(blob))
        reply = self._log(request, attr, told, refused)
        reply.fd = self.new(BtfObject(self.session.counters.next("btf"), blob)).fd
        return reply

    @staticmethod
    def _log(
        request: BpfRequest, attr: Attr, text: str, error: ShimError | None
    ) -> BpfReply:
        """The log into its buffer, its true size into the attr. Raises `error`, or ENOSPC."""
        reply = BpfReply()
        at, room = attr.offset("btf_log_true_size"), request.room(attr.offset("btf_log_buf"))
        if attr["btf_log_level"]:
            if request.size >= at + 4:
                reply.attr = (at, (len(text.encode()) + 1).to_bytes(4, "little"))
            if room:
                data, fits = progs.cut_log(text, room, attr["btf_log_level"])
                reply.out = [(attr.offset("btf_log_buf"), 0, data)]
                if not fits:
                    error = ShimError("BC0011", errno.ENOSPC, "log: larger than its buffer")
        if error:
            raise RefusedError(error, reply)
        return reply
