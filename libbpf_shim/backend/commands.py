"""bpf(2) commands: dispatch. One function each, in a module per family (commands_*.py), with the
kernel's checks in the kernel's order.

Source: kernel/bpf/syscall.c (__sys_bpf).
"""

from __future__ import annotations

import errno

from libbpf_shim.backend.command import Table
from libbpf_shim.backend.commands_attach import AttachCommands
from libbpf_shim.backend.commands_btf import BtfCommands
from libbpf_shim.backend.commands_elem import ElemCommands
from libbpf_shim.backend.commands_id import IdCommands
from libbpf_shim.backend.commands_link import LinkCommands
from libbpf_shim.backend.commands_map import MapCommands
from libbpf_shim.backend.commands_pin import PinCommands
from libbpf_shim.backend.commands_prog import ProgCommands
from libbpf_shim.backend.commands_run import RunCommands
from libbpf_shim.backend.commands_session import SessionCommands
from libbpf_shim.backend.session import Session
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.uapi.bpf import bpf_cmd

_FAMILIES = (
    MapCommands, ElemCommands, ProgCommands, RunCommands, BtfCommands, LinkCommands, PinCommands,
    IdCommands, AttachCommands, SessionCommands,
)


class Commands:
    """The commands of one session."""

    def __init__(self, session: Session) -> None:
        self._table: Table = {}
        self._gate, self._served = session.gate, session.served
        for family in _FAMILIES:
            self._table |= family(session).table()

    def run(self, request: BpfRequest, loader: int) -> BpfReply:
        """One command for the process `loader`; ShimError is its errno."""
        row = self._table.get(request.cmd)
        if row is None:
            known = request.cmd in bpf_cmd.__members__.values()
            code = errno.EOPNOTSUPP if known else errno.EINVAL
            name = bpf_cmd(request.cmd).name if known else str(request.cmd)
            raise ShimError("BC0001", code, f"bpf(2): command {name} is not there")
        if self._served:
            self._served.command(request.cmd)
        if self._gate:
            self._gate.command(request.cmd)
        part, last, function = row
        attr = Attr(part, request.attr)
        if not attr.ends_after(last):
            raise ShimError("BC0002", errno.EINVAL, f"bpf(2): bytes behind {last}")
        return function(request, attr, loader)
