"""Which modules of a process cannot go."""

from __future__ import annotations

import os

from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.process import Process
from libbpf_shim.attach.target import reach
from libbpf_shim.elf.needed import staying
from libbpf_shim.elf.process import LoadedModule


class Staying:
    """Which modules of a process are there and cannot go; dlclose may unload the others, and
    dlopen load them again. Asked in one conversation."""

    def __init__(self, process: Process, plans: Plans) -> None:
        self._process, self._plans = process, plans
        self._bases: frozenset[int] | None = None

    def has(self, modules: list[LoadedModule]) -> bool:
        """All of these, and there are some."""
        if self._bases is None:
            self._bases = self._look()
        return bool(modules) and all(module.base in self._bases for module in modules)

    def _look(self) -> frozenset[int]:
        process = self._process
        if process.staying is None:
            process.staying = frozenset(self._found(process))
        return process.staying

    def _found(self, process: Process) -> set[int]:
        try:
            executable = os.readlink(f"/proc/{process.pid}/exe").removesuffix(" (deleted)")
        except OSError:
            return {module.base for module in process.modules}
        return staying(
            reach(process.pid, executable), process.modules, self._plans.module)
