"""Objects that programs reach: maps and other programs, as they are to be in a process, and by
which keys its table (struct shim_objects) knows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from libbpf_shim.jit.image import Image

if TYPE_CHECKING:
    from typing_extensions import TypeIs

MAP, PROG, UNWIND, WINDOW = 1, 2, 3, 4  # SHIM_OBJECT_*
_WALKERS = ("helper:27", "helper:67")  # bpf_get_stackid, bpf_get_stack
_SKIPPER = "helper:58"  # bpf_override_return


class MapRef(Protocol):
    """A map that images use. desc: struct shim_map_desc of any mapping of it. contents: the maps
    and programs that are its values, None where values are bytes. frozen: by MAP_FREEZE."""

    desc: Any

    @property
    def id(self) -> int: ...
    @property
    def fd(self) -> int: ...
    @property
    def ino(self) -> int: ...
    @property
    def file_size(self) -> int: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def contents(self) -> Iterable[MapRef | ProgRef] | None: ...


class ProgRef(Protocol):
    """A compiled program; its image counts `maps`."""

    @property
    def id(self) -> int: ...
    @property
    def image(self) -> Image: ...
    @property
    def maps(self) -> Sequence[MapRef]: ...


def is_prog(ref: MapRef | ProgRef) -> TypeIs[ProgRef]:
    """Which of the two it is. isinstance() would look at each member, and more slowly."""
    return hasattr(ref, "image")


def object_key(ref: MapRef | ProgRef) -> int:
    """What the process's table of objects knows it by."""
    return (PROG if is_prog(ref) else MAP) << 32 | ref.id


def walks_stacks(prog: ProgRef) -> bool:
    """The program asks for stacks of whom it interrupts."""
    return any(reloc.symbol in _WALKERS for reloc in prog.image.relocs)


def skips(prog: ProgRef) -> bool:
    """The program may leave out the function that it is attached to."""
    return any(reloc.symbol == _SKIPPER for reloc in prog.image.relocs)


def flags_of(prog: ProgRef) -> int:
    """What its hits may be spared (SHIM_PROG_*)."""
    from libbpf_shim._native import lib

    flags = int(prog.image.needs_vcpu)
    if skips(prog):
        return flags | int(lib.SHIM_PROG_OVERRIDE)
    if not walks_stacks(prog):
        flags |= lib.SHIM_PROG_NO_STACKS
        if not prog.image.context:
            flags |= lib.SHIM_PROG_NO_CONTEXT
    if prog.image.bare:
        flags |= lib.SHIM_PROG_BARE
    if prog.image.ends:
        flags |= lib.SHIM_PROG_ENDS
    if prog.image.reads:
        flags |= lib.SHIM_PROG_READS
    if prog.image.changes_maps:
        flags |= lib.SHIM_PROG_MAPS
    if not prog.image.writes:
        flags |= lib.SHIM_PROG_KEEPS
    return flags
