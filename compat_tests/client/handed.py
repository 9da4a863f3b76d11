"""What is handed to bpf(2) for an object, by libbpf (capture.c) and by us, in one form.

Descriptors are replaced by what they stand for: maps by their place in the order of creation.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from compat_tests.client import build
from compat_tests.victims.build import WARN, make
from libbpf_shim.client import kernel
from libbpf_shim.client.object import Object, fill_kconfig, map_command, prog_command
from libbpf_shim.client.session import Command
from libbpf_shim.elf.spec import attach_btf_id
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as isa
from libbpf_shim.uapi.structs import ATTR

MAP_FIELDS = ("map_type", "key_size", "value_size", "max_entries", "map_flags", "numa_node",
              "btf_key_type_id", "btf_value_type_id", "map_extra")
PROG_FIELDS = ("prog_type", "insn_cnt", "kern_version", "prog_flags", "expected_attach_type",
               "attach_btf_id", "func_info_rec_size", "func_info_cnt", "line_info_rec_size",
               "line_info_cnt")
FD = 1000  # ours: of the map that was made as number fd - FD
LIMIT = 60  # seconds
_VIRTUAL = kernel.virtual


@dataclass
class Handed:
    """btf: of the object. maps: name and fields in the order of creation, an inner map before its
    outer. updates: (map, key, value), frozen: maps. progs: name, fields, instructions, records."""

    btf: bytes | None = None
    maps: list[tuple[str, dict[str, int | str]]] = field(default_factory=list)
    updates: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    frozen: list[int] = field(default_factory=list)
    progs: list[tuple[str, dict[str, int], bytes, bytes, bytes, str]] = field(
        default_factory=list)
    refused: str = ""


def number(part: str, name: str, attr: bytes) -> int:
    at, size = ATTR[part][name]
    return int.from_bytes(attr[at : at + size], "little")


def text(attr: bytes, part: str, name: str) -> str:
    at, size = ATTR[part][name]
    return attr[at : at + size].split(b"\0")[0].decode()


def named(insns: bytes, fds: dict[int, int]) -> bytes:
    """The instructions with maps' places for descriptors."""
    decoded = isa.decode(insns)
    for insn in decoded:
        if insn.code == isa.LD_IMM64 and insn.src in (isa.PSEUDO_MAP_FD, isa.PSEUDO_MAP_VALUE):
            insn.imm = fds[insn.imm]
    return isa.encode(decoded)


@functools.cache
def version() -> tuple[int, int]:
    """Of the system's libbpf."""
    library = ctypes.CDLL("libbpf.so.1")
    return library.libbpf_major_version(), library.libbpf_minor_version()


@functools.cache
def capture() -> Path:
    return make("capture", [build.HERE / "capture.c"], [*WARN, "-O1", "-rdynamic"], ["-lbpf"])


