"""Which libraries a module asks the dynamic linker for: DT_NEEDED, DT_SONAME.

Source: System V ABI (gABI chapter 5), elf.h.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Sequence

from libbpf_shim.elf.module import PT_DYNAMIC, Module
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError

_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SONAME = 0, 1, 5, 14
_MAX_NAME = 4096
_MAX_KNOWN = 1024


_known: dict[str, tuple[str, tuple[str, ...]]] = {}  # by Module.key: asked for each process


def names(module: Module) -> tuple[str, tuple[str, ...]]:
    """Its own name ("" if it has none), and those of the libraries that it needs."""
    if module.key not in _known:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[module.key] = _names(module)
    return _known[module.key]


def _names(module: Module) -> tuple[str, tuple[str, ...]]:
    found: list[tuple[int, int]] = []
    for segment in module.segments:
        if segment.type == PT_DYNAMIC:
            data = module.read_at(segment.offset, segment.filesz & ~15)
            found = list(struct.iter_unpack("<QQ", data))
    strings = next((value for tag, value in found if tag == _DT_STRTAB), 0)

    def text(at: int) -> str:
        return module.read(strings + at, _MAX_NAME).split(b"\0")[0].decode(errors="replace")

    end = next((n for n, (tag, _) in enumerate(found) if tag == _DT_NULL), len(found))
    own = next((text(value) for tag, value in found[:end] if tag == _DT_SONAME), "")
    return own, tuple(text(value) for tag, value in found[:end] if tag == _DT_NEEDED)


def staying(
    executable: str, modules: Sequence[LoadedModule], read: Callable[[str], Module]
) -> set[int]:
    """Bases of the modules that are there as long as the process is: the executable and what it
    needs. read: the file of a path. What cannot be read needs nothing."""
    known: dict[str, LoadedModule] = {}
    needs: dict[int, tuple[str, ...]] = {}
    for module in modules:
        own, needed = "", tuple[str, ...]()
        with contextlib.suppress(ShimError, struct.error):
            own, needed = names(read(module.path))
        needs[module.base] = needed
        for name in (os.path.basename(module.path), own):
            known.setdefault(name, module)
    found: set[int] = set()
    left = [module for module in modules if module.path == executable]
    while left:
        module = left.pop()
        if module.base not in found:
            found.add(module.base)
            left += [known[name] for name in needs[module.base] if name in known]
    return found
