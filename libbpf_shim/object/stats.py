"""How often and how long programs run: counted in the control page while somebody asks for it.

Source: kernel/bpf/syscall.c (bpf_enable_runtime_stats, bpf_prog_get_stats).
"""

from __future__ import annotations

from libbpf_shim.object.control import Control
from libbpf_shim.object.file import SocketFile
from libbpf_shim.object.store import Object


class StatsObject(Object):
    """A descriptor of ENABLE_STATS: counting goes on until the last is closed."""

    kind = 7

    def __init__(self, number: int, control: Control) -> None:
        super().__init__(number, SocketFile())
        self._control = control
        control.count_runs(1)

    def end(self) -> None:
        self._control.count_runs(-1)
