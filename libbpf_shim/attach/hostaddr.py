"""Where functions and variables of an application lie in one process, for images that name them.

A symbol is looked up in the interface's binary, or in the file that the program is attached to if
the interface names none: in .symtab and .dynsym, what the file itself defines. What the dynamic
linker would take from elsewhere is not seen: an executable's own copy of a library's variable
(R_X86_64_COPY).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.module import STT_FUNC, STT_GNU_IFUNC, STT_OBJECT, Module, Symbol
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import OF_HOST, OF_STATE, Image

_NOTYPE = 0


@dataclass(frozen=True, slots=True)
class Home:
    """file: that a program is attached to. open: the file at a path, as it is now."""

    file: Module
    open: Callable[[str], Module]


def names(image: Image) -> list[str]:
    """What an image names of the application's."""
    return sorted({r.symbol for r in image.relocs if r.symbol.startswith((OF_HOST, OF_STATE))})


def addresses(
    pid: int, root: int, modules: Sequence[LoadedModule], image: Image, home: Home | None
) -> dict[str, int]:
    """By symbol of the image. root: shim_agent_root there. EOPNOTSUPP: the process has no such
    thing, and why."""
    wanted = names(image)
    if not wanted:
        return {}
    if home is None:
        raise _refused(pid, "a program that names functions or variables of an application's runs "
                            "where it is attached, nowhere else")
    path = image.binary or home.file.path
    try:
        file = home.open(path) if image.binary else home.file
    except OSError as error:
        raise _refused(pid, f"{path}: {error.strerror}") from error
    there = [m for m in modules if _same(m, file)]
    if len(there) != 1:
        often = "not mapped there" if not there else "mapped there more than once"
        raise _refused(pid, f"{path}: {often}, so its functions and variables are not known")
    if is_go(file):
        raise _refused(pid, f"{path}: functions of Go are not called as those of C are")
    if why := _unwinds(root, modules, file):
        raise _refused(pid, f"{path}: {why}")
    bias = there[0].bias(file)
    return {name: _symbol(pid, file, name).vaddr + bias for name in wanted}


def check(talk: Conversation, at: int, image: Image, found: dict[str, int]) -> None:
    """The image that lies at that address names those. EOPNOTSUPP: it was put there for another
    file."""
    for reloc in image.relocs:
        if reloc.symbol in found:
            there, = struct.unpack("<Q", talk.read(at + reloc.offset, 8))
            if there != found[reloc.symbol] + reloc.addend:
                raise ShimError("AH0001", errno.EOPNOTSUPP, f"{reloc.symbol}: the program runs in "
                                "this process for another file, whose functions it calls")


def _unwinds(root: int, modules: Sequence[LoadedModule], file: Module) -> str:
    """Why an exception, or a walk of the stack, that comes from a host function would end the
    process; "": it would not. The agent in the preloaded library has a description of its frames
    that unwinders find (csrc/runtime/hostcall.c)."""
    names = [os.path.basename(m.path) for m in modules]
    if any(name.startswith("libunwind.so.") for name in names):
        return "libunwind would not come through the frames of a program's run"
    if any(name.startswith("libbpf_shim") and m.base <= root < m.mappings[-1].end
           for name, m in zip(names, modules, strict=True)):
        return ""
    dynamic = any(name.startswith(("ld-linux", "ld-musl", "libc.")) for name in names)
    throws = any(name.startswith(("libstdc++.so", "libc++")) for name in names)
    if not dynamic:
        throws = not file.symbols or any(s.name == "__cxa_throw" for s in file.symbols)
    return ("an exception of a host function's would end the process, which was not started with "
            "the library preloaded (bpf-shim run)") if throws else ""


def _same(loaded: LoadedModule, file: Module) -> bool:
    if loaded.ino != file.ino:
        return False
    return loaded.dev == file.dev or os.path.basename(loaded.path) == os.path.basename(file.path)


def _symbol(pid: int, file: Module, name: str) -> Symbol:
    """EOPNOTSUPP: the file does not define it, or not so that it could be called or read."""
    plain, callable_ = name.partition(":")[2], name.startswith(OF_HOST)
    found = [s for s in file.symbols if s.name == plain]
    what = "function" if callable_ else "variable"
    types = (STT_FUNC if callable_ else STT_OBJECT, _NOTYPE)
    usable = [s for s in found if s.type in types]
    if not usable:
        why = "no symbol of that name"
        if any(s.type == STT_GNU_IFUNC for s in found):
            why = "which function it is is decided when the process begins (STT_GNU_IFUNC)"
        elif found:
            why = f"its symbol is of type {found[0].type}"
        raise _refused(pid, f"{file.path}: {what} {plain}: {why}")
    if len({s.vaddr for s in usable}) > 1:
        raise _refused(pid, f"{file.path}: {what} {plain}: {len(usable)} symbols of that name")
    symbol = usable[0]
    if callable_ != bool(file.executable_at(symbol.vaddr)):
        raise _refused(pid, f"{file.path}: {what} {plain}: its address is not one of a {what}")
    return symbol


def _refused(pid: int, why: str) -> ShimError:
    return ShimError("AH0001", errno.EOPNOTSUPP, f"process {pid}: {why}")
