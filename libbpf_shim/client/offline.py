"""The programs of an object as the verifier takes them, without a session: nothing is loaded.

What libbpf would hand to PROG_LOAD after it made the maps, with the maps' descriptions in the
place of descriptors.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from libbpf_shim.btf.parse import Btf
from libbpf_shim.client import kernel
from libbpf_shim.client.object import Object, fill_kconfig
from libbpf_shim.eim import usdt
from libbpf_shim.elf.link import Linked
from libbpf_shim.elf.maps import MapSpec
from libbpf_shim.elf.spec import ObjectSpec, attach_btf_id, prog_flags
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as isa
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.object.map_btf import MapTypes
from libbpf_shim.uapi.bpf import BPF_F_RDONLY_PROG, bpf_map_type
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import MapDesc, Program

_ARRAY: Final = bpf_map_type.BPF_MAP_TYPE_ARRAY
_PERF_ARRAY: Final = bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY
_ARENA: Final = bpf_map_type.BPF_MAP_TYPE_ARENA
_ARENA_START: Final = 1 << 44  # where its loader could have it
_PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class Unjudged:
    """A program that cannot be told to the verifier. why: what is missing; hint: what to do;
    nowhere: it would be loaded, and run nowhere."""

    name: str
    section: str
    why: str
    hint: str = ""
    nowhere: bool = False


@dataclass(frozen=True, slots=True)
class Named:
    """A program with the section that it stands in."""

    name: str
    section: str
    program: Program


def programs(
    opened: Object, wanted: str = "", bind: Callable[[Program], Policy | None] | None = None,
    host: Btf | None = None,
) -> list[Named | Unjudged]:
    """Those that libbpf would load, or the one of that name. bind: gives each its class. host: BTF
    with functions and variables of an application. ShimError: one of them names what is not
    there, or bind a class that is not; one that it finds none for (EPERM) is Unjudged."""
    spec = opened.spec
    found: list[Named | Unjudged] = []
    chosen = [p for p in opened.programs.values() if (p.name == wanted if wanted else p.autoload)]
    typed = [p for p in chosen if p.type]
    found += [Unjudged(p.name, p.section, f"SEC({p.section!r}) names no program type")
              for p in chosen if not p.type]
    target = kernel.target(opened.relocates_against) if spec.relocates else None
    types = kernel.target(None) if spec.names_kernel_types else None
    externs = kernel.resolve(spec.externs, spec.btf, types, [host] if host else [])
    fill_kconfig(spec, opened.kconfig)
    for code in spec.link(target, externs, [p.name for p in typed]):
        program = opened.programs[code.name]
        assert program.function
        try:
            at = attach_btf_id(program.function, types)
        except ShimError as error:
            found.append(Unjudged(program.name, program.section, error.message))
            continue
        value = _program(spec, code, program.type, program.attach_type,
                         prog_flags(program.function), at)
        if bind is not None:
            try:
                policy = bind(value)
            except ShimError as error:
                if error.errno != errno.EPERM:
                    raise
                found.append(Unjudged(program.name, program.section, error.message, error.hint,
                                      nowhere=True))
                continue
            value = usdt.applied(replace(value, policy=policy, locked_down=False))
        found.append(Named(program.name, program.section, value))
    return found


def _program(
    spec: ObjectSpec, code: Linked, kind: int, attach: int, flags: int, target: int
) -> Program:
    used = sorted(set(code.maps.values()))
    insns = isa.decode(code.insns)
    for at, index in code.maps.items():
        insns[at].imm = used.index(index)
    blob = spec.btf.blob if spec.btf else None
    return Program(
        insns=isa.encode(insns), prog_type=kind, expected_attach_type=attach, prog_flags=flags,
        license=spec.license, name=code.name[:15], maps=tuple(_map(spec.maps[i], spec.btf)
                                                             for i in used),
        log_level=1, btf=blob, func_info=code.func_info, func_info_rec_size=code.func_size,
        line_info=code.line_info, line_info_rec_size=code.line_size, attach_btf_id=target,
        kern_version=spec.kern_version or kernel.version(), kernel_btf=MACHINE,
        cpus=os.sysconf("SC_NPROCESSORS_CONF"),
    )  # fmt: skip


def _map(row: MapSpec, btf: Btf | None) -> MapDesc:
    entries = row.max_entries or (1 if row.type == _PERF_ARRAY else 0)
    typed = btf if row.typed and row.value_type else None
    fields: tuple[tuple[str, int], ...] = ()
    if typed:
        types = MapTypes(typed, row.type, row.flags, entries, row.key_size, row.value_size,
                         row.key_type, row.value_type)
        fields = tuple((field.name, field.offset) for field in types.fields)
    contents = None
    if row.type == _ARRAY and row.frozen and row.flags & BPF_F_RDONLY_PROG:
        contents = row.contents.ljust(row.value_size, b"\0")
    return MapDesc(
        type=row.type, key_size=row.key_size, value_size=row.value_size, max_entries=entries,
        map_flags=row.flags, map_extra=row.extra, name=row.name[:15], contents=contents,
        inner=_map(row.inner, btf) if row.inner else None,
        btf=typed.blob if typed else None, btf_key_type_id=row.key_type if typed else 0,
        btf_value_type_id=row.value_type if typed else 0, fields=fields,
        arena=(_ARENA_START, _ARENA_START + entries * _PAGE) if row.type == _ARENA else (0, 0),
    )  # fmt: skip
