"""What Go's linker made is treated in another way: functions run on small stacks, which move."""

from __future__ import annotations

from libbpf_shim.elf.module import Module


def is_go(module: Module) -> bool:
    """A program of Go's linker."""
    known: bool | None = module.__dict__.get("_go")
    if known is None:
        known = any(module.section(s) is not None for s in (".gopclntab", ".note.go.buildid"))
        module.__dict__["_go"] = known
    return known
