"""What concerns a session as a whole: ENABLE_STATS, TOKEN_CREATE; PROG_STREAM_READ_BY_FD.

Source: kernel/bpf/syscall.c (bpf_enable_stats, token_create), kernel/bpf/token.c,
kernel/bpf/stream.c.
"""

from __future__ import annotations

import errno
import os

from libbpf_shim.backend.command import Family, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.pin import BPFFS
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.stats import StatsObject
from libbpf_shim.object.token import TokenObject
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_stats_type

_STREAMS = (1, 2)  # BPF_STDOUT, BPF_STDERR


class SessionCommands(Family):
    """Statistics, tokens, streams."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_ENABLE_STATS: ("enable_stats", "type", self.enable_stats),
            c.BPF_TOKEN_CREATE: ("token_create", "bpffs_fd", self.token_create),
            c.BPF_PROG_STREAM_READ_BY_FD: ("prog_stream_read", "prog_fd", self.stream_read),
        }

    def enable_stats(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_ENABLE_STATS: runs are counted while the descriptor is open."""
        if attr["type"] != bpf_stats_type.BPF_STATS_RUN_TIME:
            raise ShimError("BC0021", errno.EINVAL, f"statistics of type {attr['type']}")
        return self.new(StatsObject(self.session.unnamed(), self.session.control))

    def token_create(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_TOKEN_CREATE: the session's bpffs delegates what a capability token grants; without
        a gate nothing, as in the first user namespace."""
        if attr["flags"]:
            raise ShimError("BC0018", errno.EINVAL, "token: flags")
        if request.key(attr.signed("bpffs_fd")) == (0, 0):
            raise ShimError("BC0018", errno.EBADF, "token: descriptor not open")
        try:
            path = os.readlink(f"/proc/{loader}/fd/{attr['bpffs_fd']}")
        except OSError:
            path = ""
        if path not in (BPFFS, self.session.pins.root):
            raise ShimError("BC0018", errno.EINVAL, "token: not a bpffs")
        if not self.session.gate:
            raise ShimError("BC0018", errno.EOPNOTSUPP, "token: nothing is delegated")
        return self.new(TokenObject(self.session.unnamed()))

    def stream_read(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_STREAM_READ_BY_FD: no program here can write to its streams."""
        self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        if attr["stream_id"] not in _STREAMS:
            raise ShimError("BC0022", errno.ENOENT, f"stream {attr['stream_id']}: none")
        return BpfReply()
