"""What the arguments of a kernel function's call have told so far. Ready for mypyc."""

from __future__ import annotations

from typing import final

from libbpf_shim.verifier.kfuncs.kfunc_types import Kfunc
from libbpf_shim.verifier.memory.special import Special
from libbpf_shim.verifier.state import NO_REG, Reg


@final
class Call:
    """ref: reference that an argument holds. release: register of what is released (0: none).
    constant: value of the constant argument (-1: none). subprog: of the callback. btf, type_id: of
    an allocated object. owning: the object is referenced. head: the list or tree. map: index of
    the map; map_first: it came with a field of its values. dynptr: that it was given. iter_frame,
    iter_slot: where the iterator is."""

    __slots__ = ("kfunc", "ref", "release", "constant", "subprog", "btf", "type_id", "owning",
                 "head", "map", "map_first", "dynptr", "iter_frame", "iter_slot")

    def __init__(self, kfunc: Kfunc) -> None:
        self.kfunc: Kfunc = kfunc
        self.ref: int = 0
        self.release: int = 0
        self.constant: int = -1
        self.subprog: int = -1
        self.btf: int = 0
        self.type_id: int = 0
        self.owning: bool = False
        self.head: Special | None = None
        self.map: int = -1
        self.map_first: bool = False
        self.dynptr: Reg = NO_REG
        self.iter_frame: int = -1
        self.iter_slot: int = -1