def by_libbpf(path: Path, btf: Path | None = None) -> tuple[Handed, set[str]]:
    """And the programs whose target the kernel has not. btf: what CO-RE relocates against."""
    command = [str(capture()), str(path), *([str(btf)] if btf else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    out, skipped, fds, blobs = Handed(), set(), {}, []
    for line in done.stdout.splitlines():
        what, *rest = line.split(" ")
        data = [] if what == "dup" else [bytes.fromhex(r) if r != "-" else b"" for r in rest[1:]]
        if what == "skip":
            skipped.add(rest[0])
        elif what == "btf":
            blobs.append(bytes.fromhex(rest[0]))
        elif what == "map":
            fds[int(rest[0])] = len(out.maps)
            out.maps.append(map_row(data[0], fds))
        elif what == "dup" and int(rest[0]) in fds:
            fds[int(rest[1])] = fds[int(rest[0])]
        elif what == "update" and int(rest[0]) in fds:
            out.updates.append((fds[int(rest[0])], data[0], data[1]))
        elif what == "freeze":
            out.frozen.append(fds[int(rest[0])])
        elif what == "prog":
            fields = {name: number("prog_load", name, data[0]) for name in PROG_FIELDS}
            out.progs.append((rest[0], fields, named(data[1], fds), data[2], data[3],
                              data[4].decode()))
    # libbpf's probes load blobs too, of less than 100 bytes, or to see whether a tag is known
    out.btf = next((b for b in blobs if len(b) > 100 and b"\0arg:ctx\0" not in b), None)
    out.refused = "" if done.returncode == 0 else done.stderr
    return out, skipped


def map_row(attr: bytes, fds: dict[int, int]) -> tuple[str, dict[str, int | str]]:
    fields: dict[str, int | str] = {n: number("map_create", n, attr) for n in MAP_FIELDS}
    inner = number("map_create", "inner_map_fd", attr)
    fields["inner"] = fds[inner] if inner else -1
    fields["with BTF"] = int(number("map_create", "btf_fd", attr) != 0)
    return text(attr, "map_create", "map_name"), fields


def machine() -> dict[str, int]:
    """The LINUX_* externs where there is no shim: libbpf is captured there, and looks for a kprobe
    on a system call's wrapper."""
    here = Path("/sys/bus/event_source/devices/kprobe").exists()
    return {**_VIRTUAL(), "LINUX_HAS_SYSCALL_WRAPPER": int(here)}


def by_us(path: Path, skipped: set[str], btf: Path | None = None) -> Handed:
    """The same, of what `Object.load` sends."""
    out = Handed()
    try:
        object_ = Object.open(path)
    except ShimError as error:
        out.refused = error.message
        return out
    spec, fds = object_.spec, {}
    types = kernel.target(None)
    try:
        found = kernel.resolve(spec.externs, spec.btf, types)
        with mock.patch.object(kernel, "virtual", machine):
            fill_kconfig(spec, None)
        wanted = [p for p in object_.programs.values() if p.name not in skipped]
        linked = spec.link(kernel.target(btf), found, [p.name for p in wanted])
    except ShimError as error:
        out.refused = error.message
        return out
    btf_fd = 3 if spec.btf else -1
    out.btf = spec.btf.blob if spec.btf else None
    places = []
    for row in spec.maps:
        inner = -1
        if row.inner:
            inner = len(out.maps)
            out.maps.append(map_row(bytes(map_command(row.inner, btf_fd, cpus()).attr), {}))
        command = map_command(row, btf_fd, cpus())
        if inner >= 0:
            command.put("inner_map_fd", FD + inner)
        fds[FD + len(out.maps)] = len(out.maps)
        fds[FD + inner] = inner
        places.append(len(out.maps))
        out.maps.append(map_row(bytes(command.attr), fds))
    for place, row in zip(places, spec.maps, strict=True):
        if row.internal:
            out.updates.append((place, bytes(4), row.contents.ljust(row.value_size, b"\0")))
        if row.frozen:
            out.frozen.append(place)
    for code in linked:
        program = object_.programs[code.name]
        assert program.function
        if not program.type:
            out.refused = f"{program.name}: no type"
            continue
        numbers = {index: FD + place for index, place in enumerate(places)}
        command = prog_command(spec, program, code, numbers, btf_fd,
                               attach_btf_id(program.function, types))
        out.progs.append(prog_row(command, fds))
    return out


def prog_row(
    command: Command, fds: dict[int, int]
) -> tuple[str, dict[str, int], bytes, bytes, bytes, str]:
    attr = bytes(command.attr)
    pieces, at = {}, 0
    for segment in command.segments:
        pieces[segment["attr_off"]] = command.data[at : at + segment["len"]]
        at += segment["len"]
    part = ATTR["prog_load"]
    fields = {name: number("prog_load", name, attr) for name in PROG_FIELDS}
    return (text(attr, "prog_load", "prog_name"), fields,
            named(pieces[part["insns"][0]], fds), pieces.get(part["func_info"][0], b""),
            pieces.get(part["line_info"][0], b""),
            pieces[part["license"][0]].rstrip(b"\0").decode())


@functools.cache
def cpus() -> int:
    """Possible CPUs of the machine, as libbpf counts them for perf event arrays."""
    return len(_ranges(Path("/sys/devices/system/cpu/possible")))


def _ranges(path: Path) -> list[int]:
    found: list[int] = []
    for part in path.read_text().strip().split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
