"""A whole .bpf.o as values: what `Object` loads, and what can be asked of a file alone.

Everything here is a function of the file's bytes. ShimError, errno EINVAL mostly, for a file that
no loader could take; nothing else is raised.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection

from libbpf_shim.btf import kinds
from libbpf_shim.btf.core_relo import Resolver
from libbpf_shim.btf.ext import BtfExt
from libbpf_shim.btf.parse import Btf
from libbpf_shim.elf import maps
from libbpf_shim.elf.link import Found, Linked, Linker
from libbpf_shim.elf.maps import MapSpec
from libbpf_shim.elf.object import ElfObject, Malformed
from libbpf_shim.elf.program import Function, Needs, functions
from libbpf_shim.elf.secdef import Mark
from libbpf_shim.elf.typeinfo import btf_of
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import bpf_attach_type

MAX_FILE = 256 << 20  # bytes
_LICENSE_LEN = 64
_F_SLEEPABLE, _F_XDP_HAS_FRAGS = 1 << 4, 1 << 5  # BPF_F_*
# Prefix of the BTF name and kind that an attach type looks for; others: the function itself.
_ATTACH_NAMES = {
    bpf_attach_type.BPF_TRACE_RAW_TP: ("btf_trace_", kinds.TYPEDEF),
    bpf_attach_type.BPF_LSM_MAC: ("bpf_lsm_", kinds.FUNC),
    bpf_attach_type.BPF_LSM_CGROUP: ("bpf_lsm_", kinds.FUNC),
    bpf_attach_type.BPF_TRACE_ITER: ("bpf_iter_", kinds.FUNC),
}


def object_name(path: str) -> str:
    """The name that an object's maps begin with: of `dir/tool.bpf.o` it is `tool`."""
    return os.path.basename(path)[: maps.NAME_LEN - 1].split(".", 1)[0]


class ObjectSpec:
    """One file. maps in the order in which they are created; functions in that of the file.

    license: "" if there is none; kern_version: of section `version`, 0: none is wanted.
    """

    def __init__(self, data: bytes, name: str) -> None:
        if len(data) > MAX_FILE:
            raise Malformed(name, f"larger than {MAX_FILE} bytes", errno.EFBIG)
        self.name = name
        self._elf = elf = ElfObject(data, name)
        if elf.section(".struct_ops"):
            raise Malformed(name, "struct_ops", errno.EOPNOTSUPP,
                            "struct_ops programs work on the kernel's own structures")
        types = btf_of(elf)
        self._types, self.externs = types, types.externs
        self.license = self._license()
        self.kern_version = self._version()
        self.functions = functions(elf)
        self.maps: list[MapSpec] = []
        try:
            self.maps += maps.defined(elf, types.btf)
            self.maps += maps.internal(elf, types.btf, self.externs)
            maps.fill_slots(elf, self.maps)
            Needs(elf, self.functions, self.maps, self.externs).collect()
            for function in self.functions:
                if function.hidden and function.subprog and types.btf:
                    types.hide(function.name)
            self._ext = self._read_ext()
        except Malformed:
            raise
        except ShimError as error:
            raise Malformed(name, error.message, error.errno) from error

    @property
    def btf(self) -> Btf | None:
        """The object's types as BTF_LOAD gets them."""
        return self._types.btf

    @property
    def programs(self) -> list[Function]:
        """What can be loaded: functions that are no subprograms."""
        return [f for f in self.functions if not f.subprog]

    def _license(self) -> str:
        section = self._elf.section("license")
        data = section.data if section else b""
        return data[: _LICENSE_LEN - 1].split(b"\0", 1)[0].decode(errors="replace")

    def _version(self) -> int:
        section = self._elf.section("version")
        if section and len(section.data) != 4:
            raise Malformed(self.name, f"version of {len(section.data)} bytes, expected 4")
        return int.from_bytes(section.data, "little") if section else 0

    def _read_ext(self) -> BtfExt | None:
        section = self._elf.section(".BTF.ext")
        return BtfExt(section.data, self.btf) if section and self.btf else None

    @property
    def relocates(self) -> bool:
        """It has CO-RE relocations, which need a target."""
        return bool(self._ext and any(relos for _, relos in self._ext.relos))

    @property
    def names_kernel_types(self) -> bool:
        """An extern or a program is of a variable or function in the kernel's own BTF."""
        return any(e.type for e in self.externs) or any(
            f.definition and Mark.BTF in f.definition.marks for f in self.programs)

    def link(
        self, target: Btf | None, found: list[Found], wanted: Collection[str]
    ) -> list[Linked]:
        """The programs named in `wanted`, relocated against `target`. found: one for each extern.
        ShimError EINVAL, ERANGE, E2BIG: a relocation that makes no sense."""
        kconfig = next((i for i, m in enumerate(self.maps) if m.internal == ".kconfig"), -1)
        none = frozenset(i for i, m in enumerate(self.maps) if not m.autocreate)
        linker = Linker(self._elf, self.functions, self.externs, found, kconfig, self._ext, none)
        if self.btf:
            resolver = Resolver(self.btf, target)
            linker.relocate_core(resolver, lambda f: f.subprog or f.name in wanted)
        return [linker.link(f.name) for f in self.programs if f.name in wanted]


def prog_flags(function: Function) -> int:
    """prog_flags of PROG_LOAD that the section asks for."""
    marks = function.definition.marks if function.definition else Mark.NONE
    flags = _F_SLEEPABLE if Mark.SLEEPABLE in marks else 0
    return flags | (_F_XDP_HAS_FRAGS if Mark.FRAGS in marks else 0)


def attach_btf_id(function: Function, target: Btf | None) -> int:
    """The type in the target that the program is loaded against; 0: none is wanted.

    ShimError EINVAL: the section names nothing; ESRCH: it is not there."""
    definition = function.definition
    if definition is None or Mark.BTF not in definition.marks:
        return 0
    _, _, wanted = function.section_name.partition("/")
    if not wanted:
        raise ShimError("EO0004", errno.EINVAL,
                        f"{function.name}: SEC({function.section_name!r}) names no target")
    prefix, kind = _ATTACH_NAMES.get(bpf_attach_type(definition.attach_type), ("", kinds.FUNC))
    found = target.find(prefix + wanted, kind) if target else None
    if found is None:
        raise ShimError("EO0004", errno.ESRCH, f"{function.name}: {wanted} is not in the BTF")
    return found.id
