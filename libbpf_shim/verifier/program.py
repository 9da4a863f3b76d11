"""What the verifier is given: one program as BPF_PROG_LOAD describes it, with its maps resolved.

A value, with no file descriptor and no address in it, so that verification is a pure function
of it (and of the profile), and so that it can be a cache key. Source: linux/bpf.h, union bpf_attr.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from libbpf_shim.btf.lazy import SYNTHETIC, LazyBtf

if TYPE_CHECKING:
    from libbpf_shim.verifier.policy import Policy

_RDONLY_PROG = 1 << 7  # BPF_F_RDONLY_PROG
_DEVICE_MAPS = (14, 25)  # DEVMAP, DEVMAP_HASH


@dataclass(frozen=True, slots=True)
class MapDesc:
    """A map as the verifier needs to know it. Sizes in bytes.

    contents: the first value of a frozen BPF_F_RDONLY_PROG array (loads from it are known
    scalars), else None. inner: the inner map of a map-in-map. fields: special fields of the value
    (bpf_spin_lock, kptr, ...) with their offsets, ascending. arena: addresses of an arena in its
    loader, first and behind the last; 0 while it is not mapped.
    """

    type: int
    key_size: int
    value_size: int
    max_entries: int
    map_flags: int = 0
    map_extra: int = 0
    name: str = ""
    contents: bytes | None = None
    inner: MapDesc | None = None
    btf: bytes | None = None
    btf_key_type_id: int = 0
    btf_value_type_id: int = 0
    fields: tuple[tuple[str, int], ...] = ()
    arena: tuple[int, int] = (0, 0)

    @property
    def read_only(self) -> bool:
        """Programs may not change its values: BPF_F_RDONLY_PROG, which maps of devices have."""
        return self.map_flags & _RDONLY_PROG != 0 or self.type in _DEVICE_MAPS

    @property
    def constant(self) -> bool:
        """Nobody changes its values any more."""
        return self.contents is not None and self.map_flags & _RDONLY_PROG != 0

    def with_inner(self, inner: MapDesc) -> MapDesc:
        """A map of maps that are like `inner`."""
        return replace(self, inner=inner)

    def without_contents(self) -> MapDesc:
        """The same of any map of its kind."""
        return replace(self, contents=None)


@dataclass(frozen=True, slots=True)
class Program:
    """One program. insns: 8 bytes an instruction; an ld_imm64 with src_reg BPF_PSEUDO_MAP_FD or
    BPF_PSEUDO_MAP_VALUE (also the _IDX forms) carries in imm an index into maps, not an fd.
    """

    insns: bytes
    prog_type: int
    expected_attach_type: int = 0
    prog_flags: int = 0
    license: str = ""
    name: str = ""
    maps: tuple[MapDesc, ...] = ()
    log_level: int = 0
    btf: bytes | None = None  # the program's own BTF (BTF_LOAD), if it has one
    func_info: bytes = b""
    func_info_rec_size: int = 0
    line_info: bytes = b""
    line_info_rec_size: int = 0
    # how many records were given, -1: as many as there are; errno of what could not be read
    func_info_cnt: int = -1
    func_info_fault: int = 0
    line_info_cnt: int = -1
    line_info_fault: int = 0
    # by slot of an ld_imm64 that leads to no map: the errno and the kernel's line
    bad_maps: dict[int, tuple[int, str]] = field(default_factory=dict)
    kernel_btf: LazyBtf = field(default=SYNTHETIC, compare=False)
    attach_btf_id: int = 0  # in the BTF of attach_prog, else the kernel's
    attach_prog: Program | None = None
    kern_version: int = 0
    locked_down: bool = True  # as the measured machine is: nothing writes a process's memory
    # functions of the kernel that are there for who asks whether they are; None: all
    kfuncs: tuple[str, ...] | None = None
    cpus: int = 0  # CPUs that there may be, where it runs; 0: not known
    extra: dict[str, int] = field(default_factory=dict)
    policy: Policy | None = None  # the class that it is bound to; None: the kernel's rules alone
    # loads that stand for arguments of USDT probes (eim/usdt.py): slot, position (-1: the place),
    # whether it is of memory, its offset
    probed: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def func_count(self) -> int:
        """Records of func_info."""
        size = self.func_info_rec_size
        return len(self.func_info) // (size or 1) if self.func_info_cnt < 0 else self.func_info_cnt

    @property
    def line_count(self) -> int:
        """Records of line_info."""
        size = self.line_info_rec_size
        return len(self.line_info) // (size or 1) if self.line_info_cnt < 0 else self.line_info_cnt

    @property
    def gpl_compatible(self) -> bool:
        """License strings that GPL-only helpers accept (include/linux/license.h)."""
        return self.license in (
            "GPL", "GPL v2", "GPL and additional rights",
            "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL",
        )
