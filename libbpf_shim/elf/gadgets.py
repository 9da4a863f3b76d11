"""Instructions that change the rights to protection keys, wherever a jump could find them.

`isolation: mpk` rests on the application's code having no access to a key. `wrpkru` and `xrstor`
(of an area with PKRU in it) change that; libc and the dynamic linker have them. They are looked
for at every byte that can be executed: a jump may lead into the middle of an instruction.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from libbpf_shim.elf.process import Mapping, read_maps
from libbpf_shim.errors import ShimError

# Intel SDM volume 2: NP 0F 01 EF; NP 0F AE /5 with an operand in memory.
_WRPKRU = re.compile(rb"(?=\x0f\x01\xef)", re.S)
_XRSTOR = re.compile(rb"(?=\x0f\xae[\x28-\x2f\x68-\x6f\xa8-\xaf])", re.S)
_KINDS = (("wrpkru", _WRPKRU), ("xrstor", _XRSTOR))


@dataclass(frozen=True, slots=True)
class Gadgets:
    """where: a file, or a mapping's addresses. found: instruction and virtual address (in a
    process its own), ascending. why: it could not be read; then found is empty."""

    where: str
    found: tuple[tuple[str, int], ...]
    why: str = ""


def _in(code: bytes, base: int) -> Iterator[tuple[str, int]]:
    for name, pattern in _KINDS:
        yield from ((name, base + match.start()) for match in pattern.finditer(code))


def of_file(path: str) -> Gadgets:
    """Of a file's executable segments. ShimError: it is no ELF file, or cannot be read."""
    from elftools.elf.elffile import ELFFile

    try:
        with open(path, "rb") as file:
            if file.read(4) != b"\x7fELF":
                raise ShimError("EL0011", errno.ENOEXEC, f"{path}: no ELF file")
            rows = [row for segment in ELFFile(file).iter_segments("PT_LOAD")
                    if segment["p_flags"] & 1
                    for row in _in(segment.data(), int(segment["p_vaddr"]))]
    except OSError as error:
        raise ShimError("EL0011", error.errno or errno.EIO, f"{path}: {error.strerror}") from error
    return Gadgets(path, tuple(sorted(rows, key=lambda row: row[1])))


def of_process(pid: int) -> list[Gadgets]:
    """Of all that a process may execute, in the order of addresses, one for each file; those of
    mappings without a file by themselves. ShimError ESRCH, EACCES."""
    try:
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        code = errno.ESRCH if error.errno == errno.ENOENT else error.errno or errno.EIO
        raise ShimError("EL0012", code, f"process {pid}: {os.strerror(code)}") from error
    try:
        return list(_mapped(memory, [m for m in read_maps(pid) if "x" in m.perms]))
    finally:
        os.close(memory)


def _mapped(memory: int, maps: Iterable[Mapping]) -> Iterator[Gadgets]:
    parts: dict[str, list[Mapping]] = {}
    for m in maps:
        parts.setdefault(m.path or f"{m.start:#x}-{m.end:#x}", []).append(m)
    for where, rows in parts.items():
        try:
            code = [(os.pread(memory, m.end - m.start, m.start), m.start) for m in rows]
        except (OSError, OverflowError) as error:  # [vsyscall]
            yield Gadgets(where, (), str(error))
            continue
        found = (row for data, base in code for row in _in(data, base))
        yield Gadgets(where, tuple(sorted(found, key=lambda row: row[1])))
