"""PROG_TEST_RUN.

Source: kernel/bpf/syscall.c, bpf_prog_test_run(); net/bpf/test_run.c.
"""

from __future__ import annotations

import errno

from libbpf_shim.backend.command import Family, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_prog_type

_TEST_FLAGS = 1  # BPF_F_TEST_RUN_ON_CPU
_ACT_RUN = 1  # SHIM_ACT_RUN


class RunCommands(Family):
    """Test runs."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_PROG_TEST_RUN: ("test", "batch_size", self.test_run),
        }

    def test_run(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_TEST_RUN of raw tracepoint programs: the loader runs it itself
        (bpf_prog_test_run_raw_tp())."""
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        if prog.program.prog_type != bpf_prog_type.BPF_PROG_TYPE_RAW_TRACEPOINT:
            raise ShimError("BC0010", 524, "test run: only of raw tracepoint programs")  # ENOTSUPP
        if any(attr[f] for f in ("data_in", "data_out", "ctx_out", "duration", "repeat",
                                 "batch_size")):
            raise ShimError("BC0010", errno.EINVAL, "test run: fields that the type has not")
        needed = max((at + size for at, size in prog.facts.ctx_loads), default=0)
        if attr["ctx_size_in"] < needed:
            raise ShimError("BC0010", errno.EINVAL,
                            f"test run: context of {attr['ctx_size_in']} bytes, {needed} are read")
        if attr["flags"] & ~_TEST_FLAGS or (not attr["flags"] and attr["cpu"]):
            raise ShimError("BC0010", errno.EINVAL, f"test run: flags {attr['flags']:#x}")
        if attr["cpu"] >= self.session.control.nr_vcpus:
            raise ShimError("BC0010", errno.ENXIO, f"test run: CPU {attr['cpu']}")
        self.session.delivery.want_runnable(loader, prog, None)
        run = prog.id.to_bytes(4, "little") + bytes(4) + attr["ctx_size_in"].to_bytes(8, "little")
        return BpfReply(action=_ACT_RUN, payload=run)
