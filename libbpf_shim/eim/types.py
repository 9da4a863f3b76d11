"""Where an interface's types come from: BTF (a file of it, or a section .BTF), DWARF, a C header.

All become one BTF blob of the application's own.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
from libbpf_shim.btf.write import Writer

_MAGIC = kinds.MAGIC.to_bytes(2, "little")


class TypesError(Exception):
    """Why there are none."""


def from_btf(path: Path) -> bytes:
    """A raw blob, or the section of an ELF file. TypesError."""
    data = _read(path)
    if data[:4] == b"\x7fELF":
        section = _section(path, ".BTF")
        if section is None:
            raise TypesError(f"{path}: no section .BTF in it; try dwarf: {path}")
        data = section
    if data[:2] != _MAGIC:
        raise TypesError(f"{path}: neither BTF nor an ELF file that has it")
    try:
        Btf(data)
    except (struct.error, IndexError, ValueError) as error:
        raise TypesError(f"{path}: broken BTF") from error
    return data


def from_dwarf(path: Path, functions: Sequence[str], variables: Sequence[str],
               names: Sequence[str]) -> bytes:
    """Types that those functions, variables and names of types lead to. TypesError."""
    from libbpf_shim.eim import dwarf

    _read(path)
    seen = os.stat(path)
    return dwarf.convert(str(path), (seen.st_size, seen.st_mtime_ns), tuple(functions),
                         tuple(variables), tuple(names))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TypesError(f"{path}: {error.strerror}") from error


def _section(path: Path, name: str) -> bytes | None:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            found = ELFFile(file).get_section_by_name(name)
            return bytes(found.data()) if found else None
    except ELFError as error:
        raise TypesError(f"{path}: {error}") from error


def extended(blob: bytes, more: Writer) -> bytes:
    """The blob with the types of a writer that goes on where it ends (`writer`)."""
    btf, other = Btf(blob), more.blob()
    _, _, _, size, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", blob)
    types = blob[size + type_off : size + type_off + type_len]
    _, _, _, size, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", other)
    types += other[size + type_off : size + type_off + type_len]
    strings = btf.strings + other[size + str_off : size + str_off + str_len]
    return struct.pack("<HBBIIIII", kinds.MAGIC, kinds.VERSION, 0, kinds.HEADER_SIZE, 0,
                       len(types), len(types), len(strings)) + types + strings


def writer(blob: bytes) -> Writer:
    """One that goes on where the blob ends."""
    btf = Btf(blob)
    return Writer(btf.end_id, btf.end_string)


@functools.lru_cache(maxsize=8)
def parsed(blob: bytes) -> Btf:
    return Btf(blob)
