"""PROG_LOAD.

Source: kernel/bpf/syscall.c, bpf_prog_load(); kernel/bpf/verifier.c, bpf_check().
"""

from __future__ import annotations

import errno

from libbpf_shim.backend.command import Family, RefusedError, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object import map as maps
from libbpf_shim.object import prog as progs
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_prog_type


class ProgCommands(Family):
    """Programs."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_PROG_LOAD: ("prog_load", "keyring_id", self.prog_load),
        }

    def prog_load(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_LOAD. The log reaches its buffer whether the program does or not."""
        progs.check_attr(attr)
        progs.check_size(attr)
        insns = request.bytes_at(attr.offset("insns"))
        license_ = request.bytes_at(attr.offset("license")).split(b"\0", 1)[0].decode(
            errors="replace")
        if attr["prog_type"] not in bpf_prog_type.__members__.values() or not attr["prog_type"]:
            raise ShimError("BC0007", errno.EINVAL, f"program of type {attr['prog_type']}")
        maps.object_name(attr.raw("prog_name"))
        progs.check_log(attr["log_level"], attr["log_size"], attr["log_buf"])
        loaded = progs.build(
            attr, insns, license_, self._finder(request, attr), self._prog_btf(request, attr),
            self._rows(request, attr, "func_info"), self._rows(request, attr, "line_info"),
        )  # fmt: skip
        reply = self._log(request, attr, loaded.log, "log_true_size")
        if loaded.error:
            raise RefusedError(loaded.error, reply)
        assert loaded.program and loaded.image and loaded.verdict and loaded.verdict.facts
        obj = ProgObject(
            self.session.counters.next("prog"), loaded.program, loaded.image,
            loaded.verdict.facts, loaded.maps, loaded.verdict.stats.insns_processed)
        obj.count_in(self.session.control)
        if btf := self._prog_btf(request, attr):
            obj.btf = btf
            obj.hold(btf)
        reply.fd = self.new(obj).fd
        return reply

    def _prog_btf(self, request: BpfRequest, attr: Attr) -> BtfObject | None:
        if not attr["func_info_cnt"] and not attr["line_info_cnt"]:
            return None
        return self.store.at(request.key(attr.signed("prog_btf_fd")), BtfObject)

    @staticmethod
    def _rows(request: BpfRequest, attr: Attr, what: str) -> bytes:
        return request.bytes_at(attr.offset(what)) if attr[f"{what}_cnt"] else b""

    def _finder(self, request: BpfRequest, attr: Attr) -> progs.MapFinder:
        def by_fd(fd: int) -> MapObject:
            return self.store.at(request.key(fd), MapObject)

        def by_index(index: int) -> MapObject:
            fds = request.bytes_at(attr.offset("fd_array"), errno.EPROTO)
            at = 4 * index
            if index < 0 or at + 4 > len(fds):
                raise ShimError("BC0008", errno.EFAULT, f"fd_array: no entry {index}")
            return by_fd(int.from_bytes(fds[at : at + 4], "little", signed=True))

        return progs.MapFinder(by_fd, by_index)

    @staticmethod
    def _log(request: BpfRequest, attr: Attr, text: str, true_size: str) -> BpfReply:
        """The log into its buffer, its true size into the attr; ENOSPC: it was cut."""
        where = attr.offset("log_buf")
        if not attr["log_level"] or not request.room(where):
            return BpfReply()
        data, fits = progs.cut_log(text, request.room(where), attr["log_level"])
        reply = BpfReply(out=[(where, 0, data)])
        if request.size >= attr.offset(true_size) + 4:
            size = len(text.encode()) + 1
            reply.attr = (attr.offset(true_size), size.to_bytes(4, "little"))
        if not fits:
            cut = ShimError("BC0009", errno.ENOSPC, "log: larger than its buffer")
            raise RefusedError(cut, reply)
        return reply
